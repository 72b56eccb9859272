#ifndef T2_TESTS_MODEL_REFERENCE_DECODER_H
#define T2_TESTS_MODEL_REFERENCE_DECODER_H
/* A decoder in f64, as plain as it can be, with SVF at chosen matrices: what gradients are compared
 * with, by central differences. Token by token, no sharing, no cache tricks. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/model/svf_fixture.h"

struct reference {
    const struct svf_fixture *svf;
    struct model *model; /* for the rotary table and small vectors */
    double *embedding, *head;
    double **w;           /* [n_layers * PROJECTION_COUNT], with the multipliers applied */
    double **bias;        /* the same, or NULL */
    double *e;            /* [all r side by side]: multipliers now in w */
    size_t *first;        /* [n_modules]: where a module's multipliers begin in e */
    size_t n_multipliers; /* in all */
};

static inline double *reference_read(const struct checkpoint *ck, const char *name, bool must)
{
    const struct tensor *t = checkpoint_find(ck, name);
    if (!t) {
        assert_false(must);
        return NULL;
    }
    const size_t n = tensor_n_rows(t) * tensor_row_elements(t);
    float *values = malloc(n * sizeof *values);
    double *out = malloc(n * sizeof *out);
    tensor_read_rows(t, 0, tensor_n_rows(t), values);
    for (size_t i = 0; i < n; i++)
        out[i] = (double)values[i];
    free(values);
    return out;
}

/* Component i of module k: W' += delta * (W q_i) q_i^T, or q_i (q_i^T W) where W is wide. */
static inline void reference_move(struct reference *f, size_t k, size_t i, double delta)
{
    const struct module *m = &f->svf->modules[k];
    const bool wide = m->n_rows < m->n_columns;
    const size_t r = svf_rank(m), long_side = wide ? m->n_columns : m->n_rows;
    const float *w = f->svf->weights[k], *q = f->svf->factors[k] + i * r;
    double *t = calloc(long_side, sizeof *t);
    double *out = f->w[m->layer * PROJECTION_COUNT + projection_find(m->name)];
    for (size_t l = 0; l < long_side; l++)
        for (size_t j = 0; j < r; j++)
            t[l] += (double)q[j] * (double)(wide ? w[j * m->n_columns + l] : w[l * r + j]);
    for (size_t a = 0; a < m->n_rows; a++)
        for (size_t b = 0; b < m->n_columns; b++)
            out[a * m->n_columns + b] += delta * (wide ? (double)q[a] * t[b] : t[a] * (double)q[b]);
    free(t);
    f->e[f->first[k] + i] += delta;
}

static inline struct reference reference_create(const struct svf_fixture *svf, struct model *model)
{
    struct reference f = {.svf = svf, .model = model};
    const struct model_config *c = svf->config;
    const size_t n = c->n_layers * PROJECTION_COUNT;
    char name[128];
    f.embedding = reference_read(svf->ck, "model.embed_tokens.weight", true);
    f.head = c->tied_embeddings ? f.embedding : reference_read(svf->ck, "lm_head.weight", true);
    f.w = calloc(n, sizeof *f.w);
    f.bias = calloc(n, sizeof *f.bias);
    f.first = calloc(svf->n_modules, sizeof *f.first);
    for (size_t i = 0; i < n; i++) {
        const char *p = projection_name((enum projection)(i % PROJECTION_COUNT));
        snprintf(name, sizeof name, "model.layers.%zu.%s.weight", i / PROJECTION_COUNT, p);
        f.w[i] = reference_read(svf->ck, name, true);
        snprintf(name, sizeof name, "model.layers.%zu.%s.bias", i / PROJECTION_COUNT, p);
        f.bias[i] = reference_read(svf->ck, name, false);
    }
    for (size_t k = 0; k < svf->n_modules; k++) {
        f.first[k] = f.n_multipliers;
        f.n_multipliers += svf_rank(&svf->modules[k]);
    }
    f.e = malloc((f.n_multipliers + 1) * sizeof *f.e);
    for (size_t k = 0; k < svf->n_modules; k++) {
        const struct module *m = &svf->modules[k];
        memset(f.w[m->layer * PROJECTION_COUNT + projection_find(m->name)], 0,
               m->n_rows * m->n_columns * sizeof(double));
        for (size_t i = 0; i < svf_rank(m); i++) {
            f.e[f.first[k] + i] = 0;
            reference_move(&f, k, i, 1);
        }
    }
    return f;
}

static inline void reference_free(struct reference *f)
{
    for (size_t i = 0; i < f->svf->config->n_layers * PROJECTION_COUNT; i++) {
        free(f->w[i]);
        free(f->bias[i]);
    }
    if (f->head != f->embedding)
        free(f->head);
    free(f->embedding);
    free(f->w);
    free(f->bias);
    free(f->e);
    free(f->first);
}

/* All multipliers at once. */
static inline void reference_set(struct reference *f, const double *e)
{
    for (size_t k = 0; k < f->svf->n_modules; k++)
        for (size_t i = 0; i < svf_rank(&f->svf->modules[k]); i++)
            reference_move(f, k, i, e[f->first[k] + i] - f->e[f->first[k] + i]);
}

/* Eight sums at a time, for the compiler's sake. */
static inline double reference_dot(const double *x, const double *y, size_t n)
{
    double part[8] = {0}, sum = 0;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t k = 0; k < 8; k++)
            part[k] += x[i + k] * y[i + k];
    for (; i < n; i++)
        sum += x[i] * y[i];
    for (size_t k = 0; k < 8; k++)
        sum += part[k];
    return sum;
}

static inline void reference_product(const struct reference *f, size_t layer, enum projection p,
                                     const double *x, double *y)
{
    const size_t at = layer * PROJECTION_COUNT + p;
    const size_t n_out = model_outputs(f->model, p);
    const size_t n_in = model_group_inputs(f->model, projection_group(p));
    for (size_t a = 0; a < n_out; a++)
        y[a] = (f->bias[at] ? f->bias[at][a] : 0) + reference_dot(f->w[at] + a * n_in, x, n_in);
}

static inline void reference_norm(const float *weight, double eps, const double *h, size_t n,
                                  double *x)
{
    double mean = 0;
    for (size_t i = 0; i < n; i++)
        mean += h[i] * h[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        x[i] = h[i] / sqrt(mean + eps) * (double)weight[i];
}

static inline void reference_head(const struct reference *f, const float *norm, size_t position,
                                  double *x)
{
    const size_t half = f->svf->config->head_dim / 2;
    double *y = malloc(2 * half * sizeof *y);
    memcpy(y, x, 2 * half * sizeof *y);
    if (norm)
        reference_norm(norm, f->svf->config->rms_norm_eps, x, 2 * half, y);
    for (size_t i = 0; i < half; i++) {
        const double c = (double)f->model->rope.cos[position * half + i];
        const double s = (double)f->model->rope.sin[position * half + i];
        x[i] = y[i] * c - y[i + half] * s;
        x[i + half] = y[i + half] * c + y[i] * s;
    }
    free(y);
}

/* logits [n, vocab] of one sequence. */
static inline void reference_logits(const struct reference *f, const int32_t *ids, size_t n,
                                    double *logits)
{
    const struct model_config *c = f->svf->config;
    const size_t hidden = c->hidden_size, d = c->head_dim, nq = c->n_heads * d;
    const size_t nk = c->n_kv_heads * d, group = c->n_heads / c->n_kv_heads;
    double *h = malloc(n * hidden * sizeof *h), *x = malloc((hidden + nq) * sizeof *x);
    double *q = malloc(n * nq * sizeof *q), *k = malloc(n * nk * sizeof *k);
    double *v = malloc(n * nk * sizeof *v), *a = malloc(nq * sizeof *a);
    double *u = malloc(2 * c->ffn_size * sizeof *u), *s = malloc(n * sizeof *s);

    for (size_t t = 0; t < n; t++)
        memcpy(h + t * hidden, f->embedding + (size_t)ids[t] * hidden, hidden * sizeof *h);
    for (size_t layer = 0; layer < c->n_layers; layer++) {
        const struct layer *l = &f->model->layers[layer];
        const size_t window = layer >= c->window_first_layer ? c->sliding_window : 0;
        for (size_t t = 0; t < n; t++) {
            reference_norm(l->attention_norm, c->rms_norm_eps, h + t * hidden, hidden, x);
            reference_product(f, layer, PROJECTION_Q, x, q + t * nq);
            reference_product(f, layer, PROJECTION_K, x, k + t * nk);
            reference_product(f, layer, PROJECTION_V, x, v + t * nk);
            for (size_t i = 0; i < c->n_heads; i++)
                reference_head(f, l->q_norm, t, q + t * nq + i * d);
            for (size_t i = 0; i < c->n_kv_heads; i++)
                reference_head(f, l->k_norm, t, k + t * nk + i * d);
        }
        for (size_t t = 0; t < n; t++) {
            const size_t low = window && t + 1 > window ? t + 1 - window : 0;
            memset(a, 0, nq * sizeof *a);
            for (size_t i = 0; i < c->n_heads; i++) {
                double most = -INFINITY, sum = 0;
                for (size_t j = low; j <= t; j++) {
                    s[j] = 0;
                    for (size_t e = 0; e < d; e++)
                        s[j] += q[t * nq + i * d + e] * k[j * nk + i / group * d + e];
                    s[j] /= sqrt((double)d);
                    most = fmax(most, s[j]);
                }
                for (size_t j = low; j <= t; j++)
                    sum += s[j] = exp(s[j] - most);
                for (size_t j = low; j <= t; j++)
                    for (size_t e = 0; e < d; e++)
                        a[i * d + e] += s[j] / sum * v[j * nk + i / group * d + e];
            }
            reference_product(f, layer, PROJECTION_O, a, x);
            for (size_t i = 0; i < hidden; i++)
                h[t * hidden + i] += x[i];
        }
        for (size_t t = 0; t < n; t++) {
            reference_norm(l->ffn_norm, c->rms_norm_eps, h + t * hidden, hidden, x);
            reference_product(f, layer, PROJECTION_GATE, x, u);
            reference_product(f, layer, PROJECTION_UP, x, u + c->ffn_size);
            for (size_t i = 0; i < c->ffn_size; i++)
                u[i] = u[i] / (1 + exp(-u[i])) * u[c->ffn_size + i];
            reference_product(f, layer, PROJECTION_DOWN, u, x);
            for (size_t i = 0; i < hidden; i++)
                h[t * hidden + i] += x[i];
        }
    }
    for (size_t t = 0; t < n; t++) {
        reference_norm(f->model->final_norm, c->rms_norm_eps, h + t * hidden, hidden, x);
        for (size_t o = 0; o < c->vocab_size; o++)
            logits[t * c->vocab_size + o] = reference_dot(f->head + o * hidden, x, hidden);
    }
    free(h);
    free(x);
    free(q);
    free(k);
    free(v);
    free(a);
    free(u);
    free(s);
}

/* - weight log p(target) + kl_weight KL(p || p0) + kl0_weight KL(p0 || p); base NULL: no KL. */
static inline double reference_term(const double *logits, const double *base, size_t n,
                                    const struct head_term *term)
{
    double most = -INFINITY, most0 = -INFINITY, sum = 0, sum0 = 0, loss = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, logits[i]);
        most0 = base ? fmax(most0, base[i]) : 0;
    }
    for (size_t i = 0; i < n; i++) {
        sum += exp(logits[i] - most);
        sum0 += base ? exp(base[i] - most0) : 0;
    }
    for (size_t i = 0; base && i < n; i++) {
        const double lp = logits[i] - most - log(sum), lp0 = base[i] - most0 - log(sum0);
        loss += (double)term->kl_weight * exp(lp) * (lp - lp0);
        loss += (double)term->kl0_weight * exp(lp0) * (lp0 - lp);
    }
    return loss - (double)term->weight * (logits[term->target] - most - log(sum));
}

#endif
