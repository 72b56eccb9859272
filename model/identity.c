#include "model/identity.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/team.h"

struct share {
    const struct checkpoint *ck;
    const size_t *tensors; /* of this rank, largest first */
    uint8_t *digests;      /* [n_tensors, CHECKPOINT_DIGEST_BYTES]; zero for other ranks' */
    _Atomic int failed;
};

static void hash_one(void *arg, size_t part, int thread)
{
    struct share *share = arg;
    const size_t i = share->tensors[part];

    (void)thread;
    if (checkpoint_tensor_digest(share->ck, i, share->digests + i * CHECKPOINT_DIGEST_BYTES) != 0)
        atomic_store(&share->failed, 1);
}

struct sized {
    size_t index, n_bytes;
};

static int compare_sizes(const void *a, const void *b)
{
    const struct sized *x = a, *y = b;

    if (x->n_bytes != y->n_bytes)
        return x->n_bytes > y->n_bytes ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* The tensors of this rank: each goes, largest first, to the rank with the fewest bytes so far. */
static int choose(const struct comm *comm, const struct checkpoint *ck, size_t *mine, size_t *n)
{
    const size_t n_tensors = checkpoint_n_tensors(ck);
    struct sized *order = malloc((n_tensors + 1) * sizeof *order);
    size_t *load = calloc((size_t)comm->size, sizeof *load);
    int status = order && load ? 0 : error_set("%s: out of memory", checkpoint_path(ck));

    *n = 0;
    for (size_t i = 0; status == 0 && i < n_tensors; i++)
        order[i] = (struct sized){i, checkpoint_tensor(ck, i)->n_bytes};
    if (status == 0)
        qsort(order, n_tensors, sizeof *order, compare_sizes);
    for (size_t i = 0; status == 0 && i < n_tensors; i++) {
        int least = 0;
        for (int r = 1; r < comm->size; r++)
            if (load[r] < load[least])
                least = r;
        load[least] += order[i].n_bytes + 1;
        if (least == comm->rank)
            mine[(*n)++] = order[i].index;
    }
    free(order);
    free(load);
    return status;
}

static int hash_share(const struct comm *comm, const struct checkpoint *ck, int n_threads,
                      uint8_t *digests)
{
    const size_t n_tensors = checkpoint_n_tensors(ck);
    size_t *mine = malloc((n_tensors + 1) * sizeof *mine), n_mine = 0;
    struct share share = {.ck = ck, .tensors = mine, .digests = digests};
    struct team *team = NULL;
    int status = -1;

    if (!mine) {
        error_set("%s: out of memory", checkpoint_path(ck));
        goto done;
    }
    if (choose(comm, ck, mine, &n_mine) != 0)
        goto done;
    team = team_create(n_threads);
    if (!team)
        goto done;
    team_run(team, hash_one, &share, n_mine);
    status = atomic_load(&share.failed)
                 ? error_set("%s: the SHA-256 of its tensors failed", checkpoint_path(ck))
                 : 0;
done:
    team_free(team);
    free(mine);
    return status;
}

int identity_compute(const struct comm *comm, const struct checkpoint *ck, int n_threads,
                     char hex[65])
{
    const size_t n_tensors = checkpoint_n_tensors(ck);
    const uint64_t fingerprint = checkpoint_fingerprint(ck);
    uint8_t *digests = NULL;
    int status;

    if (!comm_same(comm, &fingerprint, sizeof fingerprint))
        return error_set("%s: the model is not the same on all ranks; put one copy where every "
                         "node reads it",
                         checkpoint_path(ck));
    digests = calloc(n_tensors + 1, CHECKPOINT_DIGEST_BYTES);
    if (digests)
        status = hash_share(comm, ck, n_threads, digests);
    else
        status = error_set("%s: out of memory", checkpoint_path(ck));
    status = comm_agree(comm, status);
    if (status == 0 && comm->size > 1)
        MPI_Allreduce(MPI_IN_PLACE, digests, (int)(n_tensors * CHECKPOINT_DIGEST_BYTES), MPI_BYTE,
                      MPI_BOR, comm->handle);
    if (status == 0)
        status = checkpoint_identity_from_digests(ck, digests, hex);
    free(digests);
    return status;
}
