"""Makes tests/fixtures/peft: what PEFT computes for LoRA, DoRA and (IA)^3 on the models of
tests/fixtures/tiny, from parameters given: logits, gradients, and parameters after AdamW steps.

NAME.bin, little-endian, no padding:

    char[8]  "T2PEFT01"
    char[16] kind              "lora", "dora", "ia3"
    u32      rank, n_tokens, n_terms, n_matrices, n_steps, vocab
    f32      alpha, rate, weight_decay
    f32      loss
    i32      ids[n_tokens]
    then for each term         u32 position, i32 target, f32 weight
    f32      logits[n_terms][vocab]    at the terms' positions
    then for each matrix, in t2's order
      u32    layer, projection (0-6: q k v o gate up down), n
      f32    start[n], gradient[n], end[n]   lora_A, lora_B, lora_magnitude_vector, or ia3_l

The loss is the sum over the terms of -weight log p(target), in f64; the steps are torch.optim.AdamW
on that loss, from `start`. NAME/ is the adapter at `start` as PEFT saves it.
tests/model/test_adapter_peft.c reads both.

    python tests/oracle/peft_oracle.py [--out tests/fixtures/peft] [--only NAME]

With --check DIR --model MODEL --merged FOLDER it loads a directory that t2 export --peft has
written, and compares its logits with those of the folder that t2 export --merged has written.
"""

import argparse
import copy
import json
import shutil
import struct
from pathlib import Path

import torch
import transformers
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
TINY = HERE.parent / "fixtures" / "tiny"
NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RATE, DECAY, STEPS = 1e-3, 0.01, 5

# name: (kind, model, modules, rank, alpha)
CASES = {
    "lora-qv": ("lora", "qwen2", ["q_proj", "v_proj"], 4, 8),
    "lora-all": ("lora", "llama-odd", NAMES, 3, 12),
    "dora-qv": ("dora", "qwen2", ["q_proj", "v_proj"], 4, 8),
    "dora-all": ("dora", "llama-bias", NAMES, 2, 4),
    "ia3": ("ia3", "qwen2", ["k_proj", "v_proj", "down_proj"], 0, 0),
    "ia3-all": ("ia3", "llama-bias", NAMES, 0, 0),
}


def config(kind, modules, rank, alpha):
    if kind == "ia3":
        return IA3Config(target_modules=modules, feedforward_modules=["down_proj"],
                         task_type="CAUSAL_LM")
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules, use_dora=kind == "dora",
                      lora_dropout=0.0, task_type="CAUSAL_LM")


def in_f64(model):
    """f64 throughout: transformers keeps norms and RoPE in f32 otherwise."""
    model.double()
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            module.inv_freq = module.inv_freq.double()
    return model


def pieces(model):
    """[(layer, projection, [parameters])] in t2's order."""
    found = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        parts = name.split(".")
        layer = int(parts[parts.index("layers") + 1])
        projection = next(i for i, n in enumerate(NAMES) if n in parts)
        order = next(i for i, n in enumerate(("lora_A", "lora_B", "lora_magnitude_vector", "ia3_l"))
                     if n in parts)
        found.setdefault((layer, projection), []).append((order, p))
    return [(*key, [p for _, p in sorted(found[key], key=lambda x: x[0])])
            for key in sorted(found)]


def flat(parameters):
    return torch.cat([p.detach().flatten() for p in parameters]).numpy().astype("<f4").tobytes()


def save(model, folder):
    """The adapter as PEFT writes it, in f32."""
    shutil.rmtree(folder, ignore_errors=True)
    copied = copy.deepcopy(model).float()
    copied.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None  # a path of whoever made it
    for key, value in config.items():
        if key in ("target_modules", "feedforward_modules"):
            config[key] = sorted(value)  # sets
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make(name, out):
    kind, base, modules, rank, alpha = CASES[name]
    generator = torch.Generator().manual_seed(len(name) + 7)
    model = AutoModelForCausalLM.from_pretrained(TINY / base, dtype=torch.float32,
                                                 attn_implementation="eager")
    model = in_f64(get_peft_model(model, config(kind, modules, rank, alpha)))
    parts = pieces(model)
    with torch.no_grad():
        for _, _, parameters in parts:
            for i, p in enumerate(parameters):
                noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
                if kind == "ia3":
                    value = 1 + 0.2 * noise
                elif i == 2:
                    value = p * (1 + 0.1 * noise)
                else:
                    value = 0.3 * noise / (p.shape[1] ** 0.5)
                p.copy_(value.float().double())
    vocab = model.config.vocab_size
    ids = torch.randint(0, vocab, (24,), generator=generator)
    positions = list(range(10, 23))
    targets = ids[[p + 1 for p in positions]]
    weights = torch.tensor([(1.0 if i % 3 else -0.5) / len(positions)
                            for i in range(len(positions))], dtype=torch.float32)

    def forward():
        logits = model(ids[None], use_cache=False).logits[0, positions]
        logp = logits.log_softmax(-1)[range(len(positions)), targets]
        return logits, -(weights.double() * logp).sum()

    save(model, out / name)
    model.train()
    trained = [p for _, _, parameters in parts for p in parameters]
    start = [flat(parameters) for *_, parameters in parts]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=DECAY)
    for step in range(STEPS):
        optimizer.zero_grad()
        logits, loss = forward()
        loss.backward()
        if step == 0:
            first = logits.detach(), loss.item()
            gradients = [flat([p.grad for p in parameters]) for *_, parameters in parts]
        optimizer.step()
    blob = b"T2PEFT01" + kind.encode().ljust(16, b"\0")
    blob += struct.pack("<6I4f", rank, len(ids), len(positions), len(parts), STEPS, vocab, alpha,
                        RATE, DECAY, first[1])
    blob += ids.numpy().astype("<i4").tobytes()
    for p, t, w in zip(positions, targets, weights):
        blob += struct.pack("<Iif", p, t, w)
    blob += first[0].numpy().astype("<f4").tobytes()
    for (layer, projection, parameters), s, g in zip(parts, start, gradients):
        blob += struct.pack("<3I", layer, projection, len(s) // 4) + s + g + flat(parameters)
    (out / f"{name}.bin").write_bytes(blob)
    print(f"{name:10} {len(blob):7} bytes, {len(parts)} matrices, loss {first[1]:.4f}, "
          f"largest gradient {max(p.grad.abs().max().item() for p in trained):.3g}")


def check(options):
    ids = torch.arange(3, 60)[None] % 97 + 3
    logits = []
    for merged in (False, True):
        model = AutoModelForCausalLM.from_pretrained(options.merged if merged else options.model,
                                                     dtype=torch.float32,
                                                     attn_implementation="eager")
        if not merged:
            model = PeftModel.from_pretrained(model, options.check)
        with torch.inference_mode():
            logits.append(model.eval()(ids, use_cache=False).logits)
            if not merged:
                with model.disable_adapter():
                    base = model(ids, use_cache=False).logits
    worst = (logits[0] - logits[1]).abs().max().item()
    moved = (logits[0] - base).abs().max().item()
    print(f"largest difference {worst:.3g}; the adapter moves logits by {moved:.3g}")
    raise SystemExit(0 if worst < 1e-4 else 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "fixtures" / "peft")
    parser.add_argument("--only", help="make this case alone")
    parser.add_argument("--check", help="a PEFT directory")
    parser.add_argument("--model")
    parser.add_argument("--merged")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.check:
        return check(options)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in CASES:
        if options.only in (None, name):
            make(name, options.out)


if __name__ == "__main__":
    main()
