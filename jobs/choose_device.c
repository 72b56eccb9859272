#include "jobs/choose_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/hash.h"
#include "solver/engine_cuda.h"

static int by_number(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* How many devices the ranks have between them. Collective. 0, or -1 on all. */
static int count_devices(const struct comm *comm, const struct device *device, int *n)
{
    unsigned char identity[16];
    uint64_t mine = (uint64_t)comm->rank; /* unknown: taken to be one's own */
    uint64_t *all = malloc((size_t)comm->size * sizeof *all);

    if (comm_agree(comm, all ? 0 : error_set("out of memory")) != 0) {
        free(all);
        return -1;
    }
    if (device_identity(device->index, identity) == 0)
        mine = hash_bytes(HASH_START, identity, sizeof identity);
    MPI_Allgather(&mine, 1, MPI_UINT64_T, all, 1, MPI_UINT64_T, comm->handle);
    qsort(all, (size_t)comm->size, sizeof *all, by_number);
    *n = 1;
    for (int i = 1; i < comm->size; i++)
        *n += all[i] != all[i - 1];
    free(all);
    return 0;
}

/* Collective. */
static int warn(const struct comm *comm, const struct device *device)
{
    char text[160];
    int n;

    if (comm->size == 1)
        return 0;
    if (count_devices(comm, device, &n) != 0)
        return -1;
    device_describe(device, text, sizeof text);
    const bool same = comm_same(comm, text, strlen(text));
    if (comm->rank == 0 && n < comm->size)
        fprintf(stderr,
                "%d ranks share %d CUDA device%s; start one rank a device, or use --device "
                "cpu\n",
                comm->size, n, n == 1 ? "" : "s");
    if (comm->rank == 0 && !same)
        fprintf(stderr, "the ranks' CUDA devices are of different kinds: results may differ in "
                        "their last bits with the number of ranks\n");
    return 0;
}

int choose_device(const struct comm *comm, const char *asked, struct device *device)
{
    const char *label = "--device";
    int status = device_wish(asked, device, &label);

    if (comm_agree(comm, status) != 0)
        return -1;
    if (device->kind == DEVICE_AUTO) {
        int there = engine_cuda_count() > 0;
        if (comm->size > 1)
            MPI_Allreduce(MPI_IN_PLACE, &there, 1, MPI_INT, MPI_MIN, comm->handle);
        *device = (struct device){there ? DEVICE_CUDA : DEVICE_CPU, -1};
    }
    if (device->kind == DEVICE_CPU) {
        device->index = 0;
        return 0;
    }
    status = device_check(device);
    if (status != 0)
        error_prefix("%s %s", label, strcmp(label, "--device") == 0 ? asked : getenv("T2_DEVICE"));
    if (comm_agree(comm, status) != 0)
        return -1;
    if (device->index < 0)
        device->index = comm->node_rank % engine_cuda_count();
    return warn(comm, device);
}
