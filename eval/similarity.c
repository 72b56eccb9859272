#include "eval/similarity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

const struct expert_parameter *similarity_vector(const struct expert_matrix *matrix)
{
    for (size_t i = 0; i < matrix->n_parameters; i++)
        if (strcmp(matrix->parameters[i].name, "z") == 0 && matrix->parameters[i].n_columns == 0)
            return &matrix->parameters[i];
    return NULL;
}

static int compare_modules(const void *a, const void *b)
{
    const struct module *x = a, *y = b;

    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    return module_order(x->name) - module_order(y->name);
}

/* The matrices of all experts, each once. */
static int collect_modules(struct similarity *s, const struct expert *const *experts)
{
    size_t n = 0, n_kept = 0;

    for (size_t e = 0; e < s->n_experts; e++)
        n += experts[e]->n_matrices;
    s->modules = calloc(n ? n : 1, sizeof *s->modules);
    if (!s->modules)
        return error_set("out of memory");
    n = 0;
    for (size_t e = 0; e < s->n_experts; e++)
        for (size_t i = 0; i < experts[e]->n_matrices; i++)
            s->modules[n++] = experts[e]->matrices[i].module;
    qsort(s->modules, n, sizeof *s->modules, compare_modules);
    for (size_t i = 0; i < n; i++)
        if (n_kept == 0 || compare_modules(&s->modules[n_kept - 1], &s->modules[i]) != 0)
            s->modules[n_kept++] = s->modules[i];
    s->n_matrices = n_kept;
    return 0;
}

static const struct expert_parameter *find(const struct expert *e, const struct module *m)
{
    for (size_t i = 0; i < e->n_matrices; i++)
        if (strcmp(e->matrices[i].module.path, m->path) == 0)
            return similarity_vector(&e->matrices[i]);
    return NULL;
}

/* z - 1 at place i of n, of a vector with at least as many components. */
static double step_at(const struct expert_parameter *z, size_t i, size_t n,
                      enum similarity_mismatch mismatch)
{
    if (z->n_rows == n || mismatch == MISMATCH_TRUNCATE)
        return (double)z->values[i] - 1;
    /* Component i covers the part [i, i + 1) / n of the spectrum; its middle is looked up. */
    const double at = ((double)i + 0.5) * (double)z->n_rows / (double)n - 0.5;
    const double low = floor(at), weight = at - low;
    const size_t first = (size_t)low, second = first + 1 < z->n_rows ? first + 1 : first;
    return (1 - weight) * (double)z->values[first] + weight * (double)z->values[second] - 1;
}

static int compare_vectors(struct similarity *s, size_t matrix, size_t a, size_t b,
                           const struct expert_parameter *x, const struct expert_parameter *y,
                           enum similarity_mismatch mismatch)
{
    const size_t n = x->n_rows < y->n_rows ? x->n_rows : y->n_rows, e = s->n_experts;
    double product = 0, squares_a = 0, squares_b = 0;

    if (x->n_rows != y->n_rows && mismatch == MISMATCH_REFUSE)
        return error_set("%s has %zu components in one expert and %zu in another: say how they "
                         "meet, with --mismatch truncate or --mismatch interpolate",
                         s->modules[matrix].path, x->n_rows, y->n_rows);
    for (size_t i = 0; i < n; i++) {
        const double p = step_at(x, i, n, mismatch), q = step_at(y, i, n, mismatch);
        product += p * q;
        squares_a += p * p;
        squares_b += q * q;
    }
    const size_t ab = (matrix * e + a) * e + b, ba = (matrix * e + b) * e + a;
    s->products[ab] = s->products[ba] = product;
    s->squares[ab] = squares_a;
    s->squares[ba] = squares_b;
    return 0;
}

int similarity_create(struct similarity *s, const struct expert *const *experts, size_t n,
                      enum similarity_mismatch mismatch)
{
    size_t cells;

    memset(s, 0, sizeof *s);
    s->n_experts = n;
    if (collect_modules(s, experts) != 0)
        return -1;
    if (__builtin_mul_overflow(n * n, s->n_matrices, &cells))
        goto memory;
    s->products = calloc(cells + 1, sizeof *s->products);
    s->squares = calloc(cells + 1, sizeof *s->squares);
    if (!s->products || !s->squares)
        goto memory;
    for (size_t m = 0; m < s->n_matrices; m++)
        for (size_t a = 0; a < n; a++) {
            const struct expert_parameter *x = find(experts[a], &s->modules[m]);
            for (size_t b = a; x && b < n; b++) {
                const struct expert_parameter *y = find(experts[b], &s->modules[m]);
                if (y && compare_vectors(s, m, a, b, x, y, mismatch) != 0) {
                    similarity_free(s);
                    return -1;
                }
            }
        }
    return 0;
memory:
    similarity_free(s);
    return error_set("out of memory");
}

void similarity_free(struct similarity *s)
{
    if (!s)
        return;
    free(s->modules);
    free(s->products);
    free(s->squares);
    memset(s, 0, sizeof *s);
}

double similarity_cosine(const struct similarity *s, size_t a, size_t b, long layer,
                         const char *name)
{
    const size_t n = s->n_experts;
    double product = 0, squares_a = 0, squares_b = 0;

    for (size_t m = 0; m < s->n_matrices; m++) {
        const struct module *module = &s->modules[m];
        if ((layer >= 0 && module->layer != (size_t)layer) ||
            (name && strcmp(module->name, name) != 0))
            continue;
        product += s->products[(m * n + a) * n + b];
        squares_a += s->squares[(m * n + a) * n + b];
        squares_b += s->squares[(m * n + b) * n + a];
    }
    return squares_a > 0 && squares_b > 0 ? product / sqrt(squares_a) / sqrt(squares_b)
                                          : (double)NAN;
}
