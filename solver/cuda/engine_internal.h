#ifndef T2_SOLVER_CUDA_ENGINE_INTERNAL_H
#define T2_SOLVER_CUDA_ENGINE_INTERNAL_H
/* What the parts of the CUDA engine share: the device's state, and the way from the host's small
 * arrays to it. */
#include "solver/cuda/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif
#include "solver/engine_cuda.h"
#include "solver/engine_train.h"
#ifdef __cplusplus
}
#endif

/* Scratch on the device that outlives a call, one a purpose. */
enum cuda_slot {
    CUDA_SLOT_ATTENTION,
    CUDA_SLOT_HEAD,
    CUDA_SLOT_BACKWARD,
    CUDA_SLOT_SUMS,
    CUDA_SLOT_PRODUCT,
    CUDA_SLOT_COUNT
};

enum { CUDA_RETIRED = 24 };

struct cuda_product; /* product.cu: the algorithm chosen for a shape */

struct cuda_device {
    int number;
    int n_processors;    /* multiprocessors */
    cudaStream_t stream; /* of every operation, in the order of the calls */
    cublasLtHandle_t lt;
    /* The first failure of an operation that returns nothing; reported by the next that can. */
    cudaError_t error;
    const char *failed; /* what failed: "the product", ... */
    void *scratch[CUDA_SLOT_COUNT];
    size_t scratch_bytes[CUDA_SLOT_COUNT];
    /* A ring for what the host sends: pinned, and its place on the device. */
    char *ring_host, *ring;
    size_t ring_bytes, ring_used;
    char *retired[2 * CUDA_RETIRED]; /* rings that were too small; what was sent may be in use */
    int n_retired;
    struct cuda_product *products;
    size_t n_products;
};

static inline struct cuda_device *cuda_device_of(const struct engine *e)
{
    return (struct cuda_device *)e->device;
}

/* An argument that is a tensor: in the stand-in, checked to lie in the device's memory. */
#ifdef T2_STANDIN
#define CUDA_TENSOR(p) standin_expect_tensor(p, #p, __func__)
#else
#define CUDA_TENSOR(p) ((void)(p))
#endif

/* Host bytes on their way to the device: the device's address of a copy that operations called from
 * here on may read, until the next half ring of sends. The host's may be changed at once. NULL
 * after a failure (then recorded). */
const void *cuda_send(const struct engine *e, const void *host, size_t n_bytes);

/* Device bytes to the host; waits for what was called before. 0, or -1 with error_set. */
int cuda_fetch(const struct engine *e, void *host, const void *device, size_t n_bytes);

/* At least n_bytes, 256-byte aligned, contents unspecified; what was there is lost. NULL with a
 * failure recorded. */
void *cuda_scratch(const struct engine *e, enum cuda_slot slot, size_t n_bytes);

/* Remembers the first failure: error of the last launch or call, and what it was for. */
void cuda_check(const struct engine *e, cudaError_t error, const char *what);
/* After the launches of an operation. */
void cuda_launched(const struct engine *e, const char *what);
/* 0, or -1 with error_set for what has failed so far. */
int cuda_status(const struct engine *e);

/* The device's memory, on which the engine's tables work. */
extern const struct memory memory_cuda;

/* The parts of the tables. forward.cu, attention.cu, head.cu, product.cu: */
void cuda_embed(const struct engine *e, float *y, size_t ldy, const struct matrix *m,
                const int32_t *ids, size_t n);
void cuda_norm(const struct engine *e, void *x, size_t ldx, const float *h, size_t ldh,
               const int32_t *rows, size_t n_rows, const float *weight, size_t width, float eps);
void cuda_swiglu(const struct engine *e, void *x, size_t ldx, const float *gate_up, size_t ldg,
                 size_t up_offset, size_t n_rows, size_t width);
void cuda_add_bias(const struct engine *e, float *y, size_t ldy, const float *bias, size_t n_rows,
                   size_t width);
void cuda_product_run(const struct engine *e, float *y, size_t ldy, const void *x, size_t ldx,
                      size_t n_rows, const struct matrix *m, const float *bias, bool accumulate);
/* The rows first .. first + n of m alone (multiples of 16): y's column 0 is row `first`. */
void cuda_product_part(const struct engine *e, float *y, size_t ldy, const void *x, size_t ldx,
                       size_t n_rows, const struct matrix *m, size_t first, size_t n,
                       bool accumulate);
void cuda_products_free(struct cuda_device *device);
int cuda_attention(const struct engine *e, const struct attention_layer *a, struct kv_cache *cache,
                   const struct batch *batch, const float *qkv, size_t ldqkv, void *out,
                   size_t ldo);
int cuda_head(const struct engine *e, struct head_result *results, float *logits, size_t ldl,
              const void *x, size_t ldx, size_t n_rows, const struct matrix *m,
              const int32_t *targets);
/* train.cu, train_attention.cu, train_head.cu: */
extern const struct engine_train_ops engine_train_cuda;

#endif
