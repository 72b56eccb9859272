#ifndef T2_MODEL_PASS_INTERNAL_H
#define T2_MODEL_PASS_INTERNAL_H
/* What struct pass holds; for pass.c (rows, sequences, forward) and pass_backward.c. */
#include "model/forward.h"
#include "model/model_internal.h"
#include "model/pass.h"

struct pass_sequence {
    int32_t *tokens, *rows; /* [n]: token and row of each position */
    size_t n, capacity;
    size_t own;   /* positions before it are shared with earlier sequences */
    uint64_t key; /* of its own rows' masks */
    int32_t *pages;
    size_t n_pages, pages_capacity;
};

/* Rows that went through the layers together: at most one run of each sequence. Recomputation
 * repeats them as they were, because attention.store wants them so. */
struct pass_batch {
    size_t first_row, n_rows, first_copy, n_copies;
};

/* A page copy waits for the batch that row `before_row` is in: the rows that it copies come before
 * that one, and those that need it do not. */
struct pass_copy {
    struct batch_copy copy;
    size_t before_row;
};

/* Buffers of the backward pass, for all rows or for a block of PASS_BLOCK. */
struct pass_work {
    float *dh;         /* [max_rows, ld_hidden] */
    float *dattention; /* [max_rows, ld_heads] */
    float *dqkv;       /* [max_rows, ld_qkv] */
    void *g;           /* elements [block, ld of the widest group] */
    float *dx;         /* [block, ld_hidden] */
    float *dffn;       /* [block, ld_ffn] */
    void *dgate_up;    /* elements [block, ld of gate and up] */
    float *head_h;     /* [block, ld_hidden]: gathered rows of the residual stream */
    float *head_dh;    /* [block, ld_hidden] */
    void *head_x0;     /* elements [block, ld_hidden] */
    float *h;          /* [max_rows, ld_hidden]: the stream of a layer that is run again */
    float *gradient; /* [n_parameters + n_sums of the adapter]; NULL: on the host, as the caller has
                        it */
};

enum { PASS_BLOCK = 256 }; /* rows whose intermediate gradients are in memory at once */

struct pass {
    struct model *model;
    const struct adapter *adapter;
    const float *parameters;
    struct pass_options options;
    bool with_backward;
    size_t lowest; /* layer * GROUP_COUNT + group of the first site; no gradient goes below */

    struct forward f; /* borrows everything but its scratch */
    struct kv_cache cache;
    char *memory; /* the block that all buffers lie in */
    size_t memory_bytes;
    float *stream;                /* [max_rows, ld_hidden]: the residual stream after all layers */
    struct layer_buffers *layers; /* [n_layers], at row 0 */
    struct pass_work work;

    int32_t *ids, *row_sequence, *row_position; /* [max_rows] */
    uint64_t *row_keys;                         /* [max_rows], in use with `dropout` */
    bool dropout;
    uint64_t key; /* of the sequences that come next */
    size_t n_rows, n_run;
    struct pass_sequence *sequences;
    size_t n_sequences, sequences_capacity;
    struct pass_copy *copies;
    size_t n_copies, copies_capacity;
    struct pass_batch *batches;
    size_t n_batches, batches_capacity;
    struct batch_run *runs;    /* [max_rows] */
    struct batch_copy *staged; /* [copies_capacity]: a batch's copies side by side */
    size_t staged_capacity;
};

/* The batch's description for forward.h; valid until the next call. -1 with error_set when out of
 * memory. */
int pass_batch_describe(struct pass *pass, const struct pass_batch *b, struct batch *batch);
/* A layer's buffers from row `first` on, as a backward pass finds them (recompute: in the common
 * set, once the layer was run again). */
struct layer_buffers pass_kept_at(const struct pass *pass, size_t layer, size_t first);
/* The rows [n] of n places, as an engine takes them; -1 with error_set unless all have been run. */
int pass_rows_of(const struct pass *pass, const struct pass_place *places, size_t n, int32_t *rows);
/* Elements from row to row where a group's gradient goes into products: room for the columns of
 * any member rounded up to KERNEL_K_STEP. */
size_t pass_ld_group(const struct model *model, int group);

#endif
