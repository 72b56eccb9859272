#ifndef T2_SOLVER_SPACES_H
#define T2_SOLVER_SPACES_H
/* What a mixture of spaces (MoSLoRA: arXiv 2602.14490) does with a token between its two products:
 * the router's softmax and, for every term, the lift, the chart and the logarithm (manifold.h).
 * Operations of engine_train.h do it for rows of tokens; nothing here knows an adapter.
 *
 * With x a token, h = in x all A_t x and the router's R x, pi the softmax of the router's logits
 * and c = alpha / rank:
 *
 *   forward    u_t = c pi p_t h_t,  v_t = c pi q_t,   y += out (u, v)
 *   backward   (s, t) = out^T g
 *              dL/dpi = c (p <s, h> + q t),  dL/dp = c pi <s, h>,  dL/dq = c pi t
 *              dh = c pi p s + 2 w G h + m B^T b
 *
 * with G = B^T B, and w, m, n what chart_backward says for |w|^2 = h^T G h, <b, w> = h^T B^T b and
 * |x|^2. Scalars of a row are f64. Sums over rows go in chunks of SPACES_CHUNK rows, each row after
 * row, then chunk after chunk. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mpi/device.h"
#include "solver/manifold.h"

enum {
    SPACES_MOST_EXPERTS = 4,
    SPACES_MOST_TERMS = 6,
    SPACES_MOST_NORMS = 4, /* of a token, and of its thirds */
    SPACES_MOST_HIDDEN = 64,
    SPACES_CHUNK = 32,
    SPACES_KEPT_NORMS = 16, /* floats of a row of h behind its columns: the norms, f64 */
};

/* A chart with its own A and B, on a range of the token's and the output's elements. */
struct spaces_term {
    enum chart chart;
    uint32_t expert, norm;  /* whose weight it has; which norm of the token it reads */
    uint32_t h, u, u_point; /* first columns in h and u; u_point: of the point, if curved */
    uint32_t gram, b_point; /* in `numbers`: G [r, r], B^T b [r] */
    double n_in, kappa, b2; /* elements that it reads; curvature; |b|^2 */
};

/* A site. Goes to devices by value; what the pointers name are tensors. */
struct spaces {
    size_t r, n_in, n_terms, n_experts;
    size_t n_low, n_hidden;    /* columns of h: the terms', the router's */
    size_t n_norms, norms_at;  /* 1 or 4; the column of h's row behind which norms are kept */
    double scale, most_u;      /* c; the largest |u| */
    bool top1;                 /* the likeliest expert alone, with weight 1 */
    const double *numbers;     /* of the terms */
    const float *b1, *w2, *b2; /* the router: r [hidden], C [experts, hidden], d [experts] */
    struct spaces_term terms[SPACES_MOST_TERMS];
};

/* Where a sum over rows lies among all sums of a site. Of a term: S [r, r] = sum w h h^T, sum m h
 * [r], dL/dkappa, dL/d|b|^2. counts: weights [experts], times likeliest [experts], entropy, rows.
 */
struct spaces_sums {
    size_t term, b1, w2, b2, counts, n_all;
};

static inline HOST_DEVICE struct spaces_sums spaces_sums_of(const struct spaces *s)
{
    struct spaces_sums at;
    at.term = s->r * s->r + s->r + 2;
    at.b1 = s->n_terms * at.term;
    at.w2 = at.b1 + s->n_hidden;
    at.b2 = at.w2 + s->n_experts * s->n_hidden;
    at.counts = at.b2 + s->n_experts;
    at.n_all = at.counts + 2 * s->n_experts + 2;
    return at;
}

/* The range of the token's elements that norm i is of: all, then its thirds. */
static inline HOST_DEVICE size_t spaces_range(size_t i, size_t n_in, size_t *end)
{
    *end = i ? n_in * i / 3 : n_in;
    return i ? n_in * (i - 1) / 3 : 0;
}

#endif
