"""Makes tests/fixtures/tiny: small random-weight models and the logits transformers gives for them.

One folder a feature, each a real Hugging Face folder (config.json, model.safetensors), written by
transformers' save_pretrained. Folders named *-old have the config.json that transformers 4 wrote
(rope_theta and rope_scaling at the top, torch_dtype, no layer_types); the others the v5 form
(rope_parameters). Logits are transformers' own, eager attention, f32, of the folder as read back.

expected.bin, little-endian, no padding:

    char[8]  "T2LOGIT1"
    u32      vocab_size
    u32      n_sequences
    then for each sequence
      u32    n_tokens
      u32    n_rows              how many positions have their logits here
      i32    ids[n_tokens]
      u32    rows[n_rows]        positions, ascending, the last is n_tokens - 1
      f32    logits[n_rows][vocab_size]

tests/model/tiny_fixture.h reads it.

    python tests/oracle/tiny_models.py [--out tests/fixtures/tiny] [--only NAME]

Runs in seconds; needs torch and transformers 5. The same seed gives the same files.
"""

import argparse
import copy
import json
import shutil
import struct
import zlib
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

MAGIC = b"T2LOGIT1"
VOCAB = 128
HERE = Path(__file__).resolve().parent

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
        "original_max_position_embeddings": 512}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


def shape(**changes):
    base = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
                rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)
    base.update(changes)
    return base


# name: (config class, its arguments, extras). Extras: dtype; old (write the version 4 form);
# shards; ablate (arguments which, changed, must change the logits: the feature is really used).
MODELS = {
    "llama": (LlamaConfig, shape(num_hidden_layers=3, intermediate_size=32), {}),
    "llama-old": (LlamaConfig, shape(hidden_size=24, num_attention_heads=3, num_key_value_heads=1,
                                     rope_parameters={"rope_type": "default",
                                                      "rope_theta": 500.0}),
                  dict(old=True, ablate=dict(rope_parameters=None))),
    "llama-f32-untied": (LlamaConfig, shape(tie_word_embeddings=False, intermediate_size=32,
                                            num_key_value_heads=4, eos_token_id=[2, 5]),
                         dict(dtype=torch.float32)),
    "llama-f16": (LlamaConfig, shape(tie_word_embeddings=False), dict(dtype=torch.float16)),
    "llama-sharded": (LlamaConfig, shape(tie_word_embeddings=False), dict(shards=True)),
    "llama-rope-llama3": (LlamaConfig, shape(head_dim=16, num_attention_heads=2,
                                             rope_parameters=LLAMA3),
                          dict(ablate=dict(rope_parameters=None))),
    "llama-rope-llama3-old": (LlamaConfig, shape(num_attention_heads=2,
                                                 rope_parameters=dict(LLAMA3, factor=32.0)),
                              dict(old=True, ablate=dict(rope_parameters=None))),
    "llama-rope-linear-old": (LlamaConfig, shape(rope_parameters={"rope_type": "linear",
                                                                  "rope_theta": 10000.0,
                                                                  "factor": 3.0}),
                              dict(old=True, old_type_key="type",
                                   ablate=dict(rope_parameters=None))),
    "llama-rope-yarn": (LlamaConfig, shape(head_dim=32, num_attention_heads=2,
                                           num_key_value_heads=1, rope_parameters=YARN),
                        dict(ablate=dict(rope_parameters=None))),
    "mistral-rope-yarn-old": (MistralConfig, shape(head_dim=32, num_attention_heads=2,
                                                   num_key_value_heads=1, sliding_window=None,
                                                   rope_parameters=dict(YARN,
                                                                        attention_factor=1.25)),
                              dict(old=True, ablate=dict(rope_parameters=YARN))),
    "mistral-rope-yarn": (MistralConfig, shape(head_dim=32, num_attention_heads=2,
                                               num_key_value_heads=1, sliding_window=None,
                                               rope_parameters=dict(YARN, mscale=1.5,
                                                                    mscale_all_dim=0.7,
                                                                    beta_fast=16.0, beta_slow=2.0,
                                                                    truncate=False)),
                          dict(ablate=dict(rope_parameters=dict(YARN, mscale=1.5,
                                                                mscale_all_dim=0.7,
                                                                beta_fast=16.0, beta_slow=2.0)))),
    "mistral-window": (MistralConfig, shape(sliding_window=16), dict(ablate=dict(sliding_window=17))),
    "qwen2": (Qwen2Config, shape(rms_norm_eps=1e-6), {}),
    "qwen2-window": (Qwen2Config, shape(num_hidden_layers=3, intermediate_size=32,
                                        use_sliding_window=True, sliding_window=12,
                                        max_window_layers=1),
                     dict(ablate=dict(max_window_layers=2))),
    "qwen2-window-old": (Qwen2Config, shape(num_hidden_layers=3, intermediate_size=32,
                                            use_sliding_window=True, sliding_window=12,
                                            max_window_layers=2),
                         dict(old=True, ablate=dict(max_window_layers=3))),
    "qwen3": (Qwen3Config, shape(head_dim=16, rms_norm_eps=1e-6), {}),
    "llama-bias": (LlamaConfig, shape(attention_bias=True, mlp_bias=True), {}),
    "llama-head-dim-24": (LlamaConfig, shape(head_dim=24, hidden_size=36, num_attention_heads=3,
                                             num_key_value_heads=1), {}),
    "llama-odd": (LlamaConfig, shape(hidden_size=40, num_attention_heads=4, intermediate_size=53,
                                     vocab_size=131), {}),
}


def randomise(model, name):
    """Weights such that logits spread over several units, all of them numbers of bf16."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    with torch.no_grad():
        for key, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in key:
                value = 1 + 0.2 * noise
            elif key.endswith("bias"):
                value = 0.3 * noise
            elif "embed_tokens" in key or "lm_head" in key:
                value = 0.5 * noise
            else:
                value = noise * 1.4 / p.shape[1] ** 0.5
            p.copy_(value.to(torch.bfloat16).float())


def write_old_config(path, type_key):
    """Rewrites config.json to the form that transformers 4 wrote."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config.pop("layer_types", None)
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {type_key: kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    if config.get("head_dim") == config["hidden_size"] // config["num_attention_heads"]:
        del config["head_dim"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def sequences(name, vocab):
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ 1)
    for n, rows in ((5, range(5)), (17, (0, 4, 8, 12, 16)), (48, (0, 7, 15, 16, 17, 23, 31, 39, 47))):
        yield torch.randint(0, vocab, (n,), generator=generator), list(rows)


def logits(model, ids):
    with torch.inference_mode():
        return model(ids[None], use_cache=False).logits[0].float()


def make(name, out):
    config_class, arguments, extras = MODELS[name]
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    config = config_class(**copy.deepcopy(arguments))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32,
                                             attn_implementation="eager")
    randomise(model, name)
    stored = copy.deepcopy(model).to(extras.get("dtype", torch.bfloat16))
    size = sum(p.numel() * p.element_size() for p in stored.parameters())
    stored.save_pretrained(folder, **({"max_shard_size": size * 5 // 8} if "shards" in extras
                                      else {}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    for file in folder.iterdir():
        file.chmod(0o644)
    if extras.get("old"):
        write_old_config(folder / "config.json", extras.get("old_type_key", "rope_type"))

    read = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                attn_implementation="eager")
    other = None
    if "ablate" in extras:
        changed = config_class(**copy.deepcopy(dict(arguments, **extras["ablate"])))
        other = AutoModelForCausalLM.from_config(changed, dtype=torch.float32,
                                                 attn_implementation="eager")
        other.load_state_dict(read.state_dict())
    blob, parts, change, spread = b"", 0, 0.0, 0.0
    for ids, rows in sequences(name, config.vocab_size):
        values = logits(read, ids)
        if extras.get("dtype") != torch.float16:  # f16 rounds the values once more
            assert (values - logits(model, ids)).abs().max() < 1e-5, name
        spread = max(spread, values.std().item())
        if other is not None:
            change = max(change, (values - logits(other, ids)).abs().max().item())
        blob += struct.pack("<2I", len(ids), len(rows))
        blob += ids.numpy().astype("<i4").tobytes() + struct.pack(f"<{len(rows)}I", *rows)
        blob += values[rows].numpy().astype("<f4").tobytes()
        parts += 1
    assert spread > 1, (name, spread)
    assert other is None or change > 0.02, (name, change)
    (folder / "expected.bin").write_bytes(
        MAGIC + struct.pack("<2I", config.vocab_size, parts) + blob)
    total = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name:24} {total:7} bytes, logits' standard deviation {spread:.2f}"
          + (f", without the feature they move by {change:.2f}" if other is not None else ""))
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "fixtures" / "tiny")
    parser.add_argument("--only", help="make this model alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    total = sum(make(name, options.out) for name in MODELS if options.only in (None, name))
    print(f"{total} bytes in all")


if __name__ == "__main__":
    main()
