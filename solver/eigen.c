/* eigen.h: which method, and LAPACK's ?syevd. The others are eigen_two_stage.h's. */
#include "solver/eigen.h"

#include <cblas.h>
#include <dlfcn.h>
#include <limits.h>

#include "mpi/error.h"
#include "solver/blas.h"
#include "solver/eigen_two_stage.h"

void blas_single_thread(void)
{
    /* An OpenBLAS built on OpenMP follows the calling thread's OpenMP setting, whatever
     * openblas_set_num_threads was told in another thread. */
    void (*set_threads)(int);
    *(void **)&set_threads = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    if (set_threads)
        set_threads(1);
    if (openblas_get_num_threads() != 1)
        openblas_set_num_threads(1);
}

enum { TWO_STAGE_FROM = 1024 }; /* where it is no slower than one stage on one worker */

enum eigen_method eigen_method_for(size_t element_bytes, size_t n)
{
    (void)element_bytes;
    return n < TWO_STAGE_FROM ? EIGEN_ONE_STAGE : EIGEN_TWO_STAGE;
}

/* Elements of ?syevd's work array: LAPACK's minimum and some more, as ssyevd passes sizes on as
 * floats and, at n = 4096, then finds its own minimum too small. */
static size_t syevd_work(size_t n)
{
    return 1 + 14 * n + 2 * n * n + n * n / 64;
}

static size_t syevd_iwork(size_t n)
{
    return 3 + 5 * n;
}

size_t eigen_work_bytes(enum eigen_method method, size_t element_bytes, size_t n)
{
    if (method != EIGEN_LAPACK)
        return eigen_two_stage_bytes(element_bytes, n);
    return syevd_work(n) * element_bytes + syevd_iwork(n) * sizeof(int) + 3 * 64;
}

static int solve_lapack(size_t element_bytes, struct arena *arena, size_t n, void *c, void *values)
{
    if (n > 30000 || syevd_work(n) > INT_MAX)
        return error_set("LAPACK's eigensolver takes matrices up to order 30000, not %zu; use the "
                         "two-stage method or a grid of ranks",
                         n);
    const int order = (int)n, lwork = (int)syevd_work(n), liwork = (int)syevd_iwork(n);
    void *work = arena_take(arena, syevd_work(n) * element_bytes);
    int *iwork = arena_take(arena, syevd_iwork(n) * sizeof *iwork);
    int info;

    if (!work || !iwork)
        return error_set("the eigensolver's work memory for order %zu is too small", n);
    if (element_bytes == sizeof(float))
        ssyevd_("V", "L", &order, c, &order, values, work, &lwork, iwork, &liwork, &info);
    else
        dsyevd_("V", "L", &order, c, &order, values, work, &lwork, iwork, &liwork, &info);
    if (info != 0)
        return error_set("LAPACK's %s failed on a matrix of order %zu (info %d)",
                         element_bytes == sizeof(float) ? "ssyevd" : "dsyevd", n, info);
    return 0;
}

static int solve(const struct crew *crew, enum eigen_method method, struct arena *arena, size_t n,
                 size_t element_bytes, void *c, void *values)
{
    const size_t used = arena->used;
    int status = 0;

    blas_single_thread();
    if (method == EIGEN_ONE_STAGE)
        return element_bytes == sizeof(float) ? eigen_one_stage_f32(crew, arena, n, c, values)
                                              : eigen_one_stage_f64(crew, arena, n, c, values);
    if (method == EIGEN_TWO_STAGE)
        return element_bytes == sizeof(float) ? eigen_two_stage_f32(crew, arena, n, c, values)
                                              : eigen_two_stage_f64(crew, arena, n, c, values);
    crew_wait(crew);
    if (crew->index == 0)
        status = solve_lapack(element_bytes, arena, n, c, values);
    arena->used = used;
    return crew_agree(crew, status);
}

int eigen_solve_f32(const struct crew *crew, enum eigen_method method, struct arena *arena,
                    size_t n, float *c, float *values)
{
    return solve(crew, method, arena, n, sizeof *c, c, values);
}

int eigen_solve_f64(const struct crew *crew, enum eigen_method method, struct arena *arena,
                    size_t n, double *c, double *values)
{
    return solve(crew, method, arena, n, sizeof *c, c, values);
}
