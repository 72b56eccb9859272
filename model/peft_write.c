#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapter_ia3.h"
#include "model/export_internal.h"
#include "model/merge.h"
#include "model/peft.h"
#include "mpi/error.h"
#include "mpi/file_write.h"

struct writing {
    const struct expert *expert;
    const struct model_config *config;
    const struct adapter_kind *kind;
    struct adapter_settings settings;
    const char *model;
};

static bool is_kind(const struct writing *w, const char *name)
{
    return strcmp(w->kind->name, name) == 0;
}

/* ---- adapter_config.json ----------------------------------------------------------------------
 */

/* Is each projection that is there in all layers? */
static bool in_all_layers(const struct writing *w)
{
    const struct expert *e = w->expert;

    for (size_t i = 0; i < e->n_matrices; i++) {
        size_t n = 0;
        for (size_t k = 0; k < e->n_matrices; k++)
            n += strcmp(e->matrices[k].module.name, e->matrices[i].module.name) == 0;
        if (n != w->config->n_layers)
            return false;
    }
    return true;
}

/* The names by which PEFT finds the matrices, each once: "q_proj", or "layers.3.self_attn.q_proj".
 * inputs: only those whose inputs (IA)^3 scales. */
static json_t *target_modules(const struct writing *w, bool inputs)
{
    const struct expert *e = w->expert;
    const bool everywhere = in_all_layers(w);
    json_t *names = json_array();

    for (size_t i = 0; names && i < e->n_matrices; i++) {
        const struct module *m = &e->matrices[i].module;
        char name[96];
        bool known = false;
        if (inputs && !adapter_ia3_scales_input(projection_find(m->name)))
            continue;
        if (everywhere)
            snprintf(name, sizeof name, "%s", strchr(m->name, '.') + 1);
        else
            snprintf(name, sizeof name, "layers.%zu.%s", m->layer, m->name);
        for (size_t k = 0; k < json_array_size(names); k++)
            known = known || strcmp(json_string_value(json_array_get(names, k)), name) == 0;
        if (!known)
            json_array_append_new(names, json_string(name));
    }
    return names;
}

static json_t *config_of(const struct writing *w)
{
    json_t *model = w->model ? json_string(w->model) : json_null();

    if (is_kind(w, "ia3"))
        return json_pack("{s:s, s:s, s:o?, s:b, s:o, s:o, s:b, s:b, s:n}", "peft_type", "IA3",
                         "task_type", "CAUSAL_LM", "base_model_name_or_path", model,
                         "inference_mode", 1, "target_modules", target_modules(w, false),
                         "feedforward_modules", target_modules(w, true), "fan_in_fan_out", 0,
                         "init_ia3_weights", 1, "modules_to_save");
    return json_pack("{s:s, s:s, s:o?, s:b, s:o, s:I, s:f, s:f, s:b, s:b, s:b, s:s, s:b, s:n}",
                     "peft_type", "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path",
                     model, "inference_mode", 1, "target_modules", target_modules(w, false), "r",
                     (json_int_t)w->settings.rank, "lora_alpha", w->settings.alpha, "lora_dropout",
                     w->settings.dropout, "use_dora", is_kind(w, "dora"), "use_rslora", 0,
                     "fan_in_fan_out", 0, "bias", "none", "init_lora_weights", 1,
                     "modules_to_save");
}

/* ---- adapter_model.safetensors ----------------------------------------------------------------
 */

/* Not what training keeps beside the adapter ("lora_A_last"). */
static bool is_wanted(const struct writing *w, const struct expert_parameter *p)
{
    if (is_kind(w, "ia3"))
        return strcmp(p->name, "ia3_l") == 0;
    return strcmp(p->name, "lora_A") == 0 || strcmp(p->name, "lora_B") == 0 ||
           (is_kind(w, "dora") && strcmp(p->name, "lora_magnitude_vector") == 0);
}

static size_t elements_of(const struct expert_parameter *p)
{
    return p->n_rows * (p->n_columns ? p->n_columns : 1);
}

static json_t *shape_of(const struct module *m, const struct expert_parameter *p)
{
    if (p->n_columns)
        return json_pack("[I, I]", (json_int_t)p->n_rows, (json_int_t)p->n_columns);
    if (strcmp(p->name, "ia3_l") != 0)
        return json_pack("[I]", (json_int_t)p->n_rows);
    return adapter_ia3_scales_input(projection_find(m->name))
               ? json_pack("[i, I]", 1, (json_int_t)p->n_rows)
               : json_pack("[I, i]", (json_int_t)p->n_rows, 1);
}

static json_t *header_of(const struct writing *w, size_t *n_bytes)
{
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    const struct expert *e = w->expert;

    *n_bytes = 0;
    for (size_t i = 0; header && i < e->n_matrices; i++)
        for (size_t k = 0; k < e->matrices[i].n_parameters; k++) {
            const struct module *m = &e->matrices[i].module;
            const struct expert_parameter *p = &e->matrices[i].parameters[k];
            char name[160];
            if (!is_wanted(w, p))
                continue;
            snprintf(name, sizeof name, "base_model.model.model.layers.%zu.%s.%s%s", m->layer,
                     m->name, p->name, p->n_columns ? ".weight" : "");
            const size_t bytes = elements_of(p) * sizeof(float);
            json_t *entry =
                json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape_of(m, p),
                          "data_offsets", (json_int_t)*n_bytes, (json_int_t)(*n_bytes + bytes));
            if (!entry || json_object_set_new(header, name, entry) != 0) {
                json_decref(header);
                return NULL;
            }
            *n_bytes += bytes;
        }
    return header;
}

static int write_tensors(const struct writing *w, const char *folder)
{
    const struct expert *e = w->expert;
    size_t n_bytes;
    json_t *header = header_of(w, &n_bytes);
    char *text = header ? json_dumps(header, JSON_COMPACT) : NULL, *path = NULL;
    const size_t n = text ? strlen(text) : 0, padded = (n + 7) / 8 * 8;
    char *file = malloc(8 + padded + n_bytes);
    int status = -1;

    json_decref(header);
    if (!text || !file || asprintf(&path, "%s/adapter_model.safetensors", folder) < 0) {
        path = NULL;
        error_set("no memory to write the adapter");
        goto done;
    }
    for (size_t i = 0; i < 8; i++)
        file[i] = (char)(unsigned char)((uint64_t)padded >> 8 * i);
    memcpy(file + 8, text, n);
    memset(file + 8 + n, ' ', padded - n);
    char *at = file + 8 + padded;
    for (size_t i = 0; i < e->n_matrices; i++)
        for (size_t k = 0; k < e->matrices[i].n_parameters; k++) {
            const struct expert_parameter *p = &e->matrices[i].parameters[k];
            if (!is_wanted(w, p))
                continue;
            memcpy(at, p->values, elements_of(p) * sizeof(float));
            at += elements_of(p) * sizeof(float);
        }
    status = file_write(path, file, 8 + padded + n_bytes);
done:
    free(text);
    free(path);
    free(file);
    return status;
}

static int fill(void *context, const char *folder)
{
    const struct writing *w = context;

    return export_write_json(folder, "adapter_config.json", config_of(w)) != 0
               ? -1
               : write_tensors(w, folder);
}

int peft_write(const struct expert *expert, const struct model_config *config, const char *model,
               const char *folder)
{
    struct writing w = {.expert = expert,
                        .config = config,
                        .kind = adapter_kind_find(expert->kind),
                        .model = model};

    if (!w.kind)
        return -1;
    if (!is_kind(&w, "lora") && !is_kind(&w, "dora") && !is_kind(&w, "ia3"))
        return error_set("%s: PEFT has no adapters of the kind '%s'; --merged writes the model "
                         "with it",
                         expert->path, expert->kind);
    if (adapter_settings_read(w.kind, expert->settings, &w.settings) != 0)
        return error_prefix("%s", expert->path);
    for (size_t i = 0; i < expert->n_matrices; i++)
        if (merge_rows_check(expert, w.kind, &w.settings, &expert->matrices[i]) != 0)
            return -1;
    return export_in_folder(folder, fill, &w);
}
