#ifndef T2_MPI_COMM_H
#define T2_MPI_COMM_H
/* The process's place among the ranks: start and end of MPI, agreement on failure, and a shared
 * work queue. One rank without mpirun is the same code with size 1.
 *
 * Stands on MPI-3.1. Does not know about models or files. */
#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct comm {
    MPI_Comm handle;
    int rank, size;
    int node_rank, node_size; /* among the ranks that share this node's memory */
};

/* Starts MPI (threads: serialized, any thread may call MPI, one at a time) and fills *comm for the
 * world. Collective over all processes. */
int comm_init(struct comm *comm, int *argc, char ***argv);

/* Ends MPI. Collective. */
void comm_finish(struct comm *comm);

/* Ends all ranks at once with this exit code, for failures that only some ranks know about (a
 * killed or failing rank). Does not return. */
void comm_abort(const struct comm *comm, int code);

/* Collective. Every rank passes its own status (0 or -1 with error_set). Returns 0 if all are 0;
 * otherwise -1 on every rank, each with the message of the lowest failing rank ("rank 3: ..." when
 * there is more than one rank). Collective code calls it before anyone leaves. */
int comm_agree(const struct comm *comm, int status);

/* Collective. Did every rank pass the same bytes? The same answer on all. */
bool comm_same(const struct comm *comm, const void *bytes, size_t n_bytes);

/* A counter that all ranks draw from: hands out 0, 1, ..., each to one rank (work stealing), with
 * sums beside it that tell how far everyone is. Lives in rank 0's memory; all calls but create and
 * free are one-sided and need no help from rank 0. Not for several threads of a rank at once. */
enum { COMM_QUEUE_SUMS = 3 };
struct comm_queue {
    MPI_Win window;
    int64_t *cell;                    /* on rank 0: the counter, then the sums */
    int64_t own[1 + COMM_QUEUE_SUMS]; /* used when there is one rank */
    bool shared;
};
/* Collective. */
int comm_queue_create(const struct comm *comm, struct comm_queue *queue);
/* Any rank, any time. Returns the next index, from 0 (an index past the caller's work means: done).
 */
int64_t comm_queue_next(struct comm_queue *queue);
/* From now on all ranks draw indices past any work: something has failed. Any rank. */
void comm_queue_stop(struct comm_queue *queue);
/* Adds to sum `index` (0: only reads it) and returns what it then is. Any rank. */
int64_t comm_queue_add(struct comm_queue *queue, size_t index, int64_t value);
/* Collective. Accepts a zeroed struct. */
void comm_queue_free(struct comm_queue *queue);

#endif
