#!/usr/bin/env python3
"""Compares the log-likelihoods of `t2 eval --tasks arc_easy` (or arc_challenge) with those of
lm-eval's `hf` model on the same requests, item by item, and both accuracies with the ones that
lm-eval's own arithmetic gives. Offline: requests are built from $T2_DATA, as lm-eval's task does.

    t2 eval MODEL_FOLDER --tasks arc_easy --limit 200 --dtype f32 --out r.h5
    HF_HUB_OFFLINE=1 python tests/oracle/lm_eval_oracle.py MODEL_FOLDER r.h5 [--dtype float32]

Leaves with 1 if the largest difference is above --tolerance (1e-3: the bar in f32).
"""
import argparse
import json
import os
import sys

import h5py
import numpy as np


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("results")
    parser.add_argument("--task", default="arc_easy")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    args = parser.parse_args()

    with h5py.File(args.results, "r") as f:
        group = f["tasks"][args.task]
        items = group["items"]
        ids = items["id"].asstr()[:]
        logprobs = items["logprobs"][:]
        greedy = items["greedy"][:]
        tokens = items["choice_tokens"][:]
        accuracy, normalised = group.attrs["accuracy"], group.attrs["accuracy_normalised"]

    path = os.path.join(os.environ["T2_DATA"], args.task, "test.jsonl")
    with open(path, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f if line.strip()][: len(ids)]
    assert [row["id"] for row in rows] == list(ids), "the items are not the first rows of the data"

    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=args.model, dtype=args.dtype, device="cpu", batch_size=args.batch)
    requests, places = [], []
    for i, row in enumerate(rows):
        context = f"Question: {row['question']}\nAnswer:"
        for j, text in enumerate(row["choices"]["text"]):
            requests.append(Instance(request_type="loglikelihood", doc=row,
                                     arguments=(context, " " + text), idx=j))
            places.append((i, j))
    answers = lm.loglikelihood(requests)

    expected = np.full_like(logprobs, np.nan)
    n_greedy, n_tokens = 0, 0
    for (i, j), request, (value, is_greedy) in zip(places, requests, answers):
        expected[i, j] = value
        n_greedy += bool(is_greedy) != bool(greedy[i, j])
        n_tokens += len(lm._encode_pair(*request.args)[1]) != tokens[i, j]
    assert (np.isnan(expected) == np.isnan(logprobs)).all(), "the numbers of choices differ"

    right = right_normalised = 0
    for i, row in enumerate(rows):
        gold = row["choices"]["label"].index(row["answerKey"])
        texts = row["choices"]["text"]
        values = expected[i, : len(texts)]
        right += int(np.argmax(values)) == gold
        right_normalised += int(np.argmax(values / [float(len(t)) for t in texts])) == gold

    difference = np.nanmax(np.abs(expected - logprobs))
    print(f"{len(rows)} items, {len(requests)} log-likelihoods of {args.task}")
    print(f"largest difference {difference:.3g} (mean {np.nanmean(np.abs(expected - logprobs)):.3g}, "
          f"mean log-likelihood {np.nanmean(expected):.3g})")
    print(f"continuations with another token count: {n_tokens}; other greedy flags: {n_greedy}")
    print(f"acc       t2 {accuracy:.4f}  lm-eval {right / len(rows):.4f}")
    print(f"acc_norm  t2 {normalised:.4f}  lm-eval {right_normalised / len(rows):.4f}")
    sys.exit(0 if difference <= args.tolerance and n_tokens == 0 else 1)


main()
