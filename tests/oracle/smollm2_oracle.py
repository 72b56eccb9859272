"""Makes tests/model/smollm2_samples.inc: a few f32 values, as bits, of SmolLM2's GGUF file as
transformers dequantises it. Argument: the folder that
AutoModelForCausalLM.from_pretrained(DIR, gguf_file=NAME).save_pretrained(FOLDER) wrote in f32
(pip install safetensors numpy)."""
import sys

import numpy as np
from safetensors import safe_open

NAMES = ["model.embed_tokens.weight", "model.norm.weight"] + [
    f"model.layers.{layer}.{part}.weight"
    for layer in (0, 17, 29)
    for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                 "mlp.down_proj", "mlp.gate_proj", "input_layernorm")
]


def main(folder):
    rng = np.random.default_rng(1)
    with safe_open(f"{folder}/model.safetensors", "np") as f, \
            open("tests/model/smollm2_samples.inc", "w") as out:
        for name in NAMES:
            t = f.get_tensor(name).astype(np.float32)
            t = t.reshape(1, -1) if t.ndim == 1 else t
            for _ in range(4):
                r, c = (int(rng.integers(0, n)) for n in t.shape)
                out.write(f'{{"{name}", {r}, {c}, 0x{t[r, c].view(np.uint32):08x}}},\n')


if __name__ == "__main__":
    main(sys.argv[1])
