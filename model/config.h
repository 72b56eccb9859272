#ifndef T2_MODEL_CONFIG_H
#define T2_MODEL_CONFIG_H
/* The shape and constants of a Llama-family decoder, read from a Hugging Face config.json (both the
 * older form and the v5 `rope_parameters` form) or from GGUF metadata. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum family { FAMILY_LLAMA, FAMILY_MISTRAL, FAMILY_QWEN2, FAMILY_QWEN3, FAMILY_COUNT };

enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN };

struct rope_config {
    enum rope_kind kind;
    double theta;
    double factor;                            /* linear, llama3, yarn */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double original_max_positions;            /* llama3, yarn */
    double beta_fast, beta_slow;              /* yarn; defaults 32 and 1 */
    double attention_factor;       /* yarn; 0: derive it (0.1 ln(factor) + 1 or mscale) */
    double mscale, mscale_all_dim; /* yarn; 0 when absent */
    bool truncate;                 /* yarn; round the correction range to integers */
    /* GGUF's rope_freqs tensor (llama3's factors, already worked out), or NULL: divides the inverse
     * frequencies one by one, head_dim / 2 of them. Owned by the config. */
    float *frequency_factors;
};

enum { CONFIG_MAX_EOS = 8 };

struct model_config {
    enum family family;
    char architecture[64]; /* as the file has it, e.g. "LlamaForCausalLM" or "llama" */
    size_t n_layers, hidden_size, ffn_size;
    size_t n_heads, n_kv_heads, head_dim;
    size_t vocab_size;
    size_t max_positions;
    size_t sliding_window;     /* 0: none. A token sees the last `sliding_window` positions, itself
                                  included */
    size_t window_first_layer; /* layers below this see everything (Qwen2's max_window_layers), else
                                  0 */
    double rms_norm_eps;
    bool tied_embeddings;
    bool qkv_bias, output_bias, mlp_bias; /* output: o_proj; mlp: gate, up and down */
    bool qk_norm; /* RMSNorm over head_dim of each query and key head, before RoPE (Qwen3) */
    struct rope_config rope;
    int32_t bos_id;                  /* -1 when absent */
    int32_t eos_ids[CONFIG_MAX_EOS]; /* config.json and generation_config.json together */
    size_t n_eos;
};

/* Parses config.json's text (and generation_config.json's, or NULL). file names the source in
 * errors. Checks every size against sane bounds and one against another. 0, or -1 with error_set.
 */
int config_parse_hf(struct model_config *config, const char *text, size_t n_bytes,
                    const char *generation_text, size_t n_generation_bytes, const char *file);

struct gguf;
/* The same from GGUF metadata. */
int config_parse_gguf(struct model_config *config, const struct gguf *gguf);

/* What both parsers end with: every size within sane bounds and one fit for another. file names the
 * source in errors. 0, or -1 with error_set. */
int config_check(const struct model_config *config, const char *file);

/* Does this token end the text? */
bool config_is_eos(const struct model_config *config, int32_t id);

/* "llama", "mistral", "qwen2", "qwen3"; "default", "linear", "llama3", "yarn" */
const char *family_name(enum family family);
const char *rope_kind_name(enum rope_kind kind);

void config_free(struct model_config *config);

#endif
