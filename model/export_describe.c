/* What stands beside the weights of an exported model: config.json and the tokenizer's files. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/export_internal.h"
#include "model/gguf.h"
#include "mpi/error.h"

/* ---- from a Hugging Face folder ----------------------------------------------------------------
 */

static int copy_file(const char *from_folder, const char *to_folder, const char *name)
{
    char *from = NULL, *to = NULL, buffer[65536];
    FILE *in = NULL, *out = NULL;
    size_t n;
    int status = -1;

    if (asprintf(&from, "%s/%s", from_folder, name) < 0 ||
        asprintf(&to, "%s/%s", to_folder, name) < 0) {
        error_set("out of memory");
        goto done;
    }
    if (!(in = fopen(from, "rb"))) {
        status = errno == ENOENT ? 0 : error_set("%s: %s", from, strerror(errno));
        goto done;
    }
    if (!(out = fopen(to, "wb"))) {
        error_set("%s: cannot be written: %s", to, strerror(errno));
        goto done;
    }
    while ((n = fread(buffer, 1, sizeof buffer, in)) > 0)
        if (fwrite(buffer, 1, n, out) != n)
            break;
    if (ferror(in) || ferror(out) || fflush(out) != 0 || fsync(fileno(out)) != 0)
        error_set("%s: cannot be copied: %s", to, strerror(errno));
    else
        status = 0;
done:
    if (in)
        fclose(in);
    if (out && fclose(out) != 0 && status == 0)
        status = error_set("%s: cannot be written: %s", to, strerror(errno));
    free(from);
    free(to);
    return status;
}

static int copy_config(const char *from, const char *to, enum export_type type)
{
    json_error_t error;
    char *path = NULL;

    if (asprintf(&path, "%s/config.json", from) < 0)
        return error_set("out of memory");
    json_t *config = json_load_file(path, 0, &error);
    if (!config || !json_is_object(config)) {
        error_set("%s: cannot be read: %s", path, config ? "is no object" : error.text);
        json_decref(config);
        free(path);
        return -1;
    }
    free(path);
    /* transformers 5 says dtype, 4 torch_dtype. */
    if (json_object_get(config, "dtype"))
        json_object_set_new(config, "dtype", json_string(export_type_name(type)));
    if (json_object_get(config, "torch_dtype") || !json_object_get(config, "dtype"))
        json_object_set_new(config, "torch_dtype", json_string(export_type_name(type)));
    json_object_del(config, "quantization_config");
    return export_write_json(to, "config.json", config);
}

static int describe_folder(const char *from, enum export_type type, const char *to)
{
    static const char *const names[] = {"generation_config.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "tokenizer.model",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "chat_template.jinja",
                                        "chat_template.json"};

    if (copy_config(from, to, type) != 0)
        return -1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (copy_file(from, to, names[i]) != 0)
            return -1;
    return 0;
}

/* ---- from a GGUF file ---------------------------------------------------------------------------
 */

static json_t *rope_scaling(const struct rope_config *r)
{
    switch (r->kind) {
    case ROPE_LINEAR:
        return json_pack("{s:s, s:f}", "rope_type", "linear", "factor", r->factor);
    case ROPE_LLAMA3:
        return json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor", r->factor,
                         "low_freq_factor", r->low_freq_factor, "high_freq_factor",
                         r->high_freq_factor, "original_max_position_embeddings",
                         (json_int_t)r->original_max_positions);
    case ROPE_YARN:
        return json_pack("{s:s, s:f, s:I, s:f, s:f}", "rope_type", "yarn", "factor", r->factor,
                         "original_max_position_embeddings", (json_int_t)r->original_max_positions,
                         "beta_fast", r->beta_fast, "beta_slow", r->beta_slow);
    default:
        return json_null();
    }
}

static json_t *eos_of(const struct model_config *c)
{
    if (c->n_eos == 1)
        return json_integer(c->eos_ids[0]);
    json_t *ids = json_array();
    for (size_t i = 0; i < c->n_eos; i++)
        json_array_append_new(ids, json_integer(c->eos_ids[i]));
    return ids;
}

static json_t *config_of(const struct model_config *c, enum export_type type)
{
    static const char *const architectures[FAMILY_COUNT] = {[FAMILY_LLAMA] = "LlamaForCausalLM",
                                                            [FAMILY_MISTRAL] = "MistralForCausalLM",
                                                            [FAMILY_QWEN2] = "Qwen2ForCausalLM",
                                                            [FAMILY_QWEN3] = "Qwen3ForCausalLM"};
    /* A windowed "llama" file is a Mistral. */
    const enum family family =
        c->family == FAMILY_LLAMA && c->sliding_window > 0 ? FAMILY_MISTRAL : c->family;
    json_t *config = json_pack(
        "{s:[s], s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:o, s:b, s:b}",
        "architectures", architectures[family], "model_type", family_name(family), "torch_dtype",
        export_type_name(type), "hidden_act", "silu", "hidden_size", (json_int_t)c->hidden_size,
        "intermediate_size", (json_int_t)c->ffn_size, "num_hidden_layers", (json_int_t)c->n_layers,
        "num_attention_heads", (json_int_t)c->n_heads, "num_key_value_heads",
        (json_int_t)c->n_kv_heads, "head_dim", (json_int_t)c->head_dim, "vocab_size",
        (json_int_t)c->vocab_size, "max_position_embeddings", (json_int_t)c->max_positions,
        "rms_norm_eps", c->rms_norm_eps, "rope_theta", c->rope.theta, "rope_scaling",
        rope_scaling(&c->rope), "tie_word_embeddings", c->tied_embeddings, "attention_bias",
        c->qkv_bias);

    if (!config)
        return NULL;
    if (family == FAMILY_MISTRAL)
        json_object_set_new(config, "sliding_window",
                            c->sliding_window ? json_integer((json_int_t)c->sliding_window)
                                              : json_null());
    if (c->bos_id >= 0)
        json_object_set_new(config, "bos_token_id", json_integer(c->bos_id));
    if (c->n_eos > 0)
        json_object_set_new(config, "eos_token_id", eos_of(c));
    return config;
}

static int describe_gguf(const struct checkpoint *ck, enum export_type type, const char *folder,
                         struct export_summary *summary)
{
    const struct model_config *c = checkpoint_config(ck);
    json_t *generation = json_object();

    if (c->rope.frequency_factors)
        return error_set("%s: its rotary frequencies have factors of their own (rope_freqs), which "
                         "config.json has no form for: export from the model's Hugging Face folder",
                         checkpoint_path(ck));
    if (generation && c->bos_id >= 0)
        json_object_set_new(generation, "bos_token_id", json_integer(c->bos_id));
    if (generation && c->n_eos > 0)
        json_object_set_new(generation, "eos_token_id", eos_of(c));
    if (export_write_json(folder, "generation_config.json", generation) != 0 ||
        export_write_json(folder, "config.json", config_of(c, type)) != 0)
        return -1;
    return export_gguf_tokenizer(ck, folder, &summary->no_tokenizer);
}

int export_describe_model(const struct checkpoint *ck, enum export_type type, const char *folder,
                          struct export_summary *summary)
{
    return checkpoint_gguf(ck) ? describe_gguf(ck, type, folder, summary)
                               : describe_folder(checkpoint_path(ck), type, folder);
}
