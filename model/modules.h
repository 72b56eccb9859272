#ifndef T2_MODEL_MODULES_H
#define T2_MODEL_MODULES_H
/* Which weight matrices of a decoder something applies to: the choice that decompose, train and the
 * adapters share. */
#include <stddef.h>

#include "model/config.h"

struct module {
    size_t layer;
    char name[32];            /* "mlp.down_proj", "self_attn.q_proj" */
    char tensor[80];          /* "model.layers.7.mlp.down_proj.weight" */
    char path[64];            /* its group in HDF5 files: "/layers/07/mlp.down_proj" (two digits or
                                 more, so that names sort) */
    size_t n_rows, n_columns; /* outputs, inputs */
};

/* The number of singular values: min(n_rows, n_columns). */
static inline size_t module_rank(const struct module *module)
{
    return module->n_rows < module->n_columns ? module->n_rows : module->n_columns;
}

/* 0-6 in a layer's order (q k v o gate up down) for a name like "mlp.down_proj"; -1: no module's.
 */
int module_order(const char *name);

/* what: words joined by '+': "mlp" (gate, up, down), "attention" (q, k, v, o), "qv" (q and v: the
 * paper's "attention"), "all", or a projection ("down_proj", "mlp.down_proj"); or "re:PATTERN", a
 * PCRE2 pattern that is searched in "layers.7.mlp.down_proj". layers: NULL or "" for all; else
 * "0-15", "3,5,7", "0-31/2" (every second), joined by ','. The result is in layer order, then q k v
 * o gate up down; *modules is malloc'ed. 0, or -1 with error_set that names the choices (also when
 * nothing matches). */
int modules_select(const struct model_config *config, const char *what, const char *layers,
                   struct module **modules, size_t *n_modules);

#endif
