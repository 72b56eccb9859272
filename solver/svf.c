#include "solver/svf.h"

#include <cblas.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

/* The rows (tall) or columns (wide) of W that one pair of products takes: enough for OpenBLAS, and
 * the buffers stay small beside W. */
enum { BLOCK = 512 };

/* What is added, e = multiplier z - 1, for the components where it is not 0. */
struct correction {
    size_t n;       /* components that take part */
    float *e;       /* [n] */
    float *vectors; /* their singular vectors [n, r] */
    float *block;   /* [BLOCK, n] or [n, BLOCK] */
};

static void correction_free(struct correction *c)
{
    free(c->e);
    free(c->vectors);
    free(c->block);
}

static int correction_make(struct correction *c, const struct svf_matrix *matrix, size_t r,
                           const float *z, float multiplier)
{
    size_t n_vectors, n_block;

    *c = (struct correction){0};
    for (size_t i = 0; i < r; i++) {
        if (!isfinite(multiplier * z[i]))
            return error_set("z[%zu] is %g (times %g): not finite", i, (double)z[i],
                             (double)multiplier);
        c->n += multiplier * z[i] != 1;
    }
    if (__builtin_mul_overflow(c->n + 1, r * sizeof(float), &n_vectors) ||
        __builtin_mul_overflow(c->n + 1, BLOCK * sizeof(float), &n_block))
        return error_set("out of memory");
    c->e = malloc((c->n + 1) * sizeof(float));
    c->vectors = malloc(n_vectors);
    c->block = malloc(n_block);
    if (!c->e || !c->vectors || !c->block)
        return error_set("out of memory");
    for (size_t i = 0, k = 0; i < r; i++) {
        if (multiplier * z[i] == 1)
            continue;
        /* In f64: z near 1 keeps its digits. */
        c->e[k] = (float)((double)multiplier * (double)z[i] - 1);
        memcpy(c->vectors + k * r, matrix->factor + i * r, r * sizeof(float));
        k++;
    }
    return 0;
}

/* W[block] += ((W[block] V) diag(e)) V^T, W [m, n] by blocks of rows. */
static void compose_tall(const struct correction *c, size_t m, size_t n, float *w)
{
    const int k = (int)c->n, width = (int)n;

    for (size_t first = 0; first < m; first += BLOCK) {
        const int rows = (int)(m - first < BLOCK ? m - first : BLOCK);
        float *block = w + first * n;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, k, width, 1, block, width,
                    c->vectors, width, 0, c->block, k);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < k; j++)
                c->block[(size_t)i * c->n + (size_t)j] *= c->e[j];
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, width, k, 1, c->block, k,
                    c->vectors, width, 1, block, width);
    }
}

/* W[:, block] += U (diag(e) (U^T W[:, block])), W [m, n] by blocks of columns. */
static void compose_wide(const struct correction *c, size_t m, size_t n, float *w)
{
    const int k = (int)c->n, height = (int)m, stride = (int)n;

    for (size_t first = 0; first < n; first += BLOCK) {
        const int columns = (int)(n - first < BLOCK ? n - first : BLOCK);
        float *block = w + first;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, k, columns, height, 1, c->vectors,
                    height, block, stride, 0, c->block, columns);
        for (int i = 0; i < k; i++)
            for (int j = 0; j < columns; j++)
                c->block[(size_t)i * (size_t)columns + (size_t)j] *= c->e[i];
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, height, columns, k, 1, c->vectors,
                    height, c->block, columns, 1, block, stride);
    }
}

int svf_compose(const struct svf_matrix *matrix, const float *z, float multiplier, float *w)
{
    const size_t m = matrix->n_rows, n = matrix->n_columns, r = m < n ? m : n;
    struct correction c = {0};
    int status = -1;

    if (m > INT32_MAX || n > INT32_MAX || (m > 0 && n > SIZE_MAX / sizeof(float) / m)) {
        error_set("a matrix of %zu x %zu is too large", m, n);
        goto done;
    }
    if (correction_make(&c, matrix, r, z, multiplier))
        goto done;
    if (c.n > 0 && m >= n) /* n = 0 leaves the bits alone, also those of -0 */
        compose_tall(&c, m, n, w);
    else if (c.n > 0)
        compose_wide(&c, m, n, w);
    status = 0;
done:
    correction_free(&c);
    return status;
}
