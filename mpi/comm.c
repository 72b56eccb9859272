#include "mpi/comm.h"

#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

/* A process that no launcher started needs no network and no daemon: without them Open MPI starts
 * in 40 ms where it takes 400. What the user has set stays. */
static void prepare_singleton(void)
{
    static const char *const launchers[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK",
                                            "PMI_SIZE", "PMI_FD"};

    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++)
        if (getenv(launchers[i]))
            return;
    setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
    setenv("OMPI_MCA_pml", "ob1", 0);
    setenv("OMPI_MCA_btl", "self", 0);
}

int comm_init(struct comm *comm, int *argc, char ***argv)
{
    int provided;

    memset(comm, 0, sizeof *comm);
    prepare_singleton();
    if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return error_set("MPI could not be started");
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

int comm_queue_create(const struct comm *comm, struct comm_queue *queue)
{
    memset(queue, 0, sizeof *queue);
    if (comm->size == 1)
        return 0;
    MPI_Aint bytes = comm->rank == 0 ? (MPI_Aint)sizeof(int64_t) : 0;
    int rc = MPI_Win_allocate(bytes, sizeof(int64_t), MPI_INFO_NULL, comm->handle, &queue->cell,
                              &queue->window);
    if (rc != MPI_SUCCESS)
        return error_set("cannot create the shared work queue over %d ranks", comm->size);
    queue->shared = true;
    if (comm->rank == 0) {
        MPI_Win_lock(MPI_LOCK_EXCLUSIVE, 0, 0, queue->window);
        *queue->cell = 0;
        MPI_Win_unlock(0, queue->window);
    }
    MPI_Barrier(comm->handle);
    MPI_Win_lock_all(0, queue->window);
    return 0;
}

int64_t comm_queue_next(struct comm_queue *queue)
{
    if (!queue->shared)
        return queue->next++;
    const int64_t one = 1;
    int64_t mine = 0;
    MPI_Fetch_and_op(&one, &mine, MPI_INT64_T, 0, 0, MPI_SUM, queue->window);
    MPI_Win_flush(0, queue->window);
    return mine;
}

void comm_queue_free(struct comm_queue *queue)
{
    if (queue->shared) {
        MPI_Win_unlock_all(queue->window);
        MPI_Win_free(&queue->window);
    }
    memset(queue, 0, sizeof *queue);
}
