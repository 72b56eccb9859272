"""Small experts and factors, written by h5py, and what t2 analyze must say of them, by numpy.

    python tests/oracle/analysis_oracle.py        # writes tests/fixtures/analysis
"""

import hashlib
import os

import h5py
import numpy as np

OUT = os.path.join(os.path.dirname(__file__), "..", "fixtures", "analysis")
MODELS = {"one": ("a" * 64, 12), "two": ("b" * 64, 9)}
NAMES = ["self_attn.q_proj", "mlp.down_proj"]
LAYERS = [0, 1]
rng = np.random.default_rng(5)


def path_of(layer, name):
    return f"layers/{layer:02d}/{name}"


def write_factors(path, identity, r):
    spectra = {}
    digest = hashlib.sha256(identity.encode())
    with h5py.File(path, "w") as f:
        f.attrs.update(
            kind="t2 factors", format_version=np.int64(1), model_sha256=identity, options="none",
            type="f32", ranks=np.int64(1), model="made by h5py", architecture="llama"
        )
        for layer in LAYERS:
            for name in NAMES:
                sigma = np.sort(rng.exponential(size=r))[::-1].copy()
                factor = np.linalg.qr(rng.standard_normal((r, r)))[0].astype("f4")
                group = f.create_group(path_of(layer, name))
                group["sigma"] = sigma
                group["factor"] = factor
                shape = np.array([r, r + 4])
                group.attrs.update(
                    tensor=f"model.layers.{layer}.{name}.weight", source_type="F32", shape=shape, side="U",
                    method="lapack", precision="f32", tried="", repair="none", checked="probes",
                    orthogonality=0.0, residual=0.0, bound=0.0, seconds=0.0, flops=0.0
                )
                spectra[path_of(layer, name)] = sigma
                digest.update(b"/" + path_of(layer, name).encode() + b"\0")
                digest.update(shape.astype("u8").tobytes() + sigma.tobytes())
                for row in (0, r // 2, r - 1):
                    digest.update(factor[row].tobytes())
    return spectra, digest.hexdigest()


def write_expert(path, identity, r, fingerprint, skip=()):
    vectors = {}
    with h5py.File(path, "w") as f:
        f.attrs.update(
            kind="t2 expert", format_version=np.int64(1), identity=identity, adapter="svf",
            parametrisation="direct", model="made by h5py", task="add", factors_identity=fingerprint
        )
        for layer in LAYERS:
            for name in NAMES:
                if (layer, name) in skip:
                    continue
                z = (1 + 0.1 * rng.standard_normal(r)).astype("f4")
                group = f.create_group(path_of(layer, name))
                group["z"] = z
                group.attrs.update(
                    tensor=f"model.layers.{layer}.{name}.weight", layer=np.int64(layer),
                    n_rows=np.int64(r), n_columns=np.int64(r + 4)
                )
                vectors[path_of(layer, name)] = z.astype("f8")
    return vectors


def meet(a, b, mismatch):
    n = min(len(a), len(b))

    def take(z):
        if len(z) == n or mismatch == "truncate":
            return z[:n] - 1
        places = (np.arange(n) + 0.5) * len(z) / n - 0.5
        return np.interp(places, np.arange(len(z)), z) - 1

    return take(a), take(b)


def cosine(a, b, mismatch, keep):
    pairs = [meet(a[p], b[p], mismatch) for p in a if p in b and keep(p)]
    if not pairs:
        return np.nan
    x, y = (np.concatenate(v) for v in zip(*pairs))
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def expected(path, experts, files, mismatch):
    """The layout of docs/formats.md, without the attributes of the run."""
    def matrix(keep):
        return np.array([[cosine(a, b, mismatch, keep) for _, _, b, _ in experts] for _, _, a, _ in experts])

    with h5py.File(path, "w") as f:
        f["similarity/all"] = matrix(lambda p: True)
        for name in NAMES:
            f["similarity/kinds/" + name] = matrix(lambda p: p.endswith(name))
        for layer in LAYERS:
            f[f"similarity/layers/{layer:02d}/all"] = matrix(lambda p: p.startswith(f"layers/{layer:02d}"))
            for name in NAMES:
                f[f"similarity/layers/{layer:02d}/{name}"] = matrix(lambda p: p == path_of(layer, name))
        for i, (_, _, z, sigma) in enumerate(experts):
            order = sorted(
                ((-abs(v - 1), k, j) for k, p in enumerate(sorted(z)) for j, v in enumerate(z[p]))
            )
            paths = sorted(z)
            f[f"experts/{i}/moved/index"] = np.array([j for _, _, j in order])
            f[f"experts/{i}/moved/z"] = np.array([z[paths[k]][j] for _, k, j in order])
            f[f"experts/{i}/moved/sigma"] = np.array([sigma[paths[k]][j] for _, k, j in order])
            parts = np.arange(1, 21) / 20
            squares = [(sigma[p] * (z[p] - 1)) ** 2 for p in z]
            total = sum(s.sum() for s in squares)
            count = [[int(np.ceil(p * len(s))) for s in squares] for p in parts]
            f[f"experts/{i}/truncation/part"] = parts
            f[f"experts/{i}/truncation/kept_first"] = [
                sum(s[:c].sum() for s, c in zip(squares, row)) / total for row in count]
            f[f"experts/{i}/truncation/kept_largest"] = [
                sum(np.sort(s)[::-1][:c].sum() for s, c in zip(squares, row)) / total for row in count]
            for name in NAMES:
                tenths = np.full(10, np.nan)
                for t in range(10):
                    values = [z[p][j] - 1 for p in z if p.endswith(name) for j in range(len(z[p]))
                              if j * 10 // len(z[p]) == t]
                    if values:
                        tenths[t] = np.sqrt(np.mean(np.square(values)))
                f[f"experts/{i}/tenths/{name}"] = tenths
        for i, spectra in enumerate(files):
            for p, sigma in spectra.items():
                f[f"spectra/{i}/{p}/share"] = np.cumsum(sigma) / sigma.sum()
                f[f"spectra/{i}/{p}/energy"] = np.cumsum(sigma**2) / (sigma**2).sum()


def main():
    os.makedirs(OUT, exist_ok=True)
    known = {}
    for model, (identity, r) in MODELS.items():
        known[model] = write_factors(f"{OUT}/{model}.factors.h5", identity, r)
    experts = []
    for name, model, skip in (("a", "one", ()), ("b", "one", {(1, "mlp.down_proj")}), ("c", "two", ())):
        spectra, fingerprint = known[model]
        z = write_expert(f"{OUT}/{name}.h5", *MODELS[model], fingerprint, skip)
        experts.append((name, model, z, spectra))
    files = [known[model][0] for model in MODELS]
    for mismatch in ("truncate", "interpolate"):
        expected(f"{OUT}/{mismatch}.expected.h5", experts, files, mismatch)


main()
