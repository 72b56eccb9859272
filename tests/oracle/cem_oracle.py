#!/usr/bin/env python3
"""Reference implementations in numpy of the searches of eval/search.h, on the same random numbers.

Writes tests/fixtures/search.json: trajectories of the cross-entropy method and of CMA-ES on
synthetic objectives of 2, 3 and 8 coordinates, to which the C code must agree to rounding.

    python tests/oracle/cem_oracle.py tests/fixtures/search.json
"""
import json
import sys

import numpy as np

M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
MASK = 0xFFFFFFFF


def philox(seed, stream, index):
    """Philox 4x32-10 (Salmon et al. 2011), keyed as model/rng.h."""
    c = [stream & MASK, stream >> 32, index & MASK, index >> 32]
    k0, k1 = seed & MASK, seed >> 32
    for _ in range(10):
        p0, p1 = M0 * c[0], M1 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & MASK, (p0 >> 32) ^ c[3] ^ k1, p0 & MASK]
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return c


def normal(seed, stream, index):
    v = philox(seed, stream, index)
    a = (v[0] << 21 ^ v[1] >> 11) * 2.0**-53
    b = (v[2] << 21 ^ v[3] >> 11) * 2.0**-53
    return np.sqrt(-2 * np.log(1 - a)) * np.cos(2 * np.pi * b)


def normals(seed, iteration, population, n):
    return np.array([[normal(seed, iteration, p * n + i) for i in range(n)] for p in range(population)])


# The optima lie in the box [0, 1]; the objectives are written alike in tests/eval/test_search.c.
def target(n):
    return np.array([0.2 + 0.6 * ((5 * i + 2) % 7) / 6 for i in range(n)])


def sphere(x):
    return -np.sum((x - target(x.shape[-1])) ** 2, axis=-1)


def ellipse(x):
    n = x.shape[-1]
    return -np.sum(10.0 ** (2 * np.arange(n) / (n - 1)) * (x - target(n)) ** 2, axis=-1)


def valley(x):
    """Coordinates pull on each other: a bent valley."""
    d = x - target(x.shape[-1])
    return -np.sum(20 * (d[..., 1:] - d[..., :-1] ** 2) ** 2, axis=-1) - np.sum(d**2, axis=-1)


OBJECTIVES = {"sphere": sphere, "ellipse": ellipse, "valley": valley}


def rank(values):
    return np.argsort(-values, kind="stable")


def run_cem(objective, n, seed, iterations, population=32, ratio=0.2, floor=0.0, smoothing=0.0):
    mean, deviation = np.full(n, 1 / n), np.full(n, 0.5)
    best, best_value = mean.copy(), -np.inf
    elite = int(ratio * population + 1e-9)
    rows = []
    for t in range(iterations):
        x = np.clip(mean + deviation * normals(seed, t, population, n), 0, 1)
        x[0] = best
        values = objective(x)
        order = rank(values)
        if values[order[0]] > best_value:
            best_value, best = values[order[0]], x[order[0]].copy()
        top = x[order[:elite]]
        mean = (1 - smoothing) * top.mean(0) + smoothing * mean
        deviation = (1 - smoothing) * top.std(0, ddof=1) + smoothing * deviation
        deviation = np.maximum(deviation, floor)
        rows.append([best_value, *mean, *deviation])
    return rows


def run_cmaes(objective, n, seed, iterations, population=16):
    mean, sigma = np.full(n, 1 / n), 0.5
    best, best_value = mean.copy(), -np.inf
    mu = population // 2
    w = np.log(mu + 0.5) - np.log(np.arange(1, mu + 1))
    w /= w.sum()
    mueff = 1 / np.sum(w**2)
    cs = (mueff + 2) / (n + mueff + 5)
    damps = 1 + 2 * max(0, np.sqrt((mueff - 1) / (n + 1)) - 1) + cs
    cc = (4 + mueff / n) / (n + 4 + 2 * mueff / n)
    c1 = 2 / ((n + 1.3) ** 2 + mueff)
    cmu = min(1 - c1, 2 * (mueff - 2 + 1 / mueff) / ((n + 2) ** 2 + mueff))
    chi = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
    C, pc, ps = np.eye(n), np.zeros(n), np.zeros(n)
    rows = []
    for t in range(iterations):
        values_c, vectors = np.linalg.eigh(C)
        root = vectors @ np.diag(np.sqrt(values_c)) @ vectors.T
        inverse = vectors @ np.diag(1 / np.sqrt(values_c)) @ vectors.T
        x = np.clip(mean + sigma * normals(seed, t, population, n) @ root, 0, 1)
        x[0] = best
        values = objective(x)
        order = rank(values)
        if values[order[0]] > best_value:
            best_value, best = values[order[0]], x[order[0]].copy()
        y = (x[order[:mu]] - mean) / sigma
        step = w @ y
        ps = (1 - cs) * ps + np.sqrt(cs * (2 - cs) * mueff) * inverse @ step
        length = np.linalg.norm(ps)
        h = float(length / np.sqrt(1 - (1 - cs) ** (2 * (t + 1))) < (1.4 + 2 / (n + 1)) * chi)
        pc = (1 - cc) * pc + h * np.sqrt(cc * (2 - cc) * mueff) * step
        C = ((1 - c1 - cmu + (1 - h) * c1 * cc * (2 - cc)) * C + c1 * np.outer(pc, pc)
             + cmu * (y.T * w) @ y)
        mean = mean + sigma * step
        sigma = sigma * np.exp(min(1, cs / damps * (length / chi - 1)))
        rows.append([best_value, *mean, sigma])
    return rows


def main():
    cases = []
    for n in (2, 3, 8):
        for name, objective in OBJECTIVES.items():
            for seed in (1, 20261122):
                for method, run, iterations in (("cem", run_cem, 12), ("cmaes", run_cmaes, 20)):
                    rows = run(objective, n, seed, iterations)
                    cases.append({"method": method, "objective": name, "n": n, "seed": seed,
                                  "rows": [[float(f"{v:.17g}") for v in row] for row in rows]})
    with open(sys.argv[1], "w") as file:
        json.dump(cases, file, separators=(",", ":"))
        file.write("\n")


main()
