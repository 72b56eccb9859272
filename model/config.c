#include "model/config.h"

#include <math.h>
#include <stdlib.h>

#include "mpi/error.h"

const char *family_name(enum family family)
{
    static const char *const names[FAMILY_COUNT] = {"llama", "mistral", "qwen2", "qwen3"};

    return names[family];
}

const char *rope_kind_name(enum rope_kind kind)
{
    static const char *const names[] = {"default", "linear", "llama3", "yarn"};

    return names[kind];
}

/* Bounds several times beyond any published model of these families, small enough that products of
 * two sizes and a few layers' worth of them cannot overflow. */
static int check_sizes(const struct model_config *c, const char *file)
{
    const struct {
        const char *name;
        size_t value, most;
    } sizes[] = {
        {"number of layers", c->n_layers, 4096},
        {"hidden size", c->hidden_size, 1 << 18},
        {"feed-forward size", c->ffn_size, 1 << 20},
        {"number of attention heads", c->n_heads, 1 << 12},
        {"number of key/value heads", c->n_kv_heads, 1 << 12},
        {"head size", c->head_dim, 1 << 12},
        {"vocabulary size", c->vocab_size, 1 << 24},
        {"context length", c->max_positions, 1 << 30},
    };

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].most)
            return error_set("%s: %s is %zu, 1 to %zu is possible", file, sizes[i].name,
                             sizes[i].value, sizes[i].most);
    if (c->n_heads % c->n_kv_heads != 0)
        return error_set("%s: %zu attention heads cannot share %zu key/value heads evenly", file,
                         c->n_heads, c->n_kv_heads);
    if (c->head_dim % 2 != 0)
        return error_set("%s: the head size %zu is odd, rotary positions need an even one", file,
                         c->head_dim);
    if (c->sliding_window > (size_t)1 << 30)
        return error_set("%s: sliding window %zu is out of range", file, c->sliding_window);
    if (!(c->rms_norm_eps >= 0 && c->rms_norm_eps < 1))
        return error_set("%s: the RMS norm's epsilon is %g, 0 to 1 is possible", file,
                         c->rms_norm_eps);
    return 0;
}

static bool is_positive(double x)
{
    return isfinite(x) && x > 0;
}

static int check_rope(const struct model_config *c, const char *file)
{
    const struct rope_config *r = &c->rope;

    if (!is_positive(r->theta))
        return error_set("%s: the rotary base (rope theta) is %g, it must be positive", file,
                         r->theta);
    if (r->kind != ROPE_DEFAULT && !is_positive(r->factor))
        return error_set("%s: the rotary scaling factor is %g, it must be positive", file,
                         r->factor);
    if ((r->kind == ROPE_LLAMA3 || r->kind == ROPE_YARN) && !is_positive(r->original_max_positions))
        return error_set("%s: the rotary scaling's original context length is %g, it must be "
                         "positive",
                         file, r->original_max_positions);
    if (r->kind == ROPE_LLAMA3 &&
        !(is_positive(r->low_freq_factor) && is_positive(r->high_freq_factor) &&
          r->high_freq_factor != r->low_freq_factor))
        return error_set("%s: llama3 rotary scaling needs two different positive frequency "
                         "factors, it has low %g and high %g",
                         file, r->low_freq_factor, r->high_freq_factor);
    if (r->kind == ROPE_YARN &&
        !(is_positive(r->beta_fast) && is_positive(r->beta_slow) && isfinite(r->attention_factor) &&
          r->attention_factor >= 0 && isfinite(r->mscale) && isfinite(r->mscale_all_dim) &&
          r->theta != 1))
        return error_set("%s: yarn rotary scaling has impossible constants (base %g, beta_fast %g, "
                         "beta_slow %g, attention factor %g, mscale %g and %g)",
                         file, r->theta, r->beta_fast, r->beta_slow, r->attention_factor, r->mscale,
                         r->mscale_all_dim);
    return 0;
}

int config_check(const struct model_config *config, const char *file)
{
    if (check_sizes(config, file) != 0)
        return -1;
    return check_rope(config, file);
}

void config_free(struct model_config *config)
{
    if (!config)
        return;
    free(config->rope.frequency_factors);
    config->rope.frequency_factors = NULL;
}

bool config_is_eos(const struct model_config *config, int32_t id)
{
    for (size_t i = 0; i < config->n_eos; i++)
        if (config->eos_ids[i] == id)
            return true;
    return false;
}
