/* Time of one decomposition by one worker: bench_svd ROWS COLUMNS CONDITION PRECISION [METHOD
 * [check]] W = random Householder products around a spectrum that falls evenly. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/eigen.h"
#include "solver/svd.h"

static int read_rows(const void *context, size_t first, size_t n, float *out)
{
    const struct svd_source *s = *(const struct svd_source *const *)context;
    const float *w = *((const float *const *)context + 1);
    memcpy(out, w + first * s->n_columns, n * s->n_columns * sizeof *out);
    return 0;
}

static double gaussian(void)
{
    return sqrt(-2 * log((rand() + 1.0) / (RAND_MAX + 2.0))) *
           cos(6.283185307179586 * rand() / RAND_MAX);
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: bench_svd ROWS COLUMNS CONDITION PRECISION [METHOD [check]]\n"
                        "CONDITION 0: a Gaussian matrix\n");
        return 2;
    }
    const size_t m = strtoul(argv[1], NULL, 10), n = strtoul(argv[2], NULL, 10);
    const size_t r = m < n ? m : n;
    const double condition = strtod(argv[3], NULL);
    struct svd_options options = svd_defaults();
    float *w = malloc(m * n * sizeof *w), *factor = malloc(r * r * sizeof *factor);
    double *v = malloc((m + n) * sizeof *v), *sigma = malloc(r * sizeof *sigma);
    double *t = malloc((m + n) * sizeof *t);

    if (!w || !factor || !v || !t || !sigma || svd_precision_parse(argv[4], &options.precision) ||
        (argc > 5 && svd_method_parse(argv[5], &options.method))) {
        fprintf(stderr, "%s\n", error_message());
        return 1;
    }
    options.check = argc > 6;
    if (condition == 0) {
        for (size_t i = 0; i < m * n; i++)
            w[i] = (float)gaussian();
    } else {
        /* W = H1 H2 H3 D H4 H5 H6, D falling evenly from 1 to 1 / condition */
        memset(w, 0, m * n * sizeof *w);
        for (size_t i = 0; i < r; i++)
            w[i * n + i] =
                (float)(1 - (1 - 1 / condition) * (double)i / (double)(r > 1 ? r - 1 : 1));
        for (int k = 0; k < 6; k++) {
            const size_t size = k < 3 ? m : n;
            double norm = 0;
            for (size_t i = 0; i < size; i++) {
                v[i] = gaussian();
                norm += v[i] * v[i];
            }
            memset(t, 0, (m + n) * sizeof *t);
            for (size_t i = 0; i < m; i++)
                for (size_t j = 0; j < n; j++)
                    t[k < 3 ? j : i] += v[k < 3 ? i : j] * (double)w[i * n + j];
            for (size_t i = 0; i < m; i++)
                for (size_t j = 0; j < n; j++)
                    w[i * n + j] -= (float)(2 / norm * v[k < 3 ? i : j] * t[k < 3 ? j : i]);
        }
    }
    struct svd_source source = {m, n, read_rows, NULL, "bench"};
    const void *context[2] = {&source, w};
    source.context = context;
    const struct crew crew = crew_alone();
    const size_t bytes = svd_work_bytes(m, n, &options, 1);
    struct arena arena = {malloc(bytes), bytes, 0};
    struct svd_report report;
    blas_single_thread();
    for (int i = 0; i < 2; i++) {
        if (svd_solve(&crew, &arena, &source, &options, sigma, factor, &report) != 0) {
            fprintf(stderr, "%s\n", error_message());
            return 1;
        }
        printf("%zu x %zu: %.3f s, %s %s, f32 tried %d, f64 tried %d, repair %s, bound %.1e, "
               "orthogonality %.1e, residual %.1e, sigma %.4g .. %.4g\n",
               m, n, report.seconds, svd_method_name(report.method),
               svd_precision_name(report.precision), report.tried_f32, report.tried_f64,
               svd_repair_name(report.repair), report.bound, report.orthogonality, report.residual,
               sigma[0], sigma[r - 1]);
    }
    return 0;
}
