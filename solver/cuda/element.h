#ifndef T2_SOLVER_CUDA_ELEMENT_H
#define T2_SOLVER_CUDA_ELEMENT_H
/* Element and reduction functions of the kernels. Arithmetic is written so that the host gives the
 * same bits (gpu.h): fused multiply-adds where __fmaf_rn stands, and nowhere else (--fmad=false).
 */
#include "solver/cuda/gpu.h"

extern "C" {
#include "solver/kernels.h"
}

/* The element types of engine.h, f32 and bf16, as kernels name them. */
typedef __nv_bfloat16 bf16;

enum { GPU_WARP = 32, GPU_BLOCK = 256 };

/* Threads that share the sums of a row: of whole warps, and of the width alone. */
static inline unsigned gpu_row_threads(size_t width)
{
    return width >= 4 * GPU_BLOCK ? (unsigned)GPU_BLOCK
                                  : (unsigned)round_up(width / 4 + 1, GPU_WARP);
}

static __device__ __forceinline__ float to_float(float x)
{
    return x;
}

static __device__ __forceinline__ float to_float(bf16 x)
{
    return __bfloat162float(x);
}

static __device__ __forceinline__ void store_element(float *to, float x)
{
    *to = x;
}

static __device__ __forceinline__ void store_element(bf16 *to, float x)
{
    *to = __float2bfloat16_rn(x);
}

/* e^x as solver/vecmath_kernels.inc has it: 0 below the smallest normal number. */
static __device__ __forceinline__ float gpu_exp(float x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23 */
    float c = x > 89.0f ? 89.0f : x;
    c = c < -88.0f ? -88.0f : c;
    const float shifted = __fmaf_rn(c, 0x1.715476p0f, magic);
    const float n = shifted - magic;
    float r = __fmaf_rn(n, -0x1.62e4p-1f, c);
    r = __fmaf_rn(n, -0x1.7f7d1cp-20f, r);
    float p = 1.9875691500e-4f;
    p = __fmaf_rn(p, r, 1.3981999507e-3f);
    p = __fmaf_rn(p, r, 8.3334519073e-3f);
    p = __fmaf_rn(p, r, 4.1665795894e-2f);
    p = __fmaf_rn(p, r, 1.6666665459e-1f);
    p = __fmaf_rn(p, r, 5.0000001201e-1f);
    p = __fmaf_rn(p, r * r, r) + 1.0f;
    const int power = (int)(__float_as_uint(shifted) - 0x4b400000u);
    const int half = power >> 1;
    const float scale1 = __uint_as_float((unsigned)(half + 127) << 23);
    const float scale2 = __uint_as_float((unsigned)(power - half + 127) << 23);
    const float y = p * scale1 * scale2;
    return x < -0x1.5d589ep6f ? 0.0f : y;
}

static __device__ __forceinline__ float warp_sum(float x)
{
    for (int bits = GPU_WARP / 2; bits > 0; bits /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, bits);
    return x;
}

static __device__ __forceinline__ float warp_max(float x)
{
    for (int bits = GPU_WARP / 2; bits > 0; bits /= 2) {
        const float y = __shfl_xor_sync(0xffffffffu, x, bits);
        x = y > x ? y : x;
    }
    return x;
}

/* Of all threads of a block of whole warps; `shared` [warps] is free again after the next barrier.
 * The warps' sums are added first to last. */
static __device__ __forceinline__ float block_sum(float x, float *shared)
{
    const unsigned n_warps = blockDim.x / GPU_WARP;
    x = warp_sum(x);
    if (threadIdx.x % GPU_WARP == 0)
        shared[threadIdx.x / GPU_WARP] = x;
    __syncthreads();
    float sum = 0;
    for (unsigned w = 0; w < n_warps; w++)
        sum += shared[w];
    return sum;
}

#endif
