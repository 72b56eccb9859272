#include "model/adapter.h"

#include <stdlib.h>
#include <string.h>

#include "model/model_internal.h"
#include "mpi/error.h"

static const char *const names[PROJECTION_COUNT] = {
    [PROJECTION_Q] = "self_attn.q_proj", [PROJECTION_K] = "self_attn.k_proj",
    [PROJECTION_V] = "self_attn.v_proj", [PROJECTION_O] = "self_attn.o_proj",
    [PROJECTION_GATE] = "mlp.gate_proj", [PROJECTION_UP] = "mlp.up_proj",
    [PROJECTION_DOWN] = "mlp.down_proj",
};

const char *projection_name(enum projection projection)
{
    return names[projection];
}

enum projection projection_find(const char *name)
{
    int p = 0;
    while (p < PROJECTION_COUNT && strcmp(names[p], name) != 0)
        p++;
    return (enum projection)p;
}

struct adapter *adapter_create(const struct adapter_ops *ops, const struct model *model,
                               const struct module *modules, size_t n_modules, bool with_backward)
{
    const size_t n_layers = model->config.n_layers;
    const size_t n_places = n_layers * PROJECTION_COUNT;
    struct adapter *adapter = calloc(1, sizeof *adapter);
    int status = -1;

    if (!adapter) {
        error_set("no memory for an adapter");
        return NULL;
    }
    adapter->ops = ops;
    adapter->with_backward = with_backward;
    adapter->n_layers = n_layers;
    adapter->sites = calloc(n_modules > 0 ? n_modules : 1, sizeof *adapter->sites);
    adapter->site_of = malloc(n_places * sizeof *adapter->site_of);
    if (!adapter->sites || !adapter->site_of) {
        error_set("no memory for an adapter of %zu matrices", n_modules);
        goto done;
    }
    for (size_t i = 0; i < n_places; i++)
        adapter->site_of[i] = -1;
    for (size_t i = 0; i < n_modules; i++) {
        const struct module *m = &modules[i];
        const enum projection p = projection_find(m->name);
        if (p == PROJECTION_COUNT || m->layer >= n_layers) {
            error_set("%s is not a projection that an adapter can change", m->path);
            goto done;
        }
        if (m->n_rows != model_outputs(model, p) ||
            m->n_columns != model_group_inputs(model, projection_group(p))) {
            error_set("%s is %zu x %zu, which does not fit the model", m->path, m->n_rows,
                      m->n_columns);
            goto done;
        }
        int32_t *place = &adapter->site_of[m->layer * PROJECTION_COUNT + p];
        if (*place >= 0) {
            error_set("%s is chosen twice for one adapter", m->path);
            goto done;
        }
        *place = (int32_t)i;
        adapter->sites[i] = (struct adapter_site){.module = *m, .projection = p};
    }
    adapter->n_sites = n_modules;
    status = 0;
done:
    if (status != 0) {
        adapter_free(adapter);
        return NULL;
    }
    return adapter;
}

void adapter_free(struct adapter *adapter)
{
    if (!adapter)
        return;
    adapter->ops->free(adapter);
    free(adapter->sites);
    free(adapter->site_of);
    free(adapter->parameters);
    free(adapter->prepared);
    free(adapter);
}

void adapter_prepare(const struct adapter *adapter, const struct model *model,
                     const float *parameters)
{
    if (!adapter || !parameters || !adapter->ops->prepare)
        return;
    const size_t bytes = adapter->n_parameters * sizeof *parameters;
    if (adapter->prepared) {
        /* No parameter is NaN, so the first call finds a difference. */
        if (memcmp(adapter->prepared, parameters, bytes) == 0)
            return;
        memcpy(adapter->prepared, parameters, bytes);
    }
    adapter->ops->prepare(adapter, model, parameters);
}

int adapter_make_parameters(struct adapter *adapter)
{
    const size_t n = adapter->n_parameters + 1;

    adapter->parameters = calloc(n, sizeof *adapter->parameters);
    adapter->prepared = malloc(n * sizeof *adapter->prepared);
    if (!adapter->parameters || !adapter->prepared)
        return error_set("no memory for %zu parameters", adapter->n_parameters);
    memset(adapter->prepared, 0xff, n * sizeof *adapter->prepared); /* NaNs */
    return 0;
}

size_t adapter_scratch_bytes(const struct adapter *adapter, size_t n_rows)
{
    size_t most = 0;
    for (size_t i = 0; adapter && i < adapter->n_sites; i++) {
        const size_t bytes = adapter->ops->scratch_bytes(adapter, i, n_rows);
        most = bytes > most ? bytes : most;
    }
    return most;
}
