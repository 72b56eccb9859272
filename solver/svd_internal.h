#ifndef T2_SOLVER_SVD_INTERNAL_H
#define T2_SOLVER_SVD_INTERNAL_H
/* For svd*.c and their tests. The steps of a decomposition share one struct svd_work, which every
 * worker has for itself, with the same addresses in it as far as memory of the crew is meant.
 *
 * B [length, r] stands for W where it is tall and W^T where it is wide, so that C = B^T B is always
 * the small side's Gram matrix, and "vector i" is row i of Q [r, r]. B goes by in blocks of
 * SVD_BLOCK rows. All W here is scaled by a power of two (svd_work.scale) that keeps squares in
 * range. Every step is cut into parts by sizes alone. */
#include <math.h>

#include "solver/svd.h"

enum {
    SVD_BLOCK = 512, /* rows of B at a time */
    SVD_BAND = 64,   /* couplings are measured for neighbours nearer than this, at least */
    SVD_GROUPS = 8,  /* groups of vectors that share a probe */
    SVD_SINGLES = 8, /* vectors probed alone */
    SVD_PROBES = SVD_GROUPS + SVD_SINGLES,
    SVD_SIGN_PROBES = 4 /* sums of the groups' probes, for orthogonality */
};

/* Parts of even or uneven cost handed out step by step, one barrier a step. */
struct svd_parts {
    uint32_t own, base, next;
};

struct svd_work {
    const struct crew *crew;
    struct arena *arena;
    const struct svd_source *source;
    const struct svd_options *options;
    bool wide;
    size_t r, length;
    double scale;    /* W times this is what is computed with; 0: not known yet */
    uint32_t *peaks; /* [crew size]: bits of the largest |element| that each has read */
    float *copy;     /* scaled W [n_rows, n_columns] if wide or small, else NULL */
    float *rows;     /* a tall block as read [SVD_BLOCK, r] */
    double *block;   /* a block in f64: tall [SVD_BLOCK, r], wide [r, SVD_BLOCK] */
    struct svd_parts parts;
};

/* Row `row` of Q and its value, sorted by value. */
struct svd_ranked {
    double value;
    size_t row;
};

/* Of an orthogonal Q, see docs/decompose.md. */
struct svd_measure {
    double bound;    /* the largest relative error of a sigma_i that counts */
    double residual; /* an upper estimate of max |C q_i - d_i q_i| / max d */
};

/* Test hook: may damage the factor before each check of the contract; `after` says which repair it
 * has gone through. Called by worker 0. */
struct svd_hook {
    void (*damage)(void *context, enum svd_repair after, size_t r, float *factor);
    void *context;
};

int svd_solve_hooked(const struct crew *crew, struct arena *arena, const struct svd_source *source,
                     const struct svd_options *options, const struct svd_hook *hook, double *sigma,
                     float *factor, struct svd_report *report);

static inline size_t svd_at_most(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t svd_cuts(size_t n, size_t part)
{
    return (n + part - 1) / part;
}

/* The larger of two errors, where NaN is the largest of all. */
static inline double svd_worse(double a, double b)
{
    return b <= a ? a : b > a ? b : INFINITY;
}

/* All workers: starts handing out parts anew. A barrier. */
void svd_parts_start(struct svd_work *w);
/* The next of n parts into parts.next, or false when all are taken: then the step is over for this
 * worker, after a barrier. */
bool svd_part(struct svd_work *w, size_t n);

/* ---- svd_gram.c -------------------------------------------------------------------------------
 */

/* Takes the memory for reading. */
int svd_blocks_take(struct svd_work *w);
size_t svd_blocks_bytes(size_t n_rows, size_t n_columns, enum svd_method method, int crew_size);

struct svd_block {
    size_t k;              /* rows of B in it */
    const float *f32;      /* tall [k, r], wide [r, k] */
    const double *f64;     /* the same, or NULL */
    size_t f32_ld, f64_ld; /* distance of rows in elements */
};

/* Reads block `index` (all workers, a barrier before it can be used and before the next one). */
int svd_block_read(struct svd_work *w, size_t index, bool want_f64, struct svd_block *block);

/* Reads all of W to find its scale, 0 where W = 0, and keeps a wide or small W in memory, and any
 * for a device: needed before anything else there; a large tall W's scale is found by svd_gram. */
int svd_scale(struct svd_work *w);

/* The upper triangle of C [r, r] (float or double by `bytes`), row-major; finds the scale if it is
 * not known. A zero matrix leaves scale at 0. */
int svd_gram(struct svd_work *w, size_t bytes, void *c);

/* ---- svd_bounds.c -----------------------------------------------------------------------------
 */

/* Scales every row of q to norm 1. */
void svd_normalise(struct svd_work *w, size_t bytes, void *q);

/* values [r]: d_i = |B q_i|^2 / |q_i|^2 in scaled units, put right by what the measured couplings
 * of neighbours do to them, for the rows of Q [r, r] ordered by them, up or down, and what they are
 * worth. */
int svd_measure(struct svd_work *w, size_t bytes, const void *q, double *values,
                struct svd_measure *measure);
size_t svd_measure_bytes(size_t r, int crew_size);

/* Vectors are probed in groups of neighbours, the first row of a group given, and some singly:
 * the first one, the last, and more of the first eighth (where values ascend, the small ones). */
size_t svd_group_begin(size_t r, size_t group);
size_t svd_group_of(size_t r, size_t row);
size_t svd_single(size_t r, size_t index);
double svd_probe_sign(uint64_t stream, size_t index); /* +1 or -1 */

/* zt f64 [SVD_PROBES, r]: sums of each group's rows of q times svd_probe_sign(0, row), then the
 * single rows. */
void svd_probes_make(struct svd_work *w, size_t bytes, const void *q, double *zt);

/* st [SVD_PROBES, r] = zt C, in f64 by one pass over W; squares [SVD_PROBES] = |B z|^2. */
int svd_apply(struct svd_work *w, const double *zt, double *st, double *squares);
size_t svd_apply_bytes(size_t r);

/* From st = zt C, overwritten: for each group the root mean square of |C q_i - d_i q_i| over it (an
 * estimate) and an upper estimate of the largest. */
void svd_residuals(struct svd_work *w, size_t bytes, const void *q, const double *d, double *st,
                   double rms[SVD_GROUPS], double worst[SVD_GROUPS]);

/* ---- svd_check.c ------------------------------------------------------------------------------
 */

struct svd_contract {
    double orthogonality, residual;
    bool holds;
};

/* values [r]: sigma_i^2 in scaled units, descending. known_residual: one measured already on this
 * factor, or negative. */
int svd_contract(struct svd_work *w, const float *factor, const double *values,
                 double known_residual, struct svd_contract *contract);
size_t svd_contract_bytes(size_t r, bool full, int crew_size);
/* Sets contract->holds by its other fields and values. full: they were not found by probes. */
void svd_contract_judge(const struct svd_work *w, const double *values, bool full,
                        struct svd_contract *contract);

/* ---- svd_device.c -----------------------------------------------------------------------------
 */

/* svd_cuda_solve and svd_cuda_deliver (svd_cuda.h) for a crew, on the copy of W. After solve,
 * unless it fails, svd_device_end. contract->holds stays to be judged. */
int svd_device_solve(struct svd_work *w, double *values, bool *solved, double *bound);
int svd_device_deliver(struct svd_work *w, const struct svd_ranked *ranked, const double *values,
                       float *factor, struct svd_contract *contract);
void svd_device_end(struct svd_work *w);
size_t svd_device_bytes(size_t r);

/* ---- svd_repair.c -----------------------------------------------------------------------------
 */

/* Makes the rows of p f64 [r, r] orthonormal. *hopeless: they cannot be, p is not to be used. */
int svd_orthogonalise(struct svd_work *w, double *p, bool *hopeless);
/* Rotates the rows of p until B p is orthogonal, by one-sided Jacobi. values [r] become |B p|^2. */
int svd_jacobi(struct svd_work *w, double *p, double *values, bool *hopeless);
/* p and values of W by LAPACK on W itself. */
int svd_lapack(struct svd_work *w, double *p, double *values);
size_t svd_repair_bytes(size_t n_rows, size_t n_columns);

#endif
