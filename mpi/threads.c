#include "mpi/threads.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

/* A positive number at the start of an environment variable ("4", "4,2"); 0 if there is none. */
static int env_count(const char *name)
{
    const char *value = getenv(name);
    const long n = value ? strtol(value, NULL, 10) : 0;

    return n > 0 && n < 4096 ? (int)n : 0;
}

/* CPUs that the container's quota is worth (cgroup v2, then v1), rounded up; 0: no limit. */
static int quota_cpus(void)
{
    static const char v2[] = "/sys/fs/cgroup/cpu.max";
    static const char *const v1[] = {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
                                     "/sys/fs/cgroup/cpu/cpu.cfs_period_us"};
    double quota = 0, period = 0;
    FILE *file = fopen(v2, "r");

    if (file) {
        if (fscanf(file, "%lf %lf", &quota, &period) != 2)
            quota = 0;
        fclose(file);
    } else {
        double *const values[] = {&quota, &period};
        for (int i = 0; i < 2; i++) {
            file = fopen(v1[i], "r");
            if (!file)
                return 0;
            if (fscanf(file, "%lf", values[i]) != 1)
                *values[i] = 0;
            fclose(file);
        }
    }
    return quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : 0;
}

int threads_default(const struct comm *comm)
{
    cpu_set_t mine, all;
    int threads = env_count("OMP_NUM_THREADS");

    if (!threads)
        threads = env_count("SLURM_CPUS_PER_TASK");
    if (sched_getaffinity(0, sizeof mine, &mine) != 0) {
        CPU_ZERO(&mine);
        CPU_SET(0, &mine);
    }
    all = mine;
    if (comm->size > 1) {
        /* Ranks that a launcher has bound have masks of their own: their union is the node's. */
        MPI_Comm node;
        MPI_Comm_split_type(comm->handle, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &node);
        MPI_Allreduce(&mine, &all, sizeof all, MPI_BYTE, MPI_BOR, node);
        MPI_Comm_free(&node);
    }
    if (threads)
        return threads;
    int cpus = CPU_COUNT(&all);
    const int quota = quota_cpus();
    if (quota && quota < cpus)
        cpus = quota;
    threads = cpus / comm->node_size;
    if (threads > CPU_COUNT(&mine))
        threads = CPU_COUNT(&mine);
    return threads > 0 ? threads : 1;
}
