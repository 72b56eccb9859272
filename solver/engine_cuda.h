#ifndef T2_SOLVER_ENGINE_CUDA_H
#define T2_SOLVER_ENGINE_CUDA_H
/* The engine on one CUDA device (solver/cuda/). Without the CUDA Toolkit at build time the
 * functions are there and say so.
 *
 * Its order of additions is its own ("cuda/..." in engine_order): every operation treats rows
 * alone and cuts sums at fixed places, as the CPU's does, so bits do not depend on the batch, on
 * chunks or on the number of ranks; they do differ from the CPU's. */
#include "solver/engine.h"

/* Devices that this process can use; 0 without any, or when built without CUDA. */
int engine_cuda_count(void);

/* "NVIDIA H100 80GB HBM3, 80 GB, compute 9.0"; `text` [n]. -1 with error_set when there is no
 * such device. */
int engine_cuda_describe(int device, char *text, size_t n);

/* An engine on a device, which becomes the process's current one: a process uses one. isa is the
 * level of what the host still does (packing, conversions). -1 with error_set. */
int engine_create_cuda(struct engine *e, enum element element, enum isa isa, int n_threads,
                       int device);

/* "cuda/..." */
const char *engine_cuda_order(enum element element);

#endif
