#ifndef T2_MODEL_ADAPTER_H
#define T2_MODEL_ADAPTER_H
/* What a trainer, a forward pass and a file know of an adapter: a vector of f32 parameters, a
 * gradient of the same length, and how it changes chosen projections of the decoder. SVF is one
 * kind (adapter_svf.h); LoRA and the others are further tables, listed in adapter_kinds.h.
 *
 * A *site* is one projection of one layer that the adapter changes. Forward at a site computes
 * y = (base product, unless the kind replaces or runs it) + the adapter's part; backward adds to
 * the gradient of the site's input and to the parameters' gradient. Both are written over the
 * engine's tables. */
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

/* A named piece of a site's parameters: a matrix (row by row) or a vector. */
struct adapter_piece {
    const char *name;         /* "lora_A": its dataset in an expert file */
    size_t first;             /* in the vector */
    size_t n_rows, n_columns; /* n_columns 0: a vector */
};

struct adapter;
struct model;

/* One call of forward or backward: the rows of a batch at one site. */
struct adapter_call {
    const struct model *model; /* its engine (model_engine); base products: model_internal.h */
    const float *parameters;   /* NULL: the identity, the base model */
    const void *x;             /* elements [n_rows, ldx]: the site's input; backward: see
                                  needs_input */
    size_t ldx, n_rows;
    /* [n_rows]: an identity of each row for dropout (engine_train.h), the same in forward,
     * backward and recomputation, whatever ranks, shards and batches there are; NULL: no dropout
     * (inference, rollouts). */
    const uint64_t *row_keys;
    /* The call before this one was for another site of the same layer that reads the same x
     * (q, k, v; gate, up), with the same rows and scratch, which nobody has touched since. */
    bool same_input;
    void *saved;   /* forward: NULL in inference; backward: what forward left there */
    void *scratch; /* scratch_bytes(), 64-byte aligned */
};

/* The constants of an optimizer's step. */
struct adapter_step {
    double rate, beta1, beta2, epsilon, weight_decay;
    uint64_t step; /* from 1 */
};

struct adapter_ops {
    const char *kind; /* "svf": its row in adapter_kinds.h */
    /* The site's result stands alone (SVF's training form): no base product is made, the weights
     * are given up, the bias is added by the caller. */
    bool replaces_base;
    /* The adapter makes the base product itself, bias included, and its backward (DoRA, IA3), with
     * model_base() of model_internal.h; the weights stay. */
    bool runs_base;
    /* backward reads x; otherwise x may be NULL there and nobody has to keep it. */
    bool needs_input;

    /* Makes the adapter ready to run with these parameters (never NULL): packs what goes into
     * products, from memory that the constructor has taken, so it cannot fail. One vector is
     * prepared at a time, by adapter_prepare(). NULL: nothing to do. */
    void (*prepare)(const struct adapter *adapter, const struct model *model,
                    const float *parameters);

    /* Bytes of results that backward wants kept for n_rows rows: proportional to n_rows, because
     * rows may come in several calls of forward (row r's lie at saved_bytes(r)) and all go back in
     * one of backward. */
    size_t (*saved_bytes)(const struct adapter *adapter, size_t site, size_t n_rows);
    /* Working memory of one call of either. */
    size_t (*scratch_bytes)(const struct adapter *adapter, size_t site, size_t n_rows);

    /* y f32 [n_rows, ldy], n_out columns from y on: added to when accumulate, else assigned (which
     * happens only to kinds that replace or run the base). */
    void (*forward)(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                    float *y, size_t ldy, bool accumulate);

    /* dx f32 [n_rows, lddx] += the adapter's part of d/dx (all of it when it replaces or runs the
     * base), from g elements [n_rows, ldg] = dL/dy; dx NULL: not wanted. gradient [n_parameters +
     * n_sums of the adapter] += dL/dparameters, and what the kind sums up. ldg and the buffer of g
     * leave room for the site's outputs rounded up to KERNEL_K_STEP, finite there. 0, or -1 with
     * error_set (no memory). Only of an adapter made with_backward. */
    int (*backward)(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                    float *dx, size_t lddx, const void *g, size_t ldg, float *gradient);

    /* Optional, once a training step and on every rank alike:
     * - the value of a regulariser, its gradient added to gradient [n_parameters], which is the
     *   step's mean already (before clipping);
     * - figures for the training curve, values [n_statistics], from the step's parameters and the
     *   sums [n_sums] over all rows of the batch;
     * - the step of parameters first_own .. first_own + n_own, which AdamW leaves alone (its
     *   moments m, v [n_parameters] there are the kind's to use), from the clipped gradient; and
     *   what is left to do on others that AdamW has taken its step on. */
    double (*penalty)(const struct adapter *adapter, const float *parameters, float *gradient);
    void (*statistics)(const struct adapter *adapter, const float *parameters, const double *sums,
                       double *values);
    void (*update)(const struct adapter *adapter, float *parameters, const float *gradient,
                   float *m, float *v, const struct adapter_step *step);

    /* Names the pieces of the site's parameters, for files: piece i, false past the last. */
    bool (*piece)(const struct adapter *adapter, size_t site, size_t i,
                  struct adapter_piece *piece);

    void (*free)(struct adapter *adapter);
};

struct adapter_site {
    struct module module;
    enum projection projection;
    size_t first_parameter, n_parameters; /* in the vector */
    void *data;                           /* the kind's own, freed by ops->free */
};

/* A stream of random numbers of the site's own, whatever other sites there are. */
static inline uint64_t adapter_site_stream(const struct adapter_site *site)
{
    return (uint64_t)site->module.layer * PROJECTION_COUNT + (uint64_t)site->projection;
}

struct adapter {
    const struct adapter_ops *ops;
    bool with_backward; /* made for training: ops->backward may be called */
    size_t n_layers;
    struct adapter_site *sites; /* [n_sites], by layer and projection */
    size_t n_sites;
    int32_t *site_of;  /* [n_layers * PROJECTION_COUNT]: index into sites, or -1 */
    float *parameters; /* [n_parameters] */
    size_t n_parameters;
    /* Sums beside the gradient: gradient buffers have n_parameters + n_sums elements; the last are
     * added up over rows, shards and ranks in the same order, and seen by `statistics` alone. */
    size_t n_sums;
    size_t n_statistics;
    const char *const *statistic_names; /* [n_statistics]: of /curve/NAME in the expert file */
    size_t first_own, n_own;            /* parameters that ops->update steps */
    float *prepared; /* [n_parameters] what the adapter is prepared for, or NULL */
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
 * is none of the model's projections, has another shape, or is there twice). */
struct adapter *adapter_create(const struct adapter_ops *ops, const struct model *model,
                               const struct module *modules, size_t n_modules, bool with_backward);
/* Room for n_parameters, zeros, and for what adapter_prepare() remembers. 0, or -1 with error_set.
 */
int adapter_make_parameters(struct adapter *adapter);
/* Accepts NULL. */
void adapter_free(struct adapter *adapter);

/* Makes the adapter ready for forward with these parameters (NULL: nothing to do). Called by
 * model_attach and pass_reset; what is prepared already is not made again. A change of values
 * between two runs needs another call of one of them. */
void adapter_prepare(const struct adapter *adapter, const struct model *model,
                     const float *parameters);

/* The most that any site needs for n_rows rows; 0 for NULL. */
size_t adapter_scratch_bytes(const struct adapter *adapter, size_t n_rows);

#endif
