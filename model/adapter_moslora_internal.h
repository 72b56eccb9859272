#ifndef T2_MODEL_ADAPTER_MOSLORA_INTERNAL_H
#define T2_MODEL_ADAPTER_MOSLORA_INTERNAL_H
/* What the parts of MoSLoRA share: adapter_moslora.c makes it and packs parameters,
 * adapter_moslora_step.c what is done once
 * a step, adapter_moslora_run.c and adapter_moslora_backward.c run it. */
#include "model/adapter_moslora.h"
#include "model/model_internal.h"

enum {
    MOSLORA_MOST_EXPERTS = 4,
    MOSLORA_MOST_TERMS = 6, /* E, H, S and the product's three */
    MOSLORA_MOST_NORMS = 4, /* of a token, and of its thirds */
    MOSLORA_MOST_RANK = 128,
    MOSLORA_MOST_HIDDEN = 64,
    MOSLORA_MOST_STATISTICS = 16,
};

/* A chart with its A [r, n_in], B [n_out, r] and bias point [n_out], on a range of the token's and
 * of the output's elements. Offsets are in the whole parameter vector. */
struct moslora_term {
    size_t expert; /* whose weight it has */
    enum chart chart;
    const char *name; /* "hyperbolic" */
    size_t first_in, n_in, first_out, n_out;
    size_t norm;          /* which norm of the token it reads */
    size_t h, u, u_point; /* first columns in h and u; u_point: of the point, if curved */
    size_t a, b_t, point; /* A [r, n_in], B^T [r, n_out], point [n_out] */
    size_t curvature;     /* the learned t */
    /* Of the prepared parameters: */
    double kappa, b2;
    double *gram, *b_point; /* B^T B [r, r]; B^T point [r] */
};

struct moslora_site {
    size_t n_in, n_out, r;
    struct moslora_term terms[MOSLORA_MOST_TERMS];
    size_t n_terms, n_experts;
    size_t n_low, n_hidden, n_h; /* columns of h: the terms' and the router's; together */
    size_t n_u;
    bool own_router;
    size_t w1, b1, w2, b2; /* R [hidden, n_in], r, C [experts, hidden], d; maybe another site's */
    /* h = in x, y = out u; transposes for backward */
    struct matrix in, in_t, out, out_t;
    float most_u;    /* |u| up to which a product with `out` cannot overflow */
    double *numbers; /* what the grams lie in */
};

struct moslora {
    struct moslora_options options;
    double scale; /* alpha / rank */
    size_t n_experts, n_norms;
    const char *names[MOSLORA_MOST_STATISTICS];
    float *pack, *pack_t;  /* room for one matrix each */
    double *point_scratch; /* for manifold_point_step */
};

static inline const struct moslora_site *moslora_site(const struct adapter *adapter, size_t site)
{
    return adapter->sites[site].data;
}

static inline bool moslora_learns_curvature(const struct moslora *m,
                                            const struct moslora_term *term)
{
    return term->chart != CHART_FLAT && !m->options.fixed_curvature;
}

/* kappa from the parameters; 0 of a flat term. t0: the parameter whose curvature is the start's. */
double moslora_curvature(const struct moslora *m, const struct moslora_term *t,
                         const float *parameters);
double moslora_curvature_start(const struct moslora_options *options);

/* Operations of adapter_ops. */
double moslora_penalty(const struct adapter *adapter, const float *parameters, float *gradient);
void moslora_statistics(const struct adapter *adapter, const float *parameters, const double *sums,
                        double *values);
void moslora_update(const struct adapter *adapter, float *parameters, const float *gradient,
                    float *moment, float *second, const struct adapter_step *step);
size_t moslora_saved_bytes(const struct adapter *adapter, size_t site, size_t n_rows);
size_t moslora_scratch_bytes(const struct adapter *adapter, size_t site, size_t n_rows);
void moslora_forward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                     float *y, size_t ldy, bool accumulate);
int moslora_backward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                     float *dx, size_t lddx, const void *g, size_t ldg, float *gradient);

#endif
