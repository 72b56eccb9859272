/* The model's constants from a Hugging Face config.json. Defaults, priorities and the meaning of
 * each key follow transformers 5 (configuration_llama.py and its siblings,
 * modeling_rope_utils.py). */
#include "model/config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/json_file.h"
#include "mpi/error.h"

/* What a key is when config.json leaves it out. */
struct defaults {
    const char *architecture, *model_type;
    enum family family;
    size_t vocab_size, ffn_size, n_kv_heads /* 0: as n_heads */, head_dim /* 0: derived */;
    size_t max_positions;
    int32_t bos_id, eos_id;
};

static const struct defaults families[] = {
    {"LlamaForCausalLM", "llama", FAMILY_LLAMA, 32000, 11008, 0, 0, 2048, 1, 2},
    {"MistralForCausalLM", "mistral", FAMILY_MISTRAL, 32000, 14336, 8, 0, 131072, 1, 2},
    {"Qwen2ForCausalLM", "qwen2", FAMILY_QWEN2, 151936, 22016, 32, 0, 32768, -1, -1},
    {"Qwen3ForCausalLM", "qwen3", FAMILY_QWEN3, 151936, 22016, 32, 128, 32768, -1, -1},
};

enum { DEFAULT_LAYERS = 32, DEFAULT_HEADS = 32, DEFAULT_HIDDEN = 4096, DEFAULT_WINDOW = 4096 };

/* ---- one value --------------------------------------------------------------------------------
 */

/* NULL when the key is absent or null. */
static const json_t *get(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    return json_is_null(value) ? NULL : value;
}

static int read_size(const json_t *object, const char *key, const char *file, size_t *size)
{
    const json_t *value = get(object, key);

    if (!value)
        return 0;
    double real = json_number_value(value);
    if (!json_is_number(value) || !(real >= 0 && real <= 0x1p53) || real != floor(real))
        return error_set("%s: %s must be a whole number of at least 0", file, key);
    *size = (size_t)real;
    return 0;
}

static int read_real(const json_t *object, const char *key, const char *file, double *real)
{
    const json_t *value = get(object, key);

    if (!value)
        return 0;
    if (!json_is_number(value))
        return error_set("%s: %s must be a number", file, key);
    *real = json_number_value(value);
    return 0;
}

static int read_bool(const json_t *object, const char *key, const char *file, bool *truth)
{
    const json_t *value = get(object, key);

    if (!value)
        return 0;
    if (!json_is_boolean(value))
        return error_set("%s: %s must be true or false", file, key);
    *truth = json_is_true(value);
    return 0;
}

/* ---- the family -------------------------------------------------------------------------------
 */

static const struct defaults *find_family(const char *architecture, const char *model_type)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const struct defaults *f = &families[i];
        if (architecture ? strcmp(f->architecture, architecture) == 0
                         : model_type && strcmp(f->model_type, model_type) == 0)
            return f;
    }
    return NULL;
}

static const struct defaults *read_family(struct model_config *c, const json_t *json,
                                          const char *file)
{
    const json_t *list = get(json, "architectures");
    const char *architecture = json_string_value(json_array_get(list, 0));
    const char *model_type = json_string_value(get(json, "model_type"));
    const struct defaults *f = find_family(architecture, model_type);

    if (!f) {
        const char *name = architecture ? architecture : model_type;
        error_set("%s: %s%s; t2 runs LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM and "
                  "Qwen3ForCausalLM",
                  file, name ? "the architecture is not supported: " : "names no architecture",
                  name ? name : "");
        return NULL;
    }
    snprintf(c->architecture, sizeof c->architecture, "%s", f->architecture);
    c->family = f->family;
    return f;
}

static int check_unsupported(const json_t *json, const char *file)
{
    const char *act = json_string_value(get(json, "hidden_act"));
    const json_t *quantised = get(json, "quantization_config");
    double rotary = 1;

    if (quantised) {
        const char *method = json_string_value(get(quantised, "quant_method"));
        return error_set(
            "%s: the weights are quantised%s%s%s; take the unquantised model or a GGUF "
            "file of it",
            file, method ? " (" : "", method ? method : "", method ? ")" : "");
    }
    if (get(json, "hidden_act") &&
        (!act || (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)))
        return error_set("%s: the activation (hidden_act) is %s, t2 has silu", file,
                         act ? act : "no text");
    if (read_real(json, "partial_rotary_factor", file, &rotary) != 0)
        return -1;
    if (rotary != 1)
        return error_set("%s: rotary positions cover only part of a head (partial_rotary_factor "
                         "%g), t2 needs all",
                         file, rotary);
    return 0;
}

/* ---- sizes ------------------------------------------------------------------------------------
 */

static int read_sizes(struct model_config *c, const struct defaults *f, const json_t *json,
                      const char *file)
{
    c->vocab_size = f->vocab_size;
    c->ffn_size = f->ffn_size;
    c->max_positions = f->max_positions;
    c->n_layers = DEFAULT_LAYERS;
    c->n_heads = DEFAULT_HEADS;
    c->hidden_size = DEFAULT_HIDDEN;
    c->rms_norm_eps = 1e-6;
    if (read_size(json, "vocab_size", file, &c->vocab_size) != 0 ||
        read_size(json, "intermediate_size", file, &c->ffn_size) != 0 ||
        read_size(json, "max_position_embeddings", file, &c->max_positions) != 0 ||
        read_size(json, "num_hidden_layers", file, &c->n_layers) != 0 ||
        read_size(json, "num_attention_heads", file, &c->n_heads) != 0 ||
        read_size(json, "hidden_size", file, &c->hidden_size) != 0 ||
        read_real(json, "rms_norm_eps", file, &c->rms_norm_eps) != 0)
        return -1;
    /* Where the key is there and null, transformers takes n_heads. */
    c->n_kv_heads = json_object_get(json, "num_key_value_heads") || f->n_kv_heads == 0
                        ? c->n_heads
                        : f->n_kv_heads;
    c->head_dim = f->head_dim;
    if (read_size(json, "num_key_value_heads", file, &c->n_kv_heads) != 0 ||
        read_size(json, "head_dim", file, &c->head_dim) != 0)
        return -1;
    if (c->head_dim == 0 && !get(json, "head_dim") && c->n_heads > 0) {
        if (c->hidden_size % c->n_heads != 0)
            return error_set("%s: hidden_size %zu is no multiple of num_attention_heads %zu, and "
                             "there is no head_dim",
                             file, c->hidden_size, c->n_heads);
        c->head_dim = c->hidden_size / c->n_heads;
    }
    return 0;
}

static int read_flags(struct model_config *c, const json_t *json, const char *file)
{
    bool attention_bias = false, mlp_bias = false;

    if (read_bool(json, "tie_word_embeddings", file, &c->tied_embeddings) != 0)
        return -1;
    if (c->family == FAMILY_LLAMA || c->family == FAMILY_QWEN3)
        if (read_bool(json, "attention_bias", file, &attention_bias) != 0)
            return -1;
    if (c->family == FAMILY_LLAMA && read_bool(json, "mlp_bias", file, &mlp_bias) != 0)
        return -1;
    c->qkv_bias = attention_bias || c->family == FAMILY_QWEN2;
    c->output_bias = attention_bias;
    c->mlp_bias = mlp_bias;
    c->qk_norm = c->family == FAMILY_QWEN3;
    return 0;
}

/* ---- sliding window ---------------------------------------------------------------------------
 */

/* A list of "full_attention" and "sliding_attention", one a layer: sets the first sliding one.
 * window_first_layer cannot say more, so sliding layers must come last. */
static int read_layer_types(struct model_config *c, const json_t *types, const char *file)
{
    bool sliding = false;

    if (!json_is_array(types) || json_array_size(types) != c->n_layers)
        return error_set("%s: layer_types must list the %zu layers", file, c->n_layers);
    c->window_first_layer = c->n_layers;
    for (size_t i = 0; i < c->n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        bool slides = type && strcmp(type, "sliding_attention") == 0;
        if (!type || (!slides && strcmp(type, "full_attention") != 0))
            return error_set(
                "%s: layer_types has \"%s\" for layer %zu, t2 knows full_attention and "
                "sliding_attention",
                file, type ? type : "no text", i);
        if (sliding && !slides)
            return error_set("%s: layer %zu sees everything after layers with a sliding window; t2 "
                             "runs such windows in the last layers only",
                             file, i);
        if (slides && !sliding)
            c->window_first_layer = i;
        sliding = slides;
    }
    return 0;
}

static int read_window(struct model_config *c, const json_t *json, const char *file)
{
    const json_t *types = get(json, "layer_types");
    bool use = c->family == FAMILY_MISTRAL;
    size_t window = DEFAULT_WINDOW;

    if (c->family == FAMILY_LLAMA) /* has none, whatever the file says */
        return 0;
    if (json_object_get(json, "sliding_window") && !get(json, "sliding_window"))
        return 0;
    if (read_size(json, "sliding_window", file, &window) != 0)
        return -1;
    if (c->family != FAMILY_MISTRAL) {
        c->window_first_layer = 28;
        if (read_bool(json, "use_sliding_window", file, &use) != 0 ||
            read_size(json, "max_window_layers", file, &c->window_first_layer) != 0)
            return -1;
        if (types && read_layer_types(c, types, file) != 0)
            return -1;
    }
    if (use && window == 0)
        return error_set("%s: sliding_window is 0; it must be positive, or null for none", file);
    if (use && c->window_first_layer < c->n_layers)
        c->sliding_window = window;
    else
        c->window_first_layer = 0;
    return 0;
}

/* ---- rotary positions -------------------------------------------------------------------------
 */

static int error_rope_key(const char *file, const char *kind, const char *key)
{
    return error_set("%s: %s rotary scaling needs the number %s", file, kind, key);
}

static int read_rope_kind(struct rope_config *r, const json_t *rope, const char *file)
{
    const json_t *named = get(rope, "rope_type") ? get(rope, "rope_type") : get(rope, "type");
    const char *kind = named ? json_string_value(named) : "default";

    for (int i = ROPE_DEFAULT; i <= ROPE_YARN; i++)
        if (kind && strcmp(kind, rope_kind_name((enum rope_kind)i)) == 0) {
            r->kind = (enum rope_kind)i;
            return 0;
        }
    return error_set(
        "%s: the rotary scaling \"%s\" is not supported; t2 has default, linear, llama3 "
        "and yarn",
        file, kind ? kind : "(no text)");
}

/* One set of parameters. rope may be NULL (all defaults). */
static int read_rope_set(struct rope_config *r, const struct model_config *c, const json_t *json,
                         const json_t *rope, bool nested, const char *file)
{
    double rotary = 1;

    *r = (struct rope_config){.theta = 10000, .factor = 1, .truncate = true};
    r->original_max_positions = (double)c->max_positions;
    if (read_rope_kind(r, rope, file) != 0 || read_real(json, "rope_theta", file, &r->theta) != 0 ||
        read_real(rope, "rope_theta", file, &r->theta) != 0 ||
        read_real(rope, "original_max_position_embeddings", file, &r->original_max_positions) !=
            0 ||
        read_real(rope, "factor", file, &r->factor) != 0 ||
        read_real(rope, "low_freq_factor", file, &r->low_freq_factor) != 0 ||
        read_real(rope, "high_freq_factor", file, &r->high_freq_factor) != 0 ||
        read_real(rope, "attention_factor", file, &r->attention_factor) != 0 ||
        read_real(rope, "beta_fast", file, &r->beta_fast) != 0 ||
        read_real(rope, "beta_slow", file, &r->beta_slow) != 0 ||
        read_real(rope, "mscale", file, &r->mscale) != 0 ||
        read_real(rope, "mscale_all_dim", file, &r->mscale_all_dim) != 0 ||
        read_bool(rope, "truncate", file, &r->truncate) != 0 ||
        read_real(rope, "partial_rotary_factor", file, &rotary) != 0)
        return -1;
    if (rotary != 1)
        return error_set("%s: rotary positions cover only part of a head (partial_rotary_factor "
                         "%g), t2 needs all",
                         file, rotary);
    /* A top-level value wins over the set's own. */
    if (!nested &&
        read_real(json, "original_max_position_embeddings", file, &r->original_max_positions) != 0)
        return -1;
    if (r->beta_fast == 0)
        r->beta_fast = 32;
    if (r->beta_slow == 0)
        r->beta_slow = 1;
    if (r->kind == ROPE_YARN && !get(rope, "factor") && r->original_max_positions > 0)
        r->factor = (double)c->max_positions / r->original_max_positions;
    if ((r->kind == ROPE_LINEAR || r->kind == ROPE_LLAMA3) && !get(rope, "factor"))
        return error_rope_key(file, rope_kind_name(r->kind), "factor");
    if (r->kind == ROPE_LLAMA3 && !get(rope, "low_freq_factor"))
        return error_rope_key(file, "llama3", "low_freq_factor");
    if (r->kind == ROPE_LLAMA3 && !get(rope, "high_freq_factor"))
        return error_rope_key(file, "llama3", "high_freq_factor");
    return 0;
}

static bool same_rope(const struct rope_config *a, const struct rope_config *b)
{
    return a->kind == b->kind && a->theta == b->theta && a->factor == b->factor &&
           a->low_freq_factor == b->low_freq_factor && a->high_freq_factor == b->high_freq_factor &&
           a->original_max_positions == b->original_max_positions && a->beta_fast == b->beta_fast &&
           a->beta_slow == b->beta_slow && a->attention_factor == b->attention_factor &&
           a->mscale == b->mscale && a->mscale_all_dim == b->mscale_all_dim &&
           a->truncate == b->truncate;
}

/* rope_scaling (the older form) wins over rope_parameters when both are there. The latter may hold
 * one set for each layer type; t2 has one for all layers. */
static int read_rope(struct model_config *c, const json_t *json, const char *file)
{
    const json_t *rope = get(json, "rope_scaling");

    if (!rope || (json_is_object(rope) && json_object_size(rope) == 0))
        rope = get(json, "rope_parameters");
    if (rope && !json_is_object(rope))
        return error_set("%s: rope_scaling and rope_parameters must be objects", file);
    const json_t *full = get(rope, "full_attention"), *sliding = get(rope, "sliding_attention");
    if (!json_is_object(full) && !json_is_object(sliding))
        return read_rope_set(&c->rope, c, json, rope, false, file);

    struct rope_config other;
    if (read_rope_set(&c->rope, c, json, full ? full : sliding, true, file) != 0 ||
        read_rope_set(&other, c, json, sliding ? sliding : full, true, file) != 0)
        return -1;
    if (!same_rope(&c->rope, &other))
        return error_set("%s: full and sliding layers have different rotary parameters, t2 needs "
                         "the same",
                         file);
    return 0;
}

/* ---- special ids ------------------------------------------------------------------------------
 */

/* A token's number; negative ones, which stand for none, become -1. */
static bool get_id(const json_t *value, int32_t *id)
{
    double real = json_number_value(value);

    if (!json_is_number(value) || real != floor(real) || real > INT32_MAX)
        return false;
    *id = real < 0 ? -1 : (int32_t)real;
    return true;
}

static int add_eos(struct model_config *c, const json_t *value, const char *file)
{
    int32_t id;

    if (!get_id(value, &id))
        return error_set("%s: eos_token_id must be a token's number or a list of them", file);
    if (id < 0)
        return 0;
    for (size_t i = 0; i < c->n_eos; i++)
        if (c->eos_ids[i] == id)
            return 0;
    if (c->n_eos == CONFIG_MAX_EOS)
        return error_set("%s: more than %d end tokens (eos_token_id)", file, CONFIG_MAX_EOS);
    c->eos_ids[c->n_eos++] = id;
    return 0;
}

static int read_eos(struct model_config *c, const json_t *json, const char *file)
{
    const json_t *value = get(json, "eos_token_id");

    if (!value)
        return 0;
    if (!json_is_array(value))
        return add_eos(c, value, file);
    for (size_t i = 0; i < json_array_size(value); i++)
        if (add_eos(c, json_array_get(value, i), file) != 0)
            return -1;
    return 0;
}

/* generation: may be NULL */
static int read_special_ids(struct model_config *c, const struct defaults *f, const json_t *json,
                            const json_t *generation, const char *file)
{
    const json_t *bos = json_object_get(json, "bos_token_id");

    c->bos_id = f->bos_id;
    if (json_is_null(bos))
        c->bos_id = -1;
    else if (bos && !get_id(bos, &c->bos_id))
        return error_set("%s: bos_token_id must be a token's number", file);
    if (read_eos(c, json, file) != 0)
        return -1;
    if (generation && read_eos(c, generation, "generation_config.json") != 0)
        return -1;
    if (c->n_eos == 0 && f->eos_id >= 0 && !json_object_get(json, "eos_token_id"))
        c->eos_ids[c->n_eos++] = f->eos_id;
    return 0;
}

int config_parse_hf(struct model_config *config, const char *text, size_t n_bytes,
                    const char *generation_text, size_t n_generation_bytes, const char *file)
{
    json_t *json = json_object_parse(text, n_bytes, file), *generation = NULL;
    const struct defaults *family;
    int result = -1;

    *config = (struct model_config){0};
    if (!json)
        goto done;
    if (generation_text) {
        generation =
            json_object_parse(generation_text, n_generation_bytes, "generation_config.json");
        if (!generation) {
            error_prefix("beside %s", file);
            goto done;
        }
    }
    family = read_family(config, json, file);
    if (!family || check_unsupported(json, file) != 0 ||
        read_sizes(config, family, json, file) != 0 || read_flags(config, json, file) != 0 ||
        read_rope(config, json, file) != 0 ||
        read_special_ids(config, family, json, generation, file) != 0 ||
        config_check(config, file) != 0 || read_window(config, json, file) != 0)
        goto done;
    result = config_check(config, file);
done:
    json_decref(json);
    json_decref(generation);
    return result;
}
