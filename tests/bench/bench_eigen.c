/* The symmetric eigenproblem by phases: the one- or two-stage solver beside LAPACK's ?syevd, in one
 * run.
 *
 *   bench_eigen [--n 2048,4096] [--type f32|f64|both] [--workers 1,2] [--reps N] [--lapack 0|1]
 *               [--stages 1|2]
 *
 * Workers are threads. The matrices are G^T G of Gaussian G. The machine is
 * shared: the contenders take turns, and the best repetition of each phase counts, in processor
 * time, which leaves out what others had of the core. With several workers a phase takes what its
 * busiest worker took; wall clock is given beside it. GFLOP/s count a phase's nominal operations:
 * band 4/3 n^3, chase 6 n^2 b, tridiagonal 4/3 n^3 (less where values deflate),
 * back-transformations 2 n^3 each. */
#include <cblas.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/eigen_parts.h"
#include "solver/eigen_two_stage.h"

void ssyevd_(const char *, const char *, const int *, float *, const int *, float *, float *,
             const int *, int *, const int *, int *, size_t, size_t);
void dsyevd_(const char *, const char *, const int *, double *, const int *, double *, double *,
             const int *, int *, const int *, int *, size_t, size_t);

enum { MAX_LIST = 16 };
static const char *const phase_names[EIGEN_PHASE_COUNT] = {"band", "chase", "tridiagonal",
                                                           "back_chase", "back_band"};

struct job {
    pthread_t thread;
    struct crew crew;
    struct arena arena;
    size_t n;
    int n_stages;
    bool wide; /* f64 */
    void *c, *values;
    double seconds[EIGEN_PHASE_COUNT];
    int status;
};

static void die(const char *what)
{
    fprintf(stderr, "bench_eigen: %s\n", what);
    exit(1);
}

static double wall(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *take(size_t n_bytes)
{
    void *p = aligned_alloc(64, (n_bytes + 63) / 64 * 64);
    if (!p)
        die("out of memory");
    return p;
}

static void *work(void *argument)
{
    struct job *j = argument;

    openblas_set_num_threads(1); /* a setting of the thread, with OpenMP */
    crew_wait(&j->crew);
    j->status = j->wide ? eigen_stages_timed_f64(&j->crew, j->n_stages, &j->arena, j->n, j->c,
                                                 j->values, j->seconds)
                        : eigen_stages_timed_f32(&j->crew, j->n_stages, &j->arena, j->n, j->c,
                                                 j->values, j->seconds);
    if (j->status)
        die(error_message());
    return NULL;
}

static double staged(int stages, size_t n, bool wide, int workers, const void *matrix, void *c,
                     void *values, double best[EIGEN_PHASE_COUNT])
{
    const size_t element = wide ? 8 : 4, n_bytes = eigen_two_stage_bytes(element, n);
    struct crew_state state;
    struct job jobs[MAX_LIST];
    char *memory = take(n_bytes);

    memset(&state, 0, sizeof state);
    memcpy(c, matrix, n * n * element);
    for (int i = 0; i < workers; i++) {
        jobs[i] = (struct job){.crew = {i, workers, workers > 1 ? &state : NULL},
                               .arena = {memory, n_bytes, 0},
                               .n = n,
                               .n_stages = stages,
                               .wide = wide,
                               .c = c,
                               .values = values};
        if (i)
            pthread_create(&jobs[i].thread, NULL, work, &jobs[i]);
    }
    const double start = wall();
    work(&jobs[0]);
    for (int i = 1; i < workers; i++)
        pthread_join(jobs[i].thread, NULL);
    free(memory);
    const double end = wall();
    for (int i = 0; i < EIGEN_PHASE_COUNT; i++) {
        double most = 0;
        for (int w = 0; w < workers; w++)
            most = fmax(most, jobs[w].seconds[i]);
        best[i] = fmin(best[i], most);
    }
    return end - start;
}

static double lapack(size_t n, bool wide, const void *matrix, void *c, void *values)
{
    const int order = (int)n;
    int lwork = (int)(1 + 6 * n + 2 * n * n), liwork = (int)(3 + 5 * n), info = 0;
    void *buffer = take((size_t)lwork * (wide ? 8 : 4));
    int *integers = take((size_t)liwork * sizeof *integers);

    memcpy(c, matrix, n * n * (wide ? 8 : 4));
    const double start = eigen_seconds();
    if (wide)
        dsyevd_("V", "L", &order, c, &order, values, buffer, &lwork, integers, &liwork, &info, 1,
                1);
    else
        ssyevd_("V", "L", &order, c, &order, values, buffer, &lwork, integers, &liwork, &info, 1,
                1);
    const double seconds = eigen_seconds() - start;
    if (info)
        die("?syevd failed");
    free(buffer);
    free(integers);
    return seconds;
}

/* The largest |C q - lambda q| and |q^T q - I| over some vectors, both divided by n eps max|C|. */
static void check(size_t n, bool wide, const void *matrix, const void *c, const void *values)
{
    const double eps = wide ? 2.2e-16 : 1.2e-7;
    double worst = 0, orthogonality = 0, largest = 0;
#define AT(p, i) (wide ? ((const double *)(p))[i] : (double)((const float *)(p))[i])
    for (size_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(AT(values, i)));
    for (size_t v = 0; v < n; v += n / 7 + 1) {
        for (size_t r = 0; r < n; r += n / 50 + 1) {
            double sum = 0;
            for (size_t x = 0; x < n; x++)
                sum += (x <= r ? AT(matrix, x * n + r) : AT(matrix, r * n + x)) * AT(c, v * n + x);
            worst = fmax(worst, fabs(sum - AT(values, v) * AT(c, v * n + r)));
        }
        for (size_t other = 0; other < n; other += n / 50 + 1) {
            double sum = 0;
            for (size_t x = 0; x < n; x++)
                sum += AT(c, v * n + x) * AT(c, other * n + x);
            orthogonality = fmax(orthogonality, fabs(sum - (v == other)));
        }
    }
    printf("    residual %.2g n eps |C|, orthogonality %.2g n eps\n",
           worst / ((double)n * eps * largest), orthogonality / ((double)n * eps));
}

static void *matrix_make(size_t n, bool wide)
{
    double *g = take(n * n * 8), *c = take(n * n * 8);
    uint64_t state = 1;

    for (size_t i = 0; i < n * n; i++) {
        double sum = -6;
        for (int k = 0; k < 12; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            sum += (double)(state >> 40) / (1 << 24);
        }
        g[i] = sum;
    }
    cblas_dsyrk(CblasColMajor, CblasLower, CblasTrans, (int)n, (int)n, 0.25 / (double)n, g, (int)n,
                0, c, (int)n);
    free(g);
    if (wide)
        return c;
    float *narrow = take(n * n * 4);
    for (size_t i = 0; i < n * n; i++)
        narrow[i] = (float)c[i];
    free(c);
    return narrow;
}

static void bench(size_t n, bool wide, const int *workers, int n_workers, int reps,
                  bool with_lapack, int stages)
{
    const size_t element = wide ? 8 : 4;
    const double n3 = (double)n * (double)n * (double)n;
    const double flops[EIGEN_PHASE_COUNT] = {4.0 / 3 * n3, 6.0 * n * n * EIGEN_BAND, 4.0 / 3 * n3,
                                             2 * n3, 2 * n3};
    double best[MAX_LIST][EIGEN_PHASE_COUNT], total[MAX_LIST], reference = INFINITY, first = 0;
    void *matrix = matrix_make(n, wide), *c = take(n * n * element), *values = take(n * 8);

    for (int w = 0; w < n_workers; w++) {
        total[w] = INFINITY;
        for (int i = 0; i < EIGEN_PHASE_COUNT; i++)
            best[w][i] = INFINITY;
    }
    for (int rep = 0; rep < reps; rep++) {
        if (with_lapack)
            reference = fmin(reference, lapack(n, wide, matrix, c, values));
        for (int w = 0; w < n_workers; w++)
            total[w] =
                fmin(total[w], staged(stages, n, wide, workers[w], matrix, c, values, best[w]));
    }
    printf("n %zu %s", n, wide ? "f64" : "f32");
    if (with_lapack)
        printf("  ?syevd, 1 thread: %.3f s", reference);
    printf("\n");
    for (int w = 0; w < n_workers; w++) {
        double sum = 0;
        for (int i = 0; i < EIGEN_PHASE_COUNT; i++)
            sum += best[w][i];
        first = w ? first : sum;
        printf("  workers %d: %.3f s (wall clock %.3f)", workers[w], sum, total[w]);
        if (with_lapack)
            printf(", ?syevd's time / %.2f", reference / sum);
        printf(", %.2f times the speed of %d\n   ", first / sum, workers[0]);
        for (int i = 0; i < EIGEN_PHASE_COUNT; i++)
            printf(" %s %.3f (%.0f)", phase_names[i], best[w][i], flops[i] / best[w][i] * 1e-9);
        printf("\n");
    }
    check(n, wide, matrix, c, values);
    fflush(stdout);
    free(matrix);
    free(c);
    free(values);
}

static int list(char *text, int *values)
{
    int n = 0;
    for (char *item = strtok(text, ","); item && n < MAX_LIST; item = strtok(NULL, ","))
        values[n++] = atoi(item);
    return n;
}

int main(int argc, char **argv)
{
    int orders[MAX_LIST] = {2048}, n_orders = 1, workers[MAX_LIST] = {1, 2}, n_workers = 2,
        reps = 3, stages = 2;
    bool with_lapack = true;
    const char *type = "both";

    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--n"))
            n_orders = list(argv[i + 1], orders);
        else if (!strcmp(argv[i], "--workers"))
            n_workers = list(argv[i + 1], workers);
        else if (!strcmp(argv[i], "--type"))
            type = argv[i + 1];
        else if (!strcmp(argv[i], "--reps"))
            reps = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--lapack"))
            with_lapack = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--stages"))
            stages = atoi(argv[i + 1]);
        else
            die("see the comment at the top of bench_eigen.c for the options");
    }
    openblas_set_num_threads(1);
    printf("%s\n", openblas_get_config());
    for (int i = 0; i < n_orders; i++)
        for (int wide = 1; wide >= 0; wide--)
            if (!strcmp(type, "both") || !strcmp(type, wide ? "f64" : "f32"))
                bench((size_t)orders[i], wide, workers, n_workers, reps, with_lapack, stages);
    return 0;
}
