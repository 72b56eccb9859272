#include "mpi/comm.h"

#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/hash.h"

static bool env_is(const char *name, const char *value)
{
    const char *set = getenv(name);
    return set && strcmp(set, value) == 0;
}

/* All ranks share this node's memory, as far as the launcher tells. */
static bool on_one_node(void)
{
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");

    return (size && env_is("OMPI_COMM_WORLD_LOCAL_SIZE", size)) ||
           env_is("SLURM_STEP_NUM_NODES", "1");
}

/* Open MPI looks at every network before it starts. Ranks on one node need none: they then start in
 * half the time; a process that no launcher started needs no daemon either, and starts in 40 ms
 * where it took 400. What the user has set stays. */
static void prepare_start(void)
{
    static const char *const launchers[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK",
                                            "PMI_SIZE", "PMI_FD"};
    bool launched = false;

    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++)
        launched = launched || getenv(launchers[i]);
    if (launched && !on_one_node())
        return;
    if (!launched) {
        setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
        /* All such processes of a user would share one folder, which the first to end removes while
         * others begin in it. */
        setenv("OMPI_MCA_orte_create_session_dirs", "0", 0);
    }
    setenv("OMPI_MCA_pml", "ob1", 0);
    setenv("OMPI_MCA_btl", launched ? "self,vader" : "self", 0);
}

int comm_init(struct comm *comm, int *argc, char ***argv)
{
    int provided;

    memset(comm, 0, sizeof *comm);
    prepare_start();
    if (MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS)
        return error_set("MPI could not be started");
    if (provided < MPI_THREAD_SERIALIZED)
        return error_set(
            "this MPI library does not let threads make calls (MPI_THREAD_SERIALIZED); "
            "build it with thread support");
    comm->handle = MPI_COMM_WORLD;
    MPI_Comm_set_errhandler(comm->handle, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm->handle, &comm->rank);
    MPI_Comm_size(comm->handle, &comm->size);
    comm->node_size = 1;
    if (comm->size > 1) {
        MPI_Comm node;
        MPI_Comm_split_type(comm->handle, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &node);
        MPI_Comm_rank(node, &comm->node_rank);
        MPI_Comm_size(node, &comm->node_size);
        MPI_Comm_free(&node);
    }
    return 0;
}

void comm_finish(struct comm *comm)
{
    (void)comm;
    MPI_Finalize();
}

void comm_abort(const struct comm *comm, int code)
{
    MPI_Abort(comm->handle, code);
}

int comm_agree(const struct comm *comm, int status)
{
    if (comm->size == 1)
        return status;
    int mine = status ? comm->rank : comm->size, first;
    MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, comm->handle);
    if (first == comm->size)
        return 0;
    char text[2048] = "";
    if (comm->rank == first)
        strncpy(text, error_message(), sizeof text - 1);
    MPI_Bcast(text, sizeof text, MPI_CHAR, first, comm->handle);
    error_set("%s", text);
    return error_prefix("rank %d", first);
}

bool comm_same(const struct comm *comm, const void *bytes, size_t n_bytes)
{
    if (comm->size == 1)
        return true;
    const uint64_t hash = hash_bytes(HASH_START, bytes, n_bytes);
    uint64_t pair[2] = {hash, ~hash}; /* maximum, and minimum as the complement's maximum */
    MPI_Allreduce(MPI_IN_PLACE, pair, 2, MPI_UINT64_T, MPI_MAX, comm->handle);
    return pair[0] == ~pair[1];
}

int comm_queue_create(const struct comm *comm, struct comm_queue *queue)
{
    memset(queue, 0, sizeof *queue);
    if (comm->size == 1)
        return 0;
    MPI_Aint bytes = comm->rank == 0 ? (MPI_Aint)sizeof queue->own : 0;
    int rc = MPI_Win_allocate(bytes, sizeof(int64_t), MPI_INFO_NULL, comm->handle, &queue->cell,
                              &queue->window);
    if (rc != MPI_SUCCESS)
        return error_set("cannot create the shared work queue over %d ranks", comm->size);
    queue->shared = true;
    if (comm->rank == 0) {
        MPI_Win_lock(MPI_LOCK_EXCLUSIVE, 0, 0, queue->window);
        memset(queue->cell, 0, sizeof queue->own);
        MPI_Win_unlock(0, queue->window);
    }
    MPI_Barrier(comm->handle);
    MPI_Win_lock_all(0, queue->window);
    return 0;
}

/* The cell's value before `value` was added. */
static int64_t fetch_add(struct comm_queue *queue, size_t cell, int64_t value)
{
    int64_t before = queue->own[cell];

    if (!queue->shared) {
        queue->own[cell] += value;
        return before;
    }
    MPI_Fetch_and_op(&value, &before, MPI_INT64_T, 0, (MPI_Aint)cell, MPI_SUM, queue->window);
    MPI_Win_flush(0, queue->window);
    return before;
}

int64_t comm_queue_next(struct comm_queue *queue)
{
    return fetch_add(queue, 0, 1);
}

void comm_queue_stop(struct comm_queue *queue)
{
    fetch_add(queue, 0, (int64_t)1 << 40);
}

int64_t comm_queue_add(struct comm_queue *queue, size_t index, int64_t value)
{
    return fetch_add(queue, 1 + index, value) + value;
}

void comm_queue_free(struct comm_queue *queue)
{
    if (queue->shared) {
        MPI_Win_unlock_all(queue->window);
        MPI_Win_free(&queue->window);
    }
    memset(queue, 0, sizeof *queue);
}
