/* Rayleigh quotients of all vectors and how far they can be from the singular values.
 * docs/decompose.md derives the formulas; its symbols are used here: d_i = |B q_i|^2,
 * c_ij = q_j . (C q_i - d_i q_i), measured where i and j are near, eps_i = |C q_i - d_i q_i|. */
#include <Random123/philox.h>
#include <math.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/blas.h"
#include "solver/svd_internal.h"

enum { VECTORS = 512, CHUNKS = 4, COLUMNS = 512, LINES = 128 };

/* Couplings are measured for neighbours nearer than this, at least, and in windows of twice as
 * many. In f32 they are larger and what is farther is dealt with more coarsely, so large matrices
 * get more. */
static size_t band_of(size_t bytes, size_t r)
{
    const size_t sixteenth = svd_cuts(r, 16 * SVD_BAND) * SVD_BAND;

    return bytes == sizeof(float) && sixteenth > SVD_BAND ? sixteenth : SVD_BAND;
}

/* One pass over W. Arrays of the crew. */
struct pass {
    size_t bytes;  /* of an element of q and yt */
    size_t near;   /* band_of */
    const void *q; /* [r, r], or NULL: probes only */
    void *yt;      /* (B q)^T of one block [r, SVD_BLOCK] */
    double *d;     /* |B q_i|^2 [r] */
    double *band;  /* (B q_i) . (B q_j) for j in i's chunk and the next [r, 2 near] */
    void *tile;    /* this worker's own [near, 2 near] */
    const double *zt;
    double *ut; /* (B z)^T of one block [SVD_PROBES, SVD_BLOCK] */
    double *st, *squares;
};

/* x . y in f64, in eight interleaved partial sums: an order given by n alone. */
static double dot(size_t bytes, const void *x, const void *y, size_t n)
{
    const float *x32 = x, *y32 = y;
    const double *x64 = x, *y64 = y;
    double lane[8] = {0}, sum = 0;
    size_t i = 0;

    if (bytes == sizeof(float)) {
        for (; i + 8 <= n; i += 8)
            for (size_t l = 0; l < 8; l++)
                lane[l] += (double)x32[i + l] * (double)y32[i + l];
        for (; i < n; i++)
            sum += (double)x32[i] * (double)y32[i];
    } else {
        for (; i + 8 <= n; i += 8)
            for (size_t l = 0; l < 8; l++)
                lane[l] += x64[i + l] * y64[i + l];
        for (; i < n; i++)
            sum += x64[i] * y64[i];
    }
    for (size_t l = 0; l < 8; l++)
        sum += lane[l];
    return sum;
}

static double sum_squares(size_t bytes, const void *x, size_t n)
{
    return dot(bytes, x, x, n);
}

/* y += a x */
static void axpy(size_t bytes, double a, const void *x, size_t n, double *y)
{
    const float *x32 = x;
    const double *x64 = x;

    if (bytes == sizeof(float))
        for (size_t i = 0; i < n; i++)
            y[i] += a * (double)x32[i];
    else
        for (size_t i = 0; i < n; i++)
            y[i] += a * x64[i];
}

void svd_normalise(struct svd_work *w, size_t bytes, void *q)
{
    const size_t r = w->r;

    while (svd_part(w, svd_cuts(r, SVD_BAND))) {
        const size_t first = w->parts.next * (size_t)SVD_BAND;
        for (size_t i = first; i < svd_at_most(first + SVD_BAND, r); i++) {
            void *row = blas_at(q, bytes, i * r);
            const double norm = sqrt(sum_squares(bytes, row, r));
            const double factor = norm > 0 ? 1 / norm : 1;
            for (size_t j = 0; j < r; j++)
                if (bytes == sizeof(float))
                    ((float *)row)[j] = (float)((double)((float *)row)[j] * factor);
                else
                    ((double *)row)[j] *= factor;
        }
    }
}

/* ---- probes -----------------------------------------------------------------------------------
 */

static uint32_t random_bits(uint64_t stream, uint64_t index)
{
    const philox4x32_ctr_t counter = {
        {(uint32_t)stream, (uint32_t)(stream >> 32), (uint32_t)index, (uint32_t)(index >> 32)}};
    const philox4x32_key_t key = {{0x5d588b65u, 0x0a3c6ef3u}};

    return philox4x32(counter, key).v[0];
}

double svd_probe_sign(uint64_t stream, size_t index)
{
    return random_bits(stream, index) & 1 ? 1 : -1;
}

size_t svd_group_begin(size_t r, size_t group)
{
    return group * r / SVD_GROUPS;
}

size_t svd_single(size_t r, size_t s)
{
    if (s == 0 || s == SVD_SINGLES - 1)
        return s == 0 ? 0 : r - 1;
    const size_t first = s < 4 ? 0 : r / 8, end = s < 4 ? (r + 7) / 8 : r;
    return first + random_bits(SVD_GROUPS, s) % (end - first);
}

size_t svd_group_of(size_t r, size_t i)
{
    size_t g = 0;

    while (i >= svd_group_begin(r, g + 1))
        g++;
    return g;
}

void svd_probes_make(struct svd_work *w, size_t bytes, const void *q, double *zt)
{
    const size_t r = w->r;

    while (svd_part(w, SVD_PROBES)) {
        const size_t p = w->parts.next, g = p;
        double *z = zt + p * r;
        memset(z, 0, r * sizeof *z);
        if (p >= SVD_GROUPS)
            axpy(bytes, 1, blas_at_const(q, bytes, svd_single(r, p - SVD_GROUPS) * r), r, z);
        else
            for (size_t i = svd_group_begin(r, g); i < svd_group_begin(r, g + 1); i++)
                axpy(bytes, svd_probe_sign(0, i), blas_at_const(q, bytes, i * r), r, z);
    }
}

void svd_residuals(struct svd_work *w, size_t bytes, const void *q, const double *d, double *st,
                   double rms[SVD_GROUPS], double worst[SVD_GROUPS])
{
    const size_t r = w->r;

    while (svd_part(w, SVD_PROBES)) {
        const size_t p = w->parts.next;
        const size_t first = p < SVD_GROUPS ? svd_group_begin(r, p) : svd_single(r, p - SVD_GROUPS);
        const size_t end = p < SVD_GROUPS ? svd_group_begin(r, p + 1) : first + 1;
        for (size_t i = first; i < end; i++) {
            const double sign = p < SVD_GROUPS ? svd_probe_sign(0, i) : 1;
            axpy(bytes, -d[i] * sign, blas_at_const(q, bytes, i * r), r, st + p * r);
        }
    }
    for (size_t g = 0; g < SVD_GROUPS; g++) {
        const size_t n = svd_group_begin(r, g + 1) - svd_group_begin(r, g);
        worst[g] = n > 0 ? sqrt(sum_squares(sizeof *st, st + g * r, r)) : 0;
        rms[g] = n > 0 ? worst[g] / sqrt((double)n) : 0;
    }
    for (size_t s = 0; s < SVD_SINGLES; s++) {
        const size_t g = svd_group_of(r, svd_single(r, s));
        const double one = sqrt(sum_squares(sizeof *st, st + (SVD_GROUPS + s) * r, r));
        worst[g] = svd_worse(worst[g], one);
        rms[g] = svd_worse(rms[g], one);
    }
}

/* ---- the pass ---------------------------------------------------------------------------------
 */

/* (B q)^T for the vectors of one part, and its squares. */
static void multiply_vectors(const struct svd_work *w, const struct svd_block *b,
                             const struct pass *p, size_t part, bool first)
{
    const size_t r = w->r, at = part * VECTORS, n = svd_at_most(VECTORS, r - at);
    const void *data = p->bytes == sizeof(float) ? (const void *)b->f32 : (const void *)b->f64;
    const size_t ld = p->bytes == sizeof(float) ? b->f32_ld : b->f64_ld;

    blas_gemm(p->bytes, false, !w->wide, n, b->k, r, blas_at_const(p->q, p->bytes, at * r), r, data,
              ld, 0, blas_at(p->yt, p->bytes, at * SVD_BLOCK), SVD_BLOCK);
    for (size_t i = at; i < at + n; i++) {
        const double sum = sum_squares(p->bytes, blas_at(p->yt, p->bytes, i * SVD_BLOCK), b->k);
        p->d[i] = first ? sum : p->d[i] + sum;
    }
}

/* band [chunks of one part] (+)= x y^T, x and y [r, k]. */
static void add_band(size_t bytes, size_t near, const void *x, size_t ldx, const void *y,
                     size_t ldy, size_t r, size_t k, size_t part, bool first, void *tile,
                     double *band)
{
    const size_t end = svd_at_most((part + 1) * CHUNKS * near, r);

    for (size_t at = part * CHUNKS * near; at < end; at += near) {
        const size_t rows = svd_at_most(near, r - at), columns = svd_at_most(2 * near, r - at);
        blas_gemm(bytes, false, true, rows, columns, k, blas_at_const(x, bytes, at * ldx), ldx,
                  blas_at_const(y, bytes, at * ldy), ldy, 0, tile, 2 * near);
        for (size_t i = 0; i < rows; i++) {
            double *line = band + (at + i) * 2 * near;
            if (first)
                memset(line, 0, 2 * near * sizeof *line);
            axpy(bytes, 1, blas_at_const(tile, bytes, i * 2 * near), columns, line);
        }
    }
}

/* (B z)^T for the rows of one part. */
static void multiply_probes(const struct svd_work *w, const struct svd_block *b,
                            const struct pass *p, size_t part)
{
    const size_t at = part * LINES, n = svd_at_most(LINES, b->k - at);

    blas_gemm(sizeof(double), false, !w->wide, SVD_PROBES, n, w->r, p->zt, w->r,
              b->f64 + at * (w->wide ? 1 : b->f64_ld), b->f64_ld, 0, p->ut + at, SVD_BLOCK);
}

/* st += (B z)^T B for the columns of one part. */
static void multiply_back(const struct svd_work *w, const struct svd_block *b, const struct pass *p,
                          size_t part, bool first)
{
    const size_t at = part * COLUMNS, n = svd_at_most(COLUMNS, w->r - at);

    blas_gemm(sizeof(double), false, w->wide, SVD_PROBES, n, b->k, p->ut, SVD_BLOCK,
              b->f64 + at * (w->wide ? b->f64_ld : 1), b->f64_ld, first ? 0 : 1, p->st + at, w->r);
    if (part == 0)
        for (size_t i = 0; i < SVD_PROBES; i++) {
            const double sum = sum_squares(sizeof(double), p->ut + i * SVD_BLOCK, b->k);
            p->squares[i] = first ? sum : p->squares[i] + sum;
        }
}

static int run_pass(struct svd_work *w, struct pass *p)
{
    const size_t n_vectors = p->q ? svd_cuts(w->r, VECTORS) : 0;
    const size_t n_bands = p->q ? svd_cuts(w->r, CHUNKS * p->near) : 0;
    const size_t n_columns = svd_cuts(w->r, COLUMNS);
    int status = 0;

    for (size_t i = 0; i < svd_cuts(w->length, SVD_BLOCK); i++) {
        struct svd_block block;
        if (svd_block_read(w, i, true, &block) != 0)
            status = -1;
        const size_t n_lines = svd_cuts(block.k, LINES);
        while (svd_part(w, n_vectors + n_lines)) {
            if (w->parts.next < n_vectors)
                multiply_vectors(w, &block, p, w->parts.next, i == 0);
            else
                multiply_probes(w, &block, p, w->parts.next - n_vectors);
        }
        while (svd_part(w, n_bands + n_columns)) {
            if (w->parts.next < n_bands)
                add_band(p->bytes, p->near, p->yt, SVD_BLOCK, p->yt, SVD_BLOCK, w->r, block.k,
                         w->parts.next, i == 0, p->tile, p->band);
            else
                multiply_back(w, &block, p, w->parts.next - n_bands, i == 0);
        }
    }
    return crew_agree(w->crew, status);
}

size_t svd_apply_bytes(size_t r)
{
    return SVD_PROBES * (2 * r + SVD_BLOCK) * 8 + 3 * 64;
}

static int take_probes(struct svd_work *w, struct pass *p)
{
    p->ut = arena_take(w->arena, SVD_PROBES * SVD_BLOCK * sizeof *p->ut);
    return p->ut ? 0
                 : error_set("%s: the memory given for its decomposition is too small",
                             w->source->name);
}

int svd_apply(struct svd_work *w, const double *zt, double *st, double *squares)
{
    const size_t used = w->arena->used;
    struct pass p = {.zt = zt, .st = st, .squares = squares};
    int status = take_probes(w, &p);

    if (status == 0)
        status = run_pass(w, &p);
    w->arena->used = used;
    return status;
}

/* ---- the bounds -------------------------------------------------------------------------------
 */

/* The interval that the values of chunks [first, end) fill. */
struct span {
    double low, high;
};

static struct span span_of(const double *d, size_t first, size_t end)
{
    struct span s = {INFINITY, -INFINITY};

    for (size_t i = first; i < end; i++)
        s = (struct span){fmin(s.low, d[i]), fmax(s.high, d[i])};
    return s;
}

static double gap_to(double value, struct span s)
{
    if (s.low > s.high)
        return INFINITY;
    return value > s.high ? value - s.high : value < s.low ? s.low - value : 0;
}

/* How far a coupling c moves a value whose neighbour is `gap` away, at most. */
static double shift(double c, double gap)
{
    return c <= gap ? (c == 0 ? 0 : c * (c / gap)) : c;
}

/* Relative error of sqrt(value) from an error of value. Shifts of that size do not just add: from a
 * quarter on, nothing is claimed. */
static double relative_error(double error, double value)
{
    const double x = error / value;

    return x < 0.25 ? 1 / sqrt(1 - x) - 1 : INFINITY;
}

struct couplings {
    const double *d, *band, *cross; /* cross: q_i . q_j, laid out as band */
    size_t r, near;
};

static double coupling(const struct couplings *c, size_t i, size_t j)
{
    const size_t low = i < j ? i : j, high = i < j ? j : i;
    const size_t at = low * 2 * c->near + high - low / c->near * c->near;

    return fabs(c->band[at] - c->d[i] * c->cross[at]);
}

/* What the measured neighbours do to each d_i: `moved`, to second order by each pair's exact 2 x 2
 * solution; `second`, how much that is at most; `ratio`, the sum of couplings over distances. [r]
 */
static void pair_sums(const struct couplings *c, double *moved, double *second, double *ratio)
{
    const size_t r = c->r, near = c->near;

    for (size_t i = 0; i < r; i++)
        moved[i] = second[i] = ratio[i] = 0;
    for (size_t i = 0; i < r; i++) {
        const size_t base = i / near * near, n = svd_at_most(base + 2 * near, r) - base;
        const double *band = c->band + i * 2 * near, *cross = c->cross + i * 2 * near;
        const double di = c->d[i], *d = c->d + base;
        double sum_moved = 0, sum_second = 0, sum_ratio = 0;
        for (size_t j = i + 1 - base; j < n; j++) {
            const double a = fabs(band[j] - di * cross[j]), gap = di - d[j], g = fabs(gap);
            const double root = sqrt(g * g + 4 * a * a) + g;
            const double part = root > 0 ? 2 * a * a / root : 0;
            const double up = gap > 0 ? part : -part, over = a < g ? a / g : 1;
            const double most = a == 0 ? 0 : a * over;
            sum_moved += up;
            sum_second += most;
            sum_ratio += over;
            moved[base + j] -= up;
            second[base + j] += most;
            ratio[base + j] += over;
        }
        moved[i] += sum_moved;
        second[i] += sum_second;
        ratio[i] += sum_ratio;
    }
}

/* The third order among the nearest: sum over j, k of c_ij c_jk c_ki / (g_ij g_ik). */
static double third_order(const struct couplings *c, size_t i)
{
    enum { NEAREST = 16 };
    const size_t first = i > NEAREST ? i - NEAREST : 0, end = svd_at_most(i + NEAREST + 1, c->r);
    double ratio[2 * NEAREST + 1], sum = 0;

    for (size_t j = first; j < end; j++) {
        const double a = coupling(c, i, j), gap = fabs(c->d[i] - c->d[j]);
        ratio[j - first] = j == i ? 0 : a < gap ? a / gap : 1;
    }
    for (size_t j = first; j < end; j++)
        for (size_t k = first; k < j; k++)
            if (j != i && k != i)
                sum += 2 * ratio[j - first] * ratio[k - first] * coupling(c, k, j);
    return sum;
}

/* Error of d_i once the pairs' shifts have been added, from what is far. far [2]: spans before and
 * after the measured neighbours. */
static double far_error(double d, double eps, const struct span far[2])
{
    const double gap = fmin(gap_to(d, far[0]), gap_to(d, far[1]));

    return isinf(gap) ? 0 : shift(eps, gap);
}

/* From what is near: the third order, and the fourth as the second times couplings over distances
 * squared. */
static double near_error(const struct couplings *c, size_t i, double second, double ratio)
{
    return fmin(second, third_order(c, i) + second * ratio * ratio);
}

/* quotient_error: relative, as measured. */
static double largest_bound(const struct couplings *c, const double *second, const double *ratio,
                            const double rms[SVD_GROUPS], double quotient_error, double unit)
{
    const size_t r = c->r;
    double trace = 0;
    for (size_t i = 0; i < r; i++)
        trace += c->d[i];
    const double mean = sqrt(trace / (double)r);
    const double top = span_of(c->d, 0, r).high;
    const double floor = sqrt(top) * (double)r * 0x1p-52;
    double bound = 0;

    for (size_t chunk = 0; chunk * c->near < r; chunk++) {
        const size_t first = chunk * c->near, end = svd_at_most(first + c->near, r);
        const struct span far[2] = {span_of(c->d, 0, chunk > 0 ? first - c->near : 0),
                                    span_of(c->d, svd_at_most(end + c->near, r), r)};
        size_t g = 0;
        for (size_t i = first; i < end; i++) {
            const double sigma = sqrt(c->d[i]);
            if (!(sigma > floor))
                continue;
            while (i >= svd_group_begin(r, g + 1))
                g++;
            const double rounding = 4 * fmax(quotient_error, 0.5 * unit * (1 + mean / sigma));
            const double far_part = far_error(c->d[i], 2 * rms[g], far);
            /* The second order alone is the most that near_error can be. */
            if (relative_error(second[i] + far_part, c->d[i]) + rounding <= bound)
                continue;
            const double error = near_error(c, i, second[i], ratio[i]) + far_part;
            bound = svd_worse(bound, relative_error(error, c->d[i]) + rounding);
        }
    }
    return bound;
}

size_t svd_measure_bytes(size_t r, int crew_size)
{
    const size_t near = band_of(sizeof(float), r);

    return r * SVD_BLOCK * 8 + 4 * r * near * 8 + 5 * r * 8 +
           (size_t)crew_size * 2 * near * near * 8 + SVD_PROBES * 8 + 64 + svd_apply_bytes(r) +
           12 * 64;
}

int svd_measure(struct svd_work *w, size_t bytes, const void *q, double *values,
                struct svd_measure *measure)
{
    const size_t r = w->r, used = w->arena->used, near = band_of(bytes, w->r);
    struct arena *a = w->arena;
    struct svd_measure *shared = arena_take(a, sizeof *shared);
    double *zt = arena_take(a, SVD_PROBES * r * sizeof *zt);
    double *shifts = arena_take(a, r * sizeof *shifts);
    double *second = arena_take(a, r * sizeof *second), *ratio = arena_take(a, r * sizeof *ratio);
    double *cross = arena_take(a, 2 * r * near * sizeof *cross);
    struct pass p = {.bytes = bytes, .near = near, .q = q, .d = values, .zt = zt};
    double rms[SVD_GROUPS], worst[SVD_GROUPS];
    int status;

    p.yt = arena_take(a, r * SVD_BLOCK * bytes);
    p.band = arena_take(a, 2 * r * near * sizeof *p.band);
    char *tiles = arena_take(a, (size_t)w->crew->size * 2 * near * near * bytes);
    p.st = arena_take(a, SVD_PROBES * r * sizeof *p.st);
    p.squares = arena_take(a, SVD_PROBES * sizeof *p.squares);
    status = take_probes(w, &p);
    if (status != 0 || !shared || !zt || !shifts || !second || !ratio || !cross || !p.yt ||
        !p.band || !tiles || !p.st || !p.squares) {
        status =
            error_set("%s: the memory given for its decomposition is too small", w->source->name);
        goto done;
    }
    p.tile = tiles + (size_t)w->crew->index * 2 * near * near * bytes;
    svd_probes_make(w, bytes, q, zt);
    while (svd_part(w, svd_cuts(r, CHUNKS * near)))
        add_band(bytes, near, q, r, q, r, r, r, w->parts.next, true, p.tile, cross);
    if (run_pass(w, &p) != 0) {
        status = -1;
        goto done;
    }
    if (w->crew->index == 0)
        for (size_t i = 0; i < r; i++)
            values[i] /= sum_squares(bytes, blas_at_const(q, bytes, i * r), r);
    crew_wait(w->crew);
    svd_residuals(w, bytes, q, values, p.st, rms, worst);
    if (w->crew->index == 0) {
        const struct couplings c = {values, p.band, cross, r, near};
        const double top = span_of(values, 0, r).high,
                     floor = top * ((double)r * 0x1p-52) * ((double)r * 0x1p-52);
        double quotient_error = 0, largest = 0;
        pair_sums(&c, shifts, second, ratio);
        for (size_t i = 0; i < SVD_SINGLES; i++) {
            const size_t s = svd_single(r, i);
            const double norm = sum_squares(bytes, blas_at_const(q, bytes, s * r), r);
            const double sigma = sqrt(p.squares[SVD_GROUPS + i] / norm);
            if (sigma * sigma > floor)
                quotient_error = svd_worse(quotient_error, fabs(sqrt(values[s]) / sigma - 1));
        }
        for (size_t g = 0; g < SVD_GROUPS; g++)
            largest = svd_worse(largest, worst[g]);
        shared->bound = largest_bound(&c, second, ratio, rms, quotient_error,
                                      bytes == sizeof(float) ? 0x1p-24 : 0x1p-53);
        shared->residual = top > 0 ? largest / top : 0;
        for (size_t i = 0; i < r; i++)
            values[i] += values[i] + shifts[i] > 0 ? shifts[i] : 0;
    }
    crew_wait(w->crew);
    *measure = *shared;
    crew_wait(w->crew);
done:
    w->arena->used = used;
    return status;
}
