"""Reads a model's weight matrices as f32, without t2: a Hugging Face folder of safetensors (by
numpy alone) or a GGUF file (by the `gguf` package, whose names and query and key rows are turned
back into Hugging Face's). Used by svd_oracle.py, svd_fixture.py and tests/bench/svd_peer.py."""
import json
import re
from pathlib import Path

import numpy as np

PROJECTIONS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
               "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
GGUF_NAMES = dict(zip(["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up",
                       "ffn_down"], PROJECTIONS))
CHOICES = {"mlp": PROJECTIONS[4:], "attention": PROJECTIONS[:4], "all": PROJECTIONS}


def read_safetensors(path):
    """{name: function that reads it}."""
    data = np.memmap(path, np.uint8, "r")
    size = int(data[:8].view("<u8")[0])
    header = json.loads(data[8:8 + size].tobytes())
    start = 8 + size

    def reader(entry):
        first, last = entry["data_offsets"]

        def read():
            raw = data[start + first:start + last]
            if entry["dtype"] == "BF16":
                values = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                values = raw.view({"F32": "<f4", "F16": "<f2"}[entry["dtype"]]).astype(np.float32)
            return values.reshape(entry["shape"])
        return read

    return {name: reader(entry) for name, entry in header.items() if name != "__metadata__"}


def read_gguf(path):
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(path)
    field = lambda key: reader.fields[key].contents()
    architecture = field("general.architecture")
    heads = {"q": field(f"{architecture}.attention.head_count")}
    heads["k"] = field(f"{architecture}.attention.head_count_kv")

    def of_tensor(tensor, kind):
        def read():
            w = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
            w = w.reshape([int(n) for n in reversed(tensor.shape)])
            if architecture == "llama" and kind in heads:
                # The file has the two halves of each head's rows interleaved.
                half = w.shape[0] // heads[kind] // 2
                w = w.reshape(heads[kind], half, 2, -1).swapaxes(1, 2).reshape(w.shape)
            return w
        return read

    tensors = {}
    for tensor in reader.tensors:
        match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name)
        if match and match[2] in GGUF_NAMES:
            name = f"model.layers.{match[1]}.{GGUF_NAMES[match[2]]}.weight"
            tensors[name] = of_tensor(tensor, match[2][-1] if "attn_" in match[2] else "")
    return tensors


class Weights:
    def __init__(self, path):
        path = Path(path)
        if path.is_file():
            self.tensors = read_gguf(path)
        else:
            self.tensors = {}
            for part in sorted(path.glob("*.safetensors")):
                self.tensors.update(read_safetensors(part))
        if not self.tensors:
            raise SystemExit(f"{path} has no weights: name a folder of safetensors or a GGUF file")

    def read(self, layer, name):
        """f32 [outputs, inputs] of projection `name` ("mlp.down_proj")."""
        whole = f"model.layers.{layer}.{name}.weight"
        if whole not in self.tensors:
            raise SystemExit(f"the model has no tensor {whole}")
        return np.ascontiguousarray(self.tensors[whole]())

    def matrices(self, what="all"):
        """(layer, name) of all matrices of "mlp", "attention" or "all", as t2 orders them."""
        found = []
        for tensor in self.tensors:
            match = re.fullmatch(r"model\.layers\.(\d+)\.([\w.]+)\.weight", tensor)
            if match and match[2] in CHOICES[what]:
                found.append((int(match[1]), match[2]))
        return sorted(found, key=lambda m: (m[0], PROJECTIONS.index(m[1])))
