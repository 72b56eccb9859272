/* The AMX kernel's logic (blocks, rows that are left, strides, accumulate) on tiles emulated in C,
 * so that it is tested on processors without AMX. The instructions themselves are compared with the
 * same plain twin by test_kernels where the processor has them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "solver/kernels_internal.h"

static struct {
    int configured, n_configs, n_products;
    uint8_t rows[8];
    uint8_t bytes[8][16][64];
} tiles;

static void tile_config(const void *operand)
{
    const uint8_t *bytes = operand;
    assert_int_equal(bytes[0], 1);
    for (int t = 0; t < 8; t++) {
        const uint8_t n = bytes[48 + t];
        assert_true(bytes[16 + 2 * t] == 64 && bytes[17 + 2 * t] == 0);
        assert_true(n >= 1 && n <= 16);
        tiles.rows[t] = n;
    }
    for (int i = 56; i < 64; i++)
        assert_int_equal(bytes[i], 0);
    memset(tiles.bytes, 0, sizeof tiles.bytes); /* as ldtilecfg does */
    tiles.configured = 1;
    tiles.n_configs++;
}

static void tile_release(void)
{
    tiles.configured = 0;
}

static void tile_load(int t, const void *from, size_t stride)
{
    assert_true(tiles.configured);
    memset(tiles.bytes[t], 0, sizeof tiles.bytes[t]);
    for (size_t r = 0; r < tiles.rows[t]; r++)
        memcpy(tiles.bytes[t][r], (const char *)from + r * stride, 64);
}

static void tile_zero(int t)
{
    assert_true(tiles.configured);
    memset(tiles.bytes[t], 0, sizeof tiles.bytes[t]);
}

static void tile_store(int t, void *to, size_t stride)
{
    assert_true(tiles.configured);
    for (size_t r = 0; r < tiles.rows[t]; r++)
        memcpy((char *)to + r * stride, tiles.bytes[t][r], 64);
}

/* The measured order of tdpbf16ps that kernels.h states. */
static void tile_dp(int c, int a, int b)
{
    assert_true(tiles.configured && tiles.rows[c] == tiles.rows[a] && tiles.rows[b] == 16);
    assert_true(c != a && c != b && a != b);
    tiles.n_products++;
    for (size_t m = 0; m < tiles.rows[a]; m++) {
        uint16_t x[32];
        float sum[16];
        memcpy(x, tiles.bytes[a][m], 64);
        memcpy(sum, tiles.bytes[c][m], 64);
        for (size_t n = 0; n < 16; n++) {
            float chain[2] = {0, 0};
            for (size_t k = 0; k < 16; k++)
                for (size_t odd = 0; odd < 2; odd++) {
                    uint16_t w;
                    memcpy(&w, tiles.bytes[b][k] + 4 * n + 2 * odd, 2);
                    chain[odd] = fma_flushed(f32_from_bf16_flushed(x[2 * k + odd]),
                                             f32_from_bf16_flushed(w), chain[odd]);
                }
            sum[n] = flush_denormal(sum[n] + flush_denormal(chain[0] + chain[1]));
        }
        memcpy(tiles.bytes[c][m], sum, 64);
    }
}

#define AMX_CONFIG(config) tile_config(config)
#define AMX_RELEASE() tile_release()
#define AMX_ZERO(t) tile_zero(t)
#define AMX_LOAD(t, from, bytes) tile_load(t, from, bytes)
#define AMX_DP(c, a, b) tile_dp(c, a, b)
#define AMX_STORE(t, to, bytes) tile_store(t, to, bytes)
#define AMX_PREFETCH(from) ((void)(from))
#include "solver/kernels_amx.inc"

static uint32_t seed = 1;

static float random_value(void)
{
    seed = seed * 1664525u + 1013904223u;
    const float u = (float)(seed >> 8) / 8388608.0f - 1.0f;
    return seed >> 4 & 7 ? u : u * 0x1p-126f;
}

static void check_shape(size_t n_rows, size_t k, size_t n_panels, size_t pad, bool accumulate)
{
    const size_t ldx = k + pad, ldy = n_panels * 16 + pad, stride = k * 16 + (pad ? 32 : 0);
    const size_t nx = (n_rows - 1) * ldx + k, nw = (n_panels - 1) * stride + k * 16;
    const size_t ny = (n_rows - 1) * ldy + n_panels * 16;
    uint16_t *x = malloc(nx * sizeof *x), *w = aligned_alloc(64, nw * sizeof *w);
    float *y = malloc(ny * sizeof *y), *want = malloc(ny * sizeof *want);
    assert_true(x && w && y && want);
    for (size_t i = 0; i < nx; i++)
        x[i] = bf16_from_f32(random_value());
    for (size_t i = 0; i < nw; i++)
        w[i] = bf16_from_f32(random_value());
    for (size_t i = 0; i < ny; i++)
        y[i] = want[i] = random_value();
    amx_product(y, ldy, x, ldx, n_rows, w, stride, n_panels, k, accumulate);
    assert_false(tiles.configured);
    kernels_reference("tile32")->product(want, ldy, x, ldx, n_rows, w, stride, n_panels, k,
                                         accumulate);
    assert_memory_equal(y, want, ny * sizeof *y);
    free(x);
    free(w);
    free(y);
    free(want);
}

static void every_row_count_has_the_bits_of_the_twin(void **state)
{
    (void)state;
    for (size_t n_rows = 1; n_rows <= 70; n_rows++)
        check_shape(n_rows, 64, 1 + n_rows % 7, n_rows % 3, n_rows % 2);
}

static void every_panel_count_has_the_bits_of_the_twin(void **state)
{
    (void)state;
    for (size_t n_panels = 1; n_panels <= 13; n_panels++)
        for (size_t n_rows = 3; n_rows <= 36; n_rows += 16)
            check_shape(n_rows, 32, n_panels, 0, false);
    check_shape(40, 4096, 11, 2, true); /* more than one column block */
    check_shape(3, 2048, 19, 0, true);
}

static void a_call_configures_the_tiles_once_for_each_kind_of_block(void **state)
{
    (void)state;
    tiles.n_configs = tiles.n_products = 0;
    check_shape(64, 32, 4, 0, false);
    assert_int_equal(tiles.n_configs, 1);
    assert_int_equal(tiles.n_products, 4 * 4);
    check_shape(70, 32, 4, 0, false);
    assert_int_equal(tiles.n_configs, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_count_has_the_bits_of_the_twin),
        cmocka_unit_test(every_panel_count_has_the_bits_of_the_twin),
        cmocka_unit_test(a_call_configures_the_tiles_once_for_each_kind_of_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
