/* Ways out for a factor that fails its contract, and for a matrix whose Gram matrix in f64 is not
 * good enough. Rare, so that LAPACK does them on worker 0, in f64. */
#include <limits.h>
#include <math.h>

#include "mpi/error.h"
#include "solver/blas.h"
#include "solver/svd_internal.h"

enum { VECTORS = 512 };

static int too_small(const struct svd_work *w)
{
    return error_set("%s: the memory given for its repair is too small", w->source->name);
}

/* Rows of p are the columns that LAPACK sees: p^T = Q R, and p becomes Q^T, each row with the
 * direction it had. Rows come with descending values, so it is those of small values that change,
 * by what they had of large ones. */
static int orthogonalise(const struct svd_work *w, double *p, double *tau, double *work, int lwork)
{
    const int n = (int)w->r;
    const size_t r = w->r;
    int info;

    for (size_t i = 0; i < r * r; i++)
        if (!isfinite(p[i]))
            return 1;
    double *sign = tau + r;
    dgeqrf_(&n, &n, p, &n, tau, work, &lwork, &info);
    if (info != 0)
        return 1;
    for (size_t i = 0; i < r; i++)
        sign[i] = p[i * r + i] < 0 ? -1 : 1;
    dorgqr_(&n, &n, &n, p, &n, tau, work, &lwork, &info);
    for (size_t i = 0; i < r; i++)
        for (size_t j = 0; j < r; j++)
            p[i * r + j] *= sign[i];
    return info != 0;
}

static size_t qr_work(size_t r)
{
    return 64 * r;
}

int svd_orthogonalise(struct svd_work *w, double *p, bool *hopeless)
{
    const size_t used = w->arena->used, r = w->r;
    int *failed = arena_take(w->arena, sizeof *failed);
    double *tau = arena_take(w->arena, 2 * r * sizeof *tau);
    double *work = arena_take(w->arena, qr_work(r) * sizeof *work);
    int status = 0;

    if (!failed || !tau || !work) {
        status = too_small(w);
    } else {
        crew_wait(w->crew);
        if (w->crew->index == 0)
            *failed = orthogonalise(w, p, tau, work, (int)qr_work(r));
        crew_wait(w->crew);
        *hopeless = *failed != 0;
        crew_wait(w->crew);
    }
    w->arena->used = used;
    return status;
}

/* yt [r, length] = p B^T */
static int multiply(struct svd_work *w, const double *p, double *yt)
{
    const size_t r = w->r, length = w->length;
    int status = 0;

    for (size_t b = 0; b < svd_cuts(length, SVD_BLOCK); b++) {
        struct svd_block block;
        if (svd_block_read(w, b, true, &block) != 0)
            status = -1;
        while (svd_part(w, svd_cuts(r, VECTORS))) {
            const size_t at = w->parts.next * (size_t)VECTORS;
            blas_gemm(sizeof *p, false, !w->wide, svd_at_most(VECTORS, r - at), block.k, r,
                      p + at * r, r, block.f64, block.f64_ld, 0, yt + at * length + b * SVD_BLOCK,
                      length);
        }
    }
    return crew_agree(w->crew, status);
}

int svd_jacobi(struct svd_work *w, double *p, double *values, bool *hopeless)
{
    const size_t used = w->arena->used, r = w->r, length = w->length;
    const size_t n_work = svd_at_most(length + r, INT_MAX) + 6;
    int *failed = arena_take(w->arena, sizeof *failed);
    double *yt = arena_take(w->arena, r * length * sizeof *yt);
    double *work = arena_take(w->arena, n_work * sizeof *work);
    int status = 0;

    if (!failed || !yt || !work) {
        status = too_small(w);
        goto done;
    }
    status = multiply(w, p, yt);
    if (status != 0)
        goto done;
    if (w->crew->index == 0) {
        const int m = (int)length, n = (int)r, lwork = (int)n_work;
        int info;
        dgesvj_("G", "N", "A", &m, &n, yt, &m, values, &n, p, &n, work, &lwork, &info);
        for (size_t i = 0; i < r; i++)
            values[i] = (values[i] * work[0]) * (values[i] * work[0]);
        *failed = info != 0;
    }
    crew_wait(w->crew);
    *hopeless = *failed != 0;
    crew_wait(w->crew);
done:
    w->arena->used = used;
    return status;
}

/* ---- LAPACK on W itself -----------------------------------------------------------------------
 */

/* For jobz O: the routine's minimum is 3 r + max(length, 5 r^2 + 4 r). */
static size_t gesdd_work(size_t r, size_t length)
{
    return 6 * r * r + 7 * r + 66 * (r + length);
}

/* A row-major W is W^T to LAPACK: it sees [n_columns, n_rows]. With jobz O the singular vectors of
 * the smaller side come in full, in a where the matrix has at least as many rows as columns and
 * the rows are meant, else in `vectors`. */
static int gesdd(const struct svd_work *w, double *a, double *vectors, double *s, double *work,
                 int *iwork, double *p)
{
    const size_t r = w->r;
    const int m = (int)w->source->n_columns, n = (int)w->source->n_rows, order = (int)r;
    const int lwork = (int)gesdd_work(r, w->length);
    int info;

    dgesdd_("O", &m, &n, a, &m, s, vectors, &order, vectors, &order, work, &lwork, iwork, &info);
    if (info != 0)
        return error_set("%s: LAPACK's dgesdd failed (info %d)", w->source->name, info);
    for (size_t i = 0; i < r; i++)
        for (size_t j = 0; j < r; j++)
            p[i * r + j] = w->wide  ? vectors[j * r + i]
                           : m == n ? a[i * r + j]
                                    : vectors[i * r + j];
    return 0;
}

int svd_lapack(struct svd_work *w, double *p, double *values)
{
    const size_t used = w->arena->used, r = w->r, length = w->length, ld = w->source->n_columns;
    const size_t n_work = gesdd_work(r, length);
    double *a = arena_take(w->arena, r * length * sizeof *a);
    double *vectors = arena_take(w->arena, r * r * sizeof *vectors);
    double *work = arena_take(w->arena, n_work * sizeof *work);
    int *iwork = arena_take(w->arena, 8 * r * sizeof *iwork);
    int status = 0;

    if (n_work > INT_MAX || r > INT_MAX / length) {
        status = error_set("%s: LAPACK's dgesdd does not take a matrix of %zu x %zu; use the grid "
                           "method",
                           w->source->name, w->source->n_rows, ld);
        goto done;
    }
    if (!a || !vectors || !work || !iwork) {
        status = too_small(w);
        goto done;
    }
    for (size_t b = 0; b < svd_cuts(length, SVD_BLOCK); b++) {
        struct svd_block block;
        if (svd_block_read(w, b, true, &block) != 0)
            status = -1;
        const size_t lines = w->wide ? r : block.k, n = w->wide ? block.k : r;
        double *out = w->wide ? a + b * SVD_BLOCK : a + b * SVD_BLOCK * r;
        while (svd_part(w, lines))
            for (size_t j = 0; j < n; j++)
                out[w->parts.next * ld + j] = block.f64[w->parts.next * block.f64_ld + j];
    }
    status = crew_agree(w->crew, status);
    if (status != 0)
        goto done;
    if (w->crew->index == 0) {
        status = gesdd(w, a, vectors, values, work, iwork, p);
        for (size_t i = 0; i < r; i++)
            values[i] *= values[i];
    }
    status = crew_agree(w->crew, status);
done:
    w->arena->used = used;
    return status;
}

size_t svd_repair_bytes(size_t n_rows, size_t n_columns)
{
    const size_t r = svd_at_most(n_rows, n_columns), length = n_rows + n_columns - r;
    const size_t lapack =
        r * length * 8 + r * r * 8 + gesdd_work(r, length) * 8 + 8 * r * sizeof(int);
    const size_t jacobi = r * length * 8 + (length + r + 6) * 8;
    const size_t qr = (2 * r + qr_work(r)) * 8;

    return (lapack > jacobi ? lapack : jacobi) + qr + 8 * 64;
}
