/* The bf16 product kernel of AMX; its logic is in kernels_amx.inc. */
#ifdef T2_BUILD_AMX
#include <immintrin.h>

/* gcc's intrinsic names only the first 8 bytes of its operand: the barrier keeps the others. */
#define AMX_CONFIG(config)                                                                         \
    do {                                                                                           \
        __asm__ volatile("" : : "r"(config) : "memory");                                           \
        _tile_loadconfig(config);                                                                  \
    } while (0)
#define AMX_RELEASE() _tile_release()
#define AMX_ZERO(t) _tile_zero(t)
#define AMX_LOAD(t, from, bytes) _tile_loadd(t, from, bytes)
#define AMX_DP(c, a, b) _tile_dpbf16ps(c, a, b)
#define AMX_STORE(t, to, bytes) _tile_stored(t, to, bytes)
#define AMX_PREFETCH(from) _mm_prefetch((const char *)(from), _MM_HINT_T1)
#include "solver/kernels_amx.inc"

const struct kernels kernels_bf16_amx = {"bf16/amx", ISA_AMX, ELEMENT_BF16, amx_product, "tile32"};
#else
typedef int kernels_amx_are_not_built;
#endif
