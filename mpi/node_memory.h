#ifndef T2_MPI_NODE_MEMORY_H
#define T2_MPI_NODE_MEMORY_H
/* Memory that ranks of one node share, for crews (crew.h), and how much a node has.
 *
 * Ranks of a node are taken in groups of n_ranks; what is left over has no group. The memory is
 * zero, starts at a page, costs nothing until it is written, and may lie at different addresses in
 * different ranks. */
#include <stdbool.h>
#include <stddef.h>

#include "mpi/comm.h"

struct node_memory {
    char *base; /* NULL: this rank has no group */
    size_t size;
    int group, n_groups; /* this rank's group among all nodes' (-1: none), the same order on all */
    int rank;            /* within the group */
    bool made;
    MPI_Win window; /* where there are several ranks in a group */
    MPI_Comm group_comm;
};

/* n_bytes in each group, and a group of one rank needs no window. Collective over all ranks. 0, or
 * -1 on all ranks with error_set (/dev/shm too small). */
int node_memory_create(const struct comm *comm, int n_ranks, size_t n_bytes,
                       struct node_memory *memory);
/* Gives the pages of a part back to the system; they are zero afterwards. Any rank of the group,
 * while no other uses them. Only a wish: nothing fails. */
void node_memory_release(const struct node_memory *memory, size_t offset, size_t n_bytes);
/* Collective. Accepts a zeroed struct. */
void node_memory_free(struct node_memory *memory);

/* Memory of this process alone, zero, whose pages cost nothing until written. NULL with error_set.
 */
void *pages_create(size_t n_bytes);
void pages_release(void *pages, size_t n_bytes);
void pages_free(void *pages, size_t n_bytes);

/* Bytes that this node has free for programs: the system's estimate, or what the container's limit
 * leaves. 0: unknown. */
size_t node_memory_available(void);

#endif
