/* Reading W by blocks, its scale, and the Gram matrix of its small side. */
#include <math.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/blas.h"
#include "solver/svd_internal.h"

enum { READ_ROWS = 16, TILE = 512, KEPT_ELEMENTS = 1 << 24 };

/* A wide W is needed by columns; a small one is not worth reading again; a device takes W as a
 * whole, so that others can use it while this one is read. */
static bool keeps_copy(size_t n_rows, size_t n_columns, enum svd_method method)
{
    return method == SVD_CUSOLVER || n_rows < n_columns || n_rows * n_columns <= KEPT_ELEMENTS;
}

void svd_parts_start(struct svd_work *w)
{
    w->parts.base = 0;
    crew_restart(w->crew, &w->parts.own);
}

/* The counter is never set back between steps: in each, every worker asks once in vain. */
bool svd_part(struct svd_work *w, size_t n)
{
    w->parts.next = crew_next(w->crew, &w->parts.own) - w->parts.base;
    if (w->parts.next < n)
        return true;
    crew_wait(w->crew);
    w->parts.base += (uint32_t)n + (uint32_t)w->crew->size;
    return false;
}

size_t svd_blocks_bytes(size_t n_rows, size_t n_columns, enum svd_method method, int crew_size)
{
    const size_t r = svd_at_most(n_rows, n_columns);

    return (size_t)crew_size * 64 +
           (keeps_copy(n_rows, n_columns, method) ? n_rows * n_columns : SVD_BLOCK * r) * 4 +
           SVD_BLOCK * r * 8 + 4 * 64;
}

int svd_blocks_take(struct svd_work *w)
{
    const size_t n = w->source->n_rows * w->source->n_columns;

    w->peaks = arena_take(w->arena, (size_t)w->crew->size * 64);
    if (keeps_copy(w->source->n_rows, w->source->n_columns, w->options->method))
        w->copy = arena_take(w->arena, n * sizeof *w->copy);
    else
        w->rows = arena_take(w->arena, SVD_BLOCK * w->r * sizeof *w->rows);
    w->block = arena_take(w->arena, SVD_BLOCK * w->r * sizeof *w->block);
    if (!w->peaks || (!w->copy && !w->rows) || !w->block)
        return error_set("%s: the memory given for its decomposition is too small",
                         w->source->name);
    w->peaks[w->crew->index * 16] = 0;
    return 0;
}

/* Bits of |x| are ordered as |x| is, with infinity and NaN on top. */
static uint32_t peak_bits(const float *x, size_t n)
{
    uint32_t peak = 0;

    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffffu;
        peak = bits > peak ? bits : peak;
    }
    return peak;
}

static void scale_elements(double scale, float *x, size_t n)
{
    if (scale != 0 && scale != 1)
        for (size_t i = 0; i < n; i++)
            x[i] = (float)((double)x[i] * scale);
}

static int read_rows(struct svd_work *w, size_t first, size_t n, float *out)
{
    const struct svd_source *s = w->source;
    uint32_t *peak = &w->peaks[w->crew->index * 16];

    if (s->read(s->context, first, n, out) != 0)
        return -1;
    const uint32_t bits = peak_bits(out, n * s->n_columns);
    if (bits >= 0x7f800000u)
        return error_set("%s: an element of rows %zu to %zu is NaN or infinite", s->name, first,
                         first + n - 1);
    *peak = bits > *peak ? bits : *peak;
    scale_elements(w->scale, out, n * s->n_columns);
    return 0;
}

/* After all of W has been read: a power of two that brings the largest element near 1, or 1 where
 * it is not far from there. Zero for W = 0. */
static double find_scale(const struct svd_work *w)
{
    uint32_t bits = 0;
    float peak;

    for (int i = 0; i < w->crew->size; i++)
        bits = w->peaks[i * 16] > bits ? w->peaks[i * 16] : bits;
    memcpy(&peak, &bits, sizeof peak);
    if (peak == 0)
        return 0;
    return peak > 0x1p-20f && peak < 0x1p20f ? 1 : ldexp(1, -ilogb((double)peak));
}

static int read_copy(struct svd_work *w)
{
    const size_t m = w->source->n_rows, n = w->source->n_columns;
    int status = 0;

    while (svd_part(w, svd_cuts(m, READ_ROWS))) {
        const size_t first = w->parts.next * (size_t)READ_ROWS;
        if (status == 0)
            status = read_rows(w, first, svd_at_most(READ_ROWS, m - first), w->copy + first * n);
    }
    if (crew_agree(w->crew, status) != 0)
        return -1;
    w->scale = find_scale(w);
    while (svd_part(w, svd_cuts(m, READ_ROWS))) {
        const size_t first = w->parts.next * (size_t)READ_ROWS;
        scale_elements(w->scale, w->copy + first * n, svd_at_most(READ_ROWS, m - first) * n);
    }
    return 0;
}

static void to_f64(const float *x, size_t n, double *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = (double)x[i];
}

int svd_block_read(struct svd_work *w, size_t index, bool want_f64, struct svd_block *block)
{
    const size_t first = index * SVD_BLOCK, k = svd_at_most(SVD_BLOCK, w->length - first);
    const size_t r = w->r, n = w->source->n_columns;
    const size_t lines = w->wide ? r : k; /* of the block as it lies in memory */
    int status = 0;

    block->k = k;
    block->f32 = w->wide ? w->copy + first : w->copy ? w->copy + first * r : w->rows;
    block->f32_ld = n;
    block->f64 = want_f64 ? w->block : NULL;
    block->f64_ld = w->wide ? SVD_BLOCK : r;
    if (w->copy && !want_f64)
        return 0;
    while (svd_part(w, svd_cuts(lines, READ_ROWS))) {
        const size_t at = w->parts.next * (size_t)READ_ROWS;
        const size_t count = svd_at_most(READ_ROWS, lines - at);
        if (!w->wide) {
            if (status == 0 && !w->copy)
                status = read_rows(w, first + at, count, w->rows + at * r);
            if (want_f64)
                to_f64(block->f32 + at * r, count * r, w->block + at * r);
        } else {
            for (size_t i = at; i < at + count; i++)
                to_f64(w->copy + i * n + first, k, w->block + i * SVD_BLOCK);
        }
    }
    return status;
}

int svd_scale(struct svd_work *w)
{
    int status = 0;

    if (w->copy)
        return read_copy(w);
    for (size_t i = 0; i < svd_cuts(w->length, SVD_BLOCK); i++) {
        struct svd_block block;
        if (svd_block_read(w, i, false, &block) != 0)
            status = -1;
    }
    if (crew_agree(w->crew, status) != 0)
        return -1;
    w->scale = find_scale(w);
    return 0;
}

/* Tile `part` of the upper triangle; those off the diagonal first, they cost more. */
static void find_tile(size_t n_tiles, size_t part, size_t *row, size_t *column)
{
    const size_t n_off = n_tiles * (n_tiles - 1) / 2;

    if (part >= n_off) {
        *row = *column = part - n_off;
        return;
    }
    for (*row = 0; part >= n_tiles - 1 - *row; ++*row)
        part -= n_tiles - 1 - *row;
    *column = *row + 1 + part;
}

static void add_tile(const struct svd_work *w, const struct svd_block *b, size_t bytes, size_t tile,
                     size_t row, size_t column, bool first, void *c)
{
    const size_t r = w->r, m = svd_at_most(tile, r - row * tile);
    const size_t n = svd_at_most(tile, r - column * tile);
    const void *data = bytes == sizeof(float) ? (const void *)b->f32 : (const void *)b->f64;
    const size_t ld = bytes == sizeof(float) ? b->f32_ld : b->f64_ld;
    const size_t step = w->wide ? ld : 1;
    const void *left = blas_at_const(data, bytes, row * tile * step);
    void *out = blas_at(c, bytes, row * tile * r + column * tile);

    if (row == column)
        blas_syrk(bytes, !w->wide, m, b->k, left, ld, first ? 0 : 1, out, r);
    else
        blas_gemm(bytes, !w->wide, w->wide, m, n, b->k, left, ld,
                  blas_at_const(data, bytes, column * tile * step), ld, first ? 0 : 1, out, r);
}

static int gram_once(struct svd_work *w, size_t bytes, void *c)
{
    const size_t n_tiles = svd_cuts(w->r, TILE);
    const size_t tile = (svd_cuts(w->r, n_tiles) + 15) / 16 * 16;
    const size_t n_blocks = svd_cuts(w->length, SVD_BLOCK);
    int status = 0;

    for (size_t i = 0; i < n_blocks; i++) {
        struct svd_block block;
        if (svd_block_read(w, i, bytes == sizeof(double), &block) != 0)
            status = -1;
        while (svd_part(w, n_tiles * (n_tiles + 1) / 2)) {
            size_t row, column;
            find_tile(n_tiles, w->parts.next, &row, &column);
            if (column * tile < w->r && status == 0)
                add_tile(w, &block, bytes, tile, row, column, i == 0, c);
        }
    }
    return crew_agree(w->crew, status);
}

int svd_gram(struct svd_work *w, size_t bytes, void *c)
{
    if (gram_once(w, bytes, c) != 0)
        return -1;
    if (w->scale != 0)
        return 0;
    /* The first reading took the scale to be 1, which it nearly always is. */
    w->scale = find_scale(w);
    if (w->scale == 0 || w->scale == 1)
        return 0;
    return gram_once(w, bytes, c);
}
