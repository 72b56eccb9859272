#!/usr/bin/env python3
"""Compares the `math` grader with sympy-based checkers on answer pairs: lm-eval's minerva variant
(normalize_final_answer and is_equiv) and math-verify, which that task reports beside it.

    pip install lm-eval[math]        # brings sympy, antlr4-python3-runtime 4.11 and math-verify
    python tests/oracle/math_oracle.py build/release/bench_math [--show]

The pairs are made here with a fixed seed: rewrites of the gold answers of MATH-500 ($T2_DATA/math500)
and GSM8K that are equivalent, and near misses. Each reference has blind spots (minerva's cannot parse
intervals or sets; math-verify takes some units for factors), so the verdict to agree with is "equal
for either of the two". Leaves with 1 below 99 % agreement; lists every disagreement. Also checks
tests/fixtures/math_pairs.jsonl, the pairs of our own that the C test reads.
"""
import argparse
import json
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
from fractions import Fraction

logging.disable(logging.CRITICAL)
HERE = os.path.dirname(os.path.abspath(__file__))


def rewrites(text, rng):
    """(equivalents, near misses) of a gold answer, as LaTeX text."""
    # (A full stop after the answer is none of the rewrites: the references take it for a factor.)
    same = [f"${text}$", text.replace(" ", ""), r"\;" + text]
    other = []
    plain = text.replace(" ", "")
    number = re.fullmatch(r"-?\d+", plain)
    fraction = re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", plain)
    surd = re.fullmatch(r"(\d*)\\sqrt\{(\d+)\}", plain)
    if number:
        n = int(plain)
        k = rng.randint(2, 9)
        same += [rf"\frac{{{k * n}}}{{{k}}}", f"{n}.0", f"x={n}", f"{n - k} + {k}", f"({n})",
                 rf"{k * n} \div {k}", rf"\text{{{n}}}", rf"{n} \text{{ units}}"]
        if abs(n) >= 1000:
            same += [f"{n:,}", f"{n:,}".replace(",", r",\!")]
        if 0 < n < 200:
            same += [rf"\sqrt{{{n * n}}}"]
        other += [str(n + 1), str(-n) if n else "2", str(10 * n + 1), rf"\frac{{{n}}}{{{k}}}" if n else "1",
                  rf"\sqrt{{{abs(n) + 2}}}" if n != 2 else "3", f"{n}.5"] + ([f"{n}x"] if n else [])
    elif fraction:
        sign, a, b = fraction.group(1), int(fraction.group(2)), int(fraction.group(3))
        k = rng.randint(2, 7)
        same += [rf"{sign}\dfrac{{{a}}}{{{b}}}", f"{sign}{a}/{b}", rf"{sign}\frac{{{k * a}}}{{{k * b}}}",
                 rf"\frac{{{sign}{a}}}{{{b}}}", rf"{sign}\tfrac{{{a}}}{{{b}}}", rf"x = {sign}\frac{{{a}}}{{{b}}}"]
        value = Fraction(a, b)
        rest = value.denominator
        while rest % 2 == 0:
            rest //= 2
        while rest % 5 == 0:
            rest //= 5
        if rest == 1:
            same.append(sign + repr(float(value)))
        if a < 10 and b < 10:
            same.append(rf"{sign}\frac{a}{b}")
        other += [rf"{sign}\frac{{{b}}}{{{a}}}" if a != b else "2", rf"{sign}\frac{{{a + 1}}}{{{b}}}",
                  rf"{sign}\frac{{{a}}}{{{b + 1}}}", f"{sign}{round(float(value), 2)}" if rest != 1 else "7",
                  ("" if sign else "-") + rf"\frac{{{a}}}{{{b}}}"]
    elif surd:
        k, m = int(surd.group(1) or 1), int(surd.group(2))
        same += [rf"\sqrt{{{k * k * m}}}", rf"\sqrt{{{m}}} \cdot {k}", rf"{k} \times \sqrt{{{m}}}",
                 rf"\frac{{{k * m}}}{{\sqrt{{{m}}}}}", rf"{k} \cdot {m}^{{1/2}}"]
        other += [rf"{k}\sqrt{{{m + 1}}}", rf"{k + 1}\sqrt{{{m}}}", rf"\sqrt{{{k * m + 1}}}", f"{k * m}",
                  repr(round(k * m ** 0.5, 2))]
    else:
        same += [text.replace("(", r"\left(").replace(")", r"\right)") if r"\left" not in text
                 else text.replace(r"\left", "").replace(r"\right", "")]
        if "frac" in text:
            same.append(re.sub(r"\\d?frac", r"\\dfrac", text))
        if re.fullmatch(r"\\text\{[^}]*\}", plain):
            same.append(text[6:-1])
            other += [r"\text{none}", "7"]
        if re.fullmatch(r"[(\[].*,.*[)\]]", plain) and plain.count(",") == 1:
            first, second = plain[1:-1].split(",")
            if "left" not in plain:
                other += [f"{plain[0]}{second}, {first}{plain[-1]}" if first != second else "1",
                          ("[" if plain[0] == "(" else "(") + plain[1:]]
        if re.fullmatch(r"[\d a-zA-Z^+-]+", text) and not plain.startswith("-") and "+" in plain:
            head, tail = text.split("+", 1)
            if "-" not in tail:
                same.append(tail.strip() + " + " + head.strip())
            other.append(head + "-" + tail)
        digits = [m.start() for m in re.finditer(r"\d", text)]
        for _ in range(3):
            if digits:
                at = rng.choice(digits)
                other.append(text[:at] + str((int(text[at]) + rng.randint(1, 8)) % 10) + text[at + 1:])
    return [s for s in dict.fromkeys(same) if s != text], [o for o in dict.fromkeys(other) if o != text]


def make_pairs(data, rng):
    pairs = []
    with open(os.path.join(data, "math500", "test.jsonl"), encoding="utf-8") as f:
        golds = list(dict.fromkeys(json.loads(line)["answer"] for line in f))
    for gold in golds:
        same, other = rewrites(gold, rng)
        pairs.append((gold, gold, "math", True))
        pairs += [(s, gold, "math", True) for s in rng.sample(same, min(2, len(same)))]
        pairs += [(o, gold, "math", False) for o in rng.sample(other, min(2, len(other)))]
    with open(os.path.join(data, "gsm8k", "test.jsonl"), encoding="utf-8") as f:
        golds = list(dict.fromkeys(json.loads(line)["answer"].split("####")[1].strip() for line in f))
    for gold in golds:
        n = int(gold.replace(",", ""))
        pairs.append((rng.choice([rf"\${n}", f"{n:,}", f"{n}.00", str(n)]), gold, "gsm8k", True))
        pairs.append((str(n + rng.choice([-1, 1, 10])), gold, "gsm8k", False))
    return pairs


def references(answer, gold):
    from lm_eval.tasks.minerva_math.utils import is_equiv, normalize_final_answer
    from math_verify import parse, verify

    minerva = bool(is_equiv(normalize_final_answer(answer), normalize_final_answer(gold)))
    wrap = (lambda t: "$" + t.strip("$") + "$")
    try:
        verified = bool(verify(parse(wrap(gold)), parse(wrap(answer))))
    except Exception:  # noqa: BLE001
        verified = False
    return minerva, verified


def grade(binary, pairs):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        for pair in pairs:
            f.write(json.dumps({"answer": rf"\boxed{{{pair[0]}}}", "gold": pair[1]}) + "\n")
        f.flush()
        done = subprocess.run([binary, f.name], capture_output=True, text=True, check=True)
    print(done.stderr.strip())
    return [line == "1" for line in done.stdout.split()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", help="build/release/bench_math")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=int, default=0)
    args = parser.parse_args()

    rng = random.Random(args.seed)
    pairs = make_pairs(os.environ["T2_DATA"], rng)
    fixture = os.path.join(HERE, "..", "fixtures", "math_pairs.jsonl")
    if os.path.exists(fixture):
        with open(fixture, encoding="utf-8") as f:
            rows = [json.loads(line) for line in f]
        pairs += [(r["answer"], r["gold"], "own", r["equal"]) for r in rows]
    if args.limit:
        pairs = rng.sample(pairs, args.limit)
    ours = grade(args.binary, pairs)
    counts = {}
    n_minerva = n_verify = n_meant = 0
    disagreements = []
    for (answer, gold, source, meant), verdict in zip(pairs, ours):
        minerva, verified = references(answer, gold)
        n_minerva += minerva == verdict
        n_verify += verified == verdict
        n_meant += meant == verdict
        good, n = counts.get(source, (0, 0))
        agrees = (minerva or verified) == verdict
        counts[source] = (good + agrees, n + 1)
        if not agrees or meant != verdict:
            disagreements.append((source, answer, gold, verdict, minerva, verified, meant))
    for d in disagreements:
        print("%s: %r against %r: t2 %d, minerva %d, math-verify %d, meant %d" % d)
    n = len(pairs)
    for source, (good, total) in counts.items():
        print(f"{source}: {good} of {total} agree ({100 * good / total:.2f} %)")
    print(f"{n} pairs: as minerva {100 * n_minerva / n:.2f} %, as math-verify {100 * n_verify / n:.2f} %, "
          f"as either {100 * sum(g for g, _ in counts.values()) / n:.2f} %, as meant {100 * n_meant / n:.2f} %")
    ok = all(good >= 0.99 * total for source, (good, total) in counts.items() if source != "own")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
