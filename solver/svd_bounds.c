/* Rayleigh quotients of all vectors and how far they can be from the singular values.
 * docs/decompose.md derives the formulas; its symbols are used here: d_i = |B q_i|^2,
 * c_ij = q_j . (C q_i - d_i q_i), measured where i and j are near, eps_i = |C q_i - d_i q_i|. */
#include <Random123/philox.h>
#include <math.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/blas.h"
#include "solver/svd_internal.h"

enum { VECTORS = 512, CHUNKS = 4, COLUMNS = 512, LINES = 128, WINDOW = 2 * SVD_BAND };

/* One pass over W, or over C and W. Arrays of the crew. */
struct pass {
    size_t bytes;      /* of an element of q, gram and yt */
    const void *q;     /* [r, r], or NULL: probes only */
    const float *gram; /* C [r, r], or NULL: B stands for itself */
    void *yt;          /* (B q)^T of one block [r, SVD_BLOCK]; from C: C q_i - d_i q_i [r, r] */
    double *d;         /* |B q_i|^2 [r] */
    double *band; /* (B q_i) . (B q_j) for j in i's chunk and the next [r, WINDOW]; from C: c_ij */
    void *tile;   /* this worker's own [SVD_BAND, WINDOW] */
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

/* C times the vectors of one part: d_i = q_i . C q_i, and what is left, C q_i - d_i q_i, in yt [r,
 * r]. */
static void multiply_gram(const struct svd_work *w, const struct pass *p, size_t part)
{
    const size_t r = w->r, at = part * VECTORS, n = svd_at_most(VECTORS, r - at);
    const float *q = p->q;
    float *yt = p->yt;

    blas_gemm(sizeof *q, false, false, n, r, r, q + at * r, r, p->gram, r, 0, yt + at * r, r);
    for (size_t i = at; i < at + n; i++) {
        p->d[i] = dot(sizeof *q, q + i * r, yt + i * r, r);
        const double d = p->d[i] / sum_squares(sizeof *q, q + i * r, r);
        for (size_t k = 0; k < r; k++)
            yt[i * r + k] = (float)((double)yt[i * r + k] - d * (double)q[i * r + k]);
    }
}

/* band [chunks of one part] (+)= x y^T, x and y [r, k]. */
static void add_band(size_t bytes, const void *x, size_t ldx, const void *y, size_t ldy, size_t r,
                     size_t k, size_t part, bool first, void *tile, double *band)
{
    const size_t end = svd_at_most((part + 1) * CHUNKS * SVD_BAND, r);

    for (size_t at = part * CHUNKS * SVD_BAND; at < end; at += SVD_BAND) {
        const size_t rows = svd_at_most(SVD_BAND, r - at), columns = svd_at_most(WINDOW, r - at);
        blas_gemm(bytes, false, true, rows, columns, k, blas_at_const(x, bytes, at * ldx), ldx,
                  blas_at_const(y, bytes, at * ldy), ldy, 0, tile, WINDOW);
        for (size_t i = 0; i < rows; i++) {
            double *line = band + (at + i) * WINDOW;
            if (first)
                memset(line, 0, WINDOW * sizeof *line);
            axpy(bytes, 1, blas_at_const(tile, bytes, i * WINDOW), columns, line);
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

/* The vectors' part of a pass, from C. */
static void run_gram(struct svd_work *w, struct pass *p)
{
    const size_t r = w->r;

    while (svd_part(w, svd_cuts(r, VECTORS)))
        multiply_gram(w, p, w->parts.next);
    while (svd_part(w, svd_cuts(r, CHUNKS * SVD_BAND)))
        add_band(p->bytes, p->yt, r, p->q, r, r, r, w->parts.next, true, p->tile, p->band);
}

static int run_pass(struct svd_work *w, struct pass *p)
{
    const bool by_blocks = p->q && !p->gram;
    const size_t n_vectors = by_blocks ? svd_cuts(w->r, VECTORS) : 0;
    const size_t n_bands = by_blocks ? svd_cuts(w->r, CHUNKS * SVD_BAND) : 0;
    const size_t n_columns = svd_cuts(w->r, COLUMNS);
    int status = 0;

    if (p->gram)
        run_gram(w, p);
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
                add_band(p->bytes, p->yt, SVD_BLOCK, p->yt, SVD_BLOCK, w->r, block.k, w->parts.next,
                         i == 0, p->tile, p->band);
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
    const double *d, *band, *cross; /* cross: q_i . q_j, laid out as band; NULL: band has c_ij */
    size_t r;
};

static double coupling(const struct couplings *c, size_t i, size_t j)
{
    const size_t low = i < j ? i : j, high = i < j ? j : i;
    const size_t at = low * WINDOW + high - low / SVD_BAND * SVD_BAND;

    /* c_ij and c_ji differ by gap times q_i . q_j, which is nothing in c^2 / gap. */
    return fabs(c->cross ? c->band[at] - c->d[i] * c->cross[at] : c->band[at]);
}

/* error [r]: of each d_i. far [2]: spans before and after the measured neighbours. */
static double value_error(const struct couplings *c, size_t i, double eps, const struct span far[2])
{
    const size_t chunk = i / SVD_BAND;
    const size_t first = chunk > 0 ? (chunk - 1) * SVD_BAND : 0;
    const size_t end = svd_at_most((chunk + 2) * SVD_BAND, c->r);
    const double gap = fmin(gap_to(c->d[i], far[0]), gap_to(c->d[i], far[1]));
    double sum = isinf(gap) ? 0 : shift(eps, gap);

    for (size_t j = first; j < end; j++)
        if (j != i)
            sum += shift(coupling(c, i, j), fabs(c->d[i] - c->d[j]));
    return sum;
}

/* quotient_error: relative, as measured. power: of mean / sigma that the rounding of a quotient
 * grows with, 1 from W and 2 from C. */
static double largest_bound(const struct couplings *c, const double rms[SVD_GROUPS],
                            double quotient_error, double unit, double power)
{
    const size_t r = c->r;
    double trace = 0;
    for (size_t i = 0; i < r; i++)
        trace += c->d[i];
    const double mean = sqrt(trace / (double)r);
    const double top = span_of(c->d, 0, r).high;
    const double floor = sqrt(top) * (double)r * 0x1p-52;
    double bound = 0;

    for (size_t chunk = 0; chunk * SVD_BAND < r; chunk++) {
        const size_t first = chunk * SVD_BAND, end = svd_at_most(first + SVD_BAND, r);
        const struct span far[2] = {span_of(c->d, 0, chunk > 0 ? first - SVD_BAND : 0),
                                    span_of(c->d, svd_at_most(end + SVD_BAND, r), r)};
        size_t g = 0;
        for (size_t i = first; i < end; i++) {
            const double sigma = sqrt(c->d[i]);
            if (!(sigma > floor))
                continue;
            while (i >= svd_group_begin(r, g + 1))
                g++;
            bound = svd_worse(
                bound, relative_error(value_error(c, i, 2 * rms[g], far), c->d[i]) +
                           4 * fmax(quotient_error, 0.5 * unit * (1 + pow(mean / sigma, power))));
        }
    }
    return bound;
}

size_t svd_measure_bytes(size_t r, int crew_size)
{
    return (r * SVD_BLOCK * 8 > r * r * 4 ? r * SVD_BLOCK * 8 : r * r * 4) + 2 * r * WINDOW * 8 +
           2 * r * 8 + (size_t)crew_size * SVD_BAND * WINDOW * 8 + SVD_PROBES * 8 + 64 +
           svd_apply_bytes(r) + 10 * 64;
}

int svd_measure(struct svd_work *w, size_t bytes, const void *q, const float *gram, double *values,
                struct svd_measure *measure)
{
    const size_t r = w->r, used = w->arena->used;
    struct arena *a = w->arena;
    struct svd_measure *shared = arena_take(a, sizeof *shared);
    double *zt = arena_take(a, SVD_PROBES * r * sizeof *zt);
    double *cross = gram ? NULL : arena_take(a, r * WINDOW * sizeof *cross);
    struct pass p = {.bytes = bytes, .q = q, .gram = gram, .d = values, .zt = zt};
    double rms[SVD_GROUPS], worst[SVD_GROUPS];
    int status;

    p.yt = arena_take(a, gram ? r * r * sizeof *gram : r * SVD_BLOCK * bytes);
    p.band = arena_take(a, r * WINDOW * sizeof *p.band);
    char *tiles = arena_take(a, (size_t)w->crew->size * SVD_BAND * WINDOW * bytes);
    p.st = arena_take(a, SVD_PROBES * r * sizeof *p.st);
    p.squares = arena_take(a, SVD_PROBES * sizeof *p.squares);
    status = take_probes(w, &p);
    if (status != 0 || !shared || !zt || (!gram && !cross) || !p.yt || !p.band || !tiles || !p.st ||
        !p.squares) {
        status =
            error_set("%s: the memory given for its decomposition is too small", w->source->name);
        goto done;
    }
    p.tile = tiles + (size_t)w->crew->index * SVD_BAND * WINDOW * bytes;
    svd_probes_make(w, bytes, q, zt);
    while (!gram && svd_part(w, svd_cuts(r, CHUNKS * SVD_BAND)))
        add_band(bytes, q, r, q, r, r, r, w->parts.next, true, p.tile, cross);
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
        const struct couplings c = {values, p.band, cross, r};
        const double top = span_of(values, 0, r).high,
                     floor = top * ((double)r * 0x1p-52) * ((double)r * 0x1p-52);
        double quotient_error = 0, largest = 0;
        for (size_t i = 0; i < SVD_SINGLES; i++) {
            const size_t s = svd_single(r, i);
            const double norm = sum_squares(bytes, blas_at_const(q, bytes, s * r), r);
            const double sigma = sqrt(p.squares[SVD_GROUPS + i] / norm);
            if (sigma * sigma > floor)
                quotient_error = svd_worse(quotient_error, fabs(sqrt(values[s]) / sigma - 1));
        }
        for (size_t g = 0; g < SVD_GROUPS; g++)
            largest = svd_worse(largest, worst[g]);
        shared->bound = largest_bound(&c, rms, quotient_error,
                                      bytes == sizeof(float) ? 0x1p-24 : 0x1p-53, gram ? 2 : 1);
        shared->residual = top > 0 ? largest / top : 0;
    }
    crew_wait(w->crew);
    *measure = *shared;
    crew_wait(w->crew);
done:
    w->arena->used = used;
    return status;
}
