#ifndef T2_TESTS_FACTORS_FILES_H
#define T2_TESTS_FACTORS_FILES_H
/* Made-up decomposed matrices for tests of factor files. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/factors.h"

static inline struct factors_origin made_origin(void)
{
    struct factors_origin origin = {
        .architecture = "LlamaForCausalLM",
        .model = "a/model.gguf",
        .options = "method auto, precision auto, tolerance 1e-05, type f32",
        .recipe = "[decompose]\nmodules = mlp\n",
        .command_line = "t2 decompose a/model.gguf --out factors.h5",
        .cpu = "a processor",
        .n_ranks = 2,
    };
    memset(origin.identity, 'a', 64);
    return origin;
}

static inline struct module made_module(size_t layer, const char *name, size_t n_rows,
                                        size_t n_columns)
{
    struct module m = {.layer = layer, .n_rows = n_rows, .n_columns = n_columns};
    snprintf(m.name, sizeof m.name, "%s", name);
    snprintf(m.tensor, sizeof m.tensor, "model.layers.%zu.%s.weight", layer, name);
    snprintf(m.path, sizeof m.path, "/layers/%02zu/%s", layer, name);
    return m;
}

/* sigma falls from 10 to 1, the factor is the reflection I - 2 v v^T. Free with made_free. */
static inline struct factors_matrix made_matrix(const struct module *module)
{
    struct factors_matrix m = {.module = *module, .source_type = TENSOR_Q4_1};
    size_t r = module_rank(module);
    double *sigma = malloc(r * sizeof *sigma), *v = malloc(r * sizeof *v), norm = 0;
    float *factor = malloc(r * r * sizeof *factor);

    if (!sigma || !v || !factor)
        abort();
    for (size_t i = 0; i < r; i++) {
        sigma[i] = 10 * pow(10, r > 1 ? -(double)i / (double)(r - 1) : 0);
        v[i] = sin((double)(i + 1 + module->layer) * 1.7) + 0.1;
        norm += v[i] * v[i];
    }
    for (size_t i = 0; i < r; i++)
        for (size_t j = 0; j < r; j++)
            factor[i * r + j] = (float)((i == j) - 2 * v[i] * v[j] / norm);
    free(v);
    m.sigma = sigma;
    m.factor = factor;
    m.report = (struct svd_report){.wide = module->n_rows < module->n_columns,
                                   .method = SVD_TWO_STAGE,
                                   .precision = SVD_F64,
                                   .tried_f32 = true,
                                   .repair = SVD_REPAIR_JACOBI,
                                   .orthogonality = 1e-7,
                                   .residual = 2e-8,
                                   .bound = 3e-6,
                                   .seconds = 0.25,
                                   .flops = 1e9};
    return m;
}

static inline void made_free(struct factors_matrix *m)
{
    free((void *)m->sigma);
    free((void *)m->factor);
}

#endif
