/* MoSLoRA's forward half: memory, tokens, what is known of a row, and the forward products. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapter_moslora_run.h"
#include "model/block.h"

/* A token this long (squared) is scaled by a power of two before its product with A, which could
 * overflow otherwise. */
static const double LONG_TOKEN = 1e32;

/* ---- memory ---------------------------------------------------------------------------------- */

static struct moslora_room cut_room(const struct adapter *adapter, size_t site, size_t n_rows,
                                    void *memory)
{
    const struct moslora *m = adapter->data;
    const struct moslora_site *s = moslora_site(adapter, site);
    const size_t size = element_size(s->in.element),
                 n_chunks = (n_rows + MOSLORA_CHUNK - 1) / MOSLORA_CHUNK;
    const size_t n_dropped = m->options.dropout > 0 && adapter->with_backward ? n_rows : 0;
    struct moslora_room w = {
        .ldx = s->in.k_padded, .ldu = s->out.k_padded, .ld_dh = round_up(s->n_h, KERNEL_K_STEP)};
    size_t at = 0;

    w.norms = block_cut(memory, &at, n_rows * m->n_norms, sizeof *w.norms);
    w.dropped = block_cut(memory, &at, n_dropped * w.ldx, size);
    w.row = block_cut(memory, &at, w.ldx, size);
    w.h = block_cut(memory, &at, n_rows * moslora_ld_h(s), sizeof *w.h);
    w.u = block_cut(memory, &at, n_rows * w.ldu, sizeof *w.u);
    w.u_e = block_cut(memory, &at, n_rows * w.ldu, size);
    if (adapter->with_backward) {
        w.dx = block_cut(memory, &at, n_dropped * w.ldx, sizeof *w.dx);
        w.dh_e = block_cut(memory, &at, n_rows * w.ld_dh, size);
        w.g_in = block_cut(memory, &at, s->n_h * s->n_in, sizeof *w.g_in);
        w.g_out = block_cut(memory, &at, s->n_u * s->n_out, sizeof *w.g_out);
        w.sums = block_cut(memory, &at, n_chunks * moslora_sums_of(s).n_all, sizeof *w.sums);
        w.factors = block_cut(memory, &at, n_rows * m->n_norms, sizeof *w.factors);
    }
    w.n_bytes = at;
    return w;
}

size_t moslora_saved_bytes(const struct adapter *adapter, size_t site, size_t n_rows)
{
    return n_rows * moslora_ld_h(moslora_site(adapter, site)) * sizeof(float);
}

size_t moslora_scratch_bytes(const struct adapter *adapter, size_t site, size_t n_rows)
{
    return cut_room(adapter, site, n_rows, NULL).n_bytes;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

const float *moslora_read(const struct moslora_job *j, const void *x, size_t at, size_t n,
                          float values[MOSLORA_PART])
{
    if (j->e->element == ELEMENT_F32)
        return (const float *)x + at;
    const uint16_t *from = (const uint16_t *)x + at;
    for (size_t i = 0; i < n; i++)
        values[i] = f32_from_bf16(from[i]);
    return values;
}

static double norm2(const struct moslora_job *j, size_t row, size_t first, size_t n)
{
    float values[MOSLORA_PART];
    double sum = 0;
    for (size_t i = 0; i < n; i += MOSLORA_PART) {
        const size_t k = n - i < MOSLORA_PART ? n - i : MOSLORA_PART;
        const float *v = moslora_read(j, j->x, row * j->ldx + first + i, k, values);
        sum += (double)j->e->math->sum_squares(v, k);
    }
    if (sum > 1e-25 && sum < 1e30)
        return sum;
    sum = 0; /* squares may have left f32 */
    for (size_t i = 0; i < n; i += MOSLORA_PART) {
        const size_t k = n - i < MOSLORA_PART ? n - i : MOSLORA_PART;
        const float *v = moslora_read(j, j->x, row * j->ldx + first + i, k, values);
        for (size_t c = 0; c < k; c++)
            sum += (double)v[c] * (double)v[c];
    }
    return sum;
}

static void norm_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct moslora_job *j = arg;
    const size_t n = j->m->n_norms, n_in = j->s->n_in;
    (void)thread;
    for (size_t r = first; r < end; r++) {
        double *norms = j->w.norms + r * n;
        norms[0] = norm2(j, r, 0, n_in);
        for (size_t i = 1; i < n; i++)
            norms[i] = norm2(j, r, n_in * (i - 1) / 3, n_in * i / 3 - n_in * (i - 1) / 3);
    }
}

/* The tokens as experts see them; makes them unless they are there from the site before. */
void moslora_take_tokens(struct moslora_job *j, const struct adapter_call *call)
{
    j->x = call->x;
    j->ldx = call->ldx;
    if (!call->row_keys || j->dropout.limit == 0)
        return;
    j->dropout.keys = call->row_keys;
    if (!call->same_input)
        engine_train(j->e)->drop(j->e, j->w.dropped, j->w.ldx, call->x, call->ldx, j->n_rows,
                                 j->s->n_in, &j->dropout);
    j->x = j->w.dropped;
    j->ldx = j->w.ldx;
}

/* h of a token too long for a product: in of x 2^-k, times 2^k, finite. */
static void long_token(const struct moslora_job *j, size_t row)
{
    const double norm = j->w.norms[row * j->m->n_norms];
    float *h = j->h + row * moslora_ld_h(j->s);
    float values[MOSLORA_PART];

    if (!isfinite(norm)) /* not a number came in */
        return;
    const int power = ilogb(sqrt(norm));
    for (size_t i = 0; i < j->w.ldx; i += MOSLORA_PART) {
        const size_t room = j->w.ldx - i < MOSLORA_PART ? j->w.ldx - i : MOSLORA_PART;
        const float *v = moslora_read(j, j->x, row * j->ldx + i, room, values);
        for (size_t k = 0; k < room; k++)
            values[k] = i + k < j->s->n_in ? (float)ldexp((double)v[k], -power) : 0;
        if (j->e->element == ELEMENT_F32)
            memcpy((float *)j->w.row + i, values, room * sizeof *values);
        else
            j->e->math->to_bf16((uint16_t *)j->w.row + i, values, room);
    }
    j->e->ops->product(j->e, h, moslora_ld_h(j->s), j->w.row, j->w.ldx, 1, &j->s->in, NULL, false);
    for (size_t i = 0; i < j->s->n_h; i++)
        h[i] = (float)fmax(-1e37, fmin(1e37, ldexp((double)h[i], power)));
}

/* ---- a row ----------------------------------------------------------------------------------- */

static void run_router(const struct moslora_job *j, const float *h, struct moslora_row *row)
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

static void run_term(const struct moslora_job *j, const struct moslora_term *t, const float *h,
                     const double *norms, struct moslora_row_term *out)
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

void moslora_run_row(const struct moslora_job *j, const float *h, bool all, struct moslora_row *row)
{
    memcpy(row->norms, h + moslora_columns(j->s), j->m->n_norms * sizeof *row->norms);
    run_router(j, h, row);
    for (size_t k = 0; k < j->s->n_terms; k++)
        if (all || row->weight[j->s->terms[k].expert] > 0)
            run_term(j, &j->s->terms[k], h, row->norms, &row->terms[k]);
}

void moslora_write_u(const struct moslora_job *j, const struct moslora_row *row, float *u)
{
    const struct moslora_site *s = j->s;
    const double most = (double)s->most_u;

    memset(u, 0, j->w.ldu * sizeof *u);
    for (size_t k = 0; k < s->n_terms; k++) {
        const struct moslora_term *t = &s->terms[k];
        const struct moslora_row_term *v = &row->terms[k];
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
    const struct moslora_job *j = arg;
    struct moslora_row row;
    (void)thread;
    for (size_t r = first; r < end; r++) {
        float *h = j->h + r * moslora_ld_h(j->s);
        memcpy(h + moslora_columns(j->s), j->w.norms + r * j->m->n_norms,
               j->m->n_norms * sizeof(double));
        moslora_run_row(j, h, false, &row);
        moslora_write_u(j, &row, j->w.u + r * j->w.ldu);
    }
}

struct moslora_job moslora_new_job(const struct adapter *adapter, size_t site,
                                   const struct adapter_call *call)
{
    const struct adapter_site *place = &adapter->sites[site];
    struct moslora_job j = {.adapter = adapter,
                            .m = adapter->data,
                            .s = moslora_site(adapter, site),
                            .e = model_engine(call->model),
                            .parameters = call->parameters,
                            .n_rows = call->n_rows,
                            .w = cut_room(adapter, site, call->n_rows, call->scratch)};
    /* Sites that read the same input drop the same elements of it. */
    j.dropout.stream =
        place->module.layer * GROUP_COUNT + (uint64_t)projection_group(place->projection);
    j.dropout.limit = (uint32_t)lround(j.m->options.dropout * 65536);
    return j;
}

void moslora_forward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                     float *y, size_t ldy, bool accumulate)
{
    struct moslora_job j = moslora_new_job(adapter, site, call);
    const size_t n = call->n_rows, ld = moslora_ld_h(j.s);
    (void)accumulate; /* onto the base product, always */

    if (!call->parameters)
        return;
    moslora_take_tokens(&j, call);
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
