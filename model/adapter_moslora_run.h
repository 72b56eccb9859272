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
 * What is between the products, row by row, are operations of the engine (solver/spaces.h). */
#include "model/adapter_moslora_internal.h"

/* Rows of h: columns to a multiple of KERNEL_COLUMNS, then the norms of the token. */
static inline size_t moslora_ld_h(const struct moslora_site *s)
{
    return s->spaces.norms_at + SPACES_KEPT_NORMS;
}

/* What a call cuts its scratch into. Norms and dropped tokens come first: the next site that reads
 * the same input finds them there (adapter_call.same_input). */
struct moslora_room {
    double *norms;       /* [n_rows, n_norms]: the lift of a token, once for all that read it */
    void *dropped;       /* elements [n_rows, ldx], with dropout */
    float *h, *u;        /* f32 [n_rows, moslora_ld_h], [n_rows, ldu]; backward: dh, s */
    float *dx;           /* f32 [n_rows, ldx], with dropout */
    void *dh_e, *u_e;    /* elements [n_rows, ld_dh], [n_rows, ldu] */
    float *g_in, *g_out; /* [n_h, n_in], [n_u, n_out] */
    double *sums;        /* [n_all] of spaces_sums */
    double *factors;     /* [n_rows, n_norms]: dL/d|x|^2 */
    size_t ldx, ldu, ld_dh, n_bytes;
};

struct moslora_job {
    const struct adapter *adapter;
    const struct moslora *m;
    const struct moslora_site *s;
    const struct engine *e;
    const void *x; /* elements [n_rows, ldx], after dropout */
    size_t ldx, n_rows;
    struct dropout dropout; /* keys NULL: none */
    struct moslora_room w;
    float *h;  /* f32 [n_rows, moslora_ld_h] */
    float *dx; /* backward */
    size_t lddx;
};

/* ---- adapter_moslora_run.c, for the backward half too -----------------------------------------
 */

struct moslora_job moslora_new_job(const struct adapter *adapter, size_t site,
                                   const struct adapter_call *call);
/* The tokens as experts see them, in job's x: after dropout. */
void moslora_take_tokens(struct moslora_job *job, const struct adapter_call *call);
#endif
