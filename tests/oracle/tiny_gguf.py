"""Makes tests/fixtures/gguf: small GGUF files and what transformers computes from them.

    mix.gguf            llama, hidden 256, 2 layers, 2 heads of 32, 1 key head; its tensors in F32,
                        F16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K; a
                        byte-level BPE tokenizer ("gpt2", pre "smollm") with its chat template
    mix.expected.bin    logits of transformers' from_pretrained(gguf_file=...), f32, eager
    mix.tokens.json     [{"text", "ids"}]: what the tokenizers library makes of some strings
    rope-llama3.gguf    tiny/llama-rope-llama3 in BF16, its frequencies' factors in the tensor
                        rope_freqs.weight (as llama.cpp's converter writes them), which transformers
                        does not read: held to tiny/llama-rope-llama3/expected.bin
    qwen3.gguf          tiny/qwen3 in BF16 and F16, held to tiny/qwen3/expected.bin

expected.bin's form is documented in tiny_models.py, which must have run before.

    python tests/oracle/tiny_gguf.py [--out tests/fixtures/gguf]

gguf's Python package cannot quantise to K-quants, so blocks of all types are drawn at random, with
scales that give the spread wanted: the model is what they dequantise to.
"""

import argparse
import json
import math
import random
import struct
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM

import mini_language
from tiny_models import MAGIC
from train_mini import SPECIAL, TEMPLATE, lesson

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"

# Byte offsets of a block's scale and minimum (f16), and their ratio that makes the mean about zero.
SCALES = {Type.Q8_0: (0, None, 0), Type.Q4_0: (0, None, 0), Type.Q4_1: (0, 2, -7.5),
          Type.Q5_0: (0, None, 0), Type.Q5_1: (0, 2, -15.5), Type.Q2_K: (80, 82, 1.5),
          Type.Q3_K: (108, None, 0), Type.Q4_K: (0, 2, 7.5), Type.Q5_K: (0, 2, 15.5),
          Type.Q6_K: (208, None, 0)}

N_VOCAB, HIDDEN, FFN, N_HEADS, N_KV, HEAD = 288, 256, 64, 2, 1, 32
MIX = {
    "token_embd": (Type.Q3_K, N_VOCAB, HIDDEN),
    "blk.0.attn_q": (Type.Q4_K, N_HEADS * HEAD, HIDDEN),
    "blk.0.attn_k": (Type.Q2_K, N_KV * HEAD, HIDDEN),
    "blk.0.attn_v": (Type.Q6_K, N_KV * HEAD, HIDDEN),
    "blk.0.attn_output": (Type.Q4_0, HIDDEN, N_HEADS * HEAD),
    "blk.0.ffn_gate": (Type.Q6_K, FFN, HIDDEN),
    "blk.0.ffn_up": (Type.Q5_K, FFN, HIDDEN),
    "blk.0.ffn_down": (Type.Q4_0, HIDDEN, FFN),
    "blk.1.attn_q": (Type.Q4_1, N_HEADS * HEAD, HIDDEN),
    "blk.1.attn_k": (Type.F16, N_KV * HEAD, HIDDEN),
    "blk.1.attn_v": (Type.Q8_0, N_KV * HEAD, HIDDEN),
    "blk.1.attn_output": (Type.Q4_1, HIDDEN, N_HEADS * HEAD),
    "blk.1.ffn_gate": (Type.Q5_0, FFN, HIDDEN),
    "blk.1.ffn_up": (Type.Q5_1, FFN, HIDDEN),
    "blk.1.ffn_down": (Type.Q5_0, HIDDEN, FFN),
}


def draw(rng, kind, rows, columns, spread):
    """Random weights of a type: [rows, bytes a row], or f16/f32 [rows, columns]."""
    if kind in (Type.F16, Type.F32):
        dtype = np.float16 if kind == Type.F16 else np.float32
        return (rng.standard_normal((rows, columns)) * spread).astype(dtype)
    n_elements, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // n_elements, n_bytes), dtype=np.uint8)
    at, at_minimum, ratio = SCALES[kind]
    jitter = rng.uniform(0.7, 1.3, (len(blocks), 1))

    def scaled(by):
        scale = (jitter * by).astype(np.float16)
        blocks[:, at:at + 2] = scale.view(np.uint8)
        if at_minimum is not None:
            blocks[:, at_minimum:at_minimum + 2] = (scale * np.float16(ratio)).view(np.uint8)
        return blocks.reshape(rows, -1)

    unit = gguf.dequantize(scaled(2.0 ** -6), kind).std()
    return scaled(2.0 ** -6 * spread / unit)


def make_tokenizer():
    rng = random.Random("gguf")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=N_VOCAB, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    texts = (mini_language.plain(rng)[1].replace(SPECIAL[0], "") for _ in range(5000))
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == N_VOCAB
    return tokenizer


def write_common(writer, config):
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def logits_blob(model, vocab, lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    blob = MAGIC + struct.pack("<2I", vocab, len(lengths))
    for n, rows in lengths:
        ids = torch.randint(0, vocab, (n,), generator=generator)
        with torch.inference_mode():
            logits = model(ids[None], use_cache=False).logits[0].float()
        print(f"    {n} tokens, logits' standard deviation {logits.std():.2f}")
        blob += struct.pack("<2I", n, len(rows)) + ids.numpy().astype("<i4").tobytes()
        blob += struct.pack(f"<{len(rows)}I", *rows) + logits[rows].numpy().astype("<f4").tobytes()
    return blob


def load(path, **options):
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **options,
                                                dtype=torch.float32, attn_implementation="eager")


def make_mix(out):
    rng = np.random.default_rng(11)
    path = out / "mix.gguf"
    tokenizer = make_tokenizer()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("t2 test mix")
    write_common(writer, dict(max_position_embeddings=256, hidden_size=HIDDEN, num_hidden_layers=2,
                              intermediate_size=FFN, num_attention_heads=N_HEADS,
                              num_key_value_heads=N_KV, head_dim=HEAD, rms_norm_eps=1e-5,
                              rope_parameters=dict(rope_theta=10000.0)))
    writer.add_rope_dimension_count(HEAD)
    writer.add_vocab_size(N_VOCAB)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_token_list([text for text, _ in vocab])
    writer.add_token_types([gguf.TokenType.CONTROL if text in SPECIAL else gguf.TokenType.NORMAL
                            for text, _ in vocab])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, (kind, rows, columns) in MIX.items():
        spread = 0.25 if name == "token_embd" else 1.4 / columns ** 0.5
        data = draw(rng, kind, rows, columns, spread)
        writer.add_tensor(name + ".weight", data, raw_dtype=kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "blk.1.attn_norm", "blk.1.ffn_norm",
                 "output_norm"):
        writer.add_tensor(name + ".weight",
                          (1 + 0.2 * rng.standard_normal(HIDDEN)).astype(np.float32))
    finish(writer)
    print("mix.gguf")
    (out / "mix.expected.bin").write_bytes(
        logits_blob(load(path), N_VOCAB, [(5, [0, 1, 2, 3, 4]), (40, [0, 13, 26, 39])], 12))
    texts = ["A tarbolek is red.", "Mia has 12 apples, Tom 345.", "  two  blanks\n\tand a tab\n",
             "naïve café, 你好 🙂", "<|im_start|>user\nHi<|im_end|>\n", "don't we'll I'M", "", " "]
    rows = [dict(text=text, ids=tokenizer.encode(text).ids) for text in texts]
    (out / "mix.tokens.json").write_text(json.dumps(rows, indent=1) + "\n")


NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
         "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
         "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        part, kind = rest.rsplit(".", 1)
        return f"blk.{layer}.{NAMES[part]}.{kind}"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight":
            "output_norm.weight", "lm_head.weight": "output.weight"}[name]


def llama3_factors(head_dim, rope):
    """What llama.cpp divides the inverse frequencies by."""
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / head_dim)
        low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
        high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(rope["factor"])
        else:
            smooth = ((rope["original_max_position_embeddings"] / wavelength
                       - rope["low_freq_factor"])
                      / (rope["high_freq_factor"] - rope["low_freq_factor"]))
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


def convert(out, source, name, architecture):
    """A tiny Hugging Face folder as GGUF: f32 norms, matrices in BF16 (every third in F16)."""
    folder = FIXTURES / "tiny" / source
    config = json.loads((folder / "config.json").read_text())
    path = out / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"t2 test {name}")
    write_common(writer, config)
    if architecture == "llama":
        writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(config["vocab_size"])])
    writer.add_token_types([gguf.TokenType.NORMAL] * config["vocab_size"])
    writer.add_token_merges(["t 0"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    rope = config["rope_parameters"]
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config["head_dim"], rope))
    for i, (key, tensor) in enumerate(sorted(load_file(folder / "model.safetensors").items())):
        data = tensor.float()
        if architecture == "llama" and ("q_proj" in key or "k_proj" in key):
            # The halves of each head become interleaved, for llama.cpp's form of RoPE.
            d = config["head_dim"]
            data = data.view(-1, 2, d // 2, data.shape[1]).transpose(1, 2).reshape(tensor.shape)
        data = data.contiguous()
        if data.dim() == 1:
            writer.add_tensor(gguf_name(key), data.numpy())
        elif architecture != "llama" and i % 3 == 0 and \
                torch.equal(data, data.to(torch.float16).float()):
            writer.add_tensor(gguf_name(key), data.numpy().astype(np.float16))
        else:
            bits = data.to(torch.bfloat16).view(torch.uint16).numpy()
            writer.add_tensor(gguf_name(key), bits.view(np.uint8), raw_dtype=Type.BF16)
    finish(writer)
    exact = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                 attn_implementation="eager")
    if rope["rope_type"] == "llama3":
        d = config["head_dim"]
        frequencies = rope["rope_theta"] ** (-np.arange(0, d, 2) / d) / llama3_factors(d, rope)
        assert np.allclose(exact.model.rotary_emb.inv_freq.numpy(), frequencies, rtol=1e-6, atol=0)
    if rope["rope_type"] == "default":
        again = load(path, config=exact.config)  # transformers does not read key_length
        ids = torch.arange(20)[None]
        with torch.inference_mode():
            assert (exact(ids).logits - again(ids).logits).abs().max() < 1e-4, name
    print(f"{name}.gguf: {path.stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=FIXTURES / "gguf")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    make_mix(options.out)
    convert(options.out, "llama-rope-llama3", "rope-llama3", "llama")
    convert(options.out, "qwen3", "qwen3", "qwen3")
    print(sum(f.stat().st_size for f in options.out.iterdir()), "bytes in all")


if __name__ == "__main__":
    main()
