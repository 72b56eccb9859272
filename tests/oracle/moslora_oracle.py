"""Mixture of Space from its equations, for tests/model/test_adapter_moslora.c.

Nothing here is clever: tokens are lifted onto the manifold, the coordinates are multiplied by B A,
put back, moved by the bias point's isometry (as a matrix on the ambient space, or Moebius addition)
and brought back by the logarithm, in f64; torch.autograd gives the gradients, and finite differences
check autograd.

The file, little-endian, everything 4 bytes wide:

    char[8]  "T2MOSL01"
    u32      n_sites
    n_sites times: options, u32 n_in, n_out, n_rows, n_parameters,
                   f32 parameters[], x[n_rows][n_in], g[n_rows][n_out], y[n_rows][n_out],
                   dx[n_rows][n_in], gradient[n_parameters]
    u32      n_models
    n_models times: u32 name (0 llama-odd, 1 qwen2, 2 qwen3), options, u32 n_tokens, n_terms, n_modules, n_parameters, f32 loss,
                    i32 ids[n_tokens], n_terms times u32 position, i32 target, f32 weight,
                    n_modules times u32 layer, u32 projection (0 .. 6: q k v o gate up down),
                    f32 parameters[], gradient[n_parameters]
    options: u32 experts (1 euclidean, 2 hyperbolic, 4 spherical, 8 product), chart (1 ball,
             2 lorentz), flags (1 top-1, 2 shared A, 4 fixed curvature, 8 router per layer), rank,
             hidden, f32 alpha, curvature, most_curved

Parameters lie as in model/adapter_moslora.c: per site A of each term, B^T of each term, curvatures,
router (R, r, C, d); then the bias points of all sites.

    python tests/oracle/moslora_oracle.py
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from svf_gradient_oracle import NAMES, in_f64

HERE = Path(__file__).resolve().parent
TINY = HERE.parent / "fixtures/tiny"
E, H, S, P = 1, 2, 4, 8
BALL, LORENTZ = 1, 2
EDGE = 1 - 1e-5


@dataclass
class Options:
    experts: int = E | H | S
    chart: int = BALL
    top1: bool = False
    shared_a: bool = False
    fixed: bool = False
    per_layer: bool = False
    rank: int = 3
    hidden: int = 4
    alpha: float = 6.0
    curvature: float = 0.5
    most_curved: float = 1.0

    def bytes(self):
        flags = self.top1 | self.shared_a << 1 | self.fixed << 2 | self.per_layer << 3
        return struct.pack("<5I3f", self.experts, self.chart, flags, self.rank, self.hidden,
                           self.alpha, self.curvature, self.most_curved)

    def terms(self):
        """(expert, chart or 0, "s" for the sphere, third or None) in order"""
        terms, e = [], 0
        for bit, chart in (E, 0), (H, self.chart), (S, "s"):
            if self.experts & bit:
                terms.append((e, chart, None))
                e += 1
        if self.experts & P:
            terms += [(e, self.chart, 0), (e, "s", 1), (e, 0, 2)]
            e += 1
        return terms, e


def third(n, i):
    return slice(0, n) if i is None else slice(n * i // 3, n * (i + 1) // 3)


def layout(options, modules):
    """Per module a dict of name -> (offset, shape); the number of parameters. modules: (n_in, n_out,
    key of the input)."""
    at, sites, owners = 0, [], {}

    def take(*shape):
        nonlocal at
        first = at
        at += torch.Size(shape).numel()
        return first, shape

    terms, n_experts = options.terms()
    r, hid = options.rank, options.hidden
    for n_in, n_out, key in modules:
        site = {}
        for k, (_, _, part) in enumerate(terms):
            if options.shared_a and part is None and k > 0:
                site["A", k] = site["A", 0]
            else:
                s = third(n_in, part)
                site["A", k] = take(r, s.stop - s.start)
        for k, (_, _, part) in enumerate(terms):
            s = third(n_out, part)
            site["Bt", k] = take(r, s.stop - s.start)
        for k, (_, chart, _) in enumerate(terms):
            if chart and not options.fixed:
                site["t", k] = take(1)
        if options.per_layer and key in owners:
            for name in "RrCd":
                site[name] = owners[key][name]
        else:
            site["R"], site["r"] = take(hid, n_in), take(hid)
            site["C"], site["d"] = take(n_experts, hid), take(n_experts)
            owners[key] = site
        sites.append(site)
    for site, (n_in, n_out, _) in zip(sites, modules):
        for k, (_, chart, part) in enumerate(terms):
            if chart:
                s = third(n_out, part)
                site["b", k] = take(s.stop - s.start)
    return sites, at


def start(options, sites, n, generator):
    def noise(shape):
        return 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
    p = torch.zeros(n, dtype=torch.float64)
    sizes = {"A": lambda s: 1.5 / s[-1] ** 0.5, "Bt": lambda s: 1.2, "t": lambda s: 1.0,
             "R": lambda s: 1.5 / s[-1] ** 0.5, "r": lambda s: 0.3, "C": lambda s: 0.8,
             "d": lambda s: 0.4, "b": lambda s: 0.6 / s[-1] ** 0.5}
    for site in sites:
        for name, (first, shape) in site.items():
            size = sizes[name if isinstance(name, str) else name[0]](shape)
            count = torch.Size(shape).numel()
            p[first:first + count] = (size * noise(shape)).flatten()
    return p.float().double()


def ambient(sign, b, k):
    """The rotation (sign 1) or boost (-1) of (t, y) in units of 1 / k that takes (1, 0) to b."""
    n = len(b)
    direction, sine = b / b.norm(), k * b.norm()
    cosine = torch.sqrt(1 - sign * sine * sine)
    m = torch.eye(n + 1, dtype=b.dtype)
    e0 = torch.zeros(n + 1, dtype=b.dtype)
    e0[0] = 1
    e1 = torch.cat([torch.zeros(1, dtype=b.dtype), direction])
    m = m + (cosine - 1) * (torch.outer(e0, e0) + torch.outer(e1, e1))
    return m + sine * (torch.outer(e1, e0) - sign * torch.outer(e0, e1))


def expert(chart, kappa, a, b_t, b, x):
    w = b_t.T @ a
    if not chart:
        return x @ w.T
    c = kappa.abs()
    k = c.sqrt()
    s = 1 / torch.sqrt(x.shape[-1] + (x * x).sum(-1, keepdim=True))
    v = s * x
    r = k * v.norm(dim=-1, keepdim=True)
    if chart == BALL:
        y = (torch.tanh(r) / r * v) @ w.T
        norm = y.norm(dim=-1, keepdim=True)
        y = torch.where(k * norm > EDGE, y * EDGE / (k * norm), y)
        by, yy, bb = (y * b).sum(-1, keepdim=True), (y * y).sum(-1, keepdim=True), (b * b).sum()
        z = ((1 + 2 * c * by + c * yy) * b + (1 - c * bb) * y) / (1 + 2 * c * by + c * c * bb * yy)
        norm = z.norm(dim=-1, keepdim=True)
        return torch.atanh(k * norm) / (k * norm) * z / s
    if chart == LORENTZ:
        y = (torch.sinh(r) / r * v) @ w.T
        t = torch.sqrt(1 / c + (y * y).sum(-1, keepdim=True))
        point = torch.cat([k * t, k * y], -1)
        z = point @ ambient(-1, b, k).T
        norm = z[..., 1:].norm(dim=-1, keepdim=True)
        return torch.asinh(norm) / (k * norm) * z[..., 1:] / s
    y = (torch.sin(r) / r * v) @ w.T
    point = torch.cat([torch.cos(r), k * y], -1)
    point = point / point.norm(dim=-1, keepdim=True)
    z = point @ ambient(1, b, k).T
    norm = z[..., 1:].norm(dim=-1, keepdim=True)
    return torch.atan2(norm, z[..., :1]) / (k * norm) * z[..., 1:] / s


def mixture(options, site, p, x):
    """alpha / rank sum_e pi_e E_e(x) for x [..., n_in]"""
    def of(name):
        first, shape = site[name]
        return p[first:first + torch.Size(shape).numel()].view(shape)
    terms, n_experts = options.terms()
    n_in = x.shape[-1]
    n_out = sum(site["Bt", k][1][1] for k, t in enumerate(terms) if t[2] is not None) \
        if options.experts == P else site["Bt", 0][1][1]
    scaled = x / torch.sqrt(1 + (x * x).sum(-1, keepdim=True) / n_in)
    logits = torch.tanh(scaled @ of("R").T + of("r")) @ of("C").T + of("d")
    pi = logits.softmax(-1)
    if options.top1:
        hard = torch.nn.functional.one_hot(pi.argmax(-1), n_experts).to(pi.dtype)
        pi = hard + pi - pi.detach()
    y = torch.zeros(*x.shape[:-1], n_out, dtype=x.dtype)
    for k, (e, chart, part) in enumerate(terms):
        kappa = None
        if chart:
            size = torch.tensor(options.curvature, dtype=x.dtype) if options.fixed else \
                options.most_curved * torch.sigmoid(of(("t", k)))
            kappa = size if chart == "s" else -size
        out = expert(chart, kappa, of(("A", k)), of(("Bt", k)), of(("b", k)) if chart else None,
                     x[..., third(n_in, part)])
        piece = torch.zeros_like(y)
        piece[..., third(n_out, part)] = out
        y = y + pi[..., e:e + 1] * piece
    return options.alpha / options.rank * y


def f32(*tensors):
    return b"".join(t.detach().float().contiguous().numpy().tobytes() for t in tensors)


def site_case(options, n_in, n_out, seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    (site,), n = layout(options, [(n_in, n_out, 0)])
    p = start(options, [site], n, generator).requires_grad_()
    x = torch.stack([s * torch.randn(n_in, generator=generator, dtype=torch.float64)
                     for s in sizes]).float().double().requires_grad_()
    g = torch.randn(len(sizes), n_out, generator=generator, dtype=torch.float64).float().double()
    y = mixture(options, site, p, x)
    dp, dx = torch.autograd.grad((g * y).sum(), [p, x])
    if not options.top1:  # whose gradient is straight-through
        with torch.no_grad():
            for i in range(0, n, 7):
                q = torch.zeros_like(p)
                q[i] = 1e-6
                numeric = ((g * (mixture(options, site, p + q, x)
                                 - mixture(options, site, p - q, x))).sum() / 2e-6)
                assert (numeric - dp[i]).abs() < 1e-5 * dp.abs().max(), (i, numeric, dp[i])
    return (options.bytes() + struct.pack("<4I", n_in, n_out, len(sizes), n)
            + f32(p, x, g, y, dx, dp))


def model_case(options, name, choice, seed):
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(TINY / name, dtype=torch.float64,
                                                 attn_implementation="eager")
    model.requires_grad_(False)
    in_f64(model)
    modules, linears = [], []
    for layer, projection in choice:
        owner, leaf = NAMES[projection].split(".")
        linear = getattr(getattr(model.model.layers[layer], owner), leaf)
        group = {0: 0, 1: 0, 2: 0, 3: 1, 4: 2, 5: 2, 6: 3}[projection]
        modules.append((linear.in_features, linear.out_features, (layer, group)))
        linears.append(linear)
    sites, n = layout(options, modules)
    p = start(options, sites, n, generator).requires_grad_()
    for site, linear in zip(sites, linears):
        def forward(x, site=site, linear=linear):
            return torch.nn.functional.linear(x, linear.weight, linear.bias) + \
                mixture(options, site, p, x)
        linear.forward = forward
    ids = torch.randint(3, model.config.vocab_size, (24,), generator=generator)
    positions, weights = [5, 11, 17, 22], torch.tensor([1, -0.5, 0.75, 1.25])
    targets = torch.randint(3, model.config.vocab_size, (4,), generator=generator)
    logp = model(ids[None], use_cache=False).logits[0, positions].log_softmax(-1)
    loss = -(weights * logp[range(4), targets]).sum()
    gradient, = torch.autograd.grad(loss, p)
    out = options.bytes() + struct.pack("<4If", len(ids), 4, len(choice), n, loss.item())
    out += struct.pack(f"<{len(ids)}i", *ids.tolist())
    for term in zip(positions, targets.tolist(), weights.tolist()):
        out += struct.pack("<Iif", *term)
    for place in choice:
        out += struct.pack("<2I", *place)
    return out + f32(p, gradient)


def main():
    sizes = [1.0, 0.03, 7.0, 1e-4, 300.0]
    cases = [Options(), Options(chart=LORENTZ), Options(experts=H | S, chart=LORENTZ),
             Options(experts=E | H, fixed=True, curvature=0.8, most_curved=1.5),
             Options(experts=E | H | S | P), Options(experts=E | S | P, chart=LORENTZ),
             Options(chart=LORENTZ, shared_a=True), Options(top1=True, rank=5, hidden=7)]
    out = b"T2MOSL01" + struct.pack("<I", len(cases))
    for i, options in enumerate(cases):
        out += site_case(options, 40, 20, 1 + i, sizes)
    models = [
        (Options(), "llama-odd", [(0, 0), (0, 2), (1, 0), (1, 2), (1, 6)]),
        (Options(chart=LORENTZ, per_layer=True), "qwen2", [(0, 0), (0, 1), (0, 2), (0, 3), (1, 4),
                                                           (1, 5), (1, 6)]),
        (Options(experts=E | H | S | P, shared_a=True, per_layer=True), "qwen3",
         [(0, 2), (0, 4), (0, 5), (1, 0), (1, 2)])]
    out += struct.pack("<I", len(models))
    for i, (options, name, choice) in enumerate(models):
        out += struct.pack("<I", i) + model_case(options, name, choice, 100 + i)
    path = HERE.parent / "fixtures/gradient/moslora.bin"
    path.write_bytes(out)
    print(f"{path.name}: {len(out)} bytes")


if __name__ == "__main__":
    main()
