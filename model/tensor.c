/* Block formats as the ggml project defines them (ggml-common.h); every formula keeps the order of
 * operations of its reference, so that results are bit-equal in f32. Loops have constant trip
 * counts, which is what compilers vectorise without being asked twice. */
#include "model/tensor.h"

#include <string.h>

enum { BLOCK = 32, SUPER = 256 };

static const struct {
    const char *name;
    size_t elements, bytes;
} types[TENSOR_TYPE_COUNT] = {
    [TENSOR_F32] = {"F32", 1, 4},
    [TENSOR_F16] = {"F16", 1, 2},
    [TENSOR_BF16] = {"BF16", 1, 2},
    [TENSOR_Q8_0] = {"Q8_0", BLOCK, 2 + 32},
    [TENSOR_Q4_0] = {"Q4_0", BLOCK, 2 + 16},
    [TENSOR_Q4_1] = {"Q4_1", BLOCK, 2 + 2 + 16},
    [TENSOR_Q5_0] = {"Q5_0", BLOCK, 2 + 4 + 16},
    [TENSOR_Q5_1] = {"Q5_1", BLOCK, 2 + 2 + 4 + 16},
    [TENSOR_Q2_K] = {"Q2_K", SUPER, 16 + 64 + 2 + 2},
    [TENSOR_Q3_K] = {"Q3_K", SUPER, 32 + 64 + 12 + 2},
    [TENSOR_Q4_K] = {"Q4_K", SUPER, 2 + 2 + 12 + 128},
    [TENSOR_Q5_K] = {"Q5_K", SUPER, 2 + 2 + 12 + 32 + 128},
    [TENSOR_Q6_K] = {"Q6_K", SUPER, 128 + 64 + 16 + 2},
    [TENSOR_Q8_K] = {"Q8_K", SUPER, 4 + 256 + 32},
};

const char *tensor_type_name(enum tensor_type type)
{
    return types[type].name;
}

size_t tensor_block_elements(enum tensor_type type)
{
    return types[type].elements;
}

size_t tensor_block_bytes(enum tensor_type type)
{
    return types[type].bytes;
}

size_t tensor_n_rows(const struct tensor *t)
{
    return t->n_dims > 1 ? t->shape[0] : 1;
}

size_t tensor_row_elements(const struct tensor *t)
{
    size_t n = 1;

    for (size_t i = t->n_dims > 1 ? 1 : 0; i < t->n_dims; i++)
        n *= t->shape[i];
    return n;
}

/* Written with masks in place of branches, so that a loop over it becomes vector code. Denormals go
 * through an integer: a flush-to-zero mode of the processor does not change them. */
static inline float f32_from_f16(uint16_t half)
{
    uint32_t magnitude = half & 0x7fffu, sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t is_denormal = 0u - (uint32_t)(magnitude < 0x400u);
    uint32_t is_special = 0u - (uint32_t)(magnitude >= 0x7c00u); /* infinity, NaN: exponent 255 */
    uint32_t normal = (magnitude << 13) + (112u << 23) + (is_special & (112u << 23));
    float denormal = (float)(int32_t)magnitude * 0x1p-24f, value;
    uint32_t bits;

    memcpy(&bits, &denormal, sizeof bits);
    bits = (bits & is_denormal) | (normal & ~is_denormal) | sign;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float tensor_f32_from_f16(uint16_t half)
{
    return f32_from_f16(half);
}

static inline float read_half(const uint8_t *p)
{
    uint16_t half;

    memcpy(&half, p, sizeof half);
    return f32_from_f16(half);
}

static void read_f16(const uint8_t *restrict in, size_t n, float *restrict out)
{
    uint16_t halves[BLOCK];
    size_t i = 0;

    for (; i + BLOCK <= n; i += BLOCK) {
        memcpy(halves, in + 2 * i, sizeof halves);
        for (int j = 0; j < BLOCK; j++)
            out[i + (size_t)j] = f32_from_f16(halves[j]);
    }
    for (; i < n; i++)
        out[i] = read_half(in + 2 * i);
}

static void read_bf16(const uint8_t *restrict in, size_t n, float *restrict out)
{
    uint16_t halves[BLOCK];
    uint32_t words[BLOCK];
    size_t i = 0;

    for (; i + BLOCK <= n; i += BLOCK) {
        memcpy(halves, in + 2 * i, sizeof halves);
        for (int j = 0; j < BLOCK; j++)
            words[j] = (uint32_t)halves[j] << 16;
        memcpy(out + i, words, sizeof words);
    }
    for (; i < n; i++) {
        memcpy(halves, in + 2 * i, sizeof *halves);
        words[0] = (uint32_t)halves[0] << 16;
        memcpy(out + i, words, sizeof *words);
    }
}

/* {half d; int8 q[32]}: q d */
static void block_q8_0(const uint8_t *restrict in, float *restrict out)
{
    float d = read_half(in);

    for (int i = 0; i < BLOCK; i++)
        out[i] = (float)(int8_t)in[2 + i] * d;
}

/* {half d; 16 bytes of two nibbles, low ones first}: (q - 8) d */
static void block_q4_0(const uint8_t *restrict in, float *restrict out)
{
    float d = read_half(in);

    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((in[2 + i] & 15) - 8);
        out[16 + i] = d * (float)((in[2 + i] >> 4) - 8);
    }
}

/* {half d, m; 16 bytes of nibbles}: q d + m */
static void block_q4_1(const uint8_t *restrict in, float *restrict out)
{
    float d = read_half(in), m = read_half(in + 2);

    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(in[4 + i] & 15) + m;
        out[16 + i] = d * (float)(in[4 + i] >> 4) + m;
    }
}

/* 32 bits as 32 bytes of 0 or 16. Per byte: copies of it, one bit kept in each, non-zero told by
 * the carry into bit 7. */
static void spread_fifth_bits(const uint8_t *bits, uint8_t spread[BLOCK])
{
    for (int i = 0; i < 4; i++) {
        uint64_t x = (bits[i] * 0x0101010101010101u) & 0x8040201008040201u;
        x = ((x + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u) << 4;
        memcpy(spread + 8 * i, &x, sizeof x);
    }
}

/* {half d; 32 fifth bits; 16 bytes of nibbles}: (q - 16) d */
static void block_q5_0(const uint8_t *restrict in, float *restrict out)
{
    float d = read_half(in);
    uint8_t fifth[BLOCK];

    spread_fifth_bits(in + 2, fifth);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(((in[6 + i] & 15) | fifth[i]) - 16);
        out[16 + i] = d * (float)(((in[6 + i] >> 4) | fifth[16 + i]) - 16);
    }
}

/* {half d, m; 32 fifth bits; 16 bytes of nibbles}: q d + m */
static void block_q5_1(const uint8_t *restrict in, float *restrict out)
{
    float d = read_half(in), m = read_half(in + 2);
    uint8_t fifth[BLOCK];

    spread_fifth_bits(in + 4, fifth);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((in[8 + i] & 15) | fifth[i]) + m;
        out[16 + i] = d * (float)((in[8 + i] >> 4) | fifth[16 + i]) + m;
    }
}

/* {16 bytes: low nibble scale, high nibble min; 64 bytes of four 2-bit q; half d, dmin} */
static void block_q2_k(const uint8_t *restrict in, float *restrict out)
{
    float d = read_half(in + 80), dmin = read_half(in + 82);

    for (int group = 0; group < 16; group++) {
        float scale = d * (float)(in[group] & 15), min = dmin * (float)(in[group] >> 4);
        /* 32 bytes hold 128 elements: two groups side by side at each of four shifts. */
        const uint8_t *q = in + 16 + (group / 8) * 32 + (group & 1) * 16;
        int shift = ((group >> 1) & 3) * 2;
        for (int i = 0; i < 16; i++)
            out[group * 16 + i] = scale * (float)((q[i] >> shift) & 3) - min;
    }
}

/* {32 bytes of third bits; 64 bytes of four 2-bit q; 16 6-bit scales in 12 bytes; half d} */
static void block_q3_k(const uint8_t *restrict in, float *restrict out)
{
    const uint8_t *packed = in + 96;
    float d = read_half(in + 108);

    for (int group = 0; group < 16; group++) {
        int low = group < 8 ? packed[group] & 15 : packed[group - 8] >> 4;
        int high = (packed[8 + (group & 3)] >> (2 * (group >> 2))) & 3;
        float scale = d * (float)((low | (high << 4)) - 32);
        const uint8_t *q = in + 32 + (group / 8) * 32 + (group & 1) * 16;
        const uint8_t *mask = in + (group & 1) * 16;
        int shift = ((group >> 1) & 3) * 2, bit = group >> 1;
        for (int i = 0; i < 16; i++) {
            int value = (q[i] >> shift) & 3, third = (mask[i] >> bit) & 1;
            out[group * 16 + i] = scale * (float)(value - ((third ^ 1) << 2));
        }
    }
}

/* The i-th (0..7) 6-bit scale and min of the 12 bytes that Q4_K and Q5_K share: the first four of
 * each lie in the low 6 bits of bytes 0-3 and 4-7; the others' low nibbles in bytes 8-11 and their
 * high two bits on top of bytes 0-3 and 4-7. */
static void unpack_scale_min(const uint8_t *packed, int i, float *scale, float *min)
{
    if (i < 4) {
        *scale = (float)(packed[i] & 63);
        *min = (float)(packed[4 + i] & 63);
    } else {
        *scale = (float)((packed[4 + i] & 15) | ((packed[i - 4] >> 2) & 0x30));
        *min = (float)((packed[4 + i] >> 4) | ((packed[i] >> 2) & 0x30));
    }
}

/* {half d, dmin; 12 bytes of scales and mins; 128 bytes of nibbles} */
static void block_q4_k(const uint8_t *restrict in, float *restrict out)
{
    float d = read_half(in), dmin = read_half(in + 2);

    for (int group = 0; group < 8; group++) {
        const uint8_t *q = in + 16 + (group >> 1) * 32;
        int shift = (group & 1) * 4;
        float scale, min;
        unpack_scale_min(in + 4, group, &scale, &min);
        scale *= d;
        min *= dmin;
        for (int i = 0; i < 32; i++)
            out[group * 32 + i] = scale * (float)((q[i] >> shift) & 15) - min;
    }
}

/* {half d, dmin; 12 bytes of scales and mins; 32 bytes of fifth bits; 128 bytes of nibbles} */
static void block_q5_k(const uint8_t *restrict in, float *restrict out)
{
    const uint8_t *high = in + 16;
    float d = read_half(in), dmin = read_half(in + 2);

    for (int group = 0; group < 8; group++) {
        const uint8_t *q = in + 48 + (group >> 1) * 32;
        int shift = (group & 1) * 4;
        float scale, min;
        unpack_scale_min(in + 4, group, &scale, &min);
        scale *= d;
        min *= dmin;
        for (int i = 0; i < 32; i++) {
            int value = ((q[i] >> shift) & 15) | (((high[i] >> group) & 1) << 4);
            out[group * 32 + i] = scale * (float)value - min;
        }
    }
}

/* {128 bytes of low nibbles; 64 bytes of four 2-bit tops; 16 int8 scales; half d} */
static void block_q6_k(const uint8_t *restrict in, float *restrict out)
{
    const int8_t *scales = (const int8_t *)in + 192;
    float d = read_half(in + 208);

    for (int group = 0; group < 16; group++) {
        float scale = d * (float)scales[group];
        int half = group / 8, part = (group / 2) & 3, side = (group & 1) * 16;
        const uint8_t *low = in + half * 64 + (part & 1) * 32 + side;
        const uint8_t *high = in + 128 + half * 32 + side;
        int low_shift = (part >> 1) * 4, high_shift = part * 2;
        for (int i = 0; i < 16; i++) {
            int value = ((low[i] >> low_shift) & 15) | (((high[i] >> high_shift) & 3) << 4);
            out[group * 16 + i] = scale * (float)(value - 32);
        }
    }
}

/* {float d; int8 q[256]; 16 int16 sums, for products only} */
static void block_q8_k(const uint8_t *restrict in, float *restrict out)
{
    float d;

    memcpy(&d, in, sizeof d);
    for (int i = 0; i < SUPER; i++)
        out[i] = d * (float)(int8_t)in[4 + i];
}

typedef void block_reader(const uint8_t *restrict in, float *restrict out);

static block_reader *const readers[TENSOR_TYPE_COUNT] = {
    [TENSOR_Q8_0] = block_q8_0, [TENSOR_Q4_0] = block_q4_0, [TENSOR_Q4_1] = block_q4_1,
    [TENSOR_Q5_0] = block_q5_0, [TENSOR_Q5_1] = block_q5_1, [TENSOR_Q2_K] = block_q2_k,
    [TENSOR_Q3_K] = block_q3_k, [TENSOR_Q4_K] = block_q4_k, [TENSOR_Q5_K] = block_q5_k,
    [TENSOR_Q6_K] = block_q6_k, [TENSOR_Q8_K] = block_q8_k,
};

/* n elements, a multiple of the block size */
static void read_elements(enum tensor_type type, const uint8_t *in, size_t n, float *out)
{
    size_t step = types[type].elements, bytes = types[type].bytes;

    switch (type) {
    case TENSOR_F32:
        memcpy(out, in, n * sizeof *out);
        break;
    case TENSOR_F16:
        read_f16(in, n, out);
        break;
    case TENSOR_BF16:
        read_bf16(in, n, out);
        break;
    case TENSOR_Q4_1: /* inlined: the most frequent one */
        for (size_t i = 0; i < n / BLOCK; i++)
            block_q4_1(in + i * bytes, out + i * BLOCK);
        break;
    default:
        for (size_t i = 0; i < n / step; i++)
            readers[type](in + i * bytes, out + i * step);
        break;
    }
}

/* The file's place of what stands at `row` once the interleaving is undone (see tensor.h). */
static size_t interleaved_place(size_t row, size_t n_rows, size_t n_heads)
{
    size_t d = n_rows / n_heads, head = row / d, j = row % d;

    return head * d + (j < d / 2 ? 2 * j : 2 * (j - d / 2) + 1);
}

/* Biases of interleaved projections are rare and short: one element at a time. */
static void read_interleaved_vector(const struct tensor *t, float *out)
{
    size_t n = t->shape[0], step = types[t->type].elements;
    const uint8_t *data = t->data;
    float block[SUPER];

    for (size_t i = 0; i < n; i++) {
        size_t place = interleaved_place(i, n, t->interleaved_heads);
        read_elements(t->type, data + place / step * types[t->type].bytes, step, block);
        out[i] = block[place % step];
    }
}

void tensor_read_rows(const struct tensor *t, size_t first, size_t n, float *out)
{
    size_t n_elements = tensor_row_elements(t), n_rows = tensor_n_rows(t);
    size_t stride = n_elements / types[t->type].elements * types[t->type].bytes;
    const uint8_t *data = t->data;

    if (n == 0)
        return;
    if (t->interleaved_heads == 0) {
        read_elements(t->type, data + first * stride, n * n_elements, out);
        return;
    }
    if (t->n_dims == 1) {
        read_interleaved_vector(t, out);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        size_t row = interleaved_place(first + i, n_rows, t->interleaved_heads);
        read_elements(t->type, data + row * stride, n_elements, out + i * n_elements);
    }
}
