#ifndef T2_MODEL_ADAPTER_H
#define T2_MODEL_ADAPTER_H
/* What a trainer, a forward pass and a file know of an adapter: a vector of f32 parameters, a
 * gradient of the same length, and how it changes chosen projections of the decoder. SVF is one
 * kind (adapter_svf.h); LoRA and the others are further tables.
 *
 * A *site* is one projection of one layer that the adapter changes. Forward at a site computes
 * y = (base product, unless the kind replaces it) + the adapter's part; backward adds to the
 * gradient of the site's input and to the parameters' gradient. Both are written over the engine's
 * tables. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/modules.h"
#include "solver/engine_train.h"

enum projection {
    PROJECTION_Q,
    PROJECTION_K,
    PROJECTION_V,
    PROJECTION_O,
    PROJECTION_GATE,
    PROJECTION_UP,
    PROJECTION_DOWN,
    PROJECTION_COUNT
};
/* "self_attn.q_proj", ..., "mlp.down_proj" */
const char *projection_name(enum projection projection);
/* PROJECTION_COUNT when it is none. */
enum projection projection_find(const char *name);

struct adapter;

struct adapter_ops {
    const char *kind; /* "svf" */
    /* The site's result stands alone (SVF's training form): no base product is made. */
    bool replaces_base;
    /* backward reads x; otherwise x may be NULL there and nobody has to keep it. */
    bool needs_input;

    /* Bytes of results that backward wants kept for n_rows rows: proportional to n_rows, because
     * rows may come in several calls of forward (row r's lie at saved_bytes(r)) and all go back in
     * one of backward. */
    size_t (*saved_bytes)(const struct adapter *adapter, size_t site, size_t n_rows);
    /* Working memory of one call of either, lent by the caller, 64-byte aligned. */
    size_t (*scratch_bytes)(const struct adapter *adapter, size_t site, size_t n_rows);

    /* y f32 [n_rows, ldy], n_out columns from y on: added to when accumulate, else assigned (which
     * happens only to kinds that replace the base). x elements [n_rows, ldx]. saved: NULL in
     * inference. parameters: the vector to use (the adapter's own, a candidate's, or NULL for the
     * identity: the base model). */
    void (*forward)(const struct adapter *adapter, size_t site, const struct engine *e,
                    const float *parameters, float *y, size_t ldy, const void *x, size_t ldx,
                    size_t n_rows, bool accumulate, void *saved, void *scratch);

    /* dx f32 [n_rows, lddx] += the adapter's part of d/dx (all of it when replaces_base), from
     * g elements [n_rows, ldg] = dL/dy; dx NULL: not wanted. gradient [n_parameters of the adapter]
     * += dL/dparameters. ldg and the buffer of g leave room for the site's outputs rounded up to
     * KERNEL_K_STEP, finite there. NULL: the adapter was made for inference. */
    void (*backward)(const struct adapter *adapter, size_t site, const struct engine *e,
                     const float *parameters, float *dx, size_t lddx, const void *g, size_t ldg,
                     const void *x, size_t ldx, size_t n_rows, const void *saved, void *scratch,
                     float *gradient);

    void (*free)(struct adapter *adapter);
};

struct adapter_site {
    struct module module;
    enum projection projection;
    size_t first_parameter, n_parameters; /* in the vector */
    void *data;                           /* the kind's own, freed by ops->free */
};

struct adapter {
    const struct adapter_ops *ops;
    size_t n_layers;
    struct adapter_site *sites; /* [n_sites], by layer and projection */
    size_t n_sites;
    int32_t *site_of;  /* [n_layers * PROJECTION_COUNT]: index into sites, or -1 */
    float *parameters; /* [n_parameters] */
    size_t n_parameters;
    void *data;
};

/* The adapter's site there, or -1. adapter may be NULL. */
static inline int32_t adapter_site_at(const struct adapter *adapter, size_t layer,
                                      enum projection projection)
{
    return adapter ? adapter->site_of[layer * PROJECTION_COUNT + (size_t)projection] : -1;
}

/* For the kinds' constructors: sites for these modules with no parameters yet, data all NULL.
 * ops->free must accept an adapter whose sites are partly made. NULL with error_set (a module that
 * is none of the decoder's projections, or twice there). */
struct adapter *adapter_create(const struct adapter_ops *ops, size_t n_layers,
                               const struct module *modules, size_t n_modules);
/* Accepts NULL. */
void adapter_free(struct adapter *adapter);

/* The most that any site needs for n_rows rows; 0 for NULL. */
size_t adapter_scratch_bytes(const struct adapter *adapter, size_t n_rows);

#endif
