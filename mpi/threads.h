#ifndef T2_MPI_THREADS_H
#define T2_MPI_THREADS_H
/* How many threads a rank should use so that the ranks of a node fill it once. */
#include "mpi/comm.h"

/* OMP_NUM_THREADS or SLURM_CPUS_PER_TASK where set; else the processors that this node's ranks may
 * run on (affinity, and the container's CPU quota) divided by the ranks there, at least 1.
 * Collective. */
int threads_default(const struct comm *comm);

#endif
