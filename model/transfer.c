#include "model/transfer.h"

#include <stdlib.h>
#include <string.h>

#include "model/adapter_svf.h"
#include "model/rng.h"
#include "mpi/error.h"

/* ---- which matrix and component becomes which ---------------------------------------------------
 */

static const struct expert_matrix *matrix_at(const struct expert *e, size_t layer, const char *name)
{
    for (size_t i = 0; i < e->n_matrices; i++)
        if (e->matrices[i].module.layer == layer && strcmp(e->matrices[i].module.name, name) == 0)
            return &e->matrices[i];
    return NULL;
}

/* Layers, counted by the highest one that has a matrix of this name; 0: there is none. */
static size_t layers_of_expert(const struct expert *e, const char *name)
{
    size_t n = 0;

    for (size_t i = 0; i < e->n_matrices; i++) {
        const struct module *m = &e->matrices[i].module;
        if (strcmp(m->name, name) == 0 && m->layer >= n)
            n = m->layer + 1;
    }
    return n;
}

static size_t layers_of_factors(const struct factors *f, const char *name)
{
    size_t n = 0;

    for (size_t i = 0; i < factors_n_matrices(f); i++) {
        const struct module *m = &factors_get(f, i)->module;
        if (strcmp(m->name, name) == 0 && m->layer >= n)
            n = m->layer + 1;
    }
    return n;
}

/* The layer of n_from that layer `layer` of n_to takes its numbers from. */
static size_t source_layer(enum transfer_shape shape, size_t layer, size_t n_to, size_t n_from)
{
    if (shape != TRANSFER_INTERPOLATE || n_to == n_from)
        return layer;
    if (n_to == 1)
        return 0;
    return (size_t)((double)layer * (double)(n_from - 1) / (double)(n_to - 1) + 0.5);
}

/* to [n_to] from from [n_from]; otherwise: what components without a source get. */
static void move_components(enum transfer_shape shape, const float *from, size_t n_from, float *to,
                            size_t n_to, float otherwise)
{
    for (size_t i = 0; i < n_to; i++) {
        if (shape != TRANSFER_INTERPOLATE || n_to == n_from) {
            to[i] = i < n_from ? from[i] : otherwise;
            continue;
        }
        const double x = n_to > 1 ? (double)i * (double)(n_from - 1) / (double)(n_to - 1) : 0;
        const size_t left = (size_t)x, right = left + 1 < n_from ? left + 1 : left;
        const double part = x - (double)left;
        to[i] = (float)((1 - part) * (double)from[left] + part * (double)from[right]);
    }
}

/* By the matrix's place, so that a choice of matrices changes nothing. */
static int shuffle(const struct module *m, uint64_t seed, float *values, size_t n)
{
    const uint64_t stream =
        (uint64_t)m->layer * PROJECTION_COUNT + (uint64_t)projection_find(m->name);
    size_t *order = malloc(n * sizeof *order);
    float *copy = malloc(n * sizeof *copy);
    const int status = order && copy ? 0 : error_set("out of memory");

    if (status == 0) {
        memcpy(copy, values, n * sizeof *copy);
        rng_order(seed, stream, order, n, n);
        for (size_t i = 0; i < n; i++)
            values[i] = copy[order[i]];
    }
    free(order);
    free(copy);
    return status;
}

/* ---- matrices ----------------------------------------------------------------------------------
 */

static int add_vector(struct expert_matrix *m, const char *name, size_t n)
{
    struct expert_parameter *p = &m->parameters[m->n_parameters];

    strcpy(p->name, name);
    p->n_rows = n;
    p->values = malloc(n * sizeof *p->values);
    if (!p->values)
        return error_set("out of memory");
    m->n_parameters++;
    return 0;
}

/* The component that would leave the base model alone: z = 1; of p the mean, so that truncated
 * components keep the scale of the others. */
static float neutral(const float *p, size_t n, bool sigmoid)
{
    double sum = 0;

    for (size_t i = 0; sigmoid && i < n; i++)
        sum += (double)p[i];
    return sigmoid ? (float)(sum / (double)n) : 1;
}

static int fill_matrix(const struct expert_matrix *from, bool sigmoid,
                       const struct factors_matrix *f, const struct transfer_options *o,
                       struct expert_matrix *to)
{
    const float *source = expert_vector(from, sigmoid ? "p" : "z");
    const size_t n = module_rank(&f->module), n_from = module_rank(&from->module);

    if (!source)
        return error_set("%s has no vector %s of %zu numbers", from->module.path,
                         sigmoid ? "p" : "z", n_from);
    to->module = f->module;
    to->parameters = calloc(2, sizeof *to->parameters);
    if (!to->parameters)
        return error_set("out of memory");
    if (add_vector(to, "z", n) != 0 || (sigmoid && add_vector(to, "p", n) != 0))
        return -1;
    float *values = to->parameters[sigmoid].values;
    move_components(o->shape, source, n_from, values, n, neutral(source, n_from, sigmoid));
    if (o->order == TRANSFER_SHUFFLED && shuffle(&f->module, o->seed, values, n) != 0)
        return -1;
    if (sigmoid)
        adapter_svf_sigmoid(f->sigma, values, n, to->parameters[0].values);
    return 0;
}

/* Every matrix of the expert must have somewhere to go; of the same shape, unless told otherwise.
 */
static int check_shapes(const struct expert *from, const struct factors *factors,
                        enum transfer_shape shape)
{
    static const char fix[] = "choose --shape truncate or --shape interpolate";

    for (size_t i = 0; i < from->n_matrices; i++) {
        const struct module *m = &from->matrices[i].module;
        const size_t n_from = layers_of_expert(from, m->name);
        const size_t n_to = layers_of_factors(factors, m->name);
        const struct factors_matrix *f = factors_find(factors, m->path);
        if (n_to == 0)
            return error_set("the factor file has no %s, which the expert changes: decompose the "
                             "model with --modules that contain it",
                             m->name);
        if (shape != TRANSFER_SAME)
            continue;
        if (n_from != n_to)
            return error_set("the expert changes %s in %zu layers, the factors have it in %zu: %s",
                             m->name, n_from, n_to, fix);
        if (!f)
            return error_set("the factor file has no %s of layer %zu, which the expert changes: "
                             "decompose the model with --layers that contain it",
                             m->name, m->layer);
        if (module_rank(&f->module) != module_rank(m))
            return error_set("%s has %zu singular values in the expert's model and %zu in the "
                             "other: %s",
                             m->path, module_rank(m), module_rank(&f->module), fix);
    }
    return 0;
}

int transfer_expert(const struct expert *from, struct factors *factors,
                    const struct transfer_options *o, struct expert *to, size_t *n_moved)
{
    const bool sigmoid = from->parametrisation && strcmp(from->parametrisation, "sigmoid") == 0;
    const size_t n = factors_n_matrices(factors);
    char fingerprint[65];
    bool *moved = NULL; /* [from->n_matrices] */
    int status = -1;

    *n_moved = 0;
    if (strcmp(from->kind, "svf") != 0)
        return error_set("it is of the kind %s; experts of the kind svf can be transferred",
                         from->kind);
    if (check_shapes(from, factors, o->shape) != 0 ||
        factors_fingerprint(factors, fingerprint) != 0)
        return -1;
    snprintf(to->identity, sizeof to->identity, "%s", factors_identity(factors));
    to->kind = strdup("svf");
    to->parametrisation = strdup(sigmoid ? "sigmoid" : "direct");
    to->factors_identity = strdup(fingerprint);
    to->matrices = calloc(n + 1, sizeof *to->matrices);
    moved = calloc(from->n_matrices + 1, sizeof *moved);
    if (!to->kind || !to->parametrisation || !to->factors_identity || !to->matrices || !moved) {
        error_set("out of memory");
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        const struct factors_matrix *f = factors_get(factors, i);
        const struct module *m = &f->module;
        const size_t n_from = layers_of_expert(from, m->name);
        if (n_from == 0)
            continue;
        const size_t layer =
            source_layer(o->shape, m->layer, layers_of_factors(factors, m->name), n_from);
        const struct expert_matrix *source = matrix_at(from, layer, m->name);
        if (!source)
            continue;
        if (fill_matrix(source, sigmoid, f, o, &to->matrices[to->n_matrices++]) != 0)
            goto done;
        moved[source - from->matrices] = true;
    }
    for (size_t i = 0; i < from->n_matrices; i++)
        *n_moved += moved[i];
    status = to->n_matrices > 0 ? 0 : error_set("none of its matrices is in the factor file");
done:
    free(moved);
    return status;
}
