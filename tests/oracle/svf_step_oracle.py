"""Holds t2 train to the published algorithm of Transformer-Squared (arXiv 2501.06252) in PyTorch f32.

t2 trains STEPS steps and logs its answers; PyTorch answers the same prompts with the same tokens:

    loss = - sum_t log p(y_t) * reward / batch + kl * sum_t KL(p_base || p) / batch
    clip_grad_norm_(1e-3), torch.optim.Adam(2e-3)

with the whole matrix composed, W' = U diag(s z) V^T, and differentiated as a weight. direct: z from 1.
sigmoid: z = sigmoid(p), W' scaled by sum(s) / sum(s z); p starts where t2's does (a run of rate 0). The
end-of-text token is no part of the answer (--no-loss-eos), as in the published code. Prompts are made by
transformers from the task file and the model's chat template.

    python tests/oracle/svf_step_oracle.py MODEL --task FILE.ini --data FILE.jsonl --factors F.h5
        [--t2 build/release/t2] [--batch 8] [--steps 1 5] [--seed 1] [--kl 0] [--greedy]
        [--parametrisation direct sigmoid] [--dtype f32|f64 of PyTorch] [-- MORE OPTIONS OF T2]

MODEL: a Hugging Face folder, read by both. Ends with 1 unless 99.9 % of the parameters agree to 1e-4 and
the rest to 2 x rate x steps.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from svf_reference import factored_linears, prompt_ids, read_rows, read_task

RATE = 2e-3


def run_t2(options, folder, parametrisation, steps, rate):
    """The expert's parameters by matrix, and the log of its answers."""
    out, log = folder / "e.h5", folder / "log.jsonl"
    task = options.task.stem if options.task.parent.name == "tasks" else str(options.task)
    command = [options.t2, "train", options.model, "--factors", options.factors, "--task", task,
               "--batch", options.batch, "--steps", steps, "--seed", options.seed, "--rate", rate,
               "--parametrisation", parametrisation, "--dtype", "f32", "--threads", options.threads,
               "--no-loss-eos", "--rollout-log", log, "--out", out, "--quiet", "--max-new",
               options.max_new]
    command += ["--greedy"] * options.greedy + (["--kl", options.kl] if options.kl else [])
    done = subprocess.run([str(x) for x in command + options.more], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"t2 train: {done.stderr}")
    key = "p" if parametrisation == "sigmoid" else "z"
    with h5py.File(out) as file:
        parameters = {f"layers/{layer}/{name}": torch.from_numpy(group[key][:])
                      for layer in file["layers"] for name, group in file["layers"][layer].items()}
        curve = {name: values[:] for name, values in file["curve"].items()}
    return parameters, [json.loads(line) for line in open(log)], curve


class Reference:
    """The published algorithm on the same answers."""

    def __init__(self, options):
        self.options = options
        self.dtype = dict(f32=torch.float32, f64=torch.float64)[options.dtype]
        self.tokenizer = AutoTokenizer.from_pretrained(options.model)
        self.task, self.rows = read_task(options.task), read_rows(options.data)
        self.model = AutoModelForCausalLM.from_pretrained(options.model, dtype=self.dtype,
                                                          attn_implementation="eager").eval()
        self.model.requires_grad_(False)
        self.svd = {}
        for name, linear, s, q in factored_linears(self.model, options.factors):
            w = linear.weight.detach().double()
            q = q.double()
            u, vt = (w @ q.T / s, q) if w.shape[0] >= w.shape[1] else (q.T, q @ w / s[:, None])
            self.svd[name] = (linear, linear.weight.detach(), u.to(self.dtype), s.to(self.dtype),
                              vt.to(self.dtype))

    def start(self, parameters):
        self.parameters = {name: parameters[name].to(self.dtype, copy=True).requires_grad_()
                           for name in self.svd}
        self.optimizer = torch.optim.Adam(list(self.parameters.values()), lr=RATE)

    def logprobs(self, prompt, answer):
        logits = self.model(torch.tensor([prompt + answer]), use_cache=False).logits
        return logits[0, len(prompt) - 1:-1].log_softmax(-1)

    def step(self, records, parametrisation):
        """One optimizer step; returns the gradient's norm before clipping."""
        kl = self.options.kl
        base = {}
        if kl:
            with torch.no_grad():
                for name, (linear, weight, *_) in self.svd.items():
                    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
                for record in records:
                    base[record["index"]] = self.logprobs(self.prompt(record), record["ids"])
        leaves = []
        for name, (linear, _, u, s, vt) in self.svd.items():
            z = self.parameters[name]
            scale = 1
            if parametrisation == "sigmoid":
                z = torch.sigmoid(z)
                scale = s.sum() / (s * z).sum()
            composed = (u * (s * z)) @ vt * scale
            linear.weight = torch.nn.Parameter(composed.detach())
            leaves.append((composed, linear))
        for record in records:
            logp = self.logprobs(self.prompt(record), record["ids"])
            loss = -record["reward"] * logp[range(len(record["ids"])), record["ids"]].sum()
            if kl:
                loss = loss + kl * torch.nn.functional.kl_div(
                    logp, base[record["index"]], log_target=True, reduction="sum")
            (loss / len(records)).backward()
        torch.autograd.backward([composed for composed, _ in leaves],
                                [linear.weight.grad for _, linear in leaves])
        norm = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), 1e-3)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm.item()

    def prompt(self, record):
        return prompt_ids(self.tokenizer, self.task, self.rows[record["id"]])

    def flat(self):
        return torch.cat([p.detach().flatten() for p in self.parameters.values()]).double()


def check(options, reference, folder, parametrisation):
    good = True
    start = None
    for steps in options.steps:
        theirs, log, curve = run_t2(options, folder, parametrisation, steps, RATE)
        if start is None and parametrisation == "sigmoid":
            start, *_ = run_t2(options, folder, parametrisation, 1, 0)
        elif start is None:
            start = {name: torch.ones_like(p) for name, p in theirs.items()}
        reference.start(start)
        norms = [reference.step([r for r in log if r["step"] == step + 1], parametrisation)
                 for step in range(steps)]
        ours = torch.cat([theirs[name] for name in reference.svd]).double()
        error = (ours - reference.flat()).abs()
        moved = (reference.flat() - torch.cat([start[n] for n in reference.svd]).double()).abs()
        share = (error <= 1e-4).double().mean().item()
        passes = share >= 0.999 and error.max().item() <= 2 * RATE * steps * 1.0001
        good &= passes
        norm = max(abs(a / b - 1) for a, b in zip(curve["gradient_norm"], norms))
        print(f"{parametrisation}, {steps} steps, {len(log)} answers of "
              f"{sum(len(r['ids']) for r in log)} tokens, {len(error)} parameters moved by "
              f"{moved.mean().item():.1e}: {100 * share:.3f} % within 1e-4, median "
              f"{error.median().item():.1e}, largest {error.max().item():.1e} of "
              f"{2 * RATE * steps:.0e} allowed, gradient norms within {norm:.1e}: "
              f"{'ok' if passes else 'MISSED'}", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--factors", required=True)
    parser.add_argument("--t2", default="build/release/t2")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 5])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-new", type=int, default=8)
    parser.add_argument("--kl", type=float, default=0)
    parser.add_argument("--greedy", action="store_true")
    parser.add_argument("--parametrisation", nargs="*", default=["direct", "sigmoid"])
    parser.add_argument("--dtype", choices=["f32", "f64"], default="f32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("more", nargs="*", help="after --: more options of t2 train")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.disable_progress_bar()
    reference = Reference(options)
    with tempfile.TemporaryDirectory() as folder:
        good = [check(options, reference, Path(folder), p) for p in options.parametrisation]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
