#!/usr/bin/env python3
"""Makes data/mini's task `mixed`: questions of add and sentiment in one stream, for mixtures of
experts: no single expert of data/mini is good at all of it.

    python tests/oracle/mini_mixed.py data/mini
"""
import json
import pathlib
import re
import sys

ROWS = {"train": 100, "test": 200}


def rows_of(folder, task, split):
    for line in (folder / "data" / task / f"{split}.jsonl").read_text().splitlines():
        row = json.loads(line)
        if task == "sentiment":
            yield {"prompt": f"Is this review positive or negative?\nReview: {row['sentence']}",
                   "answer": ("negative", "positive")[row["label"]]}
        else:
            a, b = re.findall(r"\d+", row["question"])
            yield {"prompt": row["question"], "answer": f"{a} + {b} = {row['answer']}"}


def main():
    folder = pathlib.Path(sys.argv[1])
    target = folder / "data" / "mixed"
    target.mkdir(exist_ok=True)
    for split, n in ROWS.items():
        pairs = zip(rows_of(folder, "add", split), rows_of(folder, "sentiment", split))
        rows = [row for pair in pairs for row in pair][:n]
        text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        (target / f"{split}.jsonl").write_text(text)


main()
