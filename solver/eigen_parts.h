#ifndef T2_SOLVER_EIGEN_PARTS_H
#define T2_SOLVER_EIGEN_PARTS_H
/* What the two-stage eigensolver's modules share that knows no element type: the sizes of its
 * arrays and the handing out of parts. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "mpi/crew.h"
#include "solver/eigen_kernels.h"

/* Parts of one phase after another, without crew_restart's barriers: every worker overdraws a
 * phase's parts just once, so the next phase begins at a known number. Between two phases there is
 * a barrier. */
struct eigen_parts {
    const struct crew *crew;
    uint32_t own, begin;
};

static inline bool eigen_parts_next(struct eigen_parts *p, size_t n, size_t *part)
{
    *part = crew_next(p->crew, &p->own) - p->begin;
    if (*part < n)
        return true;
    p->begin += (uint32_t)n + (uint32_t)p->crew->size;
    return false;
}

/* divide and conquer: a leaf's most, and a part's roots, weights and vectors */
enum { TREE_LEAF = 80, TREE_ROOTS = 32, TREE_ROWS = 128, TREE_COLUMNS = 128 };

/* strips of vectors that are transformed together */
enum { BACK_STRIPS = 2 };

enum { BAND_ROWS = 256, BAND_COLUMNS = 256, BAND_LONG = 1024 }; /* parts of the band reduction */

static inline size_t eigen_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t eigen_ceil(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

/* This thread's processor time: what others have of the core, and a sleep at a barrier, are left
 * out. */
static inline double eigen_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Columns of the band's storage begin this many elements apart: the half-bandwidth of the bulges,
 * 2 b, a vector's elements that may be touched above the diagonal, and no multiple of 128 bytes
 * from one column of a block to the next (a block's columns are one element closer). */
static inline size_t eigen_band_ld(size_t element_bytes)
{
    return 2 * EIGEN_BAND + (element_bytes == 4 ? 16 : 24) + 1;
}

/* The chase's sweep s = 0 ... n - 3 has steps t = 0, 1, ... whose reflection begins at row
 * s + 1 + t b, as long as that is a row. */
static inline size_t eigen_steps(size_t n, size_t sweep)
{
    return eigen_ceil(n - 1 - sweep, EIGEN_BAND);
}

/* Groups of sweeps that have step t. */
static inline size_t eigen_groups(size_t n, size_t t)
{
    const size_t first = t * EIGEN_BAND + 1; /* sweeps with s <= n - 1 - first */
    const size_t sweeps = n > first ? eigen_min(n - first, n - 2) : 0;
    return eigen_ceil(sweeps, EIGEN_GROUP);
}

#endif
