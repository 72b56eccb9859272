/* The model's constants from GGUF metadata. Key names: the GGUF specification and what the
 * converters of the llama.cpp project write. */
#include "model/config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf.h"
#include "mpi/error.h"

struct source {
    const struct gguf *gguf;
    const char *path, *arch;
};

/* "ARCH.name" */
static const char *full_key(const struct source *s, const char *name, char buffer[160])
{
    snprintf(buffer, 160, "%s.%s", s->arch, name);
    return buffer;
}

static const struct tensor *find_tensor(const struct gguf *gguf, const char *name)
{
    for (size_t i = 0; i < gguf_n_tensors(gguf); i++)
        if (strcmp(gguf_tensor(gguf, i)->name, name) == 0)
            return gguf_tensor(gguf, i);
    return NULL;
}

static bool has_key(const struct gguf *gguf, const char *key)
{
    for (size_t i = 0; i < gguf_n_keys(gguf); i++)
        if (strcmp(gguf_key(gguf, i), key) == 0)
            return true;
    return false;
}

/* A size given once, or once a layer: then all must be equal. */
static int read_layers_value(const struct source *s, const char *key, int64_t *value)
{
    size_t n;

    if (!gguf_array_size(s->gguf, key, &n))
        return error_set("%s: key %s is not a whole number", s->path, key);
    if (n == 0)
        return error_set("%s: key %s is an empty list", s->path, key);
    int64_t *values = malloc(n * sizeof *values);
    if (!values)
        return error_set("%s: out of memory", s->path);
    int result = 0;
    if (!gguf_get_ints(s->gguf, key, values))
        result = error_set("%s: key %s is not a list of whole numbers", s->path, key);
    for (size_t i = 1; i < n && result == 0; i++)
        if (values[i] != values[0])
            result = error_set("%s: key %s differs between layers (%" PRId64 " and %" PRId64
                               "), t2 needs one value for all",
                               s->path, key, values[0], values[i]);
    if (result == 0)
        *value = values[0];
    free(values);
    return result;
}

/* Leaves *size alone when the key is absent, unless it is required. */
static int read_size(const struct source *s, const char *name, bool required, size_t *size)
{
    char buffer[160];
    const char *key = full_key(s, name, buffer);
    int64_t value;

    if (!has_key(s->gguf, key))
        return required
                   ? error_set("%s: key %s is missing; the file is no complete model", s->path, key)
                   : 0;
    if (!gguf_get_int(s->gguf, key, &value) && read_layers_value(s, key, &value) != 0)
        return -1;
    if (value < 0)
        return error_set("%s: key %s is %" PRId64 ", it cannot be negative", s->path, key, value);
    *size = (size_t)value;
    return 0;
}

static int read_real(const struct source *s, const char *name, bool required, double *real)
{
    char buffer[160];
    const char *key = full_key(s, name, buffer);

    if (!has_key(s->gguf, key))
        return required
                   ? error_set("%s: key %s is missing; the file is no complete model", s->path, key)
                   : 0;
    if (!gguf_get_float(s->gguf, key, real))
        return error_set("%s: key %s is not a number", s->path, key);
    return 0;
}

static int read_family(struct model_config *c, const struct source *s, const char *arch, size_t n)
{
    if (n >= sizeof c->architecture || memchr(arch, 0, n))
        return error_set("%s: general.architecture is not a valid name", s->path);
    memcpy(c->architecture, arch, n);
    c->architecture[n] = '\0';
    if (strcmp(c->architecture, "llama") == 0) /* Mistral's files say llama, too */
        c->family = FAMILY_LLAMA;
    else if (strcmp(c->architecture, "qwen2") == 0)
        c->family = FAMILY_QWEN2;
    else if (strcmp(c->architecture, "qwen3") == 0)
        c->family = FAMILY_QWEN3;
    else
        return error_set("%s: the architecture \"%s\" is not supported; t2 runs the GGUF "
                         "architectures llama (Llama 2 and 3, Mistral, SmolLM2), qwen2 and qwen3",
                         s->path, c->architecture);
    return 0;
}

static int check_unsupported(const struct source *s)
{
    size_t experts = 0;
    int64_t parts;

    if (read_size(s, "expert_count", false, &experts) != 0)
        return -1;
    if (experts > 0)
        return error_set("%s: is a mixture of %zu experts a layer, t2 runs dense models only",
                         s->path, experts);
    if (gguf_get_int(s->gguf, "split.count", &parts) && parts > 1)
        return error_set("%s: is one of %" PRId64 " parts of a model; join them first "
                         "(llama-gguf-split --merge FIRST-PART WHOLE.gguf)",
                         s->path, parts);
    return 0;
}

static int read_sizes(struct model_config *c, const struct source *s)
{
    size_t value_dim, rotary, n;

    if (read_size(s, "block_count", true, &c->n_layers) != 0 ||
        read_size(s, "embedding_length", true, &c->hidden_size) != 0 ||
        read_size(s, "feed_forward_length", true, &c->ffn_size) != 0 ||
        read_size(s, "attention.head_count", true, &c->n_heads) != 0 ||
        read_size(s, "context_length", true, &c->max_positions) != 0)
        return -1;
    c->n_kv_heads = c->n_heads;
    if (read_size(s, "attention.head_count_kv", false, &c->n_kv_heads) != 0)
        return -1;
    c->head_dim = c->n_heads ? c->hidden_size / c->n_heads : 0;
    if (read_size(s, "attention.key_length", false, &c->head_dim) != 0)
        return -1;
    value_dim = rotary = c->head_dim;
    if (read_size(s, "attention.value_length", false, &value_dim) != 0 ||
        read_size(s, "rope.dimension_count", false, &rotary) != 0 ||
        read_size(s, "attention.sliding_window", false, &c->sliding_window) != 0 ||
        read_real(s, "attention.layer_norm_rms_epsilon", true, &c->rms_norm_eps) != 0)
        return -1;
    if (value_dim != c->head_dim)
        return error_set("%s: keys have %zu elements a head and values %zu, t2 needs the same",
                         s->path, c->head_dim, value_dim);
    if (rotary != c->head_dim)
        return error_set("%s: rotary positions cover %zu of a head's %zu elements, t2 needs all",
                         s->path, rotary, c->head_dim);
    const struct tensor *embedding = find_tensor(s->gguf, "token_embd.weight");
    if (gguf_array_size(s->gguf, "tokenizer.ggml.tokens", &n))
        c->vocab_size = n;
    else if (embedding && embedding->n_dims == 2)
        c->vocab_size = embedding->shape[0];
    return read_size(s, "vocab_size", false, &c->vocab_size);
}

static int read_yarn(struct rope_config *r, const struct source *s, double context)
{
    double attention = 1;

    r->kind = ROPE_YARN;
    r->original_max_positions = context;
    r->beta_fast = 32;
    r->beta_slow = 1;
    r->truncate = true;
    if (read_real(s, "rope.scaling.original_context_length", false, &r->original_max_positions) !=
            0 ||
        read_real(s, "rope.scaling.yarn_beta_fast", false, &r->beta_fast) != 0 ||
        read_real(s, "rope.scaling.yarn_beta_slow", false, &r->beta_slow) != 0 ||
        read_real(s, "rope.scaling.attn_factor", false, &attention) != 0 ||
        read_real(s, "rope.scaling.yarn_attn_factor", false, &attention) != 0)
        return -1;
    /* In GGUF the factor multiplies the usual one, in config.json it takes its place. */
    if (attention != 1 && r->factor > 0)
        r->attention_factor = attention * (r->factor > 1 ? 0.1 * log(r->factor) + 1 : 1);
    return 0;
}

static int read_rope(struct model_config *c, const struct source *s)
{
    struct rope_config *r = &c->rope;
    char buffer[160];
    const char *type = "", *key = full_key(s, "rope.scaling.type", buffer);
    size_t n = 0;

    r->theta = 10000;
    r->factor = 1;
    if (read_real(s, "rope.freq_base", false, &r->theta) != 0 ||
        read_real(s, "rope.scale_linear", false, &r->factor) != 0 || /* the older key */
        read_real(s, "rope.scaling.factor", false, &r->factor) != 0)
        return -1;
    if (has_key(s->gguf, key) && !gguf_get_string(s->gguf, key, &type, &n))
        return error_set("%s: key %s is not text", s->path, key);
    if (n == 0) { /* a factor alone means linear scaling */
        r->kind = r->factor != 1 && r->factor != 0 ? ROPE_LINEAR : ROPE_DEFAULT;
    } else if (n == 4 && memcmp(type, "none", n) == 0) {
        r->kind = ROPE_DEFAULT;
    } else if (n == 6 && memcmp(type, "linear", n) == 0) {
        r->kind = ROPE_LINEAR;
    } else if (n == 4 && memcmp(type, "yarn", n) == 0) {
        return read_yarn(r, s, (double)c->max_positions);
    } else {
        return error_set("%s: rotary scaling \"%.*s\" is not supported, t2 has none, linear and "
                         "yarn",
                         s->path, (int)(n < 40 ? n : 40), type);
    }
    return 0;
}

/* Llama 3's frequency scaling comes worked out, as one divisor a frequency. */
static int read_frequency_factors(struct model_config *c, const struct source *s)
{
    const struct tensor *t = find_tensor(s->gguf, "rope_freqs.weight");

    if (!t)
        return 0;
    if (t->type != TENSOR_F32 || t->n_dims != 1 || t->shape[0] != c->head_dim / 2)
        return error_set("%s: rope_freqs.weight must be F32 [%zu]; the file is damaged", s->path,
                         c->head_dim / 2);
    c->rope.frequency_factors = malloc(t->n_bytes);
    if (!c->rope.frequency_factors)
        return error_set("%s: out of memory", s->path);
    tensor_read_rows(t, 0, 1, c->rope.frequency_factors);
    for (size_t i = 0; i < t->shape[0]; i++)
        if (!isfinite(c->rope.frequency_factors[i]) || c->rope.frequency_factors[i] <= 0)
            return error_set("%s: rope_freqs.weight has the value %g at %zu, all must be positive",
                             s->path, (double)c->rope.frequency_factors[i], i);
    return 0;
}

static void read_special_ids(struct model_config *c, const struct gguf *gguf)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    int64_t id;

    c->bos_id = -1;
    if (gguf_get_int(gguf, "tokenizer.ggml.bos_token_id", &id) && id >= 0 && id <= INT32_MAX)
        c->bos_id = (int32_t)id;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        bool known = !gguf_get_int(gguf, ends[i], &id) || id < 0 || id > INT32_MAX;
        for (size_t j = 0; j < c->n_eos && !known; j++)
            known = c->eos_ids[j] == id;
        if (!known)
            c->eos_ids[c->n_eos++] = (int32_t)id;
    }
}

int config_parse_gguf(struct model_config *config, const struct gguf *gguf)
{
    struct source s = {gguf, gguf_path(gguf), config->architecture};
    const char *arch;
    size_t n;

    *config = (struct model_config){0};
    if (!gguf_get_string(gguf, "general.architecture", &arch, &n))
        return error_set("%s: key general.architecture is missing; the file is no model", s.path);
    if (read_family(config, &s, arch, n) != 0 || check_unsupported(&s) != 0 ||
        read_sizes(config, &s) != 0 || read_rope(config, &s) != 0 ||
        config_check(config, s.path) != 0)
        return -1;
    config->tied_embeddings = !find_tensor(gguf, "output.weight");
    config->qkv_bias = find_tensor(gguf, "blk.0.attn_q.bias") != NULL;
    config->output_bias = find_tensor(gguf, "blk.0.attn_output.bias") != NULL;
    config->mlp_bias = find_tensor(gguf, "blk.0.ffn_gate.bias") != NULL;
    config->qk_norm = config->family == FAMILY_QWEN3;
    read_special_ids(config, gguf);
    if (read_frequency_factors(config, &s) != 0) {
        config_free(config);
        return -1;
    }
    return 0;
}
