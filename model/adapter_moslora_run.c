/* MoSLoRA's forward half: memory, tokens, and the forward products. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapter_moslora_run.h"
#include "model/block.h"

/* ---- memory ---------------------------------------------------------------------------------- */

static struct moslora_room cut_room(const struct adapter *adapter, size_t site, size_t n_rows,
                                    void *memory)
{
    const struct moslora *m = adapter->data;
    const struct moslora_site *s = moslora_site(adapter, site);
    const size_t size = element_size(s->in.element);
    const size_t n_dropped = m->options.dropout > 0 && adapter->with_backward ? n_rows : 0;
    struct moslora_room w = {
        .ldx = s->in.k_padded, .ldu = s->out.k_padded, .ld_dh = round_up(s->n_h, KERNEL_K_STEP)};
    size_t at = 0;

    w.norms = block_cut(memory, &at, n_rows * m->n_norms, sizeof *w.norms);
    w.dropped = block_cut(memory, &at, n_dropped * w.ldx, size);
    w.h = block_cut(memory, &at, n_rows * moslora_ld_h(s), sizeof *w.h);
    w.u = block_cut(memory, &at, n_rows * w.ldu, sizeof *w.u);
    w.u_e = block_cut(memory, &at, n_rows * w.ldu, size);
    if (adapter->with_backward) {
        w.dx = block_cut(memory, &at, n_dropped * w.ldx, sizeof *w.dx);
        w.dh_e = block_cut(memory, &at, n_rows * w.ld_dh, size);
        w.g_in = block_cut(memory, &at, s->n_h * s->n_in, sizeof *w.g_in);
        w.g_out = block_cut(memory, &at, s->n_u * s->n_out, sizeof *w.g_out);
        w.sums = block_cut(memory, &at, spaces_sums_of(&s->spaces).n_all, sizeof *w.sums);
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

/* ---- forward --------------------------------------------------------------------------------- */

struct moslora_job moslora_new_job(const struct adapter *adapter, size_t site,
                                   const struct adapter_call *call)
{
    const struct adapter_site *place = &adapter->sites[site];
    struct moslora_job j = {.adapter = adapter,
                            .m = adapter->data,
                            .s = moslora_site(adapter, site),
                            .e = model_engine(call->model),
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
    const struct engine_train_ops *train = engine_train(j.e);
    const struct spaces *spaces = &j.s->spaces;
    const size_t n = call->n_rows, ld = moslora_ld_h(j.s);
    (void)accumulate; /* onto the base product, always */

    if (!call->parameters)
        return;
    moslora_take_tokens(&j, call);
    if (!call->same_input)
        train->spaces_norms(j.e, j.w.norms, spaces->n_norms, j.x, j.ldx, n, j.s->n_in);
    j.h = call->saved ? call->saved : j.w.h;
    j.e->ops->product(j.e, j.h, ld, j.x, j.ldx, n, &j.s->in, NULL, false);
    train->spaces_long(j.e, spaces, j.h, ld, &j.s->in, j.x, j.ldx, j.w.norms, n);
    train->spaces_forward(j.e, spaces, j.w.u, j.w.ldu, j.h, ld, j.w.norms, n);
    train->to_elements(j.e, j.w.u_e, j.w.ldu, j.w.u, j.w.ldu, n, j.s->n_u);
    j.e->ops->product(j.e, y, ldy, j.w.u_e, j.w.ldu, n, &j.s->out, NULL, true);
}
