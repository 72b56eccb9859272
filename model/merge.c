#include "model/merge_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/hash.h"
#include "solver/engine_product.h"
#include "solver/engine_train.h"

enum { MERGE_ROWS = 64 }; /* a multiple of KERNEL_COLUMNS */

static const struct expert_parameter *z_of(const struct expert_matrix *m)
{
    return expert_piece(m, "z");
}

static int check_matrix(const struct expert *e, struct factors *factors,
                        const struct expert_matrix *m)
{
    const struct expert_parameter *z = z_of(m);
    const struct factors_matrix *f = factors_find(factors, m->module.path);

    if (!z || z->n_columns != 0 || z->n_rows != module_rank(&m->module))
        return error_set("%s: %s has no vector z of %zu elements", e->path, m->module.path,
                         module_rank(&m->module));
    if (!f || f->module.n_rows != m->module.n_rows || f->module.n_columns != m->module.n_columns)
        return error_set("the factors have no matrix %s of %zu x %zu, which %s changes: decompose "
                         "the model with --modules that contain it",
                         m->module.path, m->module.n_rows, m->module.n_columns, e->path);
    return 0;
}

struct merge *merge_create(const struct expert *expert, struct factors *factors, enum isa isa,
                           uint64_t seed)
{
    const struct adapter_kind *kind = adapter_kind_find(expert->kind);
    struct merge *merge = kind ? malloc(sizeof *merge) : NULL;

    if (!kind || !merge) {
        if (kind)
            error_set("out of memory");
        return NULL;
    }
    *merge = (struct merge){.expert = expert,
                            .factors = factors,
                            .kernels = kernels_find(ELEMENT_F32, isa),
                            .seed = seed,
                            .kind = kind};
    if (!kind->can_merge) {
        error_set("%s: an adapter of the kind '%s' does something else to each token and cannot be "
                  "merged into the weights: run it beside them, with --adapter",
                  expert->path, expert->kind);
        goto failed;
    }
    if (adapter_settings_read(kind, expert->settings, &merge->settings) != 0) {
        error_prefix("%s", expert->path);
        goto failed;
    }
    for (size_t i = 0; i < expert->n_matrices; i++)
        if ((kind->needs_factors
                 ? check_matrix(expert, factors, &expert->matrices[i])
                 : merge_rows_check(expert, kind, &merge->settings, &expert->matrices[i])) != 0)
            goto failed;
    return merge;
failed:
    free(merge);
    return NULL;
}

void merge_free(struct merge *merge)
{
    free(merge);
}

static const struct expert_matrix *matrix_of(const struct merge *merge, const struct tensor *t)
{
    for (size_t i = 0; i < merge->expert->n_matrices; i++)
        if (strcmp(merge->expert->matrices[i].module.tensor, t->name) == 0)
            return &merge->expert->matrices[i];
    return NULL;
}

/* The matrix whose bias the tensor is, if the kind changes biases. */
static const struct expert_matrix *bias_of(const struct merge *merge, const struct tensor *t)
{
    for (size_t i = 0; i < merge->expert->n_matrices; i++) {
        const struct expert_matrix *m = &merge->expert->matrices[i];
        const size_t stem = strlen(m->module.tensor) - strlen("weight");
        if (strncmp(m->module.tensor, t->name, stem) == 0 && strcmp(t->name + stem, "bias") == 0)
            return merge_changes_bias(merge, m) ? m : NULL;
    }
    return NULL;
}

bool merge_wants(const struct merge *merge, const struct tensor *t)
{
    return matrix_of(merge, t) || bias_of(merge, t);
}

/* ---- one matrix --------------------------------------------------------------------------------
 *
 * With X the rows of W where it is tall and its columns where it is wide, in both cases
 *
 *   X' = X + ((X Q^T) (z - 1)) Q,   Q [r, r] with singular vectors as rows
 */
struct job {
    const struct kernels *kernels;
    struct matrix q, q_t; /* products with Q^T and with Q */
    const float *change;  /* z - 1 [r] */
    float *weights;       /* [n_rows, n_columns] */
    size_t n_rows, n_columns, r, n_vectors;
    bool wide;
    struct merge_rounding rounding;
    float *x, *h, *y; /* [threads, MERGE_ROWS, ld] */
    size_t ld;
};

static void merge_part(void *arg, size_t part, int thread)
{
    const struct job *j = arg;
    const size_t first = part * MERGE_ROWS, left = j->n_vectors - first;
    const size_t n = left < MERGE_ROWS ? left : MERGE_ROWS, ld = j->ld;
    float *x = j->x + (size_t)thread * MERGE_ROWS * ld;
    float *h = j->h + (size_t)thread * MERGE_ROWS * ld;
    float *y = j->y + (size_t)thread * MERGE_ROWS * ld;
    /* Element k of vector v lies at weights[v * along + k * across]. */
    const size_t along = j->wide ? 1 : j->n_columns, across = j->wide ? j->n_columns : 1;
    float *w = j->weights + first * along;

    memset(x, 0, n * ld * sizeof *x);
    memset(h, 0, n * ld * sizeof *h);
    for (size_t k = 0; k < j->r; k++)
        for (size_t v = 0; v < n; v++)
            x[v * ld + k] = w[v * along + k * across];
    matrix_product(j->kernels, h, ld, x, ld, n, &j->q, 0, j->q.n_panels, false, NULL);
    for (size_t v = 0; v < n; v++)
        for (size_t k = 0; k < ld; k++)
            h[v * ld + k] = k < j->r ? h[v * ld + k] * j->change[k] : 0;
    matrix_product(j->kernels, y, ld, h, ld, n, &j->q_t, 0, j->q_t.n_panels, false, NULL);
    for (size_t k = 0; k < j->r; k++)
        for (size_t v = 0; v < n; v++) {
            float *to = &w[v * along + k * across];
            const float correction = y[v * ld + k];
            *to = merge_sum(&j->rounding, *to, correction, (size_t)(to - j->weights));
        }
}

static int read_factor(const struct merge *merge, const struct factors_matrix *f, struct matrix *q)
{
    const size_t r = q->n;
    float *rows = malloc(MERGE_ROWS * r * sizeof *rows);
    int status = rows ? 0 : error_set("out of memory");

    for (size_t first = 0; status == 0 && first < r; first += MERGE_ROWS) {
        const size_t n = r - first < MERGE_ROWS ? r - first : MERGE_ROWS;
        status = factors_read(merge->factors, f, first, n, rows);
        if (status == 0)
            matrix_pack_rows(q, first, n, rows);
    }
    free(rows);
    return status;
}

/* z - 1; *any: is one of them not 0? */
static float *changes(const struct expert_parameter *z, bool *any)
{
    float *change = malloc(z->n_rows * sizeof *change);

    *any = false;
    for (size_t i = 0; change && i < z->n_rows; i++) {
        change[i] = z->values[i] - 1;
        *any = *any || change[i] != 0;
    }
    return change;
}

static int svf_apply(const struct merge *merge, const struct expert_matrix *m, float *weights,
                     const struct merge_rounding *rounding, struct team *team)
{
    const size_t n_threads = (size_t)team_size(team);
    struct job job = {.kernels = merge->kernels, .weights = weights, .rounding = *rounding};
    bool any = false;
    float *change = NULL;
    int status = -1;

    job.change = change = changes(z_of(m), &any);
    if (!change) {
        error_set("out of memory");
        goto done;
    }
    if (!any) {
        status = 0;
        goto done;
    }
    job.n_rows = m->module.n_rows;
    job.n_columns = m->module.n_columns;
    job.wide = job.n_rows < job.n_columns;
    job.r = module_rank(&m->module);
    job.n_vectors = job.wide ? job.n_columns : job.n_rows;
    job.ld = round_up(job.r, KERNEL_K_STEP);
    const size_t bytes = n_threads * MERGE_ROWS * job.ld * sizeof(float);
    job.x = malloc(bytes);
    job.h = malloc(bytes);
    job.y = malloc(bytes);
    if (!job.x || !job.h || !job.y) {
        error_set("no memory to merge %s", m->module.path);
        goto done;
    }
    if (matrix_create(&job.q, ELEMENT_F32, job.r, job.r) != 0 ||
        read_factor(merge, factors_find(merge->factors, m->module.path), &job.q) != 0 ||
        matrix_transpose(&job.q_t, &job.q, team) != 0)
        goto done;
    team_run(team, merge_part, &job, (job.n_vectors + MERGE_ROWS - 1) / MERGE_ROWS);
    status = 0;
done:
    matrix_free(&job.q);
    matrix_free(&job.q_t);
    free(job.x);
    free(job.h);
    free(job.y);
    free(change);
    return status;
}

int merge_apply(const struct merge *merge, const struct tensor *t, float *weights,
                enum element element, struct team *team)
{
    const struct expert_matrix *m = matrix_of(merge, t), *of_bias = m ? NULL : bias_of(merge, t);
    const struct merge_rounding rounding = {element == ELEMENT_BF16, merge->seed,
                                            hash_text(t->name)};

    if (of_bias && tensor_n_rows(t) * tensor_row_elements(t) != of_bias->module.n_rows)
        return error_set("%s has %zu elements, which does not fit %s", t->name,
                         tensor_n_rows(t) * tensor_row_elements(t), of_bias->module.path);
    if (of_bias)
        merge_bias(merge, of_bias, weights, &rounding);
    if (!m)
        return 0;
    if (tensor_n_rows(t) != m->module.n_rows || tensor_row_elements(t) != m->module.n_columns)
        return error_set("%s: %s is %zu x %zu, the model's %zu x %zu", merge->expert->path,
                         m->module.path, m->module.n_rows, m->module.n_columns, tensor_n_rows(t),
                         tensor_row_elements(t));
    return merge->kind->needs_factors ? svf_apply(merge, m, weights, &rounding, team)
                                      : merge_rows_apply(merge, m, weights, &rounding, team);
}
