/* A decomposition by a device: worker 0 of the crew drives it (svd_cuda.h), the others have helped
 * to read W and wait. */
#include <string.h>

#include "mpi/error.h"
#include "solver/svd_cuda.h"
#include "solver/svd_internal.h"

/* What worker 0 tells the others. */
struct shared {
    struct svd_cuda_found found;
    struct svd_contract contract;
};

size_t svd_device_bytes(size_t r)
{
    return sizeof(struct shared) + r * sizeof(uint32_t) + 2 * 64;
}

static int take(struct svd_work *w, struct shared **shared, uint32_t **order)
{
    *shared = arena_take(w->arena, sizeof **shared);
    *order = arena_take(w->arena, w->r * sizeof **order);
    return *shared && *order ? 0
                             : error_set("%s: the memory given for its decomposition is too small",
                                         w->source->name);
}

int svd_device_solve(struct svd_work *w, double *values, bool *solved, double *bound)
{
    const struct svd_source *s = w->source;
    const size_t used = w->arena->used;
    struct shared *shared;
    uint32_t *order;
    int status = take(w, &shared, &order);
    const bool drives = status == 0 && w->crew->index == 0;

    if (drives)
        status = svd_cuda_solve(w->options->cuda, s->name, w->copy, s->n_rows, s->n_columns, values,
                                &shared->found);
    status = crew_agree(w->crew, status);
    if (status == 0) {
        *solved = shared->found.solved;
        *bound = shared->found.bound;
    } else if (drives) {
        svd_cuda_end(w->options->cuda);
    }
    crew_wait(w->crew);
    w->arena->used = used;
    return status;
}

int svd_device_deliver(struct svd_work *w, const struct svd_ranked *ranked, const double *values,
                       float *factor, struct svd_contract *contract)
{
    const size_t used = w->arena->used;
    struct shared *shared;
    uint32_t *order;
    int status = take(w, &shared, &order);

    if (status == 0 && w->crew->index == 0) {
        for (size_t i = 0; i < w->r; i++)
            order[i] = (uint32_t)ranked[i].row;
        status = svd_cuda_deliver(w->options->cuda, order, values, factor,
                                  &shared->contract.orthogonality, &shared->contract.residual);
    }
    status = crew_agree(w->crew, status);
    if (status == 0)
        *contract = shared->contract;
    crew_wait(w->crew);
    w->arena->used = used;
    return status;
}

void svd_device_end(struct svd_work *w)
{
    if (w->crew->index == 0)
        svd_cuda_end(w->options->cuda);
}
