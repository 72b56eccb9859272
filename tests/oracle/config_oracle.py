"""Makes tests/fixtures/configs.json: config.json variants with what transformers reads from them
(pip install transformers; run with HF_HUB_OFFLINE=1).

Each entry: {"name", "config", "generation" (or null), "expected": {...}} where expected has the
fields of struct model_config. Window and layer types are those of the model's own layer list.
"""
import json
import sys
import warnings

from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

warnings.filterwarnings("ignore")
CLASSES = {"Llama": LlamaConfig, "Mistral": MistralConfig, "Qwen2": Qwen2Config, "Qwen3": Qwen3Config}

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
VARIANTS = [
    ("llama, all defaults", "Llama", {}, None),
    ("llama 2 7b", "Llama", {"rope_scaling": None, "num_key_value_heads": 32, "rms_norm_eps": 1e-5,
                             "max_position_embeddings": 4096}, {"eos_token_id": 2}),
    ("llama 3.1", "Llama", {"vocab_size": 128256, "rope_theta": 500000.0, "num_key_value_heads": 8,
                            "intermediate_size": 14336, "max_position_embeddings": 131072,
                            "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009],
                            "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
     {"eos_token_id": [128001, 128008, 128009]}),
    ("llama 3.2, v5 form", "Llama", {"tie_word_embeddings": True, "head_dim": 64, "hidden_size": 2048,
                                     "max_position_embeddings": 131072,
                                     "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0,
                                                         **LLAMA3, "factor": 32.0}}, None),
    ("llama3 without original length", "Llama",
     {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}},
     None),
    ("linear, old key", "Llama", {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.5}}, None),
    ("linear, integer factor", "Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4}}, None),
    ("yarn, bare", "Llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, None),
    ("yarn, all keys", "Llama", {"rope_theta": 1e6, "rope_scaling": {
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "beta_fast": 16,
        "beta_slow": 2, "attention_factor": 1.25, "mscale": 0.7, "mscale_all_dim": 0.9,
        "truncate": False}}, None),
    ("yarn, nulls and zeros", "Llama", {"rope_scaling": {
        "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024,
        "beta_fast": None, "beta_slow": 0, "attention_factor": None}}, None),
    ("rope_scaling wins over rope_parameters", "Llama",
     {"rope_theta": 7.0, "rope_parameters": {"rope_type": "default", "rope_theta": 3.0},
      "rope_scaling": {"type": "linear", "factor": 3.0}}, None),
    ("empty rope_scaling does not", "Llama",
     {"rope_scaling": {}, "rope_parameters": {"rope_type": "default", "rope_theta": 3.0}}, None),
    ("rope_parameters wins over rope_theta", "Llama",
     {"rope_theta": 7.0, "rope_parameters": {"rope_type": "default", "rope_theta": 3.0}}, None),
    ("rope_parameters without theta", "Llama",
     {"rope_theta": 7.0, "rope_parameters": {"rope_type": "default"}}, None),
    ("biases", "Llama", {"attention_bias": True, "mlp_bias": True}, None),
    ("head_dim apart from hidden size", "Llama", {"head_dim": 96}, None),
    ("null kv heads and head_dim", "Llama", {"num_key_value_heads": None, "head_dim": None}, None),
    ("no special tokens", "Llama", {"eos_token_id": None, "bos_token_id": None}, None),
    ("a llama with a window key", "Llama", {"sliding_window": 100}, None),
    ("mistral, all defaults", "Mistral", {}, None),
    ("mistral without window", "Mistral", {"sliding_window": None, "rope_theta": 1e6, "vocab_size": 32768}, None),
    ("mistral, small window", "Mistral", {"sliding_window": 7, "head_dim": 32}, None),
    ("qwen2, all defaults", "Qwen2", {}, None),
    ("qwen2.5 0.5b", "Qwen2", {"hidden_size": 896, "num_attention_heads": 14, "num_key_value_heads": 2,
                               "num_hidden_layers": 24, "intermediate_size": 4864, "max_window_layers": 21,
                               "sliding_window": 32768, "use_sliding_window": False, "rope_theta": 1e6,
                               "tie_word_embeddings": True, "bos_token_id": 151643,
                               "eos_token_id": 151645, "rms_norm_eps": 1e-6},
     {"eos_token_id": [151645, 151643]}),
    ("qwen2, window from layer 4", "Qwen2", {"use_sliding_window": True, "sliding_window": 100,
                                             "max_window_layers": 4}, None),
    ("qwen2, window beyond the layers", "Qwen2", {"use_sliding_window": True, "sliding_window": 100,
                                                  "num_hidden_layers": 3}, None),
    ("qwen2, window null", "Qwen2", {"use_sliding_window": True, "sliding_window": None}, None),
    ("qwen2, layer types", "Qwen2", {"use_sliding_window": True, "sliding_window": 9, "num_hidden_layers": 3,
                                     "layer_types": ["full_attention", "sliding_attention",
                                                     "sliding_attention"]}, None),
    ("qwen2, layer types, all full", "Qwen2", {"use_sliding_window": True, "sliding_window": 9,
                                               "num_hidden_layers": 2, "max_window_layers": 0,
                                               "layer_types": ["full_attention"] * 2}, None),
    ("qwen2, layer types without use", "Qwen2", {"sliding_window": 9, "num_hidden_layers": 2,
                                                 "layer_types": ["sliding_attention"] * 2}, None),
    ("qwen2, nested rope", "Qwen2", {"rope_theta": 7.0, "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0}}}, None),
    ("qwen2, null kv heads", "Qwen2", {"num_key_value_heads": None, "num_attention_heads": 16}, None),
    ("qwen2.5 with yarn", "Qwen2", {"rope_theta": 1e6, "rope_scaling": {
        "factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}}, None),
    ("qwen3, all defaults", "Qwen3", {}, None),
    ("qwen3 0.6b", "Qwen3", {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8,
                             "num_hidden_layers": 28, "head_dim": 128, "intermediate_size": 3072,
                             "rope_theta": 1000000, "tie_word_embeddings": True, "eos_token_id": 151645,
                             "bos_token_id": 151643, "max_position_embeddings": 40960},
     {"eos_token_id": [151645, 151643], "bos_token_id": 151643}),
    ("qwen3 with biases", "Qwen3", {"attention_bias": True}, None),
]


def rope_of(config):
    rope = dict(config.rope_parameters)
    rope = rope.get("full_attention", rope)
    kind = rope["rope_type"]
    out = {"kind": kind, "theta": rope["rope_theta"]}
    if kind != "default":
        out["factor"] = rope["factor"]
    if kind in ("llama3", "yarn"):
        out["original_max_positions"] = rope["original_max_position_embeddings"]
    if kind == "llama3":
        out["low_freq_factor"] = rope["low_freq_factor"]
        out["high_freq_factor"] = rope["high_freq_factor"]
    if kind == "yarn":  # the defaults of _compute_yarn_parameters
        out["beta_fast"] = rope.get("beta_fast") or 32
        out["beta_slow"] = rope.get("beta_slow") or 1
        out["attention_factor"] = rope.get("attention_factor") or 0
        out["mscale"] = rope.get("mscale") or 0
        out["mscale_all_dim"] = rope.get("mscale_all_dim") or 0
        out["truncate"] = rope.get("truncate", True)
    return out


def window_of(family, config):
    if family == "Llama":
        return 0, 0
    window = config.sliding_window or 0
    if family == "Mistral":
        return window, 0
    sliding = [i for i, t in enumerate(config.layer_types) if t == "sliding_attention"]
    return (window, sliding[0]) if window and sliding else (0, 0)


def ids(value):
    return [] if value is None else value if isinstance(value, list) else [value]


def main(path):
    cases = []
    for name, family, config, generation in VARIANTS:
        read = CLASSES[family].from_dict(json.loads(json.dumps(config)))
        window, first = window_of(family, read)
        eos = list(dict.fromkeys(ids(read.eos_token_id) if "eos_token_id" in config or not generation else []))
        eos += [i for i in ids((generation or {}).get("eos_token_id")) if i not in eos]
        head_dim = getattr(read, "head_dim", None) or read.hidden_size // read.num_attention_heads
        bias = bool(getattr(read, "attention_bias", False))
        cases.append({
            "name": name,
            "config": {"architectures": [f"{family}ForCausalLM"], **config},
            "generation": generation,
            "expected": {
                "n_layers": read.num_hidden_layers, "hidden_size": read.hidden_size,
                "ffn_size": read.intermediate_size, "n_heads": read.num_attention_heads,
                "n_kv_heads": read.num_key_value_heads, "head_dim": head_dim,
                "vocab_size": read.vocab_size, "max_positions": read.max_position_embeddings,
                "sliding_window": window, "window_first_layer": first,
                "rms_norm_eps": read.rms_norm_eps, "tied": read.tie_word_embeddings,
                "qkv_bias": bias or family == "Qwen2", "output_bias": bias,
                "mlp_bias": bool(getattr(read, "mlp_bias", False)), "qk_norm": family == "Qwen3",
                "bos_id": -1 if read.bos_token_id is None else read.bos_token_id,
                "eos_ids": eos, "rope": rope_of(read),
            },
        })
    with open(path, "w") as out:
        json.dump(cases, out, indent=1)
        out.write("\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/configs.json")
