#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/tensor.h"

static enum tensor_type type_named(const char *name)
{
    for (int i = 0; i < TENSOR_TYPE_COUNT; i++)
        if (strcmp(tensor_type_name((enum tensor_type)i), name) == 0)
            return (enum tensor_type)i;
    fail_msg("unknown type %s", name);
    return TENSOR_TYPE_COUNT;
}

/* quant.bin is made by tests/oracle/quant_oracle.py from gguf.quants.dequantize. */
static void every_type_gives_the_reference_bits(void **state)
{
    (void)state;
    FILE *f = fopen(T2_FIXTURES "/quant.bin", "rb");
    char name[8];
    int n_types = 0;

    assert_non_null(f);
    while (fread(name, 1, sizeof name, f) == sizeof name) {
        uint32_t n_bytes, n;
        assert_int_equal(fread(&n_bytes, 4, 1, f), 1);
        assert_int_equal(fread(&n, 4, 1, f), 1);
        /* One byte off alignment, as a safetensors file may have it. */
        uint8_t *blocks = malloc(n_bytes + 1);
        uint32_t *expected = malloc(4 * n), *got = malloc(4 * n);
        assert_int_equal(fread(blocks + 1, 1, n_bytes, f), n_bytes);
        assert_int_equal(fread(expected, 4, n, f), n);
        enum tensor_type type = type_named(name);
        assert_int_equal(n % tensor_block_elements(type), 0);
        assert_int_equal(n / tensor_block_elements(type) * tensor_block_bytes(type), n_bytes);
        struct tensor t = {
            .type = type, .n_dims = 1, .shape = {n}, .data = blocks + 1, .n_bytes = n_bytes};
        tensor_read_rows(&t, 0, 1, (float *)got);
        for (uint32_t i = 0; i < n; i++)
            if (got[i] != expected[i])
                fail_msg("%s: element %u is %08x, expected %08x", name, i, got[i], expected[i]);
        free(blocks);
        free(expected);
        free(got);
        n_types++;
    }
    fclose(f);
    assert_int_equal(n_types, 12);
}

static void all_halves_convert_exactly(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 65536; half++) {
        uint32_t exponent = (half >> 10) & 31, mantissa = half & 1023;
        double sign = half & 0x8000 ? -1 : 1;
        float got = tensor_f32_from_f16((uint16_t)half);
        if (exponent == 31 && mantissa != 0) {
            assert_true(isnan(got));
            continue;
        }
        double expected = exponent == 31  ? INFINITY
                          : exponent == 0 ? ldexp(mantissa, -24)
                                          : ldexp(1024 + mantissa, (int)exponent - 25);
        assert_true((double)got == sign * expected);
        assert_true(!signbit(got) == !(half & 0x8000));
    }
}

static void q8_k_scales_by_its_float(void **state)
{
    (void)state;
    uint8_t block[292] = {0};
    float d = 0.3f, out[256];

    memcpy(block, &d, sizeof d);
    block[4] = 0x80; /* -128 */
    block[4 + 255] = 127;
    struct tensor t = {.type = TENSOR_Q8_K, .n_dims = 1, .shape = {256}, .data = block};
    assert_int_equal(tensor_block_bytes(TENSOR_Q8_K), sizeof block);
    tensor_read_rows(&t, 0, 1, out);
    assert_true(out[0] == 0.3f * -128 && out[1] == 0 && out[255] == 0.3f * 127);
}

static void rows_and_elements_are_counted(void **state)
{
    (void)state;
    struct tensor matrix = {.n_dims = 2, .shape = {3, 5}}, cube = {.n_dims = 3, .shape = {2, 3, 4}},
                  vector = {.n_dims = 1, .shape = {7}};

    assert_int_equal(tensor_n_rows(&matrix), 3);
    assert_int_equal(tensor_row_elements(&matrix), 5);
    assert_int_equal(tensor_n_rows(&cube), 2);
    assert_int_equal(tensor_row_elements(&cube), 12);
    assert_int_equal(tensor_n_rows(&vector), 1);
    assert_int_equal(tensor_row_elements(&vector), 7);
}

static void any_range_of_rows_is_the_same_as_all(void **state)
{
    (void)state;
    uint8_t data[5 * 2 * 20];
    float all[5 * 64], some[5 * 64];
    struct tensor t = {.type = TENSOR_Q4_1, .n_dims = 2, .shape = {5, 64}, .data = data};

    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 37 % 113);
    tensor_read_rows(&t, 0, 5, all);
    for (size_t first = 0; first < 5; first++)
        for (size_t n = 0; first + n <= 5; n++) {
            tensor_read_rows(&t, first, n, some);
            assert_memory_equal(some, all + first * 64, n * 64 * sizeof *all);
        }
}

/* Two heads of four rows: the file has rows a0 b0 a1 b1 of each, where a is the first half. */
static void interleaved_heads_are_put_in_order(void **state)
{
    (void)state;
    float file[8][2], out[8][2];
    static const float expected[8] = {0, 2, 1, 3, 4, 6, 5, 7};
    struct tensor t = {
        .type = TENSOR_F32, .n_dims = 2, .shape = {8, 2}, .data = file, .interleaved_heads = 2};

    for (int i = 0; i < 8; i++)
        file[i][0] = file[i][1] = (float)i;
    tensor_read_rows(&t, 0, 8, &out[0][0]);
    for (int i = 0; i < 8; i++)
        assert_true(out[i][0] == expected[i] && out[i][1] == expected[i]);
    tensor_read_rows(&t, 5, 2, &out[0][0]); /* a range that starts inside a head */
    assert_true(out[0][0] == expected[5] && out[1][0] == expected[6]);
}

static void interleaved_biases_are_put_in_order(void **state)
{
    (void)state;
    const float file[8] = {0, 1, 2, 3, 4, 5, 6, 7}, expected[8] = {0, 2, 1, 3, 4, 6, 5, 7};
    float out[64];
    struct tensor t = {
        .type = TENSOR_F32, .n_dims = 1, .shape = {8}, .data = file, .interleaved_heads = 2};

    tensor_read_rows(&t, 0, 1, out);
    assert_memory_equal(out, expected, sizeof expected);

    /* Quantised: one head of 64, the elements 0 .. 63 as Q8_0 with scale 1. */
    uint8_t blocks[2][34];
    for (int i = 0; i < 64; i++)
        blocks[i / 32][2 + i % 32] = (uint8_t)i;
    for (int i = 0; i < 2; i++)
        memcpy(blocks[i], &(uint16_t){0x3c00}, 2);
    struct tensor q = {
        .type = TENSOR_Q8_0, .n_dims = 1, .shape = {64}, .data = blocks, .interleaved_heads = 1};
    tensor_read_rows(&q, 0, 1, out);
    for (int i = 0; i < 64; i++)
        assert_true(out[i] == (float)(i < 32 ? 2 * i : 2 * (i - 32) + 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_gives_the_reference_bits),
        cmocka_unit_test(all_halves_convert_exactly),
        cmocka_unit_test(q8_k_scales_by_its_float),
        cmocka_unit_test(rows_and_elements_are_counted),
        cmocka_unit_test(any_range_of_rows_is_the_same_as_all),
        cmocka_unit_test(interleaved_heads_are_put_in_order),
        cmocka_unit_test(interleaved_biases_are_put_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
