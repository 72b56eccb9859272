"""The peer of t2 train's speed bars: the same algorithm in PyTorch bf16 on the CPU, transformers' Llama
with eager attention.

    python tests/oracle/svf_train_bench.py HF_FOLDER FACTORS.h5 --task data/tasks/sst2.ini
           [--batch 32] [--steps 5] [--threads 2] [--way grow|again] [--max-new N]
    ... --what tokens       forward and SVF backward on 32 x 64 random tokens
    ... --what check        in f32: both ways' log-probabilities of answers, and the gradient, beside
                            those of each prompt and answer run alone; ends with 1 where they differ

SVF in the factored form (y = T (z * V^T x), no weight gradient); the prompts' common beginning is computed
once, with the gradient through its keys and values; answers of at most max_new tokens are sampled at
temperature 1; REINFORCE +1/-1, gradients clipped to a norm of 1e-3, Adam 2e-3. grow: the rollout is the
forward pass, as in t2; again: answers are sampled without a gradient first, then prompts and answers run
once with it. Data: $T2_DATA/NAME/train.jsonl. The last line has the medians:

    step 1.680 s: rollout 0.620 backward 1.050 optimizer 0.010, rows 850
    tokens/s 1030.0
"""

import argparse
import os
import random
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from svf_reference import attach_factored, prompt_ids, read_rows, read_task


def map_cache(cache, change):
    """A cache of change(keys), change(values)."""
    out = DynamicCache()
    for i, layer in enumerate(cache.layers):
        out.update(change(layer.keys), change(layer.values), i)
    return out


class Trainer:
    def __init__(self, options, model, parameters):
        self.model, self.options = model, options
        self.tokenizer = AutoTokenizer.from_pretrained(options.model)
        self.end = model.generation_config.eos_token_id
        self.parameters = list(parameters.values())
        self.optimizer = torch.optim.Adam(self.parameters, lr=2e-3)
        task = read_task(options.task)
        rows = list(read_rows(Path(os.environ["T2_DATA"]) / task["dataset"] / "train.jsonl").values())
        self.choices = [c.strip() for c in task["choices"].split("|")]
        self.max_new = options.max_new or int(task["max_new"])
        random.seed(1)
        chosen = random.sample(rows, options.batch * (options.steps + options.warm))
        self.items = [(prompt_ids(self.tokenizer, task, row), self.choices[row[task["gold"]]])
                      for row in chosen]

    def forward(self, sequences):
        """The last tokens' log-probabilities of sequences that share a beginning, which is computed
        once; the rest is padded on the left. Gives the cache, its mask and the positions too."""
        shared = len(os.path.commonprefix(sequences))
        n, longest = len(sequences), max(map(len, sequences)) - shared
        prefix = self.model(torch.tensor([sequences[0][:shared]]), use_cache=True,
                            logits_to_keep=1).past_key_values
        cache = map_cache(prefix, lambda x: x.expand(n, -1, -1, -1))
        ids = torch.zeros(n, longest, dtype=torch.long)
        mask = torch.ones(n, shared + longest, dtype=torch.long)
        for i, s in enumerate(sequences):
            pad = longest - (len(s) - shared)
            ids[i, pad:] = torch.tensor(s[shared:])
            mask[i, shared:shared + pad] = 0
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
        self.rows += shared + n * longest
        return cache, ids, mask, positions

    def run(self, cache, ids, mask, positions, keep):
        out = self.model(ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                         use_cache=True, logits_to_keep=keep)
        return out.past_key_values, out.logits.float().log_softmax(-1)

    def grow(self, prompts):
        """Answers, and the sums of their tokens' log-probabilities as the model is now."""
        answers = [[] for _ in prompts]
        sums = [0] * len(prompts)
        active = list(range(len(prompts)))
        cache, ids, mask, positions = self.forward(prompts)
        while True:
            cache, logp = self.run(cache, ids, mask, positions, 1)
            logp = logp[:, -1]
            tokens = torch.multinomial(logp.detach().exp(), 1)[:, 0]
            picked = logp[range(len(active)), tokens]
            kept = []
            for i, token in enumerate(tokens.tolist()):
                answers[active[i]].append(token)
                sums[active[i]] = sums[active[i]] + picked[i]
                if token != self.end and len(answers[active[i]]) < self.max_new:
                    kept.append(i)
            if not kept:
                return answers, sums
            if len(kept) < len(active):
                cache = map_cache(cache, lambda x: x[kept])
            active = [active[i] for i in kept]
            ids, positions = tokens[kept][:, None], positions[kept][:, -1:] + 1
            mask = F.pad(mask[kept], (0, 1), value=1)
            self.rows += len(active)

    def again(self, prompts):
        with torch.no_grad():
            answers, _ = self.grow(prompts)
        whole = [p + a[:-1] for p, a in zip(prompts, answers)]
        longest = max(map(len, answers))
        _, logp = self.run(*self.forward(whole), longest)
        return answers, [logp[i, [longest - len(a) + k for k in range(len(a))], a].sum()
                         for i, a in enumerate(answers)]

    def step(self, batch):
        """Seconds of the rollout (with the forward pass), the backward pass and the optimizer."""
        self.rows = 0
        start = time.perf_counter()
        answers, sums = getattr(self, self.options.way)([prompt for prompt, _ in batch])
        rewards = [1 if self.tokenizer.decode(a, skip_special_tokens=True).strip().lower()
                   .startswith(gold) else -1 for a, (_, gold) in zip(answers, batch)]
        loss = -sum(r * s for r, s in zip(rewards, sums)) / len(batch)
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1e-3)
        self.optimizer.step()
        self.optimizer.zero_grad()
        end = time.perf_counter()
        print(f"{end - start:.3f} s, reward {sum(rewards) / len(batch):+.2f}, "
              f"{sum(map(len, answers)) / len(batch):.1f} tokens an answer", flush=True)
        return end - start, forward - start, backward - forward, end - backward, self.rows


def bench_step(options, model, parameters):
    trainer = Trainer(options, model, parameters)
    batch = options.batch
    times = [trainer.step(trainer.items[k * batch:(k + 1) * batch])
             for k in range(options.steps + options.warm)][options.warm:]
    step, rollout, backward, optimizer, rows = (statistics.median(x) for x in zip(*times))
    print(f"step {step:.3f} s: rollout {rollout:.3f} backward {backward:.3f} optimizer "
          f"{optimizer:.3f}, rows {rows:.0f}")


def bench_tokens(options, model, parameters):
    ids = torch.randint(5, model.config.vocab_size, (32, 64),
                        generator=torch.Generator().manual_seed(1))
    times = []
    for _ in range(options.steps + options.warm):
        start = time.perf_counter()
        logits = model(ids, use_cache=False).logits[:, :-1]
        F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten()).backward()
        times.append(time.perf_counter() - start)
        for z in parameters.values():
            z.grad = None
    print(f"tokens/s {ids.numel() / statistics.median(times[options.warm:]):.1f}")


def check(options, model, parameters):
    """Both ways beside plain forward passes of one sequence at a time."""
    trainer = Trainer(options, model, parameters)
    prompts = [prompt for prompt, _ in trainer.items]
    good = True
    for way in trainer.grow, trainer.again:
        trainer.rows = 0
        answers, sums = way(prompts)
        gradient = torch.cat(torch.autograd.grad(sum(sums), list(parameters.values())))
        plain = [model(torch.tensor([p + a]), use_cache=False).logits[0, len(p) - 1:-1].log_softmax(-1)
                 [range(len(a)), a].sum() for p, a in zip(prompts, answers)]
        plain_gradient = torch.cat(torch.autograd.grad(sum(plain), list(parameters.values())))
        error = max(abs(x.item() - y.item()) for x, y in zip(sums, plain))
        off = ((gradient - plain_gradient).norm() / plain_gradient.norm()).item()
        good &= error < 1e-3 and off < 1e-3
        print(f"{way.__name__}: {len(prompts)} answers of {sum(map(len, answers))} tokens: "
              f"log-probabilities within {error:.1e}, gradient off by {off:.1e} of its norm: "
              f"{'ok' if good else 'WRONG'}")
    return 0 if good else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("factors")
    parser.add_argument("--task", type=Path, default=Path("data/tasks/sst2.ini"))
    parser.add_argument("--what", choices=["step", "tokens", "check"], default="step")
    parser.add_argument("--way", choices=["grow", "again"], default="grow")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warm", type=int, default=1, help="steps that are not counted")
    parser.add_argument("--max-new", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    model.requires_grad_(False)
    dtype = torch.float32 if options.what == "check" else torch.bfloat16
    parameters = attach_factored(model, options.factors, dtype)
    model.to(dtype)
    return dict(step=bench_step, tokens=bench_tokens, check=check)[options.what](options, model,
                                                                                parameters)


if __name__ == "__main__":
    sys.exit(main())
