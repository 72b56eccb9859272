#ifndef T2_TESTS_MODEL_PEFT_FIXTURE_H
#define T2_TESTS_MODEL_PEFT_FIXTURE_H
/* Reads what tests/oracle/peft_oracle.py writes (the format is described there), and makes the
 * adapter that it is about. Include after <cmocka.h>; everything fails the test. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapter_kinds.h"
#include "model/model_internal.h"
#include "model/pass.h"
#include "mpi/error.h"

struct peft_fixture {
    uint32_t *bytes; /* the whole file; pointers below point into it */
    char kind[16];
    size_t rank, n_tokens, n_terms, n_matrices, n_steps, vocab;
    float alpha, rate, decay, loss;
    const int32_t *ids;
    struct pass_place *places; /* [n_terms], of sequence 0 */
    struct head_term *terms;
    const float *logits; /* [n_terms, vocab] */
    struct module *modules;
    const float **start, **gradient, **end; /* [n_matrices] */
    size_t *n;
    struct checkpoint *ck;
};

static inline struct peft_fixture peft_fixture_read(const char *name, const char *model)
{
    struct peft_fixture f = {0};
    char path[512];

    snprintf(path, sizeof path, "%s/tiny/%s", T2_FIXTURES, model);
    if (!(f.ck = checkpoint_open(path)))
        fail_msg("%s", error_message());
    snprintf(path, sizeof path, "%s/peft/%s.bin", T2_FIXTURES, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    const size_t n_words = (size_t)ftell(file) / 4;
    rewind(file);
    f.bytes = malloc(n_words * 4);
    assert_int_equal(fread(f.bytes, 4, n_words, file), n_words);
    fclose(file);
    assert_memory_equal(f.bytes, "T2PEFT01", 8);
    memcpy(f.kind, f.bytes + 2, sizeof f.kind);
    const uint32_t *at = f.bytes + 6;
    f.rank = at[0];
    f.n_tokens = at[1];
    f.n_terms = at[2];
    f.n_matrices = at[3];
    f.n_steps = at[4];
    f.vocab = at[5];
    memcpy(&f.alpha, at + 6, 4);
    memcpy(&f.rate, at + 7, 4);
    memcpy(&f.decay, at + 8, 4);
    memcpy(&f.loss, at + 9, 4);
    at += 10;
    f.ids = (const int32_t *)at;
    at += f.n_tokens;
    f.places = calloc(f.n_terms, sizeof *f.places);
    f.terms = calloc(f.n_terms, sizeof *f.terms);
    for (size_t i = 0; i < f.n_terms; i++, at += 3) {
        f.places[i].position = at[0];
        memcpy(&f.terms[i].target, at + 1, 4);
        memcpy(&f.terms[i].weight, at + 2, 4);
    }
    f.logits = (const float *)at;
    at += f.n_terms * f.vocab;
    f.modules = calloc(f.n_matrices, sizeof *f.modules);
    f.start = calloc(f.n_matrices, sizeof *f.start);
    f.gradient = calloc(f.n_matrices, sizeof *f.gradient);
    f.end = calloc(f.n_matrices, sizeof *f.end);
    f.n = calloc(f.n_matrices, sizeof *f.n);
    for (size_t i = 0; i < f.n_matrices; i++) {
        struct module *m = &f.modules[i];
        m->layer = at[0];
        snprintf(m->name, sizeof m->name, "%s", projection_name((enum projection)at[1]));
        snprintf(m->tensor, sizeof m->tensor, "model.layers.%zu.%s.weight", m->layer, m->name);
        snprintf(m->path, sizeof m->path, "/layers/%02zu/%s", m->layer, m->name);
        const struct tensor *t = checkpoint_find(f.ck, m->tensor);
        assert_non_null(t);
        m->n_rows = tensor_n_rows(t);
        m->n_columns = tensor_row_elements(t);
        f.n[i] = at[2];
        f.start[i] = (const float *)(at + 3);
        f.gradient[i] = f.start[i] + f.n[i];
        f.end[i] = f.gradient[i] + f.n[i];
        at += 3 + 3 * f.n[i];
    }
    assert_int_equal(at - f.bytes, n_words);
    return f;
}

static inline void peft_fixture_free(struct peft_fixture *f)
{
    checkpoint_free(f->ck);
    free(f->bytes);
    free(f->places);
    free(f->terms);
    free(f->modules);
    free(f->start);
    free(f->gradient);
    free(f->end);
    free(f->n);
}

static inline struct model *peft_fixture_model(const struct peft_fixture *f, enum element element,
                                               int n_threads)
{
    const struct model_options options = {element, cpu_best_isa(), n_threads, {0}};
    struct model *model = model_load(f->ck, &options);
    if (!model)
        fail_msg("%s", error_message());
    return model;
}

/* Its own parameters are the kind's start. */
static inline struct adapter *peft_fixture_adapter(const struct peft_fixture *f,
                                                   struct model *model, double dropout)
{
    const struct adapter_kind *kind = adapter_kind_find(f->kind);
    assert_non_null(kind);
    const struct adapter_source source = {
        .model = model,
        .ck = f->ck,
        .modules = f->modules,
        .n_modules = f->n_matrices,
        .settings = {.rank = f->rank, .alpha = (double)f->alpha, .dropout = dropout},
        .seed = 5,
        .with_backward = true};
    struct adapter *adapter = adapter_kind_create(kind, &source);
    if (!adapter)
        fail_msg("%s", error_message());
    return adapter;
}

/* The fixture's parameters in the adapter's order. */
static inline void peft_fixture_start(const struct peft_fixture *f, const struct adapter *adapter,
                                      float *parameters)
{
    for (size_t i = 0; i < f->n_matrices; i++) {
        assert_int_equal(adapter->sites[i].n_parameters, f->n[i]);
        memcpy(parameters + adapter->sites[i].first_parameter, f->start[i],
               f->n[i] * sizeof *parameters);
    }
}

#endif
