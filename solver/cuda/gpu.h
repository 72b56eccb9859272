#ifndef T2_SOLVER_CUDA_GPU_H
#define T2_SOLVER_CUDA_GPU_H
/* What the CUDA sources are written in. nvcc compiles them for devices; the host's C++ compiler
 * compiles the same files against tests/standin, a small stand-in for the CUDA runtime and the
 * libraries that runs kernels on the CPU, so that the back end is tested where there is no device.
 *
 * Therefore kernels use: __global__, __device__, __shared__ (static sizes), GPU_SHARED (dynamic),
 * threadIdx/blockIdx/blockDim/gridDim, __syncthreads, __shfl_*_sync, __fmaf_rn and friends; and
 * they are launched with GPU_LAUNCH. No atomics on floats: a sum's order is part of its
 * definition. C in style; templates over the element type where a kernel comes in two. */
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#ifdef T2_STANDIN
#include "standin.h" /* GPU_LAUNCH, GPU_SHARED */
#else
#define GPU_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                 \
    kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
/* type name[]: the block's dynamic shared memory */
#define GPU_SHARED(type, name)                                                                     \
    extern __shared__ unsigned char gpu_shared_bytes[];                                            \
    type *name = (type *)(void *)gpu_shared_bytes
#endif

#endif
