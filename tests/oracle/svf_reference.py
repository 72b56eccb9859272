"""What the oracles of t2 train share: a task's prompts as transformers makes them, and SVF in PyTorch on
the factors of t2 decompose (docs/formats.md)."""

import json
import os
import re
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import h5py
import torch
import torch.nn.functional as F

ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\", ";": ";", "|": "|"}


def read_task(path):
    """The settings of a task file; quoted pieces of a value stand one after the other."""
    lines = {}
    key = None
    for line in Path(path).read_text().splitlines():
        if re.match(r"\s*([;\[]|$)", line):
            continue
        if line[0] in " \t":
            lines[key] += " " + line.strip()
        else:
            key, value = line.split("=", 1)
            key = key.strip()
            lines[key] = value.strip()
    task = {}
    for key, value in lines.items():
        pieces = re.findall(r'"((?:[^"\\]|\\.)*)"', value)
        text = "".join(pieces) if value.startswith('"') else value
        task[key] = re.sub(r"\\(.)", lambda m: ESCAPES[m.group(1)], text)
    return task


def read_rows(path):
    """The rows of a data set by t2's name of an item: its id, else its line."""
    rows = {}
    for number, line in enumerate(open(path), 1):
        row = json.loads(line)
        name = next((row[k] for k in ("id", "task_id", "idx") if k in row), number)
        rows[str(name)] = row
    return rows


def prompt_ids(tokenizer, task, row):
    text = re.sub(r"\{(\w+)\}", lambda m: str(row[m.group(1)]), task["prompt"])
    if task.get("chat") == "yes":
        text = tokenizer.apply_chat_template([dict(role="user", content=text)], tokenize=False,
                                             add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=task.get("chat") != "yes").input_ids


def factored_linears(model, path):
    """Yields (path in the file, module, sigma, Q) of every matrix of a factor file; Q's rows are
    right singular vectors where W is tall (n_rows >= n_columns), left ones where it is wide."""
    with h5py.File(path) as file:
        for layer in sorted(file["layers"]):
            for name in sorted(file["layers"][layer]):
                group = file["layers"][layer][name]
                owner, projection = name.split(".")
                linear = getattr(getattr(model.model.layers[int(layer)], owner), projection)
                factor = group["factor"]
                if factor.dtype.kind == "V":
                    raise SystemExit(f"{path}: factors in bf16; make them in f32")
                yield (f"layers/{layer}/{name}", linear, torch.from_numpy(group["sigma"][:]),
                       torch.from_numpy(factor[:]))


def attach_factored(model, path, dtype):
    """Puts y = B (z * A x) in place of every matrix of the factor file; returns the z, from 1."""
    parameters = {}
    for name, linear, _, q in factored_linears(model, path):
        w, q = linear.weight.detach().double(), q.double()
        tall = w.shape[0] >= w.shape[1]
        a, b = (q, w @ q.T) if tall else (q @ w, q.T)
        z = torch.ones(len(q), requires_grad=True)

        def forward(x, a=a.to(dtype).contiguous(), b=b.to(dtype).contiguous(), z=z):
            return F.linear((F.linear(x, a) * z).to(dtype), b)
        linear.forward = forward
        parameters[name] = z
    return parameters
