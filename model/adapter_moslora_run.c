/* Forward and backward of MoSLoRA at a site (docs/moslora.md). With x a token, h = in x all A_e x
 * and the router's R x, c = alpha / rank:
 *
 *   forward    u_e = c pi_e p_e h_e,  v_e = c pi_e q_e,   y += out (u, v) = c sum_e pi_e E_e
 *   backward   (s, t) = out^T g
 *              dL/dpi_e = c (p_e <s_e, h_e> + q_e t_e)
 *              dL/dp_e = c pi_e <s_e, h_e>,  dL/dq_e = c pi_e t_e
 *              dh_e = c pi_e p_e s_e + 2 w_e G_e h_e + m_e B_e^T b_e
 *              dL/dout = g (u, v)^T,  dL/din = dh x^T,  dx = in^T dh + 2 n x
 *
 * with w, m, n what chart_backward says for |w|^2 = h^T G h (G = B^T B), <b, w> = h^T B^T b and
 * |x|^2. B and b get, beside their parts of dL/dout, what goes through G and B^T b:
 *
 *   dB = 2 B sum w h h^T + b sum m h^T         db = B sum m h + 2 b sum dL/d|b|^2
 *
 * Scalars of a row are f64. Sums over rows go in chunks of CHUNK rows, first to last, whichever
 * thread makes them; the products' in the engine's order. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapter_moslora_internal.h"
#include "model/rng.h"
#include "mpi/error.h"

enum {
    CHUNK = 32,        /* rows of a job and of a partial sum */
    PART = 512,        /* elements that are in f32 at a time */
    N_KEPT_NORMS = 16, /* floats of a row of h behind its columns: the norms, f64 */
};

/* A token this long (squared) is scaled by a power of two before its product with A, which could
 * overflow otherwise. */
static const double LONG_TOKEN = 1e32;

/* ---- memory ---------------------------------------------------------------------------------- */

/* Rows of h: columns to a multiple of KERNEL_COLUMNS, then the norms of the token. */
static size_t columns_of(const struct moslora_site *s)
{
    return round_up(s->n_h, KERNEL_COLUMNS);
}

static size_t ld_h(const struct moslora_site *s)
{
    return columns_of(s) + N_KEPT_NORMS;
}

/* Partial sums of a chunk. */
struct sums {
    size_t term;                      /* of a term: S [r, r], d [r], kappa, |b|^2 */
    size_t b1, w2, b2, counts, n_all; /* counts: weights, times likeliest, entropy, rows */
};

static struct sums sums_of(const struct moslora_site *s)
{
    struct sums a = {.term = s->r * s->r + s->r + 2};
    a.b1 = s->n_terms * a.term;
    a.w2 = a.b1 + s->n_hidden;
    a.b2 = a.w2 + s->n_experts * s->n_hidden;
    a.counts = a.b2 + s->n_experts;
    a.n_all = a.counts + 2 * s->n_experts + 2;
    return a;
}

/* What a call cuts its scratch into. Norms and dropped tokens come first: the next site that reads
 * the same input finds them there (adapter_call.same_input). */
struct room {
    double *norms;       /* [n_rows, n_norms]: the lift of a token, once for all that read it */
    void *dropped;       /* elements [n_rows, ldx], with dropout */
    void *row;           /* elements [ldx] */
    float *h, *u;        /* f32 [n_rows, ld_h], [n_rows, ldu]; backward: dh, s */
    float *dx;           /* f32 [n_rows, ldx], with dropout */
    void *dh_e, *u_e;    /* elements [n_rows, ld_dh], [n_rows, ldu] */
    float *g_in, *g_out; /* [n_h, n_in], [n_u, n_out] */
    double *sums;        /* [chunks, n_all] */
    double *factors;     /* [n_rows, n_norms]: dL/d|x|^2 */
    size_t ldx, ldu, ld_dh, n_bytes;
};

/* n items of the memory from *at on; NULL without memory. */
static void *cut(char *memory, size_t *at, size_t n, size_t bytes)
{
    const size_t first = *at;
    *at += round_up(n * bytes, 64);
    return memory ? memory + first : NULL;
}

static struct room cut_room(const struct adapter *adapter, size_t site, size_t n_rows, void *memory)
{
    const struct moslora *m = adapter->data;
    const struct moslora_site *s = moslora_site(adapter, site);
    const size_t size = element_size(s->in.element), n_chunks = (n_rows + CHUNK - 1) / CHUNK;
    const size_t n_dropped = m->options.dropout > 0 && m->with_backward ? n_rows : 0;
    struct room w = {
        .ldx = s->in.k_padded, .ldu = s->out.k_padded, .ld_dh = round_up(s->n_h, KERNEL_K_STEP)};
    size_t at = 0;

    w.norms = cut(memory, &at, n_rows * m->n_norms, sizeof *w.norms);
    w.dropped = cut(memory, &at, n_dropped * w.ldx, size);
    w.row = cut(memory, &at, w.ldx, size);
    w.h = cut(memory, &at, n_rows * ld_h(s), sizeof *w.h);
    w.u = cut(memory, &at, n_rows * w.ldu, sizeof *w.u);
    w.u_e = cut(memory, &at, n_rows * w.ldu, size);
    if (m->with_backward) {
        w.dx = cut(memory, &at, n_dropped * w.ldx, sizeof *w.dx);
        w.dh_e = cut(memory, &at, n_rows * w.ld_dh, size);
        w.g_in = cut(memory, &at, s->n_h * s->n_in, sizeof *w.g_in);
        w.g_out = cut(memory, &at, s->n_u * s->n_out, sizeof *w.g_out);
        w.sums = cut(memory, &at, n_chunks * sums_of(s).n_all, sizeof *w.sums);
        w.factors = cut(memory, &at, n_rows * m->n_norms, sizeof *w.factors);
    }
    w.n_bytes = at;
    return w;
}

size_t moslora_saved_bytes(const struct adapter *adapter, size_t site, size_t n_rows)
{
    return n_rows * ld_h(moslora_site(adapter, site)) * sizeof(float);
}

size_t moslora_scratch_bytes(const struct adapter *adapter, size_t site, size_t n_rows)
{
    return cut_room(adapter, site, n_rows, NULL).n_bytes;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

struct job {
    const struct adapter *adapter;
    const struct moslora *m;
    const struct moslora_site *s;
    const struct engine *e;
    const float *parameters;
    const void *x; /* elements [n_rows, ldx], after dropout */
    size_t ldx, n_rows;
    const uint64_t *keys;
    uint64_t stream; /* of dropout's random numbers */
    struct room w;
    float *h;  /* f32 [n_rows, ld_h] */
    float *dx; /* backward */
    size_t lddx;
};

/* values [n] = elements first .. of row r of x */
static const float *read_part(const struct job *j, const void *x, size_t at, size_t n,
                              float *values)
{
    if (j->e->element == ELEMENT_F32)
        return (const float *)x + at;
    const uint16_t *from = (const uint16_t *)x + at;
    for (size_t i = 0; i < n; i++)
        values[i] = f32_from_bf16(from[i]);
    return values;
}

static double norm2(const struct job *j, size_t row, size_t first, size_t n)
{
    float values[PART];
    double sum = 0;
    for (size_t i = 0; i < n; i += PART) {
        const size_t k = n - i < PART ? n - i : PART;
        const float *v = read_part(j, j->x, row * j->ldx + first + i, k, values);
        sum += (double)j->e->math->sum_squares(v, k);
    }
    if (sum > 1e-25 && sum < 1e30)
        return sum;
    sum = 0; /* squares may have left f32 */
    for (size_t i = 0; i < n; i += PART) {
        const size_t k = n - i < PART ? n - i : PART;
        const float *v = read_part(j, j->x, row * j->ldx + first + i, k, values);
        for (size_t c = 0; c < k; c++)
            sum += (double)v[c] * (double)v[c];
    }
    return sum;
}

static void norm_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct job *j = arg;
    const size_t n = j->m->n_norms, n_in = j->s->n_in;
    (void)thread;
    for (size_t r = first; r < end; r++) {
        double *norms = j->w.norms + r * n;
        norms[0] = norm2(j, r, 0, n_in);
        for (size_t i = 1; i < n; i++)
            norms[i] = norm2(j, r, n_in * (i - 1) / 3, n_in * i / 3 - n_in * (i - 1) / 3);
    }
}

/* values [n] *= the mask of elements first .. of row r, 0 or 1 / (1 - dropout) */
static void mask_part(const struct job *j, size_t row, size_t first, float *values, size_t n)
{
    const double p = j->m->options.dropout;
    const uint32_t below = (uint32_t)(p * 65536 + 0.5);
    const float by = (float)(1 / (1 - p));
    for (size_t i = 0; i < n; i += 8) {
        const philox4x32_ctr_t bits = rng_block(j->keys[row], j->stream, (first + i) / 8);
        for (size_t k = 0; k < 8 && i + k < n; k++) {
            const uint32_t half = bits.v[k / 2] >> (k % 2 * 16) & 0xffff;
            values[i + k] = half < below ? 0 : values[i + k] * by;
        }
    }
}

static void drop_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct job *j = arg;
    const size_t n_in = j->s->n_in;
    const bool wide = j->e->element == ELEMENT_F32;
    (void)thread;
    for (size_t r = first; r < end; r++) {
        float values[PART];
        for (size_t i = 0; i < j->w.ldx; i += PART) {
            const size_t at = r * j->w.ldx + i;
            const size_t room = j->w.ldx - i < PART ? j->w.ldx - i : PART;
            const size_t left = i < n_in ? n_in - i : 0, n = left < room ? left : room;
            memset(values, 0, sizeof values);
            if (n > 0) {
                float part[PART];
                memcpy(values, read_part(j, j->x, r * j->ldx + i, n, part), n * sizeof *values);
                mask_part(j, r, i, values, n);
            }
            if (wide)
                memcpy((float *)j->w.dropped + at, values, room * sizeof *values);
            else
                j->e->math->to_bf16((uint16_t *)j->w.dropped + at, values, room);
        }
    }
}

/* The tokens as experts see them; makes them unless they are there from the site before. */
static void take_tokens(struct job *j, const struct adapter_call *call)
{
    j->x = call->x;
    j->ldx = call->ldx;
    if (!call->row_keys || j->m->options.dropout == 0)
        return;
    j->keys = call->row_keys;
    if (!call->same_input)
        team_ranges(j->e->team, drop_rows, j, j->n_rows, 4);
    j->x = j->w.dropped;
    j->ldx = j->w.ldx;
}

/* h of a token too long for a product: in of x 2^-k, times 2^k, finite. */
static void long_token(const struct job *j, size_t row)
{
    const double norm = j->w.norms[row * j->m->n_norms];
    float *h = j->h + row * ld_h(j->s);
    float values[PART];

    if (!isfinite(norm)) /* not a number came in */
        return;
    const int power = ilogb(sqrt(norm));
    for (size_t i = 0; i < j->w.ldx; i += PART) {
        const size_t room = j->w.ldx - i < PART ? j->w.ldx - i : PART;
        const float *v = read_part(j, j->x, row * j->ldx + i, room, values);
        for (size_t k = 0; k < room; k++)
            values[k] = i + k < j->s->n_in ? (float)ldexp((double)v[k], -power) : 0;
        if (j->e->element == ELEMENT_F32)
            memcpy((float *)j->w.row + i, values, room * sizeof *values);
        else
            j->e->math->to_bf16((uint16_t *)j->w.row + i, values, room);
    }
    j->e->ops->product(j->e, h, ld_h(j->s), j->w.row, j->w.ldx, 1, &j->s->in, NULL, false);
    for (size_t i = 0; i < j->s->n_h; i++)
        h[i] = (float)fmax(-1e37, fmin(1e37, ldexp((double)h[i], power)));
}

/* ---- a row ----------------------------------------------------------------------------------- */

struct row_term {
    double h[MOSLORA_MOST_RANK], gram_h[MOSLORA_MOST_RANK];
    struct chart_input in;
    struct chart_output out;
};

struct row {
    double norms[MOSLORA_MOST_NORMS];
    double to_router; /* 1 / sqrt(1 + |x|^2 / n) */
    double z[MOSLORA_MOST_HIDDEN];
    double pi[MOSLORA_MOST_EXPERTS], weight[MOSLORA_MOST_EXPERTS]; /* softmax; what is used */
    double entropy;
    size_t top;
    struct row_term terms[MOSLORA_MOST_TERMS];
};

static void run_router(const struct job *j, const float *h, struct row *row)
{
    const struct moslora_site *s = j->s;
    const float *b1 = j->parameters + s->b1, *w2 = j->parameters + s->w2;
    const float *b2 = j->parameters + s->b2, *pre = h + s->n_low;
    double sum = 0, most = -INFINITY;

    row->to_router = 1 / sqrt(1 + row->norms[0] / (double)s->n_in);
    for (size_t i = 0; i < s->n_hidden; i++)
        row->z[i] = tanh(row->to_router * (double)pre[i] + (double)b1[i]);
    row->top = 0;
    for (size_t e = 0; e < s->n_experts; e++) {
        double logit = (double)b2[e];
        for (size_t i = 0; i < s->n_hidden; i++)
            logit += (double)w2[e * s->n_hidden + i] * row->z[i];
        row->pi[e] = logit;
        if (logit > most) {
            most = logit;
            row->top = e;
        }
    }
    for (size_t e = 0; e < s->n_experts; e++)
        sum += row->pi[e] = exp(row->pi[e] - most);
    row->entropy = 0;
    for (size_t e = 0; e < s->n_experts; e++) {
        row->pi[e] /= sum;
        row->entropy -= row->pi[e] > 0 ? row->pi[e] * log(row->pi[e]) : 0;
        row->weight[e] = !j->m->options.top1 ? row->pi[e] : e == row->top;
    }
}

static void run_term(const struct job *j, const struct moslora_term *t, const float *h,
                     const double *norms, struct row_term *out)
{
    const size_t r = j->s->r;
    double w2 = 0, bw = 0;

    for (size_t i = 0; i < r; i++)
        out->h[i] = (double)h[t->h + i];
    out->out = (struct chart_output){1, 0};
    if (t->chart == CHART_FLAT)
        return;
    memset(out->gram_h, 0, r * sizeof *out->gram_h);
    for (size_t k = 0; k < r; k++)
        for (size_t i = 0; i < r; i++)
            out->gram_h[i] += t->gram[k * r + i] * out->h[k];
    for (size_t i = 0; i < r; i++) {
        w2 += out->h[i] * out->gram_h[i];
        bw += out->h[i] * t->b_point[i];
    }
    out->in = (struct chart_input){.n = (double)t->n_in,
                                   .x2 = norms[t->norm],
                                   .w2 = w2 > 0 ? w2 : 0,
                                   .bw = bw,
                                   .b2 = t->b2,
                                   .kappa = t->kappa};
    out->out = chart_forward(t->chart, &out->in);
}

/* all: experts without weight too (for their gradient) */
static void run_row(const struct job *j, const float *h, bool all, struct row *row)
{
    memcpy(row->norms, h + columns_of(j->s), j->m->n_norms * sizeof *row->norms);
    run_router(j, h, row);
    for (size_t k = 0; k < j->s->n_terms; k++)
        if (all || row->weight[j->s->terms[k].expert] > 0)
            run_term(j, &j->s->terms[k], h, row->norms, &row->terms[k]);
}

/* u f32 [ldu], finite and short enough for the product */
static void write_u(const struct job *j, const struct row *row, float *u)
{
    const struct moslora_site *s = j->s;
    const double most = (double)s->most_u;

    memset(u, 0, j->w.ldu * sizeof *u);
    for (size_t k = 0; k < s->n_terms; k++) {
        const struct moslora_term *t = &s->terms[k];
        const struct row_term *v = &row->terms[k];
        const double weight = j->m->scale * row->weight[t->expert];
        if (weight == 0)
            continue;
        for (size_t i = 0; i < s->r; i++)
            u[t->u + i] = (float)fmax(-most, fmin(most, weight * v->out.p * v->h[i]));
        if (t->chart != CHART_FLAT)
            u[t->u_point] = (float)fmax(-most, fmin(most, weight * v->out.q));
    }
}

/* ---- forward --------------------------------------------------------------------------------- */

static void forward_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct job *j = arg;
    struct row row;
    (void)thread;
    for (size_t r = first; r < end; r++) {
        float *h = j->h + r * ld_h(j->s);
        memcpy(h + columns_of(j->s), j->w.norms + r * j->m->n_norms,
               j->m->n_norms * sizeof(double));
        run_row(j, h, false, &row);
        write_u(j, &row, j->w.u + r * j->w.ldu);
    }
}

static struct job new_job(const struct adapter *adapter, size_t site,
                          const struct adapter_call *call)
{
    const struct adapter_site *place = &adapter->sites[site];
    struct job j = {.adapter = adapter,
                    .m = adapter->data,
                    .s = moslora_site(adapter, site),
                    .e = model_engine(call->model),
                    .parameters = call->parameters,
                    .n_rows = call->n_rows,
                    .w = cut_room(adapter, site, call->n_rows, call->scratch)};
    /* Sites that read the same input drop the same elements of it. */
    j.stream = place->module.layer * GROUP_COUNT + (uint64_t)projection_group(place->projection);
    return j;
}

void moslora_forward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                     float *y, size_t ldy, bool accumulate)
{
    struct job j = new_job(adapter, site, call);
    const size_t n = call->n_rows, ld = ld_h(j.s);
    (void)accumulate; /* onto the base product, always */

    if (!call->parameters)
        return;
    take_tokens(&j, call);
    if (!call->same_input)
        team_ranges(j.e->team, norm_rows, &j, n, 8);
    j.h = call->saved ? call->saved : j.w.h;
    j.e->ops->product(j.e, j.h, ld, j.x, j.ldx, n, &j.s->in, NULL, false);
    for (size_t r = 0; r < n; r++)
        if (!(j.w.norms[r * j.m->n_norms] <= LONG_TOKEN))
            long_token(&j, r);
    team_ranges(j.e->team, forward_rows, &j, n, 8);
    engine_train(j.e)->to_elements(j.e, j.w.u_e, j.w.ldu, j.w.u, j.w.ldu, n, j.s->n_u);
    j.e->ops->product(j.e, y, ldy, j.w.u_e, j.w.ldu, n, &j.s->out, NULL, true);
}

/* ---- backward -------------------------------------------------------------------------------- */

/* dL/dlogits, through the softmax in both modes (top-1 straight through), to the router's part of
 * dh and its sums; returns dL/d|x|^2 of it. */
static double router_backward(const struct job *j, const float *h, const struct row *row,
                              const double *dpi, float *dh, double *sums)
{
    const struct moslora_site *s = j->s;
    const struct sums at = sums_of(s);
    const float *w2 = j->parameters + s->w2;
    double mean = 0, dscale = 0, dlogit[MOSLORA_MOST_EXPERTS];

    for (size_t e = 0; e < s->n_experts; e++)
        mean += row->pi[e] * dpi[e];
    for (size_t e = 0; e < s->n_experts; e++) {
        dlogit[e] = row->pi[e] * (dpi[e] - mean);
        sums[at.b2 + e] += dlogit[e];
        for (size_t i = 0; i < s->n_hidden; i++)
            sums[at.w2 + e * s->n_hidden + i] += dlogit[e] * row->z[i];
    }
    for (size_t i = 0; i < s->n_hidden; i++) {
        double dz = 0;
        for (size_t e = 0; e < s->n_experts; e++)
            dz += dlogit[e] * (double)w2[e * s->n_hidden + i];
        const double dpre = dz * (1 - row->z[i] * row->z[i]);
        sums[at.b1 + i] += dpre;
        dh[s->n_low + i] = (float)(row->to_router * dpre);
        dscale += dpre * (double)h[s->n_low + i];
    }
    return -dscale * row->to_router * row->to_router * row->to_router / (2 * (double)s->n_in);
}

/* A term's part of dh, of dL/d|x|^2 and of the sums; s_t: the row of out^T g. Returns what it adds
 * to dL/dpi of its expert. */
static double term_backward(const struct job *j, const struct moslora_term *t,
                            const struct row_term *v, double weight, const float *s_t, float *dh,
                            double *factors, double *sums)
{
    const size_t r = j->s->r;
    const double c = j->m->scale, along = t->chart == CHART_FLAT ? 0 : (double)s_t[t->u_point];
    const double p = c * weight * v->out.p;
    double inner = 0;

    for (size_t i = 0; i < r; i++) {
        inner += (double)s_t[t->u + i] * v->h[i];
        dh[t->h + i] += (float)(p * (double)s_t[t->u + i]);
    }
    const double dpi = c * (v->out.p * inner + v->out.q * along);
    if (t->chart == CHART_FLAT || weight == 0)
        return dpi;
    const struct chart_gradient g =
        chart_backward(t->chart, &v->in, c * weight * inner, c * weight * along);
    factors[t->norm] += g.x2;
    for (size_t i = 0; i < r; i++) {
        const double by = g.w2 * v->h[i];
        dh[t->h + i] += (float)(2 * g.w2 * v->gram_h[i] + g.bw * t->b_point[i]);
        for (size_t k = 0; k < r; k++)
            sums[i * r + k] += by * v->h[k];
        sums[r * r + i] += g.bw * v->h[i];
    }
    sums[r * r + r] += g.kappa;
    sums[r * r + r + 1] += g.b2;
    return dpi;
}

static void backward_chunk(void *arg, size_t part, int thread)
{
    const struct job *j = arg;
    const struct moslora_site *s = j->s;
    const struct sums at = sums_of(s);
    const size_t first = part * CHUNK, left = j->n_rows - first;
    double *sums = j->w.sums + part * at.n_all;
    struct row row;
    (void)thread;

    memset(sums, 0, at.n_all * sizeof *sums);
    for (size_t i = first; i < first + (left < CHUNK ? left : CHUNK); i++) {
        const float *h = j->h + i * ld_h(s);
        float *dh = j->w.h + i * ld_h(s), *u = j->w.u + i * j->w.ldu;
        double *factors = j->w.factors + i * j->m->n_norms, *counts = sums + at.counts;
        double dpi[MOSLORA_MOST_EXPERTS] = {0};

        memset(dh, 0, ld_h(s) * sizeof *dh);
        memset(factors, 0, j->m->n_norms * sizeof *factors);
        run_row(j, h, true, &row);
        for (size_t k = 0; k < s->n_terms; k++) {
            const struct moslora_term *t = &s->terms[k];
            dpi[t->expert] += term_backward(j, t, &row.terms[k], row.weight[t->expert], u, dh,
                                            factors, sums + k * at.term);
        }
        factors[0] += router_backward(j, h, &row, dpi, dh, sums);
        write_u(j, &row, u); /* in the place of out^T g */
        for (size_t e = 0; e < s->n_experts; e++)
            counts[e] += row.pi[e];
        counts[s->n_experts + row.top] += 1;
        counts[2 * s->n_experts] += row.entropy;
        counts[2 * s->n_experts + 1] += 1;
    }
}

/* dx += mask * (dx of the product + 2 factor x) */
static void input_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct job *j = arg;
    const size_t n_in = j->s->n_in;
    (void)thread;
    for (size_t r = first; r < end; r++) {
        const double *factors = j->w.factors + r * j->m->n_norms;
        float *dx = (j->keys ? j->w.dx : j->dx) + r * (j->keys ? j->w.ldx : j->lddx);
        for (size_t range = 0; range < j->m->n_norms; range++) {
            const size_t from = range ? n_in * (range - 1) / 3 : 0;
            const size_t to = range ? n_in * range / 3 : n_in;
            const float by = (float)(2 * factors[range]);
            for (size_t i = from; by != 0 && i < to; i += PART) {
                const size_t n = to - i < PART ? to - i : PART;
                float part[PART];
                const float *x = read_part(j, j->x, r * j->ldx + i, n, part);
                if (x != part)
                    memcpy(part, x, n * sizeof *part);
                j->e->math->scale(part, by, n);
                j->e->math->add(dx + i, part, n);
            }
        }
        if (j->keys) {
            mask_part(j, r, 0, dx, n_in);
            j->e->math->add(j->dx + r * j->lddx, dx, n_in);
        }
    }
}

static void input_backward(const struct job *j)
{
    const bool apart = j->keys != NULL;

    j->e->ops->product(j->e, apart ? j->w.dx : j->dx, apart ? j->w.ldx : j->lddx, j->w.dh_e,
                       j->w.ld_dh, j->n_rows, &j->s->in_t, NULL, !apart);
    team_ranges(j->e->team, input_rows, (void *)j, j->n_rows, 8);
}

/* What reaches B and b through |B h|^2 and <b, B h>, from the sums of all rows. */
static void add_through_norms(const struct job *j, const struct moslora_term *t, const double *sums,
                              float *gradient)
{
    const size_t r = j->s->r, n = t->n_out;
    const float *b_t = j->parameters + t->b_t, *point = j->parameters + t->point;
    const double *d = sums + r * r, db2 = sums[r * r + r + 1];
    float *g = gradient + t->b_t, *g_point = gradient + t->point;

    for (size_t i = 0; i < r; i++) {
        for (size_t k = 0; k < r; k++) {
            const float by = (float)(2 * sums[i * r + k]);
            for (size_t c = 0; c < n && by != 0; c++)
                g[i * n + c] += by * b_t[k * n + c];
        }
        const float by = (float)d[i];
        for (size_t c = 0; c < n; c++) {
            g[i * n + c] += by * point[c];
            g_point[c] += by * b_t[i * n + c];
        }
    }
    for (size_t c = 0; c < n; c++)
        g_point[c] += (float)(2 * db2) * point[c];
}

static void add(float *to, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] += from[i];
}

static void add_f64(float *to, const double *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] += (float)from[i];
}

/* From dL/din, dL/dout and the sums to the parameters' gradient. */
static void add_gradient(const struct job *j, float *gradient)
{
    const struct moslora_site *s = j->s;
    const struct sums at = sums_of(s);
    const size_t n_chunks = (j->n_rows + CHUNK - 1) / CHUNK;
    double *sums = j->w.sums;

    for (size_t i = 1; i < n_chunks; i++)
        for (size_t k = 0; k < at.n_all; k++)
            sums[k] += sums[i * at.n_all + k];
    for (size_t k = 0; k < s->n_terms; k++) {
        const struct moslora_term *t = &s->terms[k];
        const double *own = sums + k * at.term;
        for (size_t i = 0; i < s->r; i++) {
            if (k == 0 || t->h != s->terms[0].h)
                add(gradient + t->a + i * t->n_in, j->w.g_in + (t->h + i) * s->n_in + t->first_in,
                    t->n_in);
            add(gradient + t->b_t + i * t->n_out, j->w.g_out + (t->u + i) * s->n_out + t->first_out,
                t->n_out);
        }
        if (t->chart == CHART_FLAT)
            continue;
        add(gradient + t->point, j->w.g_out + t->u_point * s->n_out + t->first_out, t->n_out);
        add_through_norms(j, t, own, gradient);
        if (moslora_learns_curvature(j->m, t)) /* kappa = +-most sigmoid(t) */
            gradient[t->curvature] += (float)(own[s->r * s->r + s->r] * t->kappa *
                                              (1 - fabs(t->kappa) / j->m->options.most_curved));
    }
    add(gradient + s->w1, j->w.g_in + s->n_low * s->n_in, s->n_hidden * s->n_in);
    add_f64(gradient + s->b1, sums + at.b1, s->n_hidden);
    add_f64(gradient + s->w2, sums + at.w2, s->n_experts * s->n_hidden);
    add_f64(gradient + s->b2, sums + at.b2, s->n_experts);
    add_f64(gradient + j->adapter->n_parameters, sums + at.counts, j->adapter->n_sums);
}

int moslora_backward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                     float *dx, size_t lddx, const void *g, size_t ldg, float *gradient)
{
    struct job j = new_job(adapter, site, call);
    const struct moslora_site *s = j.s;
    const size_t n = call->n_rows;
    const struct engine_train_ops *train = engine_train(j.e);

    if (!call->parameters || n == 0)
        return 0;
    take_tokens(&j, call);
    j.h = call->saved;
    j.dx = dx;
    j.lddx = lddx;
    j.e->ops->product(j.e, j.w.u, j.w.ldu, g, ldg, n, &s->out_t, NULL, false);
    team_run(j.e->team, backward_chunk, &j, (n + CHUNK - 1) / CHUNK);
    train->to_elements(j.e, j.w.dh_e, j.w.ld_dh, j.w.h, ld_h(s), n, s->n_h);
    if (gradient) {
        train->to_elements(j.e, j.w.u_e, j.w.ldu, j.w.u, j.w.ldu, n, s->n_u);
        memset(j.w.g_in, 0, s->n_h * s->n_in * sizeof *j.w.g_in);
        memset(j.w.g_out, 0, s->n_u * s->n_out * sizeof *j.w.g_out);
        if (train->outer_sum(j.e, j.w.g_in, s->n_in, j.w.dh_e, j.w.ld_dh, s->n_h, j.x, j.ldx,
                             s->n_in, n) != 0 ||
            train->outer_sum(j.e, j.w.g_out, s->n_out, j.w.u_e, j.w.ldu, s->n_u, g, ldg, s->n_out,
                             n) != 0)
            return -1;
        add_gradient(&j, gradient);
    }
    if (dx)
        input_backward(&j);
    return 0;
}
