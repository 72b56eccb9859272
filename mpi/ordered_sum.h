#ifndef T2_MPI_ORDERED_SUM_H
#define T2_MPI_ORDERED_SUM_H
/* Sums vectors that lie on different ranks in a fixed order, so that the bits of the sum do not
 * depend on how many ranks there are or which rank made which vector. Each rank adds one slice of
 * the vector over all parts (all-to-all, then all-gather): every element travels twice, whatever
 * the rank count. Long vectors go in pieces, so what the ranks hold meanwhile is bounded. */
#include <stddef.h>
#include <stdint.h>

#include "mpi/comm.h"

/* There are n_parts parts in all, numbered; this rank holds n_mine of them: mine[i] f32 [n] is part
 * numbers[i] (ascending). Every part is held by exactly one rank (checked). total f64 [n] on every
 * rank = sum over parts 0, 1, ... in that order, in f64. Collective. 0, or -1 on all with
 * error_set. */
int ordered_sum(const struct comm *comm, size_t n_parts, const size_t *numbers,
                const float *const *mine, size_t n_mine, size_t n, double *total);

#endif
