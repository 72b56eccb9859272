#ifndef T2_MODEL_ADAPTER_MOSLORA_RUN_H
#define T2_MODEL_ADAPTER_MOSLORA_RUN_H
/* Forward and backward of MoSLoRA at a site (docs/moslora.md). With x a token, h = in x all A_e x
 * and the router's R x, c = alpha / rank:
 *
 *   forward    u_e = c pi_e p_e h_e,  v_e = c pi_e q_e,   y += out (u, v) = c sum_e pi_e E_e
 *   backward   (s, t) = out^T g
 *              dL/dpi_e = c (p_e <s_e, h_e> + q_e t_e)
 *              dL/dp_e = c pi_e <s_e, h_e>,  dL/dq_e = c pi_e t_e
 *              dh_e = c pi_e p_e s_e + 2 w_e G_e h_e + m_e B_e^T b_e
 *              dL/dout = g (u, v)^T,  dL/din = dh x^T,  dx = in^T dh + 2 n x
 *
 * with w, m, n what chart_backward says for |w|^2 = h^T G h (G = B^T B), <b, w> = h^T B^T b and
 * |x|^2. B and b get, beside their parts of dL/dout, what goes through G and B^T b:
 *
 *   dB = 2 B sum w h h^T + b sum m h^T         db = B sum m h + 2 b sum dL/d|b|^2
 *
 * Scalars of a row are f64. Sums over rows go in chunks of MOSLORA_CHUNK rows, first to last,
 * whichever thread makes them; the products' in the engine's order. */
#include "model/adapter_moslora_internal.h"

enum {
    MOSLORA_CHUNK = 32, /* rows of a job and of a partial sum */
    MOSLORA_PART = 512, /* elements that are in f32 at a time */
    N_KEPT_NORMS = 16,  /* floats of a row of h behind its columns: the norms, f64 */
};

/* Rows of h: columns to a multiple of KERNEL_COLUMNS, then the norms of the token. */
static inline size_t moslora_columns(const struct moslora_site *s)
{
    return round_up(s->n_h, KERNEL_COLUMNS);
}

static inline size_t moslora_ld_h(const struct moslora_site *s)
{
    return moslora_columns(s) + N_KEPT_NORMS;
}

/* Partial sums of a chunk. */
struct moslora_sums {
    size_t term;                      /* of a term: S [r, r], d [r], kappa, |b|^2 */
    size_t b1, w2, b2, counts, n_all; /* counts: weights, times likeliest, entropy, rows */
};

static inline struct moslora_sums moslora_sums_of(const struct moslora_site *s)
{
    struct moslora_sums a = {.term = s->r * s->r + s->r + 2};
    a.b1 = s->n_terms * a.term;
    a.w2 = a.b1 + s->n_hidden;
    a.b2 = a.w2 + s->n_experts * s->n_hidden;
    a.counts = a.b2 + s->n_experts;
    a.n_all = a.counts + 2 * s->n_experts + 2;
    return a;
}

/* What a call cuts its scratch into. Norms and dropped tokens come first: the next site that reads
 * the same input finds them there (adapter_call.same_input). */
struct moslora_room {
    double *norms;       /* [n_rows, n_norms]: the lift of a token, once for all that read it */
    void *dropped;       /* elements [n_rows, ldx], with dropout */
    void *row;           /* elements [ldx] */
    float *h, *u;        /* f32 [n_rows, moslora_ld_h], [n_rows, ldu]; backward: dh, s */
    float *dx;           /* f32 [n_rows, ldx], with dropout */
    void *dh_e, *u_e;    /* elements [n_rows, ld_dh], [n_rows, ldu] */
    float *g_in, *g_out; /* [n_h, n_in], [n_u, n_out] */
    double *sums;        /* [chunks, n_all] */
    double *factors;     /* [n_rows, n_norms]: dL/d|x|^2 */
    size_t ldx, ldu, ld_dh, n_bytes;
};

struct moslora_job {
    const struct adapter *adapter;
    const struct moslora *m;
    const struct moslora_site *s;
    const struct engine *e;
    const float *parameters;
    const void *x; /* elements [n_rows, ldx], after dropout */
    size_t ldx, n_rows;
    struct dropout dropout; /* keys NULL: none */
    struct moslora_room w;
    float *h;  /* f32 [n_rows, moslora_ld_h] */
    float *dx; /* backward */
    size_t lddx;
};

struct moslora_row_term {
    double h[MOSLORA_MOST_RANK], gram_h[MOSLORA_MOST_RANK];
    struct chart_input in;
    struct chart_output out;
};

struct moslora_row {
    double norms[MOSLORA_MOST_NORMS];
    double to_router; /* 1 / sqrt(1 + |x|^2 / n) */
    double z[MOSLORA_MOST_HIDDEN];
    double pi[MOSLORA_MOST_EXPERTS], weight[MOSLORA_MOST_EXPERTS]; /* softmax; what is used */
    double entropy;
    size_t top;
    struct moslora_row_term terms[MOSLORA_MOST_TERMS];
};

/* ---- adapter_moslora_run.c, for the backward half too -----------------------------------------
 */

struct moslora_job moslora_new_job(const struct adapter *adapter, size_t site,
                                   const struct adapter_call *call);
/* The tokens as experts see them, in job's x: after dropout. */
void moslora_take_tokens(struct moslora_job *job, const struct adapter_call *call);
/* n elements of x from `at` on, as f32, in `values` or where they lie. */
const float *moslora_read(const struct moslora_job *job, const void *x, size_t at, size_t n,
                          float values[MOSLORA_PART]);
/* Everything about a row from its h; all: experts without weight too (for their gradient). */
void moslora_run_row(const struct moslora_job *job, const float *h, bool all,
                     struct moslora_row *row);
/* u f32 [ldu], finite and short enough for the product */
void moslora_write_u(const struct moslora_job *job, const struct moslora_row *row, float *u);

#endif
