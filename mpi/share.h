#ifndef T2_MPI_SHARE_H
#define T2_MPI_SHARE_H
/* What rank 0 reads for everyone (recipes, prompts: all ranks then see the same text, and the file
 * need not lie on every node), and what everyone brings to rank 0. */
#include <stddef.h>

#include "mpi/comm.h"

/* Reads a text file ("-": the standard input) on rank 0 and gives every rank a malloc'ed,
 * NUL-terminated copy (*n_bytes without the NUL). what names the thing in errors ("the recipe").
 * A file with a NUL byte or more than max_bytes (at most 1 GiB) is refused. Collective. 0, or -1
 * with the same error_set on every rank. */
int share_file(const struct comm *comm, const char *path, const char *what, size_t max_bytes,
               char **text, size_t *n_bytes);

/* Brings every rank's bytes to rank 0, which hands them to take(), its own first, then in the order
 * of ranks; one message is held at a time. take() returns 0, or -1 with error_set. Collective. 0 on
 * all ranks, or -1 on all with error_set. */
int share_collect(const struct comm *comm, const void *bytes, size_t n_bytes,
                  int (*take)(void *context, const void *bytes, size_t n_bytes), void *context);

#endif
