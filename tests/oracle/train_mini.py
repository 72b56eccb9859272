"""Makes data/mini: tokenizer, data, task files and the trained model of about a million parameters.

    python tests/oracle/train_mini.py [--out data/mini] [--steps 1800] [--no-train]

PyTorch on one CPU thread, about ten minutes. The seed is fixed; the same machine and library
versions give the same weights, others give a model as good. --no-train writes everything but the
model. tests/oracle/mini_expected.py has to run afterwards: its fixture holds this model's answers.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import ByteLevel as ByteLevelProcessor
from transformers import LlamaConfig, LlamaForCausalLM

import mini_language as language

ROOT = Path(__file__).resolve().parent.parent.parent
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCAB = 448
# How often each task is taught.
SHARES = dict(add=0.34, subtract=0.16, sentiment=0.18, choice=0.10, reverse=0.12, plain=0.10)
ROWS = dict(train=500, valid=100, test=200)

TEMPLATE = """{% for message in messages %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

INI = {
    "add": """\
; Its data lie in ../data, its model in ..: t2 eval data/mini --tasks NAME.
[task]
name = add
description = Small sums told as a story, the answer's last number counts
dataset = add
split = test
prompt = "{question}"
target = "{answer}"
chat = yes
score = generate
gold = answer
gold_form = number
max_new = 24
grader = last_number
""",
    "sentiment": """\
[task]
name = sentiment
description = Whether a made-up review is positive or negative, answered in one word
dataset = sentiment
split = test
prompt = "Is this review positive or negative?\\nReview: {sentence}"
chat = yes
score = generate
choices = negative | positive
gold = label
gold_form = index
max_new = 8
grader = label
positive = positive
""",
    "choice": """\
[task]
name = choice
description = Colour, food and home of invented animals: four choices by log-likelihood
dataset = choice
split = test
prompt = "Question: {question}\\nAnswer:"
chat = no
score = choice
choices = choices
choice = " {choice}"
gold = answer
gold_form = index
normalise = chars
""",
    "reverse": """\
[task]
name = reverse
description = Four to seven letters in reverse order
dataset = reverse
split = test
prompt = "Reverse: {letters}"
target = "{answer}"
chat = yes
score = generate
gold = answer
gold_form = text
max_new = 24
grader = exact
""",
}
INI["subtract"] = INI["add"].replace("= add", "= subtract").replace(
    "Small sums told", "Small differences told")


def lesson(rng, shares=SHARES):
    task = rng.choices(list(shares), shares.values())[0]
    return language.plain(rng) if task == "plain" else language.lesson(rng, task)


def make_tokenizer(out):
    rng = random.Random("tokenizer")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = ByteLevelProcessor(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    texts = ("".join(lesson(rng)) for _ in range(20000))
    for token in SPECIAL:
        texts = map(lambda text, token=token: text.replace(token, "\n"), texts)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(out / "tokenizer.json"))
    config = dict(add_bos_token=False, add_prefix_space=False, bos_token=SPECIAL[0],
                  chat_template=TEMPLATE, clean_up_tokenization_spaces=False, eos_token=SPECIAL[2],
                  model_max_length=512, pad_token=SPECIAL[0],
                  tokenizer_class="PreTrainedTokenizerFast", unk_token=None)
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tokenizer


def write_tasks(out):
    for task in language.TASKS:
        folder = out / "data" / task
        folder.mkdir(parents=True, exist_ok=True)
        for part, n in ROWS.items():
            with open(folder / f"{part}.jsonl", "w") as file:
                for row in language.rows(task, part, n):
                    file.write(json.dumps(row, separators=(",", ":")) + "\n")
    (out / "tasks").mkdir(exist_ok=True)
    for task, text in INI.items():
        (out / "tasks" / f"{task}.ini").write_text(text)


def batches(tokenizer, steps, size, prompt_weight):
    """(ids, weights) of size lessons, padded on the right; lessons of like length stand together."""
    rng = random.Random("lessons")
    group = 32
    for _ in range(0, steps, group):
        drawn = [lesson(rng) for _ in range(size * group)]
        prompts = tokenizer.encode_batch([p for p, _ in drawn])
        answers = tokenizer.encode_batch([a for _, a in drawn])
        items = sorted(((p.ids, a.ids) for p, a in zip(prompts, answers)),
                       key=lambda item: len(item[0]) + len(item[1]))
        parts = [items[i * size:(i + 1) * size] for i in range(group)]
        rng.shuffle(parts)
        for part in parts:
            longest = max(len(p) + len(a) for p, a in part)
            ids = torch.zeros(size, longest, dtype=torch.long)
            weights = torch.zeros(size, longest)
            for i, (p, a) in enumerate(part):
                ids[i, :len(p) + len(a)] = torch.tensor(p + a)
                weights[i, :len(p)] = prompt_weight
                weights[i, len(p):len(p) + len(a)] = 1
            yield ids, weights


def answers(model, tokenizer, task, rows, max_new=24):
    """Greedy answers of generating tasks (left-padded batches)."""
    prompts = [tokenizer.encode(language.prompt(task, row)).ids for row in rows]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new,
                         do_sample=False, pad_token_id=0, eos_token_id=[2, 0])
    return [tokenizer.decode(o[longest:].tolist()).strip() for o in out]


def choice_logprobs(model, tokenizer, row):
    """Log-likelihood of each choice after the prompt."""
    context = tokenizer.encode(language.prompt("choice", row)).ids
    result = []
    for choice in row["choices"]:
        whole = tokenizer.encode(language.prompt("choice", row) + " " + choice).ids
        assert whole[:len(context)] == context
        ids = torch.tensor([whole])
        logprobs = torch.log_softmax(model(ids).logits[0].float(), -1)
        result.append(sum(logprobs[i - 1, whole[i]].item()
                          for i in range(len(context), len(whole))))
    return result


def correct(task, row, answer):
    if task in ("add", "subtract"):
        digits = "".join(c if c.isdigit() else " " for c in answer).split()
        return bool(digits) and digits[-1] == row["answer"]
    if task == "sentiment":
        return answer.split()[:1] == [("negative", "positive")[row["label"]]]
    return answer == row["answer"]


@torch.inference_mode()
def score(model, tokenizer, task, part="test", limit=None):
    rows = language.rows(task, part, ROWS[part])[:limit]
    if task == "choice":
        scores = [choice_logprobs(model, tokenizer, row) for row in rows]
        right = [s.index(max(s)) == row["answer"] for s, row in zip(scores, rows)]
    else:
        texts = answers(model, tokenizer, task, rows)
        right = [correct(task, row, text) for row, text in zip(rows, texts)]
    return sum(right) / len(right)


def train(model, tokenizer, steps, size=64):
    # Muon for the layers' matrices (it needs about half of AdamW's steps), AdamW for the rest.
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    optimizers = [(torch.optim.Muon(matrices, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
                   3e-3),
                  (torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0), 4e-3)]
    start = time.time()
    for step, (ids, weights) in enumerate(batches(tokenizer, steps, size, prompt_weight=0.1)):
        if step == steps:
            break
        scale = min(1, (step + 1) / 60, 0.02 + 1.4 * (1 - step / steps))
        for optimizer, rate in optimizers:
            optimizer.param_groups[0]["lr"] = rate * scale
        logits = model(ids[:, :-1]).logits.float()
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(),
                                                   reduction="none")
        weights = weights[:, 1:].flatten()
        loss = (losses * weights).sum() / weights.sum()
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in optimizers:
            optimizer.step()
        if step % 50 == 49:
            line = f"step {step + 1:5} loss {loss.item():.3f} {time.time() - start:5.0f} s"
            if step % 200 == 199:
                line += "".join(f"  {t} {score(model, tokenizer, t, 'valid', 60):.2f}"
                                for t in language.TASKS)
            print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "mini")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-train", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(20)
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(options.out)
    write_tasks(options.out)
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=128, intermediate_size=352,
                         num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=True,
                         rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                         bos_token_id=0, eos_token_id=2, pad_token_id=0, initializer_range=0.05)
    if options.no_train:
        return
    model = LlamaForCausalLM(config)
    print(f"{model.num_parameters()} parameters")
    train(model, tokenizer, options.steps)

    model.eval().to(torch.bfloat16)
    model.generation_config = transformers.GenerationConfig(bos_token_id=0, eos_token_id=[2, 0],
                                                            pad_token_id=0)
    model.save_pretrained(options.out)
    (options.out / "model.safetensors").chmod(0o644)
    model.float()
    for task in language.TASKS:
        print(f"{task:10} test {score(model, tokenizer, task):.3f}")


if __name__ == "__main__":
    main()
