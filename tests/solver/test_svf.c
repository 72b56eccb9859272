#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cblas.h>
#include <cmocka.h>
#include <math.h>

#include "mpi/error.h"
#include "solver/svf.h"

/* W = U diag(s) V^T of random numbers, from LAPACK in f64. */
struct example {
    size_t m, n, r;
    float *w;           /* [m, n] */
    double *u, *s, *vt; /* [m, r], [r], [r, n] */
    float *factor;      /* [r, r] */
};

static double noise(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 33) / 0x1p30 - 1;
}

static void *allocate(size_t n, size_t size)
{
    void *p = calloc(n, size);
    if (!p)
        abort();
    return p;
}

void dgesdd_(const char *job, const int *m, const int *n, double *a, const int *lda, double *s,
             double *u, const int *ldu, double *vt, const int *ldvt, double *work, const int *lwork,
             int *iwork, int *info);

/* LAPACK sees a as its transpose V S U^T: its u is our vt, and its vt our u. */
static void decompose(struct example *e, double *a)
{
    const int m = (int)e->n, n = (int)e->m, r = (int)e->r,
              n_work = 4 * r * r + 7 * r + 40 * (m + n);
    double *work = allocate((size_t)n_work, sizeof *work);
    int *integers = allocate(8 * e->r, sizeof *integers), info;

    dgesdd_("S", &m, &n, a, &m, e->s, e->vt, &m, e->u, &r, work, &n_work, integers, &info);
    assert_int_equal(0, info);
    free(work);
    free(integers);
}

static struct example make(size_t m, size_t n)
{
    struct example e = {.m = m, .n = n, .r = m < n ? m : n};
    uint64_t state = m * 1000 + n;
    double *a = allocate(m * n, sizeof *a);

    e.w = allocate(m * n, sizeof *e.w);
    e.u = allocate(m * e.r, sizeof *e.u);
    e.s = allocate(e.r, sizeof *e.s);
    e.vt = allocate(e.r * n, sizeof *e.vt);
    e.factor = allocate(e.r * e.r, sizeof *e.factor);
    for (size_t i = 0; i < m * n; i++)
        a[i] = e.w[i] = (float)noise(&state);
    decompose(&e, a);
    for (size_t i = 0; i < e.r; i++)
        for (size_t j = 0; j < e.r; j++)
            e.factor[i * e.r + j] = (float)(m >= n ? e.vt[i * n + j] : e.u[j * e.r + i]);
    free(a);
    return e;
}

static void example_free(struct example *e)
{
    free(e->w);
    free(e->u);
    free(e->s);
    free(e->vt);
    free(e->factor);
}

static struct svf_matrix matrix_of(const struct example *e)
{
    return (struct svf_matrix){e->m, e->n, e->factor};
}

/* max |W' - U diag(s z c) V^T| relative to the largest element of it */
static double distance(const struct example *e, const float *z, float c, const float *w)
{
    double worst = 0, largest = 0;

    for (size_t i = 0; i < e->m; i++)
        for (size_t j = 0; j < e->n; j++) {
            double sum = 0;
            for (size_t k = 0; k < e->r; k++)
                sum +=
                    e->u[i * e->r + k] * e->s[k] * (double)z[k] * (double)c * e->vt[k * e->n + j];
            worst = fmax(worst, fabs(sum - (double)w[i * e->n + j]));
            largest = fmax(largest, fabs(sum));
        }
    return worst / largest;
}

static const size_t shapes[][2] = {{90, 40}, {40, 90}, {64, 64},  {1, 1},
                                   {1, 9},   {9, 1},   {530, 20}, {20, 1100}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void unit_z_gives_the_matrix_back_bit_by_bit(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct example e = make(shapes[i][0], shapes[i][1]);
        struct svf_matrix matrix = matrix_of(&e);
        float *w = allocate(e.m * e.n, sizeof *w), *z = allocate(e.r, sizeof *z);
        e.w[0] = -0.0f;
        e.w[e.m * e.n - 1] = 0x1p-149f;
        memcpy(w, e.w, e.m * e.n * sizeof *w);
        for (size_t k = 0; k < e.r; k++)
            z[k] = 1;
        for (size_t k = 0; k < e.r * e.r; k++)
            e.factor[k] += 0.1f; /* even with a poor factor */
        assert_int_equal(0, svf_compose(&matrix, z, 1, w));
        assert_memory_equal(e.w, w, e.m * e.n * sizeof *w);
        free(w);
        free(z);
        example_free(&e);
    }
}

static void any_z_scales_the_singular_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct example e = make(shapes[i][0], shapes[i][1]);
        struct svf_matrix matrix = matrix_of(&e);
        float *w = allocate(e.m * e.n, sizeof *w), *z = allocate(e.r, sizeof *z);
        uint64_t seed = i;
        for (int round = 0; round < 3; round++) {
            memcpy(w, e.w, e.m * e.n * sizeof *w);
            for (size_t k = 0; k < e.r; k++) /* all; every third; all and a multiplier */
                z[k] = round == 1 && k % 3 ? 1 : (float)(1.2 + noise(&seed));
            float c = round == 2 ? 0.75f : 1;
            assert_int_equal(0, svf_compose(&matrix, z, c, w));
            double error = distance(&e, z, c, w);
            if (!(error < 1e-5))
                fail_msg("%zu x %zu, round %d: off by %g", e.m, e.n, round, error);
        }
        free(w);
        free(z);
        example_free(&e);
    }
}

static void small_steps_are_not_lost(void **state)
{
    (void)state;
    struct example e = make(60, 30);
    struct svf_matrix matrix = matrix_of(&e);
    float *w = allocate(e.m * e.n, sizeof *w), *z = allocate(e.r, sizeof *z);

    memcpy(w, e.w, e.m * e.n * sizeof *w);
    for (size_t k = 0; k < e.r; k++)
        z[k] = 1;
    z[3] = 1 + 0x1p-10f;
    assert_int_equal(0, svf_compose(&matrix, z, 1, w));
    double dot = 0; /* <W' - W, u_3 v_3^T> = s_3 (z_3 - 1) */
    for (size_t i = 0; i < e.m; i++)
        for (size_t j = 0; j < e.n; j++)
            dot += ((double)w[i * e.n + j] - (double)e.w[i * e.n + j]) * e.u[i * e.r + 3] *
                   e.vt[3 * e.n + j];
    assert_true(fabs(dot / (e.s[3] * 0x1p-10) - 1) < 1e-3);
    free(w);
    free(z);
    example_free(&e);
}

static void what_is_not_finite_is_refused(void **state)
{
    (void)state;
    struct example e = make(5, 3);
    struct svf_matrix matrix = matrix_of(&e);
    float w[15], z[3] = {1, NAN, 2};

    memcpy(w, e.w, sizeof w);
    assert_int_equal(-1, svf_compose(&matrix, z, 1, w));
    assert_non_null(strstr(error_message(), "z[1] is nan"));
    z[1] = 1;
    assert_int_equal(-1, svf_compose(&matrix, z, INFINITY, w));
    assert_memory_equal(e.w, w, sizeof w);
    example_free(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unit_z_gives_the_matrix_back_bit_by_bit),
        cmocka_unit_test(any_z_scales_the_singular_values),
        cmocka_unit_test(small_steps_are_not_lost),
        cmocka_unit_test(what_is_not_finite_is_refused),
    };

    openblas_set_num_threads(1); /* small products: threads would wait for one another */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
