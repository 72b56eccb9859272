"""The peer of LoRA's speed bar: PEFT in bf16 on the CPU, next-token prediction on a task's prompts.

    python tests/bench/peft_peer.py HF_FOLDER --task data/tasks/sst2.ini [--batch 32] [--micro 16]
           [--steps 5] [--warm 1] [--threads 2] [--rank 16] [--use-dora]

LoRA (or DoRA) on query and value, alpha twice the rank, dropout 0.05, AdamW 5e-5, gradients clipped to a norm
of 1. A step is `batch` prompts with their answers in micro-batches of `micro` (t2's --shard), padded on the left,
with logits where the answers are alone. Data: $T2_DATA/NAME/train.jsonl. The last line has the medians; tokens
are those of prompts and answers, without padding:

    step 4.120 s, tokens/s 411.0, rows 1810, peak 2100 MB
"""

import argparse
import os
import random
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "oracle"))
from svf_reference import prompt_ids, read_rows, read_task  # noqa: E402


def read_items(options, tokenizer, end):
    """Prompts' and answers' ids, an answer with the token that ends it."""
    task = read_task(options.task)
    rows = list(read_rows(Path(os.environ["T2_DATA"]) / task["dataset"] / "train.jsonl").values())
    choices = [c.strip() for c in task["choices"].split("|")]
    random.seed(1)
    chosen = random.sample(rows, options.batch * (options.steps + options.warm))
    return [(prompt_ids(tokenizer, task, row),
             tokenizer.encode(choices[row[task["gold"]]], add_special_tokens=False) + [end])
            for row in chosen]


def micro_loss(model, items):
    """The answers' negative log-likelihood, summed; rows that were computed."""
    longest = max(len(p) + len(a) for p, a in items)
    answer = max(len(a) for _, a in items)
    ids = torch.zeros(len(items), longest, dtype=torch.long)
    mask = torch.zeros(len(items), longest, dtype=torch.long)
    labels = torch.full((len(items), answer), -100)
    for i, (prompt, target) in enumerate(items):
        both = prompt + target
        ids[i, longest - len(both):] = torch.tensor(both)
        mask[i, longest - len(both):] = 1
        labels[i, answer - len(target):] = torch.tensor(target)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False,
                   logits_to_keep=answer + 1).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum"), ids.numel()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("model")
    parser.add_argument("--task", type=Path, default=Path("data/tasks/sst2.ini"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--micro", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warm", type=int, default=1, help="steps that are not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--use-dora", action="store_true")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16)
    end = model.generation_config.eos_token_id
    items = read_items(options, tokenizer, end if isinstance(end, int) else end[0])
    model = get_peft_model(model, LoraConfig(r=options.rank, lora_alpha=2 * options.rank, lora_dropout=0.05,
                                             target_modules=["q_proj", "v_proj"], use_dora=options.use_dora,
                                             task_type="CAUSAL_LM"), autocast_adapter_dtype=False).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-5, weight_decay=0)
    seconds, speeds, rows = [], [], []
    for step in range(options.warm + options.steps):
        batch = items[step * options.batch:(step + 1) * options.batch]
        start, n_rows = time.perf_counter(), 0
        for first in range(0, len(batch), options.micro):
            loss, n = micro_loss(model, batch[first:first + options.micro])
            (loss / len(batch)).backward()
            n_rows += n
        torch.nn.utils.clip_grad_norm_(trained, 1)
        optimizer.step()
        optimizer.zero_grad()
        took = time.perf_counter() - start
        if step >= options.warm:
            seconds.append(took)
            speeds.append(sum(len(p) + len(a) for p, a in batch) / took)
            rows.append(n_rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(f"step {statistics.median(seconds):.3f} s, tokens/s {statistics.median(speeds):.1f}, "
          f"rows {statistics.median(rows):.0f}, peak {peak:.0f} MB")


if __name__ == "__main__":
    main()
