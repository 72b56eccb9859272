"""SVF gradients by automatic differentiation of the reference model, for tests/model/test_pass.c and
tests/bench/bench_gradient.c.

transformers' own model, in f64 throughout (its steps to f32 inside norms and softmax are taken out),
with W' = U diag(s z) V^T at the chosen matrices; z = 1 + noise; loss = - sum_t weight_t log p(target_t).
torch.autograd gives dL/dz.

The file, little-endian, no padding, everything 4 bytes wide:

    char[8]  "T2GRAD01"
    u32      n_tokens, n_terms, n_matrices
    f32      loss
    i32      ids[n_tokens]
    n_terms times     u32 position, i32 target, f32 weight
    n_matrices times  u32 layer, u32 projection (0 .. 6: q k v o gate up down), u32 r,
                      f32 sigma[r], f32 z[r], f32 gradient[r],
                      f32 Q[r][r]: rows are right singular vectors of a tall matrix (n_rows >=
                      n_columns), left ones of a wide one

and beside it FILE.sums, f32[r] a matrix: sums over the tokens of the absolute values of what each adds
to the gradient, which says how far an element has cancelled.

    python tests/oracle/svf_gradient_oracle.py                     makes the committed fixture
    python tests/oracle/svf_gradient_oracle.py --model DIR --out FILE [--layers 0,14,29]
                    [--projections qvgd]    a real model; then bench_gradient DIR FILE
    ... --peer f32|bf16     what PyTorch itself loses in that type, model unpatched, in the factored
                            form y = B (z * A x) with A and B rounded: the same figures
"""

import argparse
import struct
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
NAMES = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
LETTERS = "qkvogud"
SOFTMAX = F.softmax
TEXT = ("Decide whether the review is positive or negative. Review: a gorgeous, witty, seductive "
        "movie, and one of the year's finest. Answer: positive. Review: it is a slow and tedious "
        "film that never finds its voice. Answer: negative")


def in_f64(model):
    """Norms and softmax without their steps to f32."""
    softmax = torch.softmax
    F.softmax = lambda x, dim=None, dtype=None, **rest: softmax(x, dim)
    torch.nn.functional.softmax = F.softmax
    for module in model.modules():
        if "RMSNorm" in type(module).__name__:
            def norm(x, module=module):
                return module.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)
                                                       + module.variance_epsilon)
            module.forward = norm


def attach(model, layers, projections, n_tokens, generator):
    """Puts W' in place of W; yields what the file says of each matrix."""
    parts = []
    for layer in layers:
        for p in projections:
            owner, name = NAMES[p].split(".")
            linear = getattr(getattr(model.model.layers[layer], owner), name)
            w = linear.weight.detach()
            u, s, vt = torch.linalg.svd(w, full_matrices=False)
            z = 1 + 0.1 * (2 * torch.rand(len(s), generator=generator) - 1)  # f32, as stored
            # One row a token, so that each token's part of the gradient is seen.
            z = z.double().expand(n_tokens, -1).clone().requires_grad_()
            tall = w.shape[0] >= w.shape[1]

            def forward(x, u=u, s=s, vt=vt, z=z, bias=linear.bias):
                return F.linear(F.linear(x, vt) * (s * z), u, bias)
            linear.forward = forward
            parts.append((layer, p, s, z, vt if tall else u.T))
    return parts


def peer(options, ids, positions, targets, weights, parts, gradients):
    """The same gradients by PyTorch in a coarser type, beside those in f64."""
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[options.peer]
    F.softmax = torch.nn.functional.softmax = SOFTMAX
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype,
                                                 attn_implementation="eager")
    exact = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float64)
    model.requires_grad_(False)
    leaves = []
    for layer, p, _, z, q in parts:
        owner, name = NAMES[p].split(".")
        linear = getattr(getattr(model.model.layers[layer], owner), name)
        w = getattr(getattr(exact.model.layers[layer], owner), name).weight.detach()
        tall = w.shape[0] >= w.shape[1]
        a, b = (q, w @ q.T) if tall else (q @ w, q.T)
        leaf = z.float().requires_grad_()

        def forward(x, a=a.to(dtype), b=b.to(dtype), z=leaf, bias=linear.bias):
            return F.linear((F.linear(x, a) * z).to(dtype), b, bias)
        linear.forward = forward
        leaves.append(leaf)
    logp = model(ids[None], use_cache=False).logits[0, positions].float().log_softmax(-1)
    loss = -(weights * logp[range(len(positions)), targets]).sum()
    own, rms = [], []
    for (layer, p, *_), g, h in zip(parts, gradients, torch.autograd.grad(loss, leaves)):
        error = (g - h.double()).abs()
        print(f"  layer {layer} {NAMES[p]}: off by {(error.norm() / g.norm()).item():.1e} of its norm")
        own.append(error / g.abs())
        rms.append(error / g.pow(2).mean().sqrt())
    for name, values in ("element", torch.cat(own)), ("matrix's rms", torch.cat(rms)):
        print(f"PyTorch {options.peer}, relative to the {name}: median {values.median().item():.1e}, "
              f"99 % below {values.quantile(0.99).item():.1e}, above 1e-3: "
              f"{100 * (values > 1e-3).double().mean().item():.2f} %, above 2e-2: "
              f"{100 * (values > 2e-2).double().mean().item():.2f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=HERE.parent / "fixtures/tiny/qwen2-window")
    parser.add_argument("--out", type=Path,
                        default=HERE.parent / "fixtures/gradient/qwen2-window.bin")
    parser.add_argument("--layers")
    parser.add_argument("--peer", choices=["f32", "bf16"])
    parser.add_argument("--projections", default=LETTERS)
    options = parser.parse_args()

    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float64,
                                                 attn_implementation="eager")
    model.requires_grad_(False)
    in_f64(model)
    generator = torch.Generator().manual_seed(5)
    if (options.model / "tokenizer.json").exists():
        ids = torch.tensor(AutoTokenizer.from_pretrained(options.model)(TEXT).input_ids)
    else:
        ids = torch.randint(0, model.config.vocab_size, (26,), generator=generator)
    layers = ([int(x) for x in options.layers.split(",")] if options.layers
              else range(model.config.num_hidden_layers))
    parts = attach(model, layers, [LETTERS.index(x) for x in options.projections], len(ids), generator)

    positions = list(range(len(ids) // 2, len(ids) - 1))
    targets = ids[[p + 1 for p in positions]]
    weights = torch.tensor([(1.0 if i % 3 else -0.5) / len(positions)
                            for i in range(len(positions))], dtype=torch.float32)
    logp = model(ids[None], use_cache=False).logits[0, positions].log_softmax(-1)
    loss = -(weights.double() * logp[range(len(positions)), targets]).sum()
    by_token = torch.autograd.grad(loss, [z for *_, z, _ in parts])
    gradients = [g.sum(0) for g in by_token]
    parts = [(layer, p, s, z.detach()[0], q) for layer, p, s, z, q in parts]

    if options.peer:
        return peer(options, ids, positions, targets, weights, parts, gradients)
    blob = b"T2GRAD01" + struct.pack("<3If", len(ids), len(positions), len(parts), loss.item())
    blob += ids.numpy().astype("<i4").tobytes()
    for p, t, w in zip(positions, targets, weights):
        blob += struct.pack("<Iif", p, t, w)
    for (layer, p, s, z, q), g in zip(parts, gradients):
        blob += struct.pack("<3I", layer, p, len(s))
        for values in (s, z, g, q):
            blob += values.contiguous().numpy().astype("<f4").tobytes()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(blob)
    if options.model.resolve() != parser.get_default("model").resolve():
        sums = torch.cat([g.abs().sum(0) for g in by_token])
        Path(f"{options.out}.sums").write_bytes(sums.numpy().astype("<f4").tobytes())
    print(f"{options.out}: {len(blob)} bytes, {len(parts)} matrices, {len(ids)} tokens, "
          f"loss {loss.item():.6f}, largest gradient "
          f"{max(g.abs().max().item() for g in gradients):.3g}")


if __name__ == "__main__":
    main()
