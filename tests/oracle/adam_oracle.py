#!/usr/bin/env python3
"""Writes tests/train/adam_expected.inc: three steps of torch.optim.AdamW in f64."""
import pathlib

import torch

GRADIENTS = [[0.5, -2e-4, 0], [-0.25, 3e-4, 1e-9], [0.125, 1e-4, -1]]

p = torch.nn.Parameter(torch.tensor([1, 1, -0.5], dtype=torch.float64))
optimizer = torch.optim.AdamW([p], lr=2e-3, weight_decay=0.1)
lines = []
for g in GRADIENTS:
    p.grad = torch.tensor(g, dtype=torch.float64)
    optimizer.step()
    lines.append("{" + ", ".join(f"{v:.17g}" for v in p.tolist()) + "},\n")
path = pathlib.Path(__file__).parents[1] / "train" / "adam_expected.inc"
path.write_text("".join(lines))
