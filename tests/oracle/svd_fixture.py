"""Makes tests/fixtures/svd_mini.json: numpy's f64 singular values of all weight matrices of the
layers of data/mini, {"model.layers.0.self_attn.q_proj.weight": [descending values], ...}, which
tests/model/test_decompose_oracle.c holds solver/svd.h to (pip install numpy)."""
import json

import numpy as np

from weights import Weights


def main():
    weights = Weights("data/mini")
    values = {}
    for layer, name in weights.matrices():
        w = weights.read(layer, name).astype(np.float64)
        values[f"model.layers.{layer}.{name}.weight"] = np.linalg.svd(w, compute_uv=False).tolist()
    with open("tests/fixtures/svd_mini.json", "w") as out:
        lines = (f"{json.dumps(name)}: {json.dumps(s)}" for name, s in values.items())
        out.write("{" + ",\n ".join(lines) + "}\n")


if __name__ == "__main__":
    main()
