#ifndef T2_MODEL_IDENTITY_H
#define T2_MODEL_IDENTITY_H
/* A model's identity (checkpoint.h) worked out by all threads of all ranks: large models take
 * minutes to read. Every rank hashes its share of the tensors in its own copy of the file. */
#include "model/checkpoint.h"
#include "mpi/comm.h"

/* Also refuses ranks whose files do not describe the same tensors. Collective; hex is the same on
 * all. 0, or -1 on all ranks with error_set. */
int identity_compute(const struct comm *comm, const struct checkpoint *ck, int n_threads,
                     char hex[65]);

#endif
