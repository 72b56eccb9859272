#ifndef T2_MPI_CLOCK_H
#define T2_MPI_CLOCK_H
/* Seconds. */
#include <time.h>

/* On a clock that only goes forward, for differences. */
static inline double clock_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Since 1970, as other processes and machines count them. */
static inline double clock_wall_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
