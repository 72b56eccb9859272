#ifndef T2_MODEL_SAFETENSORS_H
#define T2_MODEL_SAFETENSORS_H
/* Reads one safetensors file, memory-mapped: 8 bytes of header length, a JSON header that gives
 * every tensor's type, shape and place, then the data. Checks that each tensor's length is what its
 * type and shape make it, that it lies inside the file, and that none overlap. */
#include <stddef.h>

#include "model/tensor.h"

struct safetensors;

/* NULL with error_set. The caller frees. */
struct safetensors *safetensors_open(const char *path);
/* The same over memory that outlives the result; name stands for the path in errors. */
struct safetensors *safetensors_from_memory(const void *data, size_t n_bytes, const char *name);
void safetensors_free(struct safetensors *st);

/* The tensors, in name order. One whose element type t2 does not read has type TENSOR_TYPE_COUNT
 * and data NULL. Tensors with more than TENSOR_MAX_DIMS dimensions are checked but not listed. */
size_t safetensors_n_tensors(const struct safetensors *st);
const struct tensor *safetensors_tensor(const struct safetensors *st, size_t i);
/* The i-th tensor's element type as the file names it ("I8"). */
const char *safetensors_dtype(const struct safetensors *st, size_t i);

#endif
