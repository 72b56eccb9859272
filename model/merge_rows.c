/* Merged weights of the kinds that change a matrix row by row (adapter_lora.h, adapter_ia3.h):
 *
 *   LoRA   W'_i = W_i + s B_i A
 *   DoRA   W'_i = m_i (W_i + s B_i A) / |W_i + s B_i A|
 *   (IA)^3 W'_i = l_i W_i, and the bias with it; down_proj W'_ij = W_ij l_j
 *
 * Each element is made by one chain of f32 operations, whatever the number of threads. */
#include "model/adapter_ia3.h"
#include "model/merge_internal.h"

#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

struct job {
    const struct module *module;
    const struct merge_rounding *rounding;
    float *weights;
    const float *a, *b, *m; /* [r, in], [out, r]; DoRA's [out] or NULL */
    const float *l;         /* (IA)^3 */
    bool of_inputs;
    size_t r;
    float scale;
    float *corrections; /* [threads, in] */
};

static void low_rank_row(void *arg, size_t i, int thread)
{
    const struct job *j = arg;
    const size_t n = j->module->n_columns;
    float *w = j->weights + i * n, *change = j->corrections + (size_t)thread * n;
    double square = 0;

    memset(change, 0, n * sizeof *change);
    for (size_t k = 0; k < j->r; k++) {
        const float factor = j->scale * j->b[i * j->r + k], *a = j->a + k * n;
        for (size_t c = 0; c < n; c++)
            change[c] += factor * a[c];
    }
    for (size_t c = 0; j->m && c < n; c++) {
        const double whole = (double)w[c] + (double)change[c];
        square += whole * whole;
    }
    if (square > 0) {
        const double by = (double)j->m[i] / sqrt(square);
        for (size_t c = 0; c < n; c++)
            change[c] = (float)((by - 1) * (double)w[c] + by * (double)change[c]);
    }
    for (size_t c = 0; c < n; c++)
        w[c] = merge_sum(j->rounding, w[c], change[c], i * n + c);
}

static void scaled_row(void *arg, size_t i, int thread)
{
    const struct job *j = arg;
    const size_t n = j->module->n_columns;
    float *w = j->weights + i * n;
    (void)thread;

    for (size_t c = 0; c < n; c++)
        w[c] = merge_sum(j->rounding, w[c], (j->l[j->of_inputs ? c : i] - 1) * w[c], i * n + c);
}

static int check_piece(const struct expert *expert, const struct expert_matrix *m, const char *name,
                       size_t n_rows, size_t n_columns)
{
    const struct expert_parameter *p = expert_piece(m, name);

    if (p && p->n_rows == n_rows && p->n_columns == n_columns)
        return 0;
    return n_columns ? error_set("%s: %s has no %s of %zu x %zu", expert->path, m->module.path,
                                 name, n_rows, n_columns)
                     : error_set("%s: %s has no %s of %zu elements", expert->path, m->module.path,
                                 name, n_rows);
}

static bool is_ia3(const struct merge *merge)
{
    return merge->kind == &adapter_kind_ia3;
}

static bool of_inputs(const struct expert_matrix *m)
{
    return adapter_ia3_scales_input(projection_find(m->module.name));
}

int merge_rows_check(const struct expert *expert, const struct adapter_kind *kind,
                     const struct adapter_settings *settings, const struct expert_matrix *m)
{
    const size_t n_out = m->module.n_rows, n_in = m->module.n_columns;
    const size_t r = settings->rank;

    if (kind == &adapter_kind_ia3)
        return check_piece(expert, m, "ia3_l", of_inputs(m) ? n_in : n_out, 0);
    if (r < 1 || r > module_rank(&m->module))
        return error_set("%s: a rank of %zu is not possible for %s of %zu x %zu", expert->path, r,
                         m->module.path, n_out, n_in);
    if (check_piece(expert, m, "lora_A", r, n_in) != 0 ||
        check_piece(expert, m, "lora_B", n_out, r) != 0)
        return -1;
    return strcmp(kind->name, "dora") == 0
               ? check_piece(expert, m, "lora_magnitude_vector", n_out, 0)
               : 0;
}

static const float *values_of(const struct expert_matrix *m, const char *name)
{
    const struct expert_parameter *p = expert_piece(m, name);
    return p ? p->values : NULL;
}

int merge_rows_apply(const struct merge *merge, const struct expert_matrix *m, float *weights,
                     const struct merge_rounding *rounding, struct team *team)
{
    struct job job = {
        .module = &m->module,
        .rounding = rounding,
        .weights = weights,
        .a = values_of(m, "lora_A"),
        .b = values_of(m, "lora_B"),
        .m = strcmp(merge->kind->name, "dora") == 0 ? values_of(m, "lora_magnitude_vector") : NULL,
        .l = values_of(m, "ia3_l"),
        .of_inputs = of_inputs(m),
        .r = merge->settings.rank};

    if (is_ia3(merge)) {
        team_run(team, scaled_row, &job, m->module.n_rows);
        return 0;
    }
    job.scale = (float)(merge->settings.alpha / (double)job.r);
    job.corrections =
        malloc((size_t)team_size(team) * m->module.n_columns * sizeof *job.corrections);
    if (!job.corrections)
        return error_set("no memory to merge %s", m->module.path);
    team_run(team, low_rank_row, &job, m->module.n_rows);
    free(job.corrections);
    return 0;
}

bool merge_changes_bias(const struct merge *merge, const struct expert_matrix *m)
{
    return is_ia3(merge) && !of_inputs(m);
}

void merge_bias(const struct merge *merge, const struct expert_matrix *m, float *bias,
                const struct merge_rounding *rounding)
{
    const float *l = values_of(m, "ia3_l");
    (void)merge;

    for (size_t i = 0; i < m->module.n_rows; i++)
        bias[i] = merge_sum(rounding, bias[i], (l[i] - 1) * bias[i], i);
}
