#ifndef T2_MODEL_GGUF_H
#define T2_MODEL_GGUF_H
/* Reads GGUF files (versions 2 and 3, little-endian), memory-mapped. Every size, count and offset
 * is checked against the file before use; nothing is allocated that the file's length does not
 * justify. Knows the container, not the models in it. Source: the GGUF specification of the ggml
 * project. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/tensor.h"

struct gguf;

/* Maps and checks the whole header. NULL with error_set. The caller frees. */
struct gguf *gguf_open(const char *path);
/* The same over memory that outlives the result (fuzzing); name stands for the path in errors. */
struct gguf *gguf_from_memory(const void *data, size_t n_bytes, const char *name);
void gguf_free(struct gguf *gguf);

const char *gguf_path(const struct gguf *gguf);

/* Metadata by key. Numbers convert from any integer (or float, bool) type that holds the value.
 * Return false where the key is absent or of another kind; the output is then untouched. */
bool gguf_get_int(const struct gguf *gguf, const char *key, int64_t *value);
bool gguf_get_float(const struct gguf *gguf, const char *key, double *value);
bool gguf_get_bool(const struct gguf *gguf, const char *key, bool *value);
/* The bytes lie in the map and are not NUL-terminated. */
bool gguf_get_string(const struct gguf *gguf, const char *key, const char **text, size_t *n_bytes);

/* Arrays. n is the element count. */
bool gguf_array_size(const struct gguf *gguf, const char *key, size_t *n);
/* Fills offsets into the map for all n strings of a string array: texts[i], lengths[i]; the caller
 * owns both arrays (of the size that gguf_array_size told). */
bool gguf_get_strings(const struct gguf *gguf, const char *key, const char **texts,
                      size_t *lengths);
/* Converts all elements of a numeric or bool array. */
bool gguf_get_ints(const struct gguf *gguf, const char *key, int64_t *values);
bool gguf_get_floats(const struct gguf *gguf, const char *key, float *values);

/* Iteration for inspection: the i-th key (NUL-terminated, owned by gguf) and a short printable form
 * of its value (at most size bytes). */
size_t gguf_n_keys(const struct gguf *gguf);
const char *gguf_key(const struct gguf *gguf, size_t i);
void gguf_describe_value(const struct gguf *gguf, size_t i, char *text, size_t size);

/* Tensors, under the file's own names, shapes in row-major order (rows first). */
size_t gguf_n_tensors(const struct gguf *gguf);
const struct tensor *gguf_tensor(const struct gguf *gguf, size_t i);

#endif
