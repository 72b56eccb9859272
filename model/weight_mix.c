#include "model/weight_mix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/merge.h"
#include "model/model_internal.h"
#include "mpi/error.h"
#include "mpi/hash.h"
#include "solver/axpy.h"

_Static_assert((int)EXPERT_SET_MAX <= (int)AXPY_MAX, "a mixture fits one pass");

struct place {
    void *weights; /* of the model: the module's panels */
    size_t n_elements, n_bytes;
    void *base;             /* their copy */
    struct matrix *changes; /* [set->n]; empty where an expert leaves the module alone */
    uint32_t key;
};

struct weight_mix {
    struct model *model;
    const struct expert_set *set;
    struct place *places; /* [set->n_modules] */
};

static size_t panel_elements(const struct module *m)
{
    return round_up(m->n_rows, KERNEL_COLUMNS) * round_up(m->n_columns, KERNEL_K_STEP);
}

size_t weight_mix_bytes(const struct expert_set *set, enum element element)
{
    size_t n = 0;

    for (size_t i = 0; i < set->n_modules; i++)
        n += panel_elements(&set->modules[i]);
    return n * (set->n + 1) * element_size(element);
}

/* The module's panels lie side by side: its outputs begin at a multiple of 16. */
static int find_place(struct weight_mix *mix, size_t i, uint64_t seed)
{
    const struct module *m = &mix->set->modules[i];
    const enum projection p = projection_find(m->name);
    struct place *place = &mix->places[i];
    const struct span *span = NULL;

    if (p < PROJECTION_COUNT && m->layer < mix->model->config.n_layers)
        span = model_base(mix->model, m->layer, p);
    if (!span || span->m.k != m->n_columns || model_outputs(mix->model, p) != m->n_rows)
        return error_set("%s is not among the model's weights", m->path);
    const size_t size = element_size(span->m.element);
    const size_t column = model_column(mix->model, p) - span->column;
    place->weights = (char *)span->m.data + column * span->m.k_padded * size;
    place->n_elements = panel_elements(m);
    place->n_bytes = place->n_elements * size;
    place->key = (uint32_t)(hash_text(m->tensor) ^ seed * 0x9e3779b97f4a7c15u);
    place->base = aligned_alloc(64, round_up(place->n_bytes, 64));
    place->changes = calloc(mix->set->n, sizeof *place->changes);
    if (!place->base || !place->changes)
        return error_set("no memory for the weights of %s", m->path);
    memcpy(place->base, place->weights, place->n_bytes);
    return 0;
}

struct pack_job {
    struct matrix *to;
    const float *rows;
};

enum { PACK_ROWS = 64 };

static void pack_part(void *arg, size_t part, int thread)
{
    const struct pack_job *j = arg;
    const size_t first = part * PACK_ROWS, left = j->to->n - first;
    (void)thread;
    matrix_pack_rows(j->to, first, left < PACK_ROWS ? left : PACK_ROWS, j->rows + first * j->to->k);
}

/* D = W' - W of one expert at one module. */
static int find_change(struct weight_mix *mix, const struct merge *merge, const struct tensor *t,
                       struct matrix *change)
{
    const struct engine *e = &mix->model->engine;
    struct team *team = e->team;
    const size_t n_rows = tensor_n_rows(t), width = tensor_row_elements(t), n = n_rows * width;
    float *before = malloc(n * sizeof *before), *after = malloc(n * sizeof *after);
    struct pack_job job = {change, after};
    int status = -1;

    if (!before || !after) {
        error_set("no memory for the weights of %s", t->name);
        goto done;
    }
    tensor_read_rows(t, 0, n_rows, before);
    memcpy(after, before, n * sizeof *after);
    if (merge_apply(merge, t, after, ELEMENT_F32, team) != 0 ||
        matrix_create_in(change, &memory_host, e->layout, e->element, n_rows, width) != 0)
        goto done;
    for (size_t i = 0; i < n; i++)
        after[i] -= before[i];
    team_run(team, pack_part, &job, (n_rows + PACK_ROWS - 1) / PACK_ROWS);
    status = 0;
done:
    free(before);
    free(after);
    return status;
}

static int find_changes(struct weight_mix *mix, const struct checkpoint *ck,
                        struct factors *factors, size_t k)
{
    const struct expert_set *set = mix->set;
    struct merge *merge = merge_create(&set->experts[k], factors, mix->model->options.isa, 0);
    int status = merge ? 0 : -1;

    for (size_t i = 0; status == 0 && i < set->n_modules; i++) {
        const struct tensor *t = checkpoint_find(ck, set->modules[i].tensor);
        if (!t || tensor_n_rows(t) != set->modules[i].n_rows ||
            tensor_row_elements(t) != set->modules[i].n_columns)
            status = error_set("%s has no tensor %s of %zu x %zu", checkpoint_path(ck),
                               set->modules[i].tensor, set->modules[i].n_rows,
                               set->modules[i].n_columns);
        else if (merge_wants(merge, t))
            status = find_change(mix, merge, t, &mix->places[i].changes[k]);
        if (t)
            checkpoint_release(ck, t);
    }
    merge_free(merge);
    return status;
}

struct weight_mix *weight_mix_create(struct model *model, const struct checkpoint *ck,
                                     const struct expert_set *set, struct factors *factors,
                                     uint64_t seed)
{
    struct weight_mix *mix = calloc(1, sizeof *mix);
    int status = -1;

    if (!mix || !(mix->places = calloc(set->n_modules + 1, sizeof *mix->places))) {
        error_set("out of memory");
        goto done;
    }
    mix->model = model;
    mix->set = set;
    for (size_t i = 0; i < set->n_modules; i++)
        if (find_place(mix, i, seed) != 0)
            goto done;
    for (size_t k = 0; k < set->n; k++)
        if (find_changes(mix, ck, factors, k) != 0)
            goto done;
    status = 0;
done:
    if (status != 0) {
        weight_mix_free(mix);
        return NULL;
    }
    return mix;
}

void weight_mix_free(struct weight_mix *mix)
{
    if (!mix)
        return;
    for (size_t i = 0; mix->places && i < mix->set->n_modules; i++) {
        struct place *place = &mix->places[i];
        free(place->base);
        for (size_t k = 0; place->changes && k < mix->set->n; k++)
            matrix_free(&place->changes[k]);
        free(place->changes);
    }
    free(mix->places);
    free(mix);
}

int weight_mix_wear(struct weight_mix *mix, enum expert_mix reading, const double *alpha,
                    enum expert_granularity granularity)
{
    const struct expert_set *set = mix->set;

    if (reading == EXPERT_MIX_P)
        return error_set("mixing p is not linear in the weights: it needs the factored form");
    for (size_t i = 0; i < expert_set_n_groups(set, granularity) * set->n; i++)
        if (!(fabs(alpha[i]) < 1e6))
            return error_set("a coefficient of a mixture is not finite");
    mix->model->engine.ops->wait(&mix->model->engine);
    for (size_t i = 0; i < set->n_modules; i++) {
        const double *a = alpha + expert_set_group(set, granularity, i) * set->n;
        const struct place *place = &mix->places[i];
        struct axpy axpy = {
            .element = mix->model->options.element, .base = place->base, .key = place->key};
        double scale = reading == EXPERT_MIX_DELTA ? 1 : 0;
        for (size_t k = 0; k < set->n; k++) {
            scale += reading == EXPERT_MIX_DELTA ? 0 : a[k];
            if (!place->changes[k].data || a[k] == 0)
                continue;
            axpy.changes[axpy.n] = place->changes[k].data;
            axpy.a[axpy.n++] = (float)a[k];
        }
        axpy.scale = (float)scale;
        axpy_mix(&axpy, place->weights, place->n_elements, mix->model->options.isa,
                 mix->model->engine.team);
    }
    return 0;
}
