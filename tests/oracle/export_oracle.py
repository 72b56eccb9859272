"""Holds `t2 export --merged` to transformers: the exported folder's logits beside those of the base model
with the expert composed here, W' = W + (W V) diag(z - 1) V^T (wide: W + U diag(z - 1) U^T W), in f64, and
t2's own logits of the exported folder.

    python tests/oracle/export_oracle.py MODEL HF_FOLDER EXPERT.h5 FACTORS.h5
        [--t2 build/release/t2] [--bench build/release/bench_logits] [--bar 1e-4]

MODEL: what the expert was trained on; HF_FOLDER: the same in f32 as a Hugging Face folder (the same path
where MODEL is one). Ends with 1 where logits differ by more than the bar.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from svf_reference import factored_linears

TEXTS = ["Is this review positive or negative?\nReview: a gorgeous, witty, seductive movie\nAnswer:",
         "The capital of France is", "def mean(values):\n    return sum(values) / len(",
         "Question: Ana had 15 eggs but lost 8. How many eggs are left?\nAnswer: 15 - 8 ="]


def compose(model, factors, expert):
    """Adds the expert to the model's weights, in f64."""
    with h5py.File(expert) as file:
        z = {f"layers/{layer}/{name}": torch.from_numpy(group["z"][:]).double()
             for layer in file["layers"] for name, group in file["layers"][layer].items()}
    n = 0
    for name, linear, _, q in factored_linears(model, factors):
        w, q = linear.weight.detach().double(), q.double()
        move = (z[name] - 1)[:, None]
        wide = w.shape[0] < w.shape[1]
        w = w + (q.T @ (move * (q @ w)) if wide else (w @ q.T) @ (move * q))
        linear.weight = torch.nn.Parameter(w.to(linear.weight.dtype), requires_grad=False)
        n += 1
    assert n == len(z), (n, len(z))


def logits_of(model, ids):
    with torch.no_grad():
        return [model(torch.tensor([x]), use_cache=False).logits[0].double() for x in ids]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("expert")
    parser.add_argument("factors")
    parser.add_argument("--t2", default="build/release/t2")
    parser.add_argument("--bench", default="build/release/bench_logits")
    parser.add_argument("--bar", type=float, default=1e-4)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.folder)
    ids = [tokenizer(text).input_ids for text in TEXTS]
    load = dict(dtype=torch.float32, attn_implementation="eager")
    base = AutoModelForCausalLM.from_pretrained(options.folder, **load).eval()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "merged"
        subprocess.run([options.t2, "export", options.model, "--adapter", options.expert, "--factors",
                        options.factors, "--merged", out, "--dtype", "f32", "--quiet"], check=True)
        exported = logits_of(AutoModelForCausalLM.from_pretrained(out, **load).eval(), ids)
        lines = Path(folder) / "ids.txt"
        lines.write_text("".join(" ".join(map(str, x)) + "\n" for x in ids))
        subprocess.run([options.bench, out, lines, Path(folder) / "t2.f32", "--dtype", "f32"], check=True)
        flat = torch.from_numpy(np.fromfile(Path(folder) / "t2.f32", "<f4")).double()
        same_tokens = AutoTokenizer.from_pretrained(out)("Is it good?").input_ids \
            == tokenizer("Is it good?").input_ids
    before = logits_of(base, ids)
    compose(base, options.factors, options.expert)
    composed = logits_of(base, ids)
    n_vocab = exported[0].shape[1]
    ours = flat.view(-1, n_vocab).split([len(x) for x in ids])

    def largest(a, b):
        return max((x - y).abs().max().item() for x, y in zip(a, b))
    moved = largest(exported, before)
    to_composed, to_t2 = largest(exported, composed), largest(exported, ours)
    good = to_composed <= options.bar and to_t2 <= options.bar and same_tokens
    print(f"{sum(map(len, ids))} tokens: the expert moves logits by up to {moved:.2g}; exported folder in "
          f"transformers, largest difference from the composed model {to_composed:.1e}, from t2's own "
          f"logits {to_t2:.1e}; tokenizer {'the same' if same_tokens else 'DIFFERENT'}: "
          f"{'ok' if good else 'MISSED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
