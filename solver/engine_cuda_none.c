/* What engine_cuda.h says in a build without CUDA. */
#include "mpi/error.h"
#include "solver/engine_cuda.h"

int engine_cuda_count(void)
{
    return 0;
}

static int no_cuda(void)
{
    return error_set("this t2 was built without CUDA: use --device cpu, or build it where nvcc is "
                     "(cmake --preset cuda)");
}

int engine_cuda_describe(int device, char *text, size_t n)
{
    (void)device;
    if (n > 0)
        text[0] = '\0';
    return no_cuda();
}

int engine_create_cuda(struct engine *e, enum element element, enum isa isa, int n_threads,
                       int device)
{
    (void)e, (void)element, (void)isa, (void)n_threads, (void)device;
    return no_cuda();
}

const char *engine_cuda_order(enum element element)
{
    (void)element;
    return "cuda/none";
}
