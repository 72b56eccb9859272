#ifndef T2_TESTS_MODEL_GRADIENT_FIXTURE_H
#define T2_TESTS_MODEL_GRADIENT_FIXTURE_H
/* Reads what tests/oracle/svf_gradient_oracle.py writes (the format is described there), and runs
 * it: the gradient of every z of the chosen matrices by a pass over the sequence. For a test and a
 * bench program; functions return 0, or -1 with error_set. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapter_svf.h"
#include "model/model_internal.h"
#include "model/pass.h"
#include "mpi/error.h"

struct gradient_fixture {
    void *bytes; /* the whole file; pointers below point into it */
    size_t n_tokens, n_terms, n_matrices;
    float loss;
    const int32_t *ids;
    struct pass_place *places; /* [n_terms], of sequence 0 */
    struct head_term *terms;
    struct module *modules;                         /* [n_matrices] */
    const float **sigma, **z, **gradient, **factor; /* [n_matrices] */
    const struct checkpoint *ck;
};

static inline void gradient_fixture_free(struct gradient_fixture *f)
{
    free(f->bytes);
    free(f->places);
    free(f->terms);
    free(f->modules);
    free(f->sigma);
    free(f->z);
    free(f->gradient);
    free(f->factor);
    memset(f, 0, sizeof *f);
}

/* ck must outlive the fixture. */
static inline int gradient_fixture_read(struct gradient_fixture *f, const char *path,
                                        const struct checkpoint *ck)
{
    FILE *file = fopen(path, "rb");
    *f = (struct gradient_fixture){.ck = ck};
    if (!file)
        return error_set("%s does not open", path);
    fseek(file, 0, SEEK_END);
    const size_t n_words = (size_t)ftell(file) / 4;
    rewind(file);
    f->bytes = malloc(n_words * 4 + 4);
    if (!f->bytes || fread(f->bytes, 4, n_words, file) != n_words || n_words < 6 ||
        memcmp(f->bytes, "T2GRAD01", 8) != 0) {
        fclose(file);
        return error_set("%s is not a file of gradients", path);
    }
    fclose(file);
    const uint32_t *at = (const uint32_t *)f->bytes + 2,
                   *end = (const uint32_t *)f->bytes + n_words;
    f->n_tokens = *at++;
    f->n_terms = *at++;
    f->n_matrices = *at++;
    memcpy(&f->loss, at++, sizeof f->loss);
    if (f->n_tokens + 3 * f->n_terms + 3 * f->n_matrices > (size_t)(end - at))
        return error_set("%s ends early", path);
    f->ids = (const int32_t *)at;
    at += f->n_tokens;
    f->places = calloc(f->n_terms, sizeof *f->places);
    f->terms = calloc(f->n_terms, sizeof *f->terms);
    for (size_t i = 0; i < f->n_terms; i++, at += 3) {
        f->places[i].position = at[0];
        memcpy(&f->terms[i].target, at + 1, 4);
        memcpy(&f->terms[i].weight, at + 2, 4);
    }
    f->modules = calloc(f->n_matrices, sizeof *f->modules);
    f->sigma = calloc(f->n_matrices, sizeof *f->sigma);
    f->z = calloc(f->n_matrices, sizeof *f->z);
    f->gradient = calloc(f->n_matrices, sizeof *f->gradient);
    f->factor = calloc(f->n_matrices, sizeof *f->factor);
    for (size_t i = 0; i < f->n_matrices; i++) {
        struct module *m = &f->modules[i];
        if (end - at < 3 || at[1] >= PROJECTION_COUNT)
            return error_set("%s ends early", path);
        const size_t r = at[2];
        m->layer = at[0];
        snprintf(m->name, sizeof m->name, "%s", projection_name((enum projection)at[1]));
        snprintf(m->tensor, sizeof m->tensor, "model.layers.%zu.%s.weight", m->layer, m->name);
        snprintf(m->path, sizeof m->path, "/layers/%02zu/%s", m->layer, m->name);
        const struct tensor *t = checkpoint_find(ck, m->tensor);
        at += 3;
        if (!t || r > 100000 || (size_t)(end - at) < 3 * r + r * r)
            return error_set("%s does not fit the model at %s", path, m->path);
        m->n_rows = tensor_n_rows(t);
        m->n_columns = tensor_row_elements(t);
        f->sigma[i] = (const float *)at;
        f->z[i] = f->sigma[i] + r;
        f->gradient[i] = f->z[i] + r;
        f->factor[i] = f->gradient[i] + r;
        at += 3 * r + r * r;
    }
    return 0;
}

static inline int gradient_fixture_weights(void *context, size_t i, size_t first, size_t n,
                                           float *rows)
{
    const struct gradient_fixture *f = context;
    tensor_read_rows(checkpoint_find(f->ck, f->modules[i].tensor), first, n, rows);
    return 0;
}

static inline size_t gradient_fixture_rank(const struct module *m)
{
    return m->n_rows < m->n_columns ? m->n_rows : m->n_columns;
}

static inline int gradient_fixture_factor(void *context, size_t i, size_t first, size_t n,
                                          float *rows)
{
    const struct gradient_fixture *f = context;
    const size_t r = gradient_fixture_rank(&f->modules[i]);
    memcpy(rows, f->factor[i] + first * r, n * r * sizeof *rows);
    return 0;
}

static inline int gradient_fixture_sigma(void *context, size_t i, double *sigma)
{
    const struct gradient_fixture *f = context;
    for (size_t k = 0; k < gradient_fixture_rank(&f->modules[i]); k++)
        sigma[k] = (double)f->sigma[i][k];
    return 0;
}

/* The gradient, matrices in order, malloc'ed, and the loss. The model is good for nothing else
 * afterwards. */
static inline int gradient_fixture_run(struct gradient_fixture *f, struct model *model,
                                       bool recompute, float **gradient, double *loss)
{
    const struct svf_source source = {f, gradient_fixture_weights, gradient_fixture_factor,
                                      gradient_fixture_sigma, NULL};
    const struct pass_options options = {f->n_tokens, recompute, false};
    struct adapter *adapter =
        adapter_svf_build(model, &source, f->modules, f->n_matrices, SVF_DIRECT, true, 0);
    struct pass *pass = adapter ? pass_create(model, adapter, &options) : NULL;
    struct head_term_result *results = calloc(f->n_terms, sizeof *results);
    size_t sequence;
    int status = -1;

    *gradient = NULL;
    *loss = 0;
    if (!pass || !results)
        goto done;
    *gradient = calloc(adapter->n_parameters, sizeof **gradient);
    for (size_t i = 0; i < f->n_matrices; i++)
        memcpy(adapter->parameters + adapter->sites[i].first_parameter, f->z[i],
               adapter->sites[i].n_parameters * sizeof(float));
    pass_reset(pass, adapter->parameters);
    if (pass_add(pass, f->ids, f->n_tokens, &sequence) != 0 || pass_run(pass) != 0 ||
        pass_backward(pass, NULL, f->places, f->terms, f->n_terms, *gradient, results) != 0)
        goto done;
    for (size_t i = 0; i < f->n_terms; i++)
        *loss -= (double)f->terms[i].weight * (double)results[i].logprob;
    status = 0;
done:
    free(results);
    pass_free(pass);
    model_attach(model, NULL, NULL);
    adapter_free(adapter);
    return status;
}

#endif
