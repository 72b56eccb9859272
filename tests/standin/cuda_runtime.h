#ifndef T2_STANDIN_CUDA_RUNTIME_H
#define T2_STANDIN_CUDA_RUNTIME_H
/* Stand-in for the part of the CUDA runtime's interface that solver/cuda calls; see standin.h.
 * Names and meanings are those of the CUDA Runtime API and the CUDA C++ Programming Guide. */
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define CUDART_VERSION 13000

/* ---- the language --------------------------------------------------------------------------- */

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __constant__ static
#define __launch_bounds__(...)
/* One block runs at a time. */
#define __shared__ static

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};
struct uint3 {
    unsigned x, y, z;
};
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};

static inline float2 make_float2(float x, float y)
{
    return float2{x, y};
}

static inline float4 make_float4(float x, float y, float z, float w)
{
    return float4{x, y, z, w};
}

static inline uint2 make_uint2(unsigned x, unsigned y)
{
    return uint2{x, y};
}

static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return uint4{x, y, z, w};
}

void standin_syncthreads(int line);
void standin_shuffle(int line, unsigned mask, int width, const void *value, void *result,
                     size_t size, int from);

#define __syncthreads() standin_syncthreads(__LINE__)
#define __syncwarp(...) standin_syncwarp(__LINE__)

static inline int standin_lane(void)
{
    return (int)((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32);
}

static inline void standin_syncwarp(int line)
{
    int none = 0, got;
    standin_shuffle(line, 0xffffffffu, 32, &none, &got, sizeof none, standin_lane());
}

template <typename T>
static inline T standin_shuffle_from(int line, unsigned mask, T value, int from, int width)
{
    T result;
    standin_shuffle(line, mask, width, &value, &result, sizeof value, from);
    return result;
}

template <typename T>
static inline T standin_shuffle_xor(int line, unsigned mask, T value, int bits, int width = 32)
{
    const int from = standin_lane() ^ bits;
    return standin_shuffle_from(
        line, mask, value, from / width > standin_lane() / width ? standin_lane() : from, width);
}

template <typename T>
static inline T standin_shuffle_down(int line, unsigned mask, T value, int delta, int width = 32)
{
    const int lane = standin_lane();
    return standin_shuffle_from(line, mask, value,
                                lane % width + delta < width ? lane + delta : lane, width);
}

template <typename T>
static inline T standin_shuffle_up(int line, unsigned mask, T value, int delta, int width = 32)
{
    const int lane = standin_lane();
    return standin_shuffle_from(line, mask, value, lane % width >= delta ? lane - delta : lane,
                                width);
}

template <typename T>
static inline T standin_shuffle_get(int line, unsigned mask, T value, int from, int width = 32)
{
    return standin_shuffle_from(line, mask, value, standin_lane() / width * width + from % width,
                                width);
}

#define __shfl_xor_sync(...) standin_shuffle_xor(__LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) standin_shuffle_down(__LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) standin_shuffle_up(__LINE__, __VA_ARGS__)
#define __shfl_sync(...) standin_shuffle_get(__LINE__, __VA_ARGS__)

/* One thread runs at a time: a plain read and write is atomic. */
template <typename T> static inline T atomicAdd(T *at, T value)
{
    static_assert(static_cast<T>(0.5) == 0,
                  "no atomics on floats: a sum's order is its definition");
    const T old = *at;
    *at = old + value;
    return old;
}

template <typename T> static inline T atomicMax(T *at, T value)
{
    const T old = *at;
    *at = value > old ? value : old;
    return old;
}

template <typename T> static inline T atomicMin(T *at, T value)
{
    const T old = *at;
    *at = value < old ? value : old;
    return old;
}

static inline void __threadfence(void)
{
}

static inline float __fmaf_rn(float x, float y, float z)
{
    return fmaf(x, y, z);
}

static inline float __fadd_rn(float x, float y)
{
    return x + y;
}

static inline float __fsub_rn(float x, float y)
{
    return x - y;
}

static inline float __fmul_rn(float x, float y)
{
    return x * y;
}

static inline float __fdiv_rn(float x, float y)
{
    return x / y;
}

static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}

static inline double __fma_rn(double x, double y, double z)
{
    return fma(x, y, z);
}

static inline double __dadd_rn(double x, double y)
{
    return x + y;
}

static inline double __dmul_rn(double x, double y)
{
    return x * y;
}

template <typename To, typename From> static inline To standin_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

static inline float __uint_as_float(unsigned x)
{
    return standin_bits<float>(x);
}

static inline float __int_as_float(int x)
{
    return standin_bits<float>(x);
}

static inline unsigned __float_as_uint(float x)
{
    return standin_bits<unsigned>(x);
}

static inline int __float_as_int(float x)
{
    return standin_bits<int>(x);
}

static inline unsigned __umulhi(unsigned x, unsigned y)
{
    return (unsigned)((uint64_t)x * y >> 32);
}

static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y)
{
    return (unsigned long long)((unsigned __int128)x * y >> 64);
}

template <typename T> static inline T __ldg(const T *p)
{
    return *p;
}

template <typename T> static inline T min(T x, T y)
{
    return y < x ? y : x;
}

template <typename T> static inline T max(T x, T y)
{
    return x < y ? y : x;
}

/* ---- the runtime ----------------------------------------------------------------------------- */

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNotReady = 600,
    cudaErrorLaunchFailure = 719,
    cudaErrorUnknown = 999
};

enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};

enum { cudaMemAttachGlobal = 1, cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
enum { cudaHostAllocDefault = 0 };

enum cudaMemoryAdvise {
    cudaMemAdviseSetReadMostly = 1,
    cudaMemAdviseSetPreferredLocation = 3,
    cudaMemAdviseSetAccessedBy = 5
};
enum cudaMemLocationType { cudaMemLocationTypeDevice = 1, cudaMemLocationTypeHost = 2 };
struct cudaMemLocation {
    cudaMemLocationType type;
    int id;
};

enum cudaMemoryType {
    cudaMemoryTypeUnregistered,
    cudaMemoryTypeHost,
    cudaMemoryTypeDevice,
    cudaMemoryTypeManaged
};
struct cudaPointerAttributes {
    cudaMemoryType type;
    int device;
    void *devicePointer, *hostPointer;
};

struct cudaUUID_t {
    char bytes[16];
};
struct cudaDeviceProp {
    char name[256];
    cudaUUID_t uuid;
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin;
    int major, minor, multiProcessorCount, maxThreadsPerBlock, concurrentManagedAccess,
        managedMemory, integrated;
    int maxGridSize[3];
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

typedef struct standin_stream *cudaStream_t;
typedef struct standin_event *cudaEvent_t;

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaMemGetInfo(size_t *free, size_t *total);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);

cudaError_t standin_allocate(void **p, size_t bytes, cudaMemoryType type);
cudaError_t cudaFree(void *p);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *p);
cudaError_t cudaMemAdvise(const void *p, size_t bytes, cudaMemoryAdvise advice,
                          cudaMemLocation location);
cudaError_t cudaMemPrefetchAsync(const void *p, size_t bytes, cudaMemLocation location,
                                 unsigned flags, cudaStream_t stream = nullptr);

template <typename T> static inline cudaError_t cudaMalloc(T **p, size_t bytes)
{
    return standin_allocate((void **)p, bytes, cudaMemoryTypeDevice);
}

template <typename T>
static inline cudaError_t cudaMallocManaged(T **p, size_t bytes, unsigned = cudaMemAttachGlobal)
{
    return standin_allocate((void **)p, bytes, cudaMemoryTypeManaged);
}

template <typename T> static inline cudaError_t cudaMallocHost(T **p, size_t bytes, unsigned = 0)
{
    return standin_allocate((void **)p, bytes, cudaMemoryTypeHost);
}

cudaError_t cudaMemset(void *p, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream = nullptr);

cudaError_t cudaStreamCreate(cudaStream_t *stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end);

template <typename F> static inline cudaError_t cudaFuncSetAttribute(F *, cudaFuncAttribute, int)
{
    return cudaSuccess;
}

#endif
