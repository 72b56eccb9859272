"""What bench_svd and t2 decompose are held to: torch.linalg.svd in f32 (U, S and V, reduced; MKL's
gesdd where torch was built with MKL).

    python tests/bench/svd_peer.py set 2048x2048:8,4096x4096:4 [--condition C] [--spectrum log]
    python tests/bench/svd_peer.py model MODEL [--modules mlp|attention|all]
    python tests/bench/svd_peer.py make FOLDER [--hidden 4096] [--ffn 14336] [--condition 20]

`set` and `model` print "set seconds S" for the decompositions alone, without reading or making the
matrices, after a small one to warm up. `make` writes a Llama model of one layer in bf16, whose
gate_proj [ffn, hidden] has that condition and whose other weights are zero, for t2 decompose.
"""
import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))


def spectrum(options, order):
    share = torch.arange(order, dtype=torch.float64) / max(1, order - 1)
    if options.spectrum == "linear":
        return (1 - share * (1 - 1 / options.condition)).float()
    return (options.condition ** -share).float()


def make_matrix(options, rows, columns):
    if options.condition <= 0:
        return torch.randn(rows, columns)
    order = min(rows, columns)
    u = torch.linalg.qr(torch.randn(rows, order)).Q
    v = torch.linalg.qr(torch.randn(columns, order)).Q
    return (u * spectrum(options, order)) @ v.T


def timed(w):
    start = time.perf_counter()
    torch.linalg.svd(w, full_matrices=False)
    return time.perf_counter() - start


def run_set(options):
    total = 0.0
    torch.linalg.svd(torch.randn(96, 96))
    for item in options.set.split(","):
        shape, _, count = item.partition(":")
        rows, columns = map(int, shape.split("x"))
        for _ in range(int(count or 1)):
            seconds = timed(make_matrix(options, rows, columns))
            print(f"matrix {rows}x{columns} seconds {seconds:.3f}", flush=True)
            total += seconds
    print(f"set seconds {total:.4f}")


def run_model(options):
    from weights import Weights

    weights = Weights(options.model)
    matrices = weights.matrices(options.modules)
    torch.linalg.svd(torch.randn(96, 96))
    total = sum(timed(torch.from_numpy(weights.read(*m))) for m in matrices)
    print(f"{len(matrices)} matrices")
    print(f"set seconds {total:.4f}")


def make(options):
    from safetensors.torch import save_file

    hidden, ffn = options.hidden, options.ffn
    head_dim = next(d for d in (128, 64, 32, 16) if hidden % d == 0)
    shapes = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (head_dim, hidden),
              "self_attn.v_proj": (head_dim, hidden), "self_attn.o_proj": (hidden, hidden),
              "mlp.up_proj": (ffn, hidden), "mlp.down_proj": (hidden, ffn),
              "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
    tensors = {f"model.layers.0.{name}.weight": torch.zeros(shape, dtype=torch.bfloat16)
               for name, shape in shapes.items()}
    tensors["model.layers.0.mlp.gate_proj.weight"] = make_matrix(options, ffn, hidden).bfloat16()
    tensors["model.norm.weight"] = torch.ones(hidden, dtype=torch.bfloat16)
    tensors["model.embed_tokens.weight"] = torch.zeros(32, hidden, dtype=torch.bfloat16)
    options.folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, options.folder / "model.safetensors")
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=hidden,
                  intermediate_size=ffn, num_hidden_layers=1, head_dim=head_dim,
                  num_attention_heads=hidden // head_dim, num_key_value_heads=1, vocab_size=32,
                  max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0,
                  hidden_act="silu", tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
                  torch_dtype="bfloat16")
    (options.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    for name, run, what in (("set", run_set, "set"), ("model", run_model, "model"),
                            ("make", make, "folder")):
        p = commands.add_parser(name)
        p.add_argument(what, type=Path if name == "make" else str)
        p.add_argument("--threads", type=int, default=2)
        p.add_argument("--seed", type=int, default=1)
        if name == "model":
            p.add_argument("--modules", default="mlp", choices=["mlp", "attention", "all"])
        else:
            p.add_argument("--condition", type=float, default=20 if name == "make" else 0)
            p.add_argument("--spectrum", default="log", choices=["log", "linear"])
        if name == "make":
            p.add_argument("--hidden", type=int, default=4096)
            p.add_argument("--ffn", type=int, default=14336)
        p.set_defaults(run=run)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.run(options)


if __name__ == "__main__":
    main()
