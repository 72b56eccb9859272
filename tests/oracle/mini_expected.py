"""Makes tests/fixtures/mini_expected.json: what transformers (f32, eager) answers on data/mini.

    python tests/oracle/mini_expected.py [--model data/mini] [--items 12]

    {"model_sha256": of model.safetensors, so that a fixture of another model is noticed
     "tasks": {NAME: {
        "n_items", "n_correct": over the whole test split,
        "items": [{"index": row in test.jsonl, counted from 0
                   "prompt": all that the model reads, chat format included; "ids": its tokens
                   generating tasks: "answer", "answer_ids" (the end token included), "correct",
                                     "lead": smallest lead of a token over the second best, in logits
                   choice:           "choices", "logprobs", "predicted", "gold"}]}}}

Greedy answers whose lead is below 1e-3 are left out of "items": another order of additions may turn
them. Log-likelihoods are sums over the tokens of " " + choice after the prompt.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import mini_language as language

ROOT = Path(__file__).resolve().parent.parent.parent


def rows_of(folder, task):
    return [json.loads(line) for line in open(folder / "data" / task / "test.jsonl")]


def generated(model, tokenizer, task, row, max_new):
    prompt = language.prompt(task, row)
    if task != "choice":
        rendered = tokenizer.apply_chat_template(
            [dict(role="user", content=language.user_text(task, row))], tokenize=False,
            add_generation_prompt=True)
        assert rendered == prompt, (rendered, prompt)
    ids = tokenizer(prompt)["input_ids"]
    batch = torch.tensor([ids])
    out = model.generate(batch, attention_mask=torch.ones_like(batch), do_sample=False,
                         max_new_tokens=max_new, return_dict_in_generate=True, output_logits=True)
    new = out.sequences[0, len(ids):].tolist()
    top = torch.stack(out.logits)[:, 0].topk(2, dim=-1).values
    return dict(prompt=prompt, ids=ids, answer=tokenizer.decode(new, skip_special_tokens=True),
                answer_ids=new, lead=(top[:, 0] - top[:, 1]).min().item())


def correct(task, row, answer):
    if task in ("add", "subtract"):
        numbers = "".join(c if c.isdigit() else " " for c in answer).split()
        return bool(numbers) and numbers[-1] == row["answer"]
    if task == "sentiment":
        return answer.strip() == ("negative", "positive")[row["label"]]
    return answer.strip() == row["answer"]


def choice_item(model, tokenizer, row):
    prompt = language.prompt("choice", row)
    ids = tokenizer(prompt)["input_ids"]
    logprobs = []
    for choice in row["choices"]:
        whole = tokenizer(f"{prompt} {choice}")["input_ids"]
        assert whole[:len(ids)] == ids
        scores = torch.log_softmax(model(torch.tensor([whole])).logits[0].double(), -1)
        logprobs.append(sum(scores[i - 1, whole[i]].item() for i in range(len(ids), len(whole))))
    return dict(prompt=prompt, ids=ids, choices=row["choices"], logprobs=logprobs,
                predicted=logprobs.index(max(logprobs)), gold=row["answer"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=ROOT / "data" / "mini")
    parser.add_argument("--out", type=Path,
                        default=ROOT / "tests" / "fixtures" / "mini_expected.json")
    parser.add_argument("--items", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    weights = (options.model / "model.safetensors").read_bytes()
    result = dict(model_sha256=hashlib.sha256(weights).hexdigest(), tasks={})
    with torch.inference_mode():
        for task in language.TASKS:
            rows, items, n_correct = rows_of(options.model, task), [], 0
            for index, row in enumerate(rows):
                if task == "choice":
                    item = choice_item(model, tokenizer, row)
                    right = item["predicted"] == item["gold"]
                else:
                    item = generated(model, tokenizer, task, row,
                                     8 if task == "sentiment" else 24)
                    right = item["correct"] = correct(task, row, item["answer"])
                n_correct += right
                if len(items) < options.items and item.get("lead", 1) > 1e-3:
                    items.append(dict(index=index, **item))
            result["tasks"][task] = dict(n_items=len(rows), n_correct=n_correct, items=items)
            print(f"{task:10} {n_correct} of {len(rows)} correct, {n_correct / len(rows):.3f}",
                  flush=True)
    options.out.write_text(json.dumps(result, separators=(",", ":")).replace(
        '{"index"', '\n{"index"') + "\n")


if __name__ == "__main__":
    main()
