"""The peer of the speed bars: transformers on 2 CPU threads. One line a figure:

    generate batch 16 tokens/s 246.1    64 greedy tokens after 64 prompt tokens; new tokens over the
                                        whole time, prompt included
    score 16x256 tokens/s 2536.0        forward with the logits of all positions
    arc_easy limit 50 tokens/s 900.0    lm-eval's HFLM.loglikelihood over the four choices; tokens
                                        of all prompts and choices, as if nothing were shared

    python tests/oracle/transformers_bench.py HF_FOLDER [--decode 64] [--prompt 64] [--batch 1 16 64]
           [--score 16x256] [--arc 50] [--dtype bf16] [--threads 2] [--repeat 3]

Only the figures that are asked for run; the best of --repeat counts. --cache picks the KV cache of
generate (dynamic, static, or best: both are tried). Data for --arc: $T2_DATA/arc_easy/test.jsonl.
--loglikelihoods FILE writes those of --arc as JSON lines {"id", "logprobs", "greedy"}: with
--dtype f32 they are what t2's are held to.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

DTYPES = dict(bf16=torch.bfloat16, f32=torch.float32)


def best(repeat, run):
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])  # the first warms up


def bench_decode(model, options, batch):
    ids = torch.randint(5, model.config.vocab_size, (batch, options.prompt),
                        generator=torch.Generator().manual_seed(batch))
    mask = torch.ones_like(ids)
    # No end of sequence: every run gives all tokens, with no logits processor in the way.
    model.generation_config.eos_token_id = None
    kinds = dict(best=("dynamic", "static")).get(options.cache, (options.cache,))

    def run(kind):
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=options.decode,
                             do_sample=False, pad_token_id=0, cache_implementation=kind)
        assert out.shape[1] == options.prompt + options.decode

    times = {kind: best(options.repeat, lambda kind=kind: run(kind)) for kind in kinds}
    kind = min(times, key=times.get)
    print(f"generate batch {batch} tokens/s {batch * options.decode / times[kind]:.1f}", flush=True)


def bench_score(model, options):
    rows, length = map(int, options.score.split("x"))
    ids = torch.randint(5, model.config.vocab_size, (rows, length),
                        generator=torch.Generator().manual_seed(1))
    seconds = best(options.repeat, lambda: model(ids, use_cache=False).logits)
    print(f"score {options.score} tokens/s {rows * length / seconds:.1f}", flush=True)


def bench_arc(model, options):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    path = Path(os.environ["T2_DATA"]) / "arc_easy" / "test.jsonl"
    rows = [json.loads(line) for line in open(path)][:options.arc]
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=options.arc_batch,
              device="cpu")
    requests, owners = [], []
    for i, row in enumerate(rows):
        for k, choice in enumerate(row["choices"]["text"]):
            pair = (f"Question: {row['question']}\nAnswer:", f" {choice}")
            requests.append(Instance("loglikelihood", row, pair, k))
            owners.append(i)
    n_tokens = sum(len(tokenizer(a + b)["input_ids"])
                   for a, b in (request.args for request in requests))
    results = []
    seconds = best(options.repeat,
                   lambda: results.append(lm.loglikelihood(requests, disable_tqdm=True)))
    print(f"arc_easy limit {options.arc} tokens/s {n_tokens / seconds:.1f}", flush=True)
    if options.loglikelihoods:
        with open(options.loglikelihoods, "w") as file:
            for i, row in enumerate(rows):
                mine = [r for owner, r in zip(owners, results[-1]) if owner == i]
                file.write(json.dumps(dict(id=row["id"], logprobs=[r[0] for r in mine],
                                           greedy=[r[1] for r in mine])) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--batch", type=int, nargs="*", default=[])
    parser.add_argument("--score")
    parser.add_argument("--arc", type=int)
    parser.add_argument("--arc-batch", type=int, default=16)
    parser.add_argument("--loglikelihoods")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cache", choices=("dynamic", "static", "best"), default="dynamic")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=DTYPES[options.dtype]).eval()
    with torch.inference_mode():
        for batch in options.batch:
            bench_decode(model, options, batch)
        if options.score:
            bench_score(model, options)
        if options.arc:
            bench_arc(model, options)


if __name__ == "__main__":
    main()
