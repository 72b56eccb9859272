#ifndef T2_TESTS_SVD_FIXTURE_H
#define T2_TESTS_SVD_FIXTURE_H
/* Matrices of known spectra, crews of threads around svd_solve, and what must hold of what they
 * return. Include after cmocka.h. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/blas.h"
#include "solver/svd.h"
#include "solver/svd_internal.h"

enum { LARGEST_CREW = 3 };

/* ---- matrices ---------------------------------------------------------------------------------
 */

struct matrix {
    size_t m, n, r;
    float *w;           /* [m, n] */
    size_t failing_row; /* reading it is an error; none if m or more */
};

static inline double gaussian(unsigned *seed)
{
    double u[2];
    for (int i = 0; i < 2; i++) {
        *seed = *seed * 1664525u + 1013904223u;
        u[i] = ((double)(*seed >> 8) + 0.5) / 16777216.0;
    }
    return sqrt(-2 * log(u[0])) * cos(6.283185307179586 * u[1]);
}

static inline struct matrix matrix_make(size_t m, size_t n)
{
    struct matrix x = {m, n, m < n ? m : n, calloc(m * n, sizeof(float)), SIZE_MAX};
    assert_non_null(x.w);
    return x;
}

static inline void random_matrix(struct matrix *x, unsigned seed)
{
    for (size_t i = 0; i < x->m * x->n; i++)
        x->w[i] = (float)gaussian(&seed);
}

/* H W, or W H from the right: H = I - 2 v v^T, v a random unit vector. */
static inline void reflect(double *w, size_t m, size_t n, bool right, unsigned *seed)
{
    const size_t size = right ? n : m;
    double *v = malloc(size * sizeof *v), *t = calloc(m + n, sizeof *t), norm = 0;
    assert_true(v && t);
    for (size_t i = 0; i < size; i++) {
        v[i] = gaussian(seed);
        norm += v[i] * v[i];
    }
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            t[right ? i : j] += v[right ? j : i] * w[i * n + j];
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            w[i * n + j] -= 2 / norm * v[right ? j : i] * t[right ? i : j];
    free(t);
    free(v);
}

/* W with about the singular values s, rounded to f32. */
static inline struct matrix matrix_of_spectrum(size_t m, size_t n, const double *s, unsigned seed)
{
    struct matrix x = matrix_make(m, n);
    double *w = calloc(m * n, sizeof *w);
    assert_non_null(w);
    for (size_t i = 0; i < x.r; i++)
        w[i * n + i] = s[i];
    for (int i = 0; i < 6; i++)
        reflect(w, m, n, i % 2, &seed);
    for (size_t i = 0; i < m * n; i++)
        x.w[i] = (float)w[i];
    free(w);
    return x;
}

enum fall { LINEAR, GEOMETRIC };

static inline struct matrix matrix_of_condition(size_t m, size_t n, double condition,
                                                enum fall fall)
{
    const size_t r = m < n ? m : n;
    double *s = malloc(r * sizeof *s);
    assert_non_null(s);
    for (size_t i = 0; i < r; i++) {
        const double t = r > 1 ? (double)i / (double)(r - 1) : 0;
        s[i] = fall == LINEAR ? 1 - (1 - 1 / condition) * t : pow(condition, -t);
    }
    struct matrix x = matrix_of_spectrum(m, n, s, 17);
    free(s);
    return x;
}

static inline void matrix_scale(struct matrix *x, float factor)
{
    for (size_t i = 0; i < x->m * x->n; i++)
        x->w[i] *= factor;
}

/* ---- a crew of threads around svd_solve -------------------------------------------------------
 */

struct solution {
    size_t r;
    int status;
    double *sigma; /* [r] */
    float *factor; /* [r, r] */
    struct svd_report report;
    char message[200];
};

static inline void solution_free(struct solution *s)
{
    free(s->sigma);
    free(s->factor);
}

static inline int read_rows(const void *context, size_t first, size_t n, float *out)
{
    const struct matrix *x = context;
    if (first + n > x->m)
        return error_set("rows past the end");
    if (x->failing_row >= first && x->failing_row < first + n)
        return error_set("row %zu cannot be read", x->failing_row);
    memcpy(out, x->w + first * x->n, n * x->n * sizeof *out);
    return 0;
}

struct worker {
    struct crew crew;
    struct arena arena;
    struct svd_source source;
    struct svd_options options;
    const struct svd_hook *hook;
    struct solution *solution;
    struct svd_report report;
    int status;
    bool told;
};

static inline void *work(void *argument)
{
    struct worker *w = argument;
    w->status = svd_solve_hooked(&w->crew, &w->arena, &w->source, &w->options, w->hook,
                                 w->solution->sigma, w->solution->factor, &w->report);
    if (w->crew.index == 0 && w->status != 0)
        strncpy(w->solution->message, error_message(), sizeof w->solution->message - 1);
    w->told = w->status == 0 || error_message()[0];
    return NULL;
}

/* The arena has exactly the announced size less `missing` bytes. */
static inline struct solution solve_in(const struct matrix *x, struct svd_options options,
                                       int crew_size, const struct svd_hook *hook, size_t missing)
{
    struct solution s = {.r = x->r,
                         .sigma = malloc(x->r * sizeof(double)),
                         .factor = malloc(x->r * x->r * sizeof(float))};
    struct crew_state state = {0};
    struct worker workers[LARGEST_CREW];
    pthread_t threads[LARGEST_CREW];
    const size_t size = svd_work_bytes(x->m, x->n, &options, crew_size) - missing;
    char *block = aligned_alloc(64, (size + 63) / 64 * 64);

    assert_true(s.sigma && s.factor && block);
    for (int i = 0; i < crew_size; i++)
        workers[i] = (struct worker){.crew = {i, crew_size, crew_size > 1 ? &state : NULL},
                                     .arena = {block, size, 0},
                                     .source = {x->m, x->n, read_rows, x, "layer 3"},
                                     .options = options,
                                     .hook = hook,
                                     .solution = &s};
    for (int i = 1; i < crew_size; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    work(&workers[0]);
    for (int i = 1; i < crew_size; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < crew_size; i++) {
        assert_int_equal(workers[i].status, workers[0].status);
        assert_true(workers[i].told);
        assert_int_equal(workers[i].arena.used, 0);
        workers[i].report.seconds = workers[0].report.seconds;
        if (workers[0].status == 0)
            assert_memory_equal(&workers[i].report.bound, &workers[0].report.bound, sizeof(double));
    }
    s.status = workers[0].status;
    s.report = workers[0].report;
    free(block);
    return s;
}

static inline struct svd_options options_of(enum svd_precision precision)
{
    struct svd_options options = svd_defaults();
    options.precision = precision;
    return options;
}

static inline struct solution solve(const struct matrix *x, enum svd_precision precision)
{
    struct solution s = solve_in(x, options_of(precision), 1, NULL, 0);
    if (s.status != 0)
        fail_msg("%s", s.message);
    return s;
}

/* ---- what must hold ---------------------------------------------------------------------------
 */

/* All singular values by one-sided Jacobi (accurate also for columns of very different size). */
static inline double *true_values(const struct matrix *x)
{
    const size_t length = x->m + x->n - x->r;
    const int m = (int)length, n = (int)x->r, lwork = m + n + 6, one = 1;
    double *a = malloc(length * x->r * sizeof *a), *s = malloc(x->r * sizeof *s), unused = 0;
    double *scratch = malloc((size_t)lwork * sizeof *scratch);
    int info;

    assert_true(a && s && scratch);
    for (size_t i = 0; i < x->m; i++)
        for (size_t j = 0; j < x->n; j++)
            a[x->m >= x->n ? j * length + i : i * length + j] = (double)x->w[i * x->n + j];
    dgesvj_("G", "N", "N", &m, &n, a, &m, s, &one, &unused, &one, scratch, &lwork, &info);
    assert_int_equal(info, 0);
    for (size_t i = 0; i < x->r; i++)
        s[i] *= scratch[0];
    free(scratch);
    free(a);
    return s;
}

/* The largest relative error of the values above sigma_1 * floor. */
static inline double largest_error(const struct solution *s, const double *truth, double floor)
{
    double worst = 0;
    for (size_t i = 0; i < s->r; i++)
        if (truth[i] > truth[0] * floor)
            worst = fmax(worst, fabs(s->sigma[i] / truth[i] - 1));
    return worst;
}

/* Descending, not negative; rows orthonormal; |C q - sigma^2 q| small. By plain loops in f64. */
static inline void assert_contract(const struct matrix *x, const struct solution *s,
                                   double tolerance)
{
    const size_t r = x->r, length = x->m + x->n - r;
    const double top = s->sigma[0] > 0 ? s->sigma[0] : 1;
    double *y = malloc(length * sizeof *y);

    assert_non_null(y);
    for (size_t k = 0; k < r; k++) {
        const float *q = s->factor + k * r;
        assert_true(s->sigma[k] >= 0 && (k == 0 || s->sigma[k] <= s->sigma[k - 1]));
        for (size_t l = k; l < r; l += 1 + (l > k + 8) * 7) {
            double dot = 0;
            for (size_t i = 0; i < r; i++)
                dot += (double)q[i] * (double)s->factor[l * r + i];
            assert_true(fabs(dot - (k == l)) < tolerance);
        }
        if (k > 8 && k + 8 < r && k % 16 != 0)
            continue;
        double sum = 0;
        for (size_t i = 0; i < length; i++) {
            y[i] = 0;
            for (size_t j = 0; j < r; j++)
                y[i] += (double)(x->m >= x->n ? x->w[i * x->n + j] : x->w[j * x->n + i]) / top *
                        (double)q[j];
        }
        for (size_t j = 0; j < r; j++) {
            double z = -s->sigma[k] / top * (s->sigma[k] / top) * (double)q[j];
            for (size_t i = 0; i < length; i++)
                z += (double)(x->m >= x->n ? x->w[i * x->n + j] : x->w[j * x->n + i]) / top * y[i];
            sum += z * z;
        }
        assert_true(sqrt(sum) < tolerance);
    }
    free(y);
}

#endif
