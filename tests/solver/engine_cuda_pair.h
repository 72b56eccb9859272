#ifndef T2_TESTS_SOLVER_ENGINE_CUDA_PAIR_H
#define T2_TESTS_SOLVER_ENGINE_CUDA_PAIR_H
/* The CUDA engine beside the CPU's, and tensors of either, for the tests of the first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "mpi/error.h"
#include "solver/engine_cuda.h"

enum { SKIPPED = 77 };

static const enum element elements[] = {ELEMENT_F32, ELEMENT_BF16};
static uint32_t random_state = 11;

static inline uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

static inline float *random_values(size_t n)
{
    float *x = malloc((n + 1) * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)random_below(1 << 20) / (1 << 19) - 1;
    return x;
}

static inline void start_cuda(struct engine *e, enum element element)
{
    assert_int_equal(engine_create_cuda(e, element, cpu_best_isa(), 1, 0), 0);
}

/* The two engines of one element type. */
struct pair {
    struct engine cpu, cuda;
};

static inline void start(struct pair *p, enum element element)
{
    assert_int_equal(engine_create_cpu(&p->cpu, element, cpu_best_isa(), 1), 0);
    engine_set_kv_form(&p->cpu, element == ELEMENT_F32 ? KV_F32 : KV_BF16);
    start_cuda(&p->cuda, element);
}

static inline void finish(struct pair *p)
{
    engine_free(&p->cpu);
    engine_free(&p->cuda);
}

static inline float *tensor(const struct engine *e, const float *values, size_t n)
{
    float *t = memory_take(e->memory, n, sizeof *t);
    assert_non_null(t);
    if (values)
        memcpy(t, values, n * sizeof *t);
    return t;
}

/* values as elements [n_rows, ld], zeros from width on */
static inline void *element_rows(const struct engine *e, const float *values, size_t n_rows,
                                 size_t width, size_t ld)
{
    void *t = memory_take(e->memory, n_rows * ld, element_size(e->element));
    assert_non_null(t);
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < width; i++)
            if (e->element == ELEMENT_F32)
                ((float *)t)[r * ld + i] = values[r * width + i];
            else
                ((uint16_t *)t)[r * ld + i] = bf16_from_f32(values[r * width + i]);
    return t;
}

static inline float element_at(const struct engine *e, const void *x, size_t i)
{
    return e->element == ELEMENT_F32 ? ((const float *)x)[i]
                                     : f32_from_bf16(((const uint16_t *)x)[i]);
}

static inline void give(const struct engine *e, void *t)
{
    e->memory->give(t, 1);
}

/* The CPU's give() wants the size, for what is mapped. */
static inline void give_n(const struct engine *e, void *t, size_t n, size_t size)
{
    memory_give(e->memory, t, n, size);
}

static inline void assert_close(float x, float y, double tolerance)
{
    if (!(fabs((double)x - y) <= tolerance * (1 + fabs((double)y))))
        fail_msg("%.9g is not %.9g within %g", (double)x, (double)y, tolerance);
}

static inline double rounding(const struct engine *e)
{
    return e->element == ELEMENT_F32 ? 2e-5 : 1.0 / 100;
}

static inline void pack(struct matrix *m, const struct engine *e, const float *values, size_t n,
                        size_t k)
{
    assert_int_equal(engine_matrix_create(e, m, n, k), 0);
    matrix_pack_rows(m, 0, n, values);
}

#endif
