#ifndef T2_STANDIN_H
#define T2_STANDIN_H
/* A small stand-in for the part of the CUDA runtime, cuBLASLt and cuSOLVER that solver/cuda calls,
 * on the CPU, so that the whole back end runs under the ordinary tests where there is no device.
 * For tests alone; never installed, and no emulator of anybody's device.
 *
 * What it is strict about, because a device is or may be:
 *
 *   order      launches, fills and asynchronous copies wait in their stream until something
 *              synchronises with it: a host that reads or writes too early meets stale or changed
 *              data. Blocks of a grid run one after the other, in a scrambled order.
 *   threads    of a block are fibers that run until they meet a barrier. A barrier that some
 *              threads of a block (for shuffles: of a warp) do not reach, or that they reach at
 *              different places, ends the program with a sentence. Shuffles take full warps.
 *   memory     new memory, and dynamic shared memory before each block, is full of ones (NaNs).
 *
 * Environment:
 *
 *   T2_STANDIN_DEVICES=n       so many devices (2)
 *   T2_STANDIN_FAIL_AFTER=n    the n-th allocation, copy, launch or product fails, once
 *   T2_STANDIN_COVERAGE=file   at the end, a line "kernel launches" for each kernel is appended
 *
 * Calls may come from several threads; kernels run on the one that synchronises. */
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As T2_STANDIN_FAIL_AFTER, counted from now; 0: never. */
void standin_fail_after(long n);
/* Allocations, copies, launches and products so far. */
long standin_operations(void);
/* Bytes that are allocated now. */
size_t standin_allocated(void);
/* Ends the program where p is not in memory of the runtime. */
void standin_expect_tensor(const void *p, const char *what, const char *function);
/* cuBLASLt's heuristics name an algorithm with another order of additions for more than 64 rows
 * (columns of the result, in its terms). */
void standin_vary_algorithms(int on);

#ifdef __cplusplus
}

#include <functional>
#include <tuple>
#include <utility>

#include "cuda_runtime.h"

/* Queues a call on a stream; false after a made failure. */
bool standin_count(const char *what);
void standin_enqueue(cudaStream_t stream, std::function<void()> work);
void standin_run_grid(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                      const std::function<void()> &thread);
void standin_launch(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                    cudaStream_t stream, std::function<void()> thread);
unsigned char *standin_dynamic_shared(void);

template <typename... Parameters, typename... Arguments>
void standin_launch_kernel(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                           cudaStream_t stream, void (*kernel)(Parameters...),
                           Arguments... arguments)
{
    std::tuple<Parameters...> copies(static_cast<Parameters>(arguments)...);
    standin_launch(name, grid, block, shared_bytes, stream,
                   [kernel, copies] { std::apply(kernel, copies); });
}

#define GPU_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                 \
    standin_launch_kernel(#kernel, (grid), (block), (shared_bytes), (stream), kernel, __VA_ARGS__)
#define GPU_SHARED(type, name) type *name = (type *)(void *)standin_dynamic_shared()
#endif

#endif
