#ifndef T2_MODEL_ADAPTER_LORA_INTERNAL_H
#define T2_MODEL_ADAPTER_LORA_INTERNAL_H
/* What the parts of LoRA and DoRA share: adapter_lora.c makes them and packs parameters,
 * adapter_lora_run.c runs them. */
#include "model/adapter_lora.h"
#include "model/model_internal.h"

struct low_rank {
    bool dora;
    double scale;
    uint32_t drop_limit;         /* of 65536 */
    float *rows;                 /* [the largest of a group's A, and of B] */
    float *transposed;           /* as large */
    const struct memory *memory; /* the engine's */
    /* DoRA's norms: tensors A f32 and in elements [r, ld], W A^T f32 [r, ld]; and A A^T */
    size_t n_a, n_wa; /* elements of these */
    float *a_floats, *wa;
    void *a;
    double *aa; /* [r, r] */
};

struct low_rank_group {
    size_t width;         /* r of each of its sites, together */
    struct matrix a, a_t; /* [width, in]; the transpose empty without backward */
    float *scales;        /* tensor [width] of s */
};

struct low_rank_site {
    size_t r, n_in, n_out;
    struct low_rank_group *group; /* owned by its first site */
    size_t column;                /* the site's first in the group's h and q */
    bool last;                    /* of the group */
    struct matrix b, b_t;         /* [out, r]; the transpose empty without backward */
    /* DoRA, [out]: |W_i|^2; |W_i + s B_i A|; and as tensors, in one piece, c, c - 1 and -1 */
    double *squares;
    float *norms, *c, *c_less, *minus;
    size_t n_c; /* elements of that piece */
};

static inline struct low_rank_site *low_rank_site(const struct adapter *adapter, size_t site)
{
    return adapter->sites[site].data;
}

static inline const struct low_rank *low_rank_of(const struct adapter *adapter)
{
    return adapter->data;
}

/* Operations of adapter_ops. */
size_t low_rank_saved_bytes(const struct adapter *adapter, size_t site, size_t n_rows);
size_t low_rank_scratch_bytes(const struct adapter *adapter, size_t site, size_t n_rows);
void low_rank_forward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                      float *y, size_t ldy, bool accumulate);
int low_rank_backward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                      float *dx, size_t lddx, const void *g, size_t ldg, float *gradient);

#endif
