#ifndef T2_MODEL_TENSOR_H
#define T2_MODEL_TENSOR_H
/* A named array inside a memory-mapped checkpoint, and its conversion to f32. */
#include <stddef.h>
#include <stdint.h>

enum tensor_type {
    TENSOR_F32,
    TENSOR_F16,
    TENSOR_BF16,
    TENSOR_Q8_0,
    TENSOR_Q4_0,
    TENSOR_Q4_1,
    TENSOR_Q5_0,
    TENSOR_Q5_1,
    TENSOR_Q2_K,
    TENSOR_Q3_K,
    TENSOR_Q4_K,
    TENSOR_Q5_K,
    TENSOR_Q6_K,
    TENSOR_Q8_K,
    TENSOR_TYPE_COUNT
};

enum { TENSOR_MAX_DIMS = 4 };

struct tensor {
    const char *name; /* owned by the file that the tensor is in */
    const char *file; /* path of that file, for messages */
    enum tensor_type type;
    size_t n_dims, shape[TENSOR_MAX_DIMS]; /* row-major: shape[0] rows */
    const void *data;                      /* in the map */
    size_t n_bytes;
    /* GGUF stores the query and key projections of "llama" models with the two halves of each head
     * interleaved (for its own form of RoPE). n_heads > 0 says so, and reading undoes it: row
     * h*d + j (j < d/2) of the result is the file's row h*d + 2j, row h*d + d/2 + j is h*d + 2j+1.
     */
    size_t interleaved_heads;
};

/* "F32", "Q4_1", ... */
const char *tensor_type_name(enum tensor_type type);

/* Elements per block and bytes per block: (1, 4) for F32, (32, 20) for Q4_1, (256, 144) for Q4_K.
 */
size_t tensor_block_elements(enum tensor_type type);
size_t tensor_block_bytes(enum tensor_type type);

/* shape[0] and the product of the dimensions after it; a vector is one row of shape[0] elements. */
size_t tensor_n_rows(const struct tensor *t);
size_t tensor_row_elements(const struct tensor *t);

/* f32 of an IEEE half, exact for denormals, infinities and NaN. */
float tensor_f32_from_f16(uint16_t half);

/* Dequantises rows first .. first + n - 1 into out, f32 [n, row_elements]. The caller keeps
 * first + n <= n_rows. Thread-safe. A vector (n_dims 1) counts as one row of shape[0] elements. */
void tensor_read_rows(const struct tensor *t, size_t first, size_t n, float *out);

#endif
