#include "mpi/node_memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mpi/error.h"
#include "mpi/text.h"

/* ---- pages ----------------------------------------------------------------------------------- */

void *pages_create(size_t n_bytes)
{
    void *pages = mmap(NULL, n_bytes ? n_bytes : 1, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char size[32];

    if (pages != MAP_FAILED)
        return pages;
    error_set("out of memory: %s of address space cannot be had (%s)",
              text_bytes(size, sizeof size, (double)n_bytes), strerror(errno));
    return NULL;
}

void pages_release(void *pages, size_t n_bytes)
{
    if (pages && n_bytes)
        madvise(pages, n_bytes, MADV_DONTNEED);
}

void pages_free(void *pages, size_t n_bytes)
{
    if (pages)
        munmap(pages, n_bytes ? n_bytes : 1);
}

/* ---- shared by a group ----------------------------------------------------------------------- */

/* Groups are numbered in the order of their first ranks. */
static void number_groups(const struct comm *comm, int n_ranks, struct node_memory *memory)
{
    MPI_Comm node;
    int rank, size;

    MPI_Comm_split_type(comm->handle, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &node);
    MPI_Comm_rank(node, &rank);
    MPI_Comm_size(node, &size);
    const int n_here = size / n_ranks, mine = rank / n_ranks;
    const bool has_group = mine < n_here;
    MPI_Comm_split(node, has_group ? mine : MPI_UNDEFINED, rank, &memory->group_comm);
    MPI_Comm_free(&node);
    memory->rank = rank % n_ranks;
    const int leads = has_group && memory->rank == 0;
    int before = 0;
    MPI_Exscan(&leads, &before, 1, MPI_INT, MPI_SUM, comm->handle);
    MPI_Allreduce(&leads, &memory->n_groups, 1, MPI_INT, MPI_SUM, comm->handle);
    memory->group = -1;
    if (has_group) {
        memory->group = comm->rank == 0 ? 0 : before;
        MPI_Bcast(&memory->group, 1, MPI_INT, 0, memory->group_comm);
    }
}

static int map_shared(struct node_memory *memory, size_t n_bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    MPI_Aint bytes = memory->rank == 0 ? (MPI_Aint)(n_bytes + page) : 0;
    int unit;
    char size[32];

    MPI_Comm_set_errhandler(memory->group_comm, MPI_ERRORS_RETURN);
    if (MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, memory->group_comm, &memory->base,
                                &memory->window) != MPI_SUCCESS) {
        memory->window = MPI_WIN_NULL;
        memory->base = NULL;
        return error_set("%s of memory shared by the ranks of a node cannot be had; is /dev/shm "
                         "large enough?",
                         text_bytes(size, sizeof size, (double)n_bytes));
    }
    MPI_Win_shared_query(memory->window, 0, &bytes, &unit, &memory->base);
    /* MPI aligns a little only, and what BLAS computes may depend on that. The file is mapped at
     * pages everywhere, so all ranks move by the same. */
    memory->base = (char *)(((uintptr_t)memory->base + page - 1) / page * page);
    return 0;
}

int node_memory_create(const struct comm *comm, int n_ranks, size_t n_bytes,
                       struct node_memory *memory)
{
    int status = 0;

    *memory = (struct node_memory){.size = n_bytes,
                                   .window = MPI_WIN_NULL,
                                   .group_comm = MPI_COMM_NULL,
                                   .n_groups = 1,
                                   .made = true};
    if (comm->size > 1)
        number_groups(comm, n_ranks, memory);
    if (memory->group >= 0 && n_ranks > 1) {
        status = map_shared(memory, n_bytes);
    } else if (memory->group >= 0) {
        memory->base = pages_create(n_bytes);
        status = memory->base ? 0 : -1;
    }
    status = comm_agree(comm, status);
    if (status != 0)
        node_memory_free(memory);
    return status;
}

void node_memory_release(const struct node_memory *memory, size_t offset, size_t n_bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t start = (offset + page - 1) / page * page;
    const size_t end = (offset + n_bytes) / page * page;

    if (start >= end)
        return;
    /* A hole in the shared file; anonymous memory has no file. */
    if (memory->window != MPI_WIN_NULL)
        madvise(memory->base + start, end - start, MADV_REMOVE);
    else
        madvise(memory->base + start, end - start, MADV_DONTNEED);
}

void node_memory_free(struct node_memory *memory)
{
    if (!memory->made)
        return;
    if (memory->window != MPI_WIN_NULL)
        MPI_Win_free(&memory->window);
    else
        pages_free(memory->base, memory->size);
    if (memory->group_comm != MPI_COMM_NULL)
        MPI_Comm_free(&memory->group_comm);
    *memory = (struct node_memory){0};
}

/* ---- how much there is ------------------------------------------------------------------------*/

/* The number in a file of one number ("max" is none); 0 if there is none. */
static size_t read_number(const char *path)
{
    FILE *file = fopen(path, "r");
    uint64_t n = 0;

    if (!file)
        return 0;
    if (fscanf(file, "%" SCNu64, &n) != 1)
        n = 0;
    fclose(file);
    return (size_t)n;
}

size_t node_memory_available(void)
{
    static const char *const limits[][2] = {
        {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
        {"/sys/fs/cgroup/memory/memory.limit_in_bytes",
         "/sys/fs/cgroup/memory/memory.usage_in_bytes"}};
    FILE *file = fopen("/proc/meminfo", "r");
    char line[128];
    size_t n_bytes = 0, kib;

    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %zu kB", &kib) == 1)
            n_bytes = kib * 1024;
    if (file)
        fclose(file);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        const size_t limit = read_number(limits[i][0]), used = read_number(limits[i][1]);
        const size_t left = limit > used ? limit - used : 0;
        if (limit && left < n_bytes)
            n_bytes = left;
    }
    return n_bytes;
}
