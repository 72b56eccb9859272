#ifndef T2_TESTS_MODEL_SVF_FIXTURE_H
#define T2_TESTS_MODEL_SVF_FIXTURE_H
/* A tiny model with singular vectors of its matrices made on the spot (LAPACK, f64 Gram matrix), so
 * that tests of the SVF adapter need no factor file. Include after <cmocka.h>.
 *
 *     struct svf_fixture s = svf_fixture_open("llama", SVF_ALL, 0);
 *     struct model *model = svf_fixture_load(&s, ELEMENT_F32, cpu_best_isa(), 1);
 *     struct adapter *adapter = svf_fixture_adapter(&s, model, SVF_DIRECT, true);
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapter_svf.h"
#include "model/model_internal.h"
#include "mpi/error.h"

enum { SVF_ALL = (1 << PROJECTION_COUNT) - 1 };
enum {
    SVF_MLP = 1 << PROJECTION_GATE | 1 << PROJECTION_UP | 1 << PROJECTION_DOWN,
    SVF_QV = 1 << PROJECTION_Q | 1 << PROJECTION_V
};

struct svf_fixture {
    struct checkpoint *ck;
    const struct model_config *config;
    struct module *modules;
    size_t n_modules;
    float **weights; /* [n_modules] [n_rows, n_columns] */
    float **factors; /* [n_modules] [r, r] */
    double **sigma;  /* [n_modules] [r] */
};

static inline size_t svf_rank(const struct module *m)
{
    return m->n_rows < m->n_columns ? m->n_rows : m->n_columns;
}

/* LAPACK: all eigenvalues, ascending, and vectors of a symmetric matrix; row i of a is the i-th. */
extern void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda,
                    double *w, double *work, const int *lwork, int *iwork, const int *liwork,
                    int *info, size_t, size_t);

/* OpenBLAS: its threads spin between calls. */
extern void openblas_set_num_threads(int n);

static inline void svf_decompose(const struct module *m, const float *w, float *q, double *sigma)
{
    const bool wide = m->n_rows < m->n_columns;
    const size_t r = svf_rank(m), k = wide ? m->n_columns : m->n_rows;
    double *c = calloc(r * r, sizeof *c), *values = malloc(r * sizeof *values);
    for (size_t i = 0; i < r; i++)
        for (size_t j = 0; j < r; j++)
            for (size_t l = 0; l < k; l++)
                c[i * r + j] += wide ? (double)w[i * k + l] * (double)w[j * k + l]
                                     : (double)w[l * r + i] * (double)w[l * r + j];
    const int n = (int)r, lwork = 1 + 6 * n + 2 * n * n, liwork = 3 + 5 * n;
    double *work = malloc((size_t)lwork * sizeof *work);
    int *iwork = malloc((size_t)liwork * sizeof *iwork), info = 0;
    openblas_set_num_threads(1);
    dsyevd_("V", "U", &n, c, &n, values, work, &lwork, iwork, &liwork, &info, 1, 1);
    assert_int_equal(info, 0);
    for (size_t i = 0; i < r; i++) {
        sigma[i] = sqrt(fmax(values[r - 1 - i], 0));
        for (size_t j = 0; j < r; j++)
            q[i * r + j] = (float)c[(r - 1 - i) * r + j];
    }
    free(work);
    free(iwork);
    free(c);
    free(values);
}

/* Modules of the projections in `mask`, in layers first_layer and above, of the model in a folder.
 */
static inline struct svf_fixture svf_fixture_at(const char *path, unsigned mask, size_t first_layer)
{
    struct svf_fixture s = {0};
    s.ck = checkpoint_open(path);
    if (!s.ck)
        fail_msg("%s", error_message());
    s.config = checkpoint_config(s.ck);
    const size_t most = s.config->n_layers * PROJECTION_COUNT;
    s.modules = calloc(most, sizeof *s.modules);
    s.weights = calloc(most, sizeof *s.weights);
    s.factors = calloc(most, sizeof *s.factors);
    s.sigma = calloc(most, sizeof *s.sigma);
    for (size_t layer = first_layer; layer < s.config->n_layers; layer++)
        for (int p = 0; p < PROJECTION_COUNT; p++) {
            if (!(mask >> p & 1))
                continue;
            const size_t i = s.n_modules++;
            struct module *m = &s.modules[i];
            m->layer = layer;
            snprintf(m->name, sizeof m->name, "%s", projection_name((enum projection)p));
            snprintf(m->tensor, sizeof m->tensor, "model.layers.%zu.%s.weight", layer, m->name);
            snprintf(m->path, sizeof m->path, "/layers/%02zu/%s", layer, m->name);
            const struct tensor *t = checkpoint_find(s.ck, m->tensor);
            assert_non_null(t);
            m->n_rows = tensor_n_rows(t);
            m->n_columns = tensor_row_elements(t);
            s.weights[i] = malloc(m->n_rows * m->n_columns * sizeof(float));
            tensor_read_rows(t, 0, m->n_rows, s.weights[i]);
            s.factors[i] = malloc(svf_rank(m) * svf_rank(m) * sizeof(float));
            s.sigma[i] = malloc(svf_rank(m) * sizeof(double));
            svf_decompose(m, s.weights[i], s.factors[i], s.sigma[i]);
        }
    return s;
}

/* The same of a tiny model of tests/fixtures. */
static inline struct svf_fixture svf_fixture_open(const char *name, unsigned mask,
                                                  size_t first_layer)
{
    char path[512];
    snprintf(path, sizeof path, "%s/tiny/%s", T2_FIXTURES, name);
    return svf_fixture_at(path, mask, first_layer);
}

static inline void svf_fixture_close(struct svf_fixture *s)
{
    for (size_t i = 0; i < s->n_modules; i++) {
        free(s->weights[i]);
        free(s->factors[i]);
        free(s->sigma[i]);
    }
    free(s->modules);
    free(s->weights);
    free(s->factors);
    free(s->sigma);
    checkpoint_free(s->ck);
    *s = (struct svf_fixture){0};
}

static inline struct model *svf_fixture_load(const struct svf_fixture *s, enum element element,
                                             enum isa isa, int n_threads)
{
    const struct model_options options = {element, isa, n_threads, {0}};
    struct model *model = model_load(s->ck, &options);
    if (!model)
        fail_msg("%s", error_message());
    return model;
}

static inline int svf_fixture_weights(void *context, size_t i, size_t first, size_t n, float *rows)
{
    const struct svf_fixture *s = context;
    const size_t width = s->modules[i].n_columns;
    memcpy(rows, s->weights[i] + first * width, n * width * sizeof *rows);
    return 0;
}

static inline int svf_fixture_factor(void *context, size_t i, size_t first, size_t n, float *rows)
{
    const struct svf_fixture *s = context;
    const size_t r = svf_rank(&s->modules[i]);
    memcpy(rows, s->factors[i] + first * r, n * r * sizeof *rows);
    return 0;
}

static inline int svf_fixture_sigma(void *context, size_t i, double *sigma)
{
    const struct svf_fixture *s = context;
    memcpy(sigma, s->sigma[i], svf_rank(&s->modules[i]) * sizeof *sigma);
    return 0;
}

static inline struct adapter *svf_fixture_adapter(struct svf_fixture *s, struct model *model,
                                                  enum svf_parametrisation parametrisation,
                                                  bool with_backward)
{
    const struct svf_source source = {s, svf_fixture_weights, svf_fixture_factor, svf_fixture_sigma,
                                      NULL};
    struct adapter *adapter = adapter_svf_build(model, &source, s->modules, s->n_modules,
                                                parametrisation, with_backward, 17);
    if (!adapter)
        fail_msg("%s", error_message());
    return adapter;
}

/* Uniform in [-1, 1), the same everywhere. */
static inline float svf_noise(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) * 0x1p-23f - 1;
}

/* The adapter's start with noise on it. */
static inline float *svf_fixture_parameters(const struct adapter *adapter, float amplitude)
{
    float *p = malloc((adapter->n_parameters + 1) * sizeof *p);
    uint32_t state = 5;
    for (size_t i = 0; i < adapter->n_parameters; i++)
        p[i] = adapter->parameters[i] + amplitude * svf_noise(&state);
    return p;
}

#endif
