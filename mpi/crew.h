#ifndef T2_MPI_CREW_H
#define T2_MPI_CREW_H
/* Workers that share memory and go through one algorithm together, each taking its share of every
 * step between barriers: ranks of one node, threads of one rank, or both. A crew of one is the same
 * code. What a worker computes may depend on the part it took, never on how many workers there are:
 * parts are cut by the problem alone, so results have the same bits in a crew of any size.
 *
 * Memory that the crew shares may lie at different addresses in different ranks: no pointers in it.
 * Makes no MPI calls. */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* In the shared memory, zeroed before the first use; one crew at a time uses it. */
struct crew_state {
    _Atomic uint32_t arrived, phase;
    _Atomic uint32_t failed;  /* 0, or 1 + the index of the worker whose message it is */
    _Atomic uint32_t counter; /* parts handed out, see crew_next */
    char message[1024];
};

struct crew {
    int index, size;          /* this worker, and how many there are */
    struct crew_state *state; /* NULL for a crew of one */
};

static inline struct crew crew_alone(void)
{
    return (struct crew){0, 1, NULL};
}

/* Returns when all workers have called it; what they wrote before is then seen by all. Waits by
 * spinning shortly, then offering the core, then sleeping in the kernel. */
void crew_wait(const struct crew *crew);

/* All workers: 0 if every status is 0, else -1 on all with one failing worker's message. A barrier
 * as well. */
int crew_agree(const struct crew *crew, int status);

/* Hands out 0, 1, ... to whoever asks, for parts of uneven cost.
 * crew_restart (all workers, a barrier) starts again
 * from 0. `own` is the worker's own counter, used by a crew of one. */
uint32_t crew_next(const struct crew *crew, uint32_t *own);
void crew_restart(const struct crew *crew, uint32_t *own);

#endif
