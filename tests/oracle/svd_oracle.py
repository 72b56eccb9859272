"""Holds a factor file of `t2 decompose` to numpy's f64 SVD of the same dequantised weights.

    python tests/oracle/svd_oracle.py check MODEL FACTORS [--tolerance 1e-5] [--only REGEX]
    python tests/oracle/svd_oracle.py same FACTORS FACTORS... [--values 1e-7]

`check` reads MODEL (a Hugging Face folder or a GGUF file) without t2 and prints for each kind of
module the worst of

    sigma     relative error of a singular value (--tolerance: 1e-5 for auto, 1e-8 for f64)
    bound     that error over the bound which the file records for the matrix: at most 1
    orthog.   max |Q Q^T - I| of the factor (--orthogonality; default: order * 2^-24, for bf16 2^-7)
    angle     of a singular vector, or of the subspace of a cluster, over what the gap allows:
              angle <= GROWTH * eps * |C| / gap + ROUNDING, with eps of the precision that the file
              says, C the Gram matrix and its gaps (for gesvd: W and the gaps of sigma), and
              ROUNDING what rounding the factor costs. A group ends at a gap that allows a tenth.
              Printed without --growth (10): how many eps * |C| / gap it is. The last column is the
              same for the spaces of the k largest values, for every k, in the Frobenius norm.
    W'(z)     |W' - U diag(s z) V^T| / |U diag(s z) V^T| (Frobenius), z from [1 - SPREAD, 1 +
              SPREAD], W' = W + (W V) diag(z-1) V^T in f32 from the file's factor, likewise for wide
              W; at most --composed 1e-5. Where vectors of close values are mixed, their share in
              it is sigma_i |z_i - z_j| sin(angle)
    own       the same against W V diag(z) V^T in f64 with the file's own vectors: what composing in
              f32 and the factor's orthogonality cost; at most 1e-5
    W'(1)     is W, bit for bit

`same` holds the values and factors of files to the first one's bits, or with --values its singular
values within that relative error.

Ends with status 1 and one sentence where something is missed.
"""
import argparse
import re
import sys

import h5py
import numpy as np

from weights import PROJECTIONS, Weights

UNITS = {"f32": 2.0**-24, "f64": 2.0**-53}


def fail(sentence):
    sys.exit(f"svd_oracle.py: {sentence}")


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


class Factors:
    def __init__(self, path):
        try:
            self.file = h5py.File(path, "r")
        except OSError as error:
            fail(f"{path} does not open: {error}")
        self.path = path
        self.groups = {}
        for layer, modules in self.file.get("layers", {}).items():
            for name, group in modules.items():
                self.groups[int(layer), name] = group
        if not self.groups:
            fail(f"{path} has no /layers/LAYER/NAME groups: is it a factor file?")
        self.keys = sorted(self.groups, key=lambda k: (k[0], PROJECTIONS.index(k[1])))

    def read(self, key):
        """sigma [r] f64; factor [r, r] f64, whose rows are singular vectors, and the unit roundoff
        of its type."""
        group = self.groups[key]
        # h5py turns the file's bf16 into a wider float.
        storage = 2.0**-24 if group["factor"].id.get_type().get_size() >= 4 else 2.0**-9
        return group["sigma"][()], group["factor"][()].astype(np.float64), storage


def limits_of_gaps(values, unit):
    """For values in descending order: eps * |C| / gap beneath each but the last."""
    with np.errstate(divide="ignore"):
        return unit * values[0] / (values[:-1] - values[1:])


def angles(q, x, values, unit, growth, rounding):
    """The worst angles over eps * |C| / gap: of groups (2-norm), and of the spaces of the k largest
    (Frobenius norm, over sqrt(r) more). q and x have singular vectors as rows."""
    r = len(values)
    m = q @ x.T
    if r == 1 or values[0] == 0:
        return 0.0, 0.0, r
    steps = limits_of_gaps(values, unit)
    ends = np.flatnonzero(growth * steps <= 0.1) + 1
    starts, ends = np.r_[0, ends], np.r_[ends, r]
    worst = 0.0
    for a, b in zip(starts, ends):
        if b - a == r:
            continue
        outside = np.hstack([m[a:b, :a], m[a:b, b:]])
        angle = np.linalg.norm(outside, 2) if b - a > 1 else np.linalg.norm(outside)
        allowed = max(steps[a - 1] if a else 0, steps[b - 1] if b < r else 0)
        worst = max(worst, max(0, angle - rounding) / allowed)
    # squares[k] = sum of m[i, j]^2 for i < k <= j
    sums = np.cumsum(np.cumsum(m**2, axis=0), axis=1)
    k = np.arange(1, r)
    squares = np.maximum(0, sums[k - 1, r - 1] - sums[k - 1, k - 1])
    # The squares come out of a difference of sums of size k: sqrt(k eps) is the least seen of them.
    seen = np.sqrt(squares) - np.sqrt(k) * rounding - np.sqrt(k * 2.0**-50)
    leading = (np.maximum(0, seen) / np.sqrt(r) / steps)[ends[:-1] - 1]
    return worst, leading.max(initial=0.0), len(starts)


def compose(w, q, z):
    """W' from the small factor (rows of q: singular vectors), in f32."""
    q, change = q.astype(np.float32), (z - 1).astype(np.float32)
    if w.shape[0] >= w.shape[1]:
        return w + ((w @ q.T) * change) @ q
    return w + (q.T * change) @ (q @ w)


def check_matrix(w, sigma, q, storage, precision, method, bound, options, rng):
    tall = w.shape[0] >= w.shape[1]
    r = min(w.shape)
    if sigma.shape != (r,) or q.shape != (r, r):
        fail(f"shapes {sigma.shape} and {q.shape} where [{r}] and [{r}, {r}] are expected")
    if not (np.isfinite(sigma).all() and np.isfinite(q).all()):
        fail("a value is not finite")
    if (np.diff(sigma) > 0).any() or sigma[-1] < 0:
        fail("singular values are not descending and non-negative")
    u, s, vt = np.linalg.svd(w.astype(np.float64), full_matrices=False)
    # numpy's own values are off by about eps * s[0].
    floor = s[0] * r * 2.0**-52
    meaningful = s > floor
    if (sigma[~meaningful] > 100 * floor).any():
        fail("a singular value that is zero to f64 is larger in the file")
    error = np.abs(sigma - s)[meaningful] - 4 * 2.0**-52 * s[0] - 8 * 2.0**-52 * s[meaningful]
    found = {"sigma": (np.maximum(0, error) / s[meaningful]).max(initial=0.0)}
    found["bound"] = found["sigma"] / bound if found["sigma"] > 0 else 0.0
    found["condition"] = s[0] / s[-1] if s[-1] > 0 else np.inf
    found["orthog."] = np.abs(q @ q.T - np.eye(r)).max()
    values = s if method == "gesvd" else s * s
    rounding = 2 * storage
    found["angle"], found["leading"], found["groups"] = angles(
        q, vt if tall else u.T, values, UNITS[precision], options.growth, rounding)
    z = rng.uniform(1 - options.spread, 1 + options.spread, r)
    expected = (u * (s * z)) @ vt
    size = np.linalg.norm(expected)
    composed = compose(w, q, z)
    found["W'(z)"] = np.linalg.norm(composed - expected) / size if size > 0 else 0.0
    own = (w @ q.T * z) @ q if tall else (q.T * z) @ (q @ w)
    found["own"] = np.linalg.norm(composed - own) / size if size > 0 else 0.0
    # Adding a zero to -0 would change a bit without changing the number; t2 leaves W alone there.
    found["W'(1)"] = float((compose(w, q, np.ones(r)) != w).sum())
    return found


def check(options):
    weights, factors = Weights(options.model), Factors(options.factors)
    keys = [k for k in factors.keys if re.search(options.only, f"layers.{k[0]}.{k[1]}")]
    if not keys:
        fail(f"--only {options.only} matches nothing in {options.factors}")
    columns = ["sigma", "bound", "orthog.", "angle", "leading", "W'(z)", "own", "W'(1)"]
    worst, misses, ways = {}, [], {}
    for key in keys:
        group = factors.groups[key]
        label = f"layers.{key[0]}.{key[1]}"
        w = weights.read(*key)
        side = "V" if w.shape[0] >= w.shape[1] else "U"
        if text(group.attrs["side"]) != side:
            fail(f"{label} of {options.factors} has side {text(group.attrs['side'])}, not {side}")
        way = [text(group.attrs[a]) for a in ("method", "precision")]
        ways[" ".join(way)] = ways.get(" ".join(way), 0) + 1
        # The numbers are the layer's own, whatever else --only leaves out.
        rng = np.random.default_rng([key[0], PROJECTIONS.index(key[1])])
        sigma, q, storage = factors.read(key)
        try:
            found = check_matrix(w, sigma, q, storage, way[1], way[0],
                                 group.attrs["bound"], options, rng)
        except SystemExit as error:
            fail(f"{label} of {options.factors}: {str(error).removeprefix('svd_oracle.py: ')}")
        half = storage > 2.0**-20
        unit = 2.0**-7 if half else len(sigma) * storage
        limits = {"sigma": options.tolerance, "bound": 1.0,
                  "orthog.": options.orthogonality or unit, "angle": options.growth, "leading": options.growth,
                  "W'(z)": options.composed, "own": 1e-5, "W'(1)": 0.0}
        if half:
            limits["W'(z)"], limits["own"] = max(limits["W'(z)"], 2 * storage), 2 * storage
        misses += [(found[c] / limits[c] if limits[c] else np.inf, label, c, found[c], limits[c])
                   for c in columns if not found[c] <= limits[c]]
        row = worst.setdefault(key[1], dict(n=0, condition=0.0, **{c: 0.0 for c in columns}))
        row["n"] += 1
        for c in ["condition"] + columns:
            row[c] = max(row[c], found[c])
        if options.verbose:
            print(f"{label:32} {' '.join(way):16} groups {found['groups']:5} condition "
                  f"{found['condition']:8.2g} " + " ".join(f"{c} {found[c]:.1e}" for c in columns),
                  flush=True)
    print(f"{'':18}{'n':>4}{'condition':>11}" + "".join(f"{c:>10}" for c in columns))
    rows = [(name, worst[name]) for name in PROJECTIONS if name in worst]
    rows.append(("all", {c: (sum if c == "n" else max)(row[c] for _, row in rows)
                         for c in ["n", "condition"] + columns}))
    for name, row in rows:
        print(f"{name:18}{row['n']:>4}{row['condition']:>11.3g}" +
              "".join(f"{row[c]:>10.2g}" for c in columns))
    print("solved by " + ", ".join(f"{way}: {n}" for way, n in sorted(ways.items())))
    if misses:
        _, label, column, value, limit = max(misses)
        fail(f"{len(misses)} of {len(keys) * len(columns)} figures are above their limits, the worst "
             f"is {column} of {label}: {value:.3g}, at most {limit:.3g} is allowed")


def same(options):
    first = Factors(options.factors[0])
    for path in options.factors[1:]:
        other, largest = Factors(path), 0.0
        if other.keys != first.keys:
            fail(f"{path} and {first.path} do not have the same matrices")
        for key in first.keys:
            label = f"layers.{key[0]}.{key[1]}"
            a, b = first.groups[key], other.groups[key]
            if options.values is None:
                for part in ("sigma", "factor"):
                    if a[part][()].tobytes() != b[part][()].tobytes():
                        fail(f"{part} of {label} differs between {first.path} and {path}")
                continue
            s, t = a["sigma"][()], b["sigma"][()]
            meaningful = s > s[0] * len(s) * 2.0**-52
            difference = (np.abs(s - t)[meaningful] / s[meaningful]).max(initial=0.0)
            largest = max(largest, difference)
            if not difference <= options.values:
                fail(f"singular values of {label} differ by {difference:.3g} between {first.path} "
                     f"and {path}, at most {options.values:g} is allowed")
        verdict = "same bits" if options.values is None else f"values within {largest:.2g}"
        print(f"{path}: {len(first.keys)} matrices, {verdict}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("check")
    p.add_argument("model")
    p.add_argument("factors")
    p.add_argument("--only", default="", help="pattern searched in layers.7.mlp.down_proj")
    p.add_argument("--tolerance", type=float, default=1e-5)
    p.add_argument("--orthogonality", type=float)
    p.add_argument("--growth", type=float, default=10)
    p.add_argument("--composed", type=float, default=1e-5)
    p.add_argument("--spread", type=float, default=1.0)
    p.add_argument("--verbose", action="store_true", help="a line a matrix")
    p.set_defaults(run=check)
    p = commands.add_parser("same")
    p.add_argument("factors", nargs="+")
    p.add_argument("--values", type=float)
    p.set_defaults(run=same)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
