"""Holds t2's logits and greedy texts on a real model to transformers' own.

    python tests/oracle/logits_oracle.py make HF_FOLDER OUT
    python tests/oracle/logits_oracle.py compare OUT --model MODEL [--t2 build/release/t2]
                                         [--bench build/release/bench_logits] [--threads 2]

`make` writes into OUT (outside of the tree: about 0.8 GB for SmolLM2-135M)

    prompts.jsonl    20 lines {"text", "ids", "greedy_ids", "greedy_text", "gaps", "peer_bf16_top1"}:
                     5 to 600 tokens; gaps are the leads of the greedy tokens' logits over the
                     second best, peer_bf16_top1 is transformers bf16's share of equal top-1
    ids.txt          the ids of prompt i on line i, separated by blanks: bench_logits' input
    logits.f32       transformers f32, raw f32 [n_tokens, vocab] of one prompt after the other

`compare` runs

    bench_logits MODEL OUT/ids.txt OUT/t2.f32 --dtype f32       (the layout of logits.f32)
    bench_logits MODEL OUT/ids.txt OUT/t2.bf16 --dtype bf16
    t2 generate MODEL TEXT -n 64 --raw --dtype f32              (20 times)

and prints the largest difference in f32, the share of positions with transformers f32's top-1 in
bf16 beside the peer's, and how many greedy texts are the same; it ends with status 1 where one of
the bars (--bar-f32 2e-3, --bar-bf16 0.993, --bar-greedy 19) is missed. --reuse takes the .f32 and
.bf16 files that are there; --skip-greedy and --skip-logits leave a part out. MODEL may be the
folder or the GGUF file that it was converted from.

The prompts are put together here from words of our own.
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np

LENGTHS = (5, 8, 12, 17, 25, 33, 48, 64, 80, 100, 127, 150, 180, 220, 256, 300, 350, 420, 513, 600)

OPENINGS = [
    "The capital of France is", "Once upon a time there was a miller who",
    "Water boils at a temperature of", "def mean(values):\n    return",
    "Dear Sir, I am writing to you because", "My favourite season is", "1, 2, 4, 8, 16,",
    "Question: Why is the sky blue?\nAnswer:", "The three primary colours are",
    "Here is a recipe for bread. First,",
]
SENTENCES = [
    "The old lighthouse stood at the end of the pier, and its lamp was lit every evening at six.",
    "Rain had fallen for three days, so the river was brown and high.",
    "A train that leaves at 9:15 and arrives at 11:40 is on its way for 2 hours and 25 minutes.",
    "The baker weighed 500 g of flour, 10 g of salt and 7 g of yeast.",
    "“Are you coming?” she asked; nobody answered.",
    "In 1851 a great glass hall was built in the park, and people came from far away to see it.",
    "If x + 3 = 10, then x = 7, because 7 + 3 = 10.",
    "Plants take in carbon dioxide and water, and with the light of the sun they make sugar.",
    "The committee met on Tuesday, discussed the budget, and decided nothing.",
    "He opened the letter slowly, read it twice, and put it into the fire.",
    "for i in range(10):\n    total += i * i\nprint(total)",
    "- milk\n- eggs\n- two lemons\n- a loaf of bread",
    "The café on the corner sells crêpes, and the naïve visitor pays too much for them.",
    "Wolves live in packs; an eagle hunts alone.",
    "Sound travels through air at about 340 metres per second, and through water four times faster.",
    "My grandmother kept bees, hens and a very small, very angry goat.",
    "It is easier to ask a clear question than to guess at an answer.",
    "Copper conducts electricity well, which is why cables are made of it.",
    "On the second day they crossed the ridge and saw the sea below them, flat and grey.",
    "SELECT name, age FROM people WHERE age > 30 ORDER BY name;",
    "The judge looked at the clock, then at the witness, then at the clock again.",
    "Every even number larger than two seems to be the sum of two primes, but nobody has proved it.",
]
USER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def make_prompts(tokenizer):
    """Texts of about the lengths above; every fourth in the chat form."""
    rng = random.Random(7)
    for i, length in enumerate(LENGTHS):
        chat = i % 4 == 3
        text = OPENINGS[i % len(OPENINGS)] if not chat else rng.choice(SENTENCES)
        while True:
            whole = USER.format(text) if chat else text
            ids = tokenizer(whole)["input_ids"]
            if len(ids) >= length:
                break
            # Openings stay at the end, where they ask for something.
            more = rng.choice(SENTENCES)
            short = len(ids) + 24 > length
            words = more.split(" ")
            more = " ".join(words[:max(1, (length - len(ids)) * 2 // 3)]) if short else more
            text = f"{more}\n{text}" if rng.random() < 0.3 else f"{more} {text}"
        # The same ids must come out of the text again, with nothing added around them.
        assert tokenizer(whole, add_special_tokens=False)["input_ids"] == ids
        yield whole, ids


def make(options):
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    load = lambda dtype: AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).eval()
    exact, half = load(torch.float32), load(torch.bfloat16)
    agree = positions = 0
    with torch.inference_mode(), open(out / "prompts.jsonl", "w") as prompts, \
            open(out / "ids.txt", "w") as ids_file, open(out / "logits.f32", "wb") as logits_file:
        for i, (text, ids) in enumerate(make_prompts(tokenizer)):
            if options.limit and i == options.limit:
                break
            batch = torch.tensor([ids])
            logits = exact(batch).logits[0]
            same = (half(batch).logits[0].argmax(-1) == logits.argmax(-1)).sum().item()
            logits.numpy().astype("<f4").tofile(logits_file)
            done = exact.generate(batch, attention_mask=torch.ones_like(batch), do_sample=False,
                                  max_new_tokens=64, return_dict_in_generate=True,
                                  output_logits=True, pad_token_id=tokenizer.eos_token_id)
            greedy = done.sequences[0, len(ids):].tolist()
            gaps = [float(-np.diff(step[0].topk(2).values)[0]) for step in done.logits]
            row = dict(text=text, ids=ids, greedy_ids=greedy,
                       greedy_text=tokenizer.decode(greedy, skip_special_tokens=True), gaps=gaps,
                       peer_bf16_top1=same / len(ids))
            prompts.write(json.dumps(row) + "\n")
            ids_file.write(" ".join(map(str, ids)) + "\n")
            agree, positions = agree + same, positions + len(ids)
            print(f"prompt {i:2}: {len(ids):3} tokens, smallest greedy lead {min(gaps):.4f}",
                  flush=True)
    print(f"{positions} positions; transformers bf16 has transformers f32's top-1 on "
          f"{agree / positions:.4f} of them")


def compare_logits(options, rows):
    vocab = (options.out / "logits.f32").stat().st_size // 4 // sum(len(r["ids"]) for r in rows)
    shape = (sum(len(r["ids"]) for r in rows), vocab)
    expected = np.memmap(options.out / "logits.f32", "<f4", "r", shape=shape)
    good = True
    for dtype, name in (("f32", "t2.f32"), ("bf16", "t2.bf16")):
        path = options.out / name
        if not (options.reuse and path.exists()):
            subprocess.run([options.bench, options.model, options.out / "ids.txt", path,
                            "--dtype", dtype], check=True)
        if path.stat().st_size != shape[0] * shape[1] * 4:
            sys.exit(f"{path} has {path.stat().st_size} bytes, expected {shape[0] * shape[1] * 4}: "
                     f"f32 [{shape[0]} tokens, {vocab}]")
        actual = np.memmap(path, "<f4", "r", shape=shape)
        worst, same, first = (0.0, 0), 0, 0
        for i, row in enumerate(rows):
            part = slice(first, first + len(row["ids"]))
            difference = np.abs(actual[part] - expected[part]).max()
            if not difference <= worst[0]:
                worst = (float(difference), i)
            same += int((actual[part].argmax(1) == expected[part].argmax(1)).sum())
            first = part.stop
        share = same / shape[0]
        print(f"{dtype}: largest absolute difference {worst[0]:.3e} (prompt {worst[1]}), same top-1 "
              f"on {same} of {shape[0]} positions ({share:.4f})")
        if dtype == "f32":
            good &= worst[0] <= options.bar_f32
        else:
            peer = sum(r["peer_bf16_top1"] * len(r["ids"]) for r in rows) / shape[0]
            print(f"bf16: transformers' own bf16 {peer:.4f}")
            good &= share >= options.bar_bf16
    return good


def compare_greedy(options, rows):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer) if options.tokenizer else None
    same = 0
    for i, row in enumerate(rows):
        done = subprocess.run([options.t2, "generate", "-n", "64",
                               "--raw", "--dtype", "f32", "--threads", str(options.threads),
                               "--", options.model, row["text"]],
                              check=True, stdout=subprocess.PIPE)
        # The command may end its output with one newline of its own.
        text, wanted = done.stdout.decode("utf-8", "replace"), row["greedy_text"]
        if text in (wanted, wanted + "\n"):
            same += 1
            continue
        at = next((k for k, (a, b) in enumerate(zip(text, wanted)) if a != b),
                  min(len(text), len(wanted)))
        print(f"prompt {i}: greedy texts part at character {at}: {text[at:at + 30]!r}, expected "
              f"{wanted[at:at + 30]!r}")
        if tokenizer:
            n = next((n for n in range(1, len(row["greedy_ids"]) + 1)
                      if len(tokenizer.decode(row["greedy_ids"][:n])) > at), len(row["gaps"]))
            print(f"    there transformers' token leads by {row['gaps'][n - 1]:.5f}")
    print(f"greedy: {same} of {len(rows)} texts the same")
    return same >= min(options.bar_greedy, len(rows))


def compare(options):
    rows = [json.loads(line) for line in open(options.out / "prompts.jsonl")]
    good = True
    if not options.skip_logits:
        good &= compare_logits(options, rows)
    if not options.skip_greedy:
        good &= compare_greedy(options, rows)
    sys.exit(0 if good else 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("make")
    p.add_argument("model", help="Hugging Face folder")
    p.add_argument("out", type=Path)
    p.add_argument("--limit", type=int, default=0, help="first prompts only")
    p.add_argument("--threads", type=int, default=2)
    p.set_defaults(run=make)
    p = commands.add_parser("compare")
    p.add_argument("out", type=Path)
    p.add_argument("--model", required=True)
    p.add_argument("--t2", default="build/release/t2")
    p.add_argument("--bench", default="build/release/bench_logits")
    p.add_argument("--tokenizer", help="Hugging Face folder, to tell the lead where texts part")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--reuse", action="store_true")
    p.add_argument("--skip-logits", action="store_true")
    p.add_argument("--skip-greedy", action="store_true")
    p.add_argument("--bar-f32", type=float, default=2e-3)
    p.add_argument("--bar-bf16", type=float, default=0.993)
    p.add_argument("--bar-greedy", type=int, default=19)
    p.set_defaults(run=compare)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
