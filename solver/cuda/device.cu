/* The CUDA engine: its device, its memory, and the way there and back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "solver/cuda/engine_internal.h"

extern "C" {
#include "mpi/error.h"
}

enum {
    RING_BYTES = 2 << 20,
    SEND_ALIGNMENT = 256,
    HOST_CLEARED = 1 << 16, /* bytes up to which the host clears new memory: it fills it, too */
};

/* ---- memory ---------------------------------------------------------------------------------- */

/* The process's device (engine_cuda.h: it uses one). The runtime keeps a current device for each
 * thread, and tensors are taken by several. */
static int current_device;

static void advise(void *p, size_t bytes)
{
#if CUDART_VERSION >= 13000
    cudaMemLocation location = {};
    location.type = cudaMemLocationTypeDevice;
    location.id = current_device;
    const cudaError_t error = cudaMemAdvise(p, bytes, cudaMemAdviseSetPreferredLocation, location);
#else
    const cudaError_t error =
        cudaMemAdvise(p, bytes, cudaMemAdviseSetPreferredLocation, current_device);
#endif
    if (error != cudaSuccess)
        cudaGetLastError(); /* a wish: some systems cannot */
}

/* Managed: the host may touch it while the device is idle. */
static void *cuda_take(size_t bytes)
{
    void *p = NULL;
    if (cudaSetDevice(current_device) != cudaSuccess ||
        cudaMallocManaged(&p, bytes) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    advise(p, bytes);
    if (bytes <= HOST_CLEARED) {
        memset(p, 0, bytes);
    } else if (cudaMemset(p, 0, bytes) != cudaSuccess ||
               cudaStreamSynchronize(NULL) != cudaSuccess) {
        cudaGetLastError();
        cudaFree(p);
        return NULL;
    }
    return p;
}

static void cuda_give(void *p, size_t bytes)
{
    (void)bytes;
    if (p && cudaFree(p) != cudaSuccess) /* after all that uses it */
        cudaGetLastError();
}

extern const struct memory memory_cuda = {"cuda", cuda_take, cuda_give};

/* ---- failures -------------------------------------------------------------------------------- */

void cuda_check(const struct engine *e, cudaError_t error, const char *what)
{
    struct cuda_device *device = cuda_device_of(e);
    if (error == cudaSuccess)
        return;
    cudaGetLastError();
    if (device->error == cudaSuccess) {
        device->error = error;
        device->failed = what;
    }
}

void cuda_launched(const struct engine *e, const char *what)
{
    cuda_check(e, cudaGetLastError(), what);
}

int cuda_status(const struct engine *e)
{
    const struct cuda_device *device = cuda_device_of(e);
    if (device->error == cudaSuccess)
        return 0;
    return error_set("CUDA device %d: %s failed: %s%s", device->number, device->failed,
                     cudaGetErrorString(device->error),
                     device->error == cudaErrorMemoryAllocation
                         ? "; use a smaller batch, or a device with more memory"
                         : "");
}

/* ---- between the host and the device --------------------------------------------------------- */

static cudaError_t ring_create(struct cuda_device *device, size_t bytes)
{
    char *host = NULL, *ring = NULL;
    cudaError_t error = cudaMallocHost(&host, bytes);
    if (error == cudaSuccess)
        error = cudaMalloc(&ring, bytes);
    if (error != cudaSuccess) {
        cudaFreeHost(host);
        return error;
    }
    device->ring_host = host;
    device->ring = ring;
    device->ring_bytes = bytes;
    device->ring_used = 0;
    return cudaSuccess;
}

/* A larger ring. What was sent through the old one may still be wanted. */
static cudaError_t ring_grow(struct cuda_device *device, size_t bytes)
{
    char *host = device->ring_host, *ring = device->ring;
    if (device->n_retired == CUDA_RETIRED)
        return cudaErrorMemoryAllocation;
    const cudaError_t error = ring_create(device, bytes);
    if (error == cudaSuccess) {
        device->retired[2 * device->n_retired] = host;
        device->retired[2 * device->n_retired + 1] = ring;
        device->n_retired++;
    }
    return error;
}

const void *cuda_send(const struct engine *e, const void *host, size_t n_bytes)
{
    struct cuda_device *device = cuda_device_of(e);
    const size_t size = round_up(n_bytes > 0 ? n_bytes : 1, SEND_ALIGNMENT);
    cudaError_t error = cudaSuccess;

    if (size > device->ring_bytes / 2)
        error = ring_grow(device, round_up(2 * size, RING_BYTES));
    if (error == cudaSuccess) {
        const size_t half_bytes = device->ring_bytes / 2;
        const size_t in_half = device->ring_used % half_bytes;
        /* A half is used again when all that read it is done. */
        if (in_half == 0 || in_half + size > half_bytes) {
            if (in_half > 0)
                device->ring_used += half_bytes - in_half;
            device->ring_used %= device->ring_bytes;
            error = cudaStreamSynchronize(device->stream);
        }
    }
    if (error == cudaSuccess) {
        const size_t at = device->ring_used;
        memcpy(device->ring_host + at, host, n_bytes);
        device->ring_used += size;
        if (n_bytes > 0)
            error = cudaMemcpyAsync(device->ring + at, device->ring_host + at, n_bytes,
                                    cudaMemcpyHostToDevice, device->stream);
        if (error == cudaSuccess)
            return device->ring + at;
    }
    cuda_check(e, error, "sending to the device");
    return NULL;
}

int cuda_fetch(const struct engine *e, void *host, const void *device_bytes, size_t n_bytes)
{
    struct cuda_device *device = cuda_device_of(e);
    cudaError_t error = cudaSuccess;
    if (n_bytes > 0)
        error =
            cudaMemcpyAsync(host, device_bytes, n_bytes, cudaMemcpyDeviceToHost, device->stream);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(device->stream);
    cuda_check(e, error, "fetching from the device");
    return cuda_status(e);
}

void *cuda_scratch(const struct engine *e, enum cuda_slot slot, size_t n_bytes)
{
    struct cuda_device *device = cuda_device_of(e);
    const size_t bytes = round_up(n_bytes > 0 ? n_bytes : 1, SEND_ALIGNMENT);
    if (device->scratch_bytes[slot] >= bytes)
        return device->scratch[slot];
    cuda_check(e, cudaStreamSynchronize(device->stream), "the device's work");
    cudaFree(device->scratch[slot]);
    device->scratch[slot] = NULL;
    device->scratch_bytes[slot] = 0;
    const cudaError_t error = cudaMalloc(&device->scratch[slot], bytes);
    if (error != cudaSuccess) {
        device->scratch[slot] = NULL;
        cuda_check(e, error, "taking memory to work in");
        return NULL;
    }
    device->scratch_bytes[slot] = bytes;
    return device->scratch[slot];
}

/* ---- the table ------------------------------------------------------------------------------- */

static void cuda_wait(const struct engine *e)
{
    cuda_check(e, cudaStreamSynchronize(cuda_device_of(e)->stream), "the device's work");
}

static void cuda_zero(const struct engine *e, void *p, size_t n_bytes)
{
    if (n_bytes == 0)
        return;
    CUDA_TENSOR(p);
    cuda_check(e, cudaMemsetAsync(p, 0, n_bytes, cuda_device_of(e)->stream), "clearing a tensor");
}

static void cuda_copy(const struct engine *e, void *to, const void *from, size_t n_bytes)
{
    if (n_bytes == 0)
        return;
    CUDA_TENSOR(to);
    CUDA_TENSOR(from);
    cuda_check(
        e, cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToDevice, cuda_device_of(e)->stream),
        "copying a tensor");
}

static struct engine_ops table(void)
{
    struct engine_ops ops = {};
    ops.device = "cuda";
    ops.wait = cuda_wait;
    ops.zero = cuda_zero;
    ops.copy = cuda_copy;
    ops.add_bias = cuda_add_bias;
    ops.embed = cuda_embed;
    ops.norm = cuda_norm;
    ops.product = cuda_product_run;
    ops.attention = cuda_attention;
    ops.swiglu = cuda_swiglu;
    ops.head = cuda_head;
    return ops;
}

static const struct engine_ops cuda_ops = table();

/* ---- devices --------------------------------------------------------------------------------- */

int engine_cuda_count(void)
{
    int n = 0;
    if (cudaGetDeviceCount(&n) == cudaSuccess)
        return n;
    cudaGetLastError();
    return 0;
}

static int properties_of(int device, cudaDeviceProp *properties)
{
    const int n = engine_cuda_count();
    if (device < 0 || device >= n) {
        if (n == 0)
            return error_set("there is no CUDA device here (nvidia-smi lists them): use "
                             "--device cpu");
        return error_set("there is no CUDA device %d: this process has 0 to %d", device, n - 1);
    }
    const cudaError_t error = cudaGetDeviceProperties(properties, device);
    if (error == cudaSuccess)
        return 0;
    cudaGetLastError();
    return error_set("CUDA device %d cannot be asked what it is: %s", device,
                     cudaGetErrorString(error));
}

int engine_cuda_describe(int device, char *text, size_t n)
{
    cudaDeviceProp properties;
    if (n > 0)
        text[0] = '\0';
    if (properties_of(device, &properties) != 0)
        return -1;
    snprintf(text, n, "%s, %.0f GB, compute %d.%d", properties.name,
             (double)properties.totalGlobalMem * 1e-9, properties.major, properties.minor);
    return 0;
}

static void free_device(struct engine *e)
{
    struct cuda_device *device = cuda_device_of(e);
    if (!device)
        return;
    if (device->stream)
        cudaStreamSynchronize(device->stream);
    cuda_products_free(device);
    for (int i = 0; i < CUDA_SLOT_COUNT; i++)
        cudaFree(device->scratch[i]);
    for (int i = 0; i < device->n_retired; i++) {
        cudaFreeHost(device->retired[2 * i]);
        cudaFree(device->retired[2 * i + 1]);
    }
    cudaFreeHost(device->ring_host);
    cudaFree(device->ring);
    if (device->lt)
        cublasLtDestroy(device->lt);
    if (device->stream)
        cudaStreamDestroy(device->stream);
    cudaGetLastError();
    free(device);
    e->device = NULL;
}

int engine_create_cuda(struct engine *e, enum element element, enum isa isa, int n_threads,
                       int number)
{
    cudaDeviceProp properties;
    cudaError_t error;

    memset(e, 0, sizeof *e);
    if (properties_of(number, &properties) != 0)
        return -1;
    if (!properties.managedMemory || !properties.concurrentManagedAccess)
        return error_set("CUDA device %d (%s) cannot share its memory with a busy host: use "
                         "--device cpu",
                         number, properties.name);
    struct cuda_device *device = (struct cuda_device *)calloc(1, sizeof *device);
    if (!device)
        return error_set("no memory for CUDA device %d", number);
    device->number = number;
    device->n_processors = properties.multiProcessorCount;
    e->ops = &cuda_ops;
    e->train = &engine_train_cuda;
    e->memory = &memory_cuda;
    e->layout = MATRIX_ROWS;
    e->device = device;
    e->free_device = free_device;
    e->order = engine_cuda_order(element);
    e->element = element;
    e->isa = isa;
    e->kernels = kernels_find(element, isa);
    e->math = vecmath_find(isa);
    engine_set_kv_form(e, element == ELEMENT_F32 ? KV_F32 : KV_BF16);

    if ((error = cudaSetDevice(number)) != cudaSuccess ||
        (error = cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking)) !=
            cudaSuccess ||
        (error = ring_create(device, RING_BYTES)) != cudaSuccess) {
        error_set("CUDA device %d (%s) cannot be used: %s", number, properties.name,
                  cudaGetErrorString(error));
        goto failed;
    }
    if (cublasLtCreate(&device->lt) != CUBLAS_STATUS_SUCCESS) {
        device->lt = NULL;
        error_set("CUDA device %d (%s): cuBLASLt cannot be started; is its memory in use?", number,
                  properties.name);
        goto failed;
    }
    if (n_threads > 1 && !(e->team = team_create(n_threads)))
        goto failed;
    current_device = number;
    return 0;
failed:
    engine_free(e);
    return -1;
}

const char *engine_cuda_order(enum element element)
{
    return element == ELEMENT_F32 ? "cuda/f32" : "cuda/bf16";
}
