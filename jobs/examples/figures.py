"""Draws figures of a report again from the HDF5 files, as a start for your own.

    python jobs/examples/figures.py EXPERT.h5... [FACTORS.h5] [RESULTS.h5...] --out FOLDER

Needs h5py, numpy and matplotlib. Nothing here knows t2's code; docs/formats.md describes the files.
"""

import argparse
import os

import h5py
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def name_of(path):
    return os.path.basename(path).removesuffix(".h5")


def matrices(file):
    """(layer, name, group) of every matrix of an expert or a factor file."""
    for layer in file.get("layers", {}):
        for name, group in file["layers"][layer].items():
            yield int(layer), name, group


def learning_curves(experts, out):
    """Figure 4 of the paper: accuracy in training and on validation."""
    figure, axes = plt.subplots()
    for path, file in experts:
        if "curve/accuracy" not in file:
            continue
        accuracy = file["curve/accuracy"][:]
        (line,) = axes.plot(np.convolve(accuracy, np.ones(7) / 7, "valid"), label=name_of(path))
        if "validation" in file:
            axes.plot(file["validation/step"][:], file["validation/score"][:], "o--", color=line.get_color())
    axes.set(xlabel="step", ylabel="accuracy")
    axes.legend()
    figure.savefig(os.path.join(out, "curves.svg"))


def top_shares(factors, out):
    """Figures 10 and 11: the share of the sum that the largest r singular values hold."""
    for path, file in factors:
        figure, axes = plt.subplots()
        kinds = {}
        for _, name, group in matrices(file):
            sigma = group["sigma"][:]
            kinds.setdefault((name, len(sigma)), []).append(np.cumsum(sigma) / sigma.sum())
        for (name, r), shares in kinds.items():
            axes.plot(np.arange(1, r + 1) / r, np.mean(shares, axis=0), label=name)
        axes.set(xlabel="r, part of all singular values", ylabel="share of their sum")
        axes.legend()
        figure.savefig(os.path.join(out, f"spectra-{name_of(path)}.svg"))


def similarity(experts, out):
    """Cosines of z - 1 between experts of one model."""
    steps = []
    for _, file in experts:
        parts = [group["z"][:].astype(float) - 1 for _, _, group in matrices(file) if "z" in group]
        steps.append(np.concatenate(parts) if parts else np.zeros(0))
    if len(steps) < 2 or len({len(s) for s in steps}) != 1:
        return
    units = np.array([s / np.linalg.norm(s) for s in steps])
    figure, axes = plt.subplots()
    image = axes.imshow(units @ units.T, vmin=-1, vmax=1, cmap="RdBu_r")
    names = [name_of(path) for path, _ in experts]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    figure.colorbar(image)
    figure.tight_layout()
    figure.savefig(os.path.join(out, "similarity.svg"))


def scores(results, out):
    """Accuracies with their standard errors, a bar a run and task."""
    rows = []
    for path, file in results:
        for task, group in file["tasks"].items():
            if "accuracy" in group.attrs:
                rows.append((f"{name_of(path)}: {task}", group.attrs["accuracy"], group.attrs["accuracy_error"]))
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(6, 0.3 * len(rows) + 1))
    axes.barh([r[0] for r in rows], [r[1] for r in rows], xerr=[r[2] for r in rows])
    axes.set(xlabel="accuracy")
    figure.tight_layout()
    figure.savefig(os.path.join(out, "scores.svg"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--out", default=".")
    arguments = parser.parse_args()
    os.makedirs(arguments.out, exist_ok=True)
    kinds = {"t2 expert": [], "t2 factors": [], "t2 results": []}
    for path in arguments.files:
        file = h5py.File(path)
        kinds[file.attrs["kind"]].append((path, file))
    if kinds["t2 expert"]:
        learning_curves(kinds["t2 expert"], arguments.out)
        similarity(kinds["t2 expert"], arguments.out)
    top_shares(kinds["t2 factors"], arguments.out)
    scores(kinds["t2 results"], arguments.out)


main()
