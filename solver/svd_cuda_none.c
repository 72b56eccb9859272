/* What svd_cuda.h says in a build without CUDA. */
#include "mpi/error.h"
#include "solver/svd_cuda.h"

struct svd_cuda *svd_cuda_create(int device)
{
    (void)device;
    error_set("this t2 was built without CUDA: use --device cpu, or build it where nvcc is (cmake "
              "--preset cuda)");
    return NULL;
}

void svd_cuda_free(struct svd_cuda *cuda)
{
    (void)cuda;
}

int svd_cuda_solve(struct svd_cuda *cuda, const char *name, const float *w, size_t n_rows,
                   size_t n_columns, double *values, struct svd_cuda_found *found)
{
    (void)cuda, (void)w, (void)n_rows, (void)n_columns, (void)values, (void)found;
    return error_set("%s: this t2 was built without CUDA", name);
}

int svd_cuda_deliver(struct svd_cuda *cuda, const uint32_t *order, const double *values,
                     float *factor, double *orthogonality, double *residual)
{
    (void)cuda, (void)order, (void)values, (void)factor, (void)orthogonality, (void)residual;
    return error_set("this t2 was built without CUDA");
}

void svd_cuda_end(struct svd_cuda *cuda)
{
    (void)cuda;
}
