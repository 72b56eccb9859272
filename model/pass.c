/* The forward half of a pass: which rows there are, who shares them, and running them. */
#include "model/pass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/block.h"
#include "model/pass_internal.h"
#include "model/rng.h"
#include "mpi/error.h"

/* ---- memory ---------------------------------------------------------------------------------- */

/* Hands out pieces of one block, or only counts them (base NULL). */
struct block {
    char *base;
    size_t used;
};

static void *take(struct block *b, size_t n_rows, size_t row_bytes)
{
    return block_cut(b->base, &b->used, n_rows, row_bytes);
}

size_t pass_ld_group(const struct model *model, int group)
{
    return round_up(model_group_outputs(model, group), KERNEL_K_STEP) + KERNEL_K_STEP;
}

static bool has_site(const struct pass *pass, size_t layer, int group)
{
    enum projection members[GROUP_MEMBERS];
    const size_t n = group_members(group, members);
    for (size_t i = 0; i < n; i++)
        if (adapter_site_at(pass->adapter, layer, members[i]) >= 0)
            return true;
    return false;
}

/* Does anything of this layer go into a gradient? */
static bool layer_is_kept(const struct pass *pass, size_t layer)
{
    return pass->with_backward && layer >= pass->lowest / GROUP_COUNT;
}

/* What a backward pass reads of a layer. `own`: the layer's alone; else lent by the common set. The
 * inputs of products are wanted where a site reads them. */
static void place_kept(struct pass *pass, struct block *block, struct layer_buffers *b,
                       size_t first_layer, size_t n_layers, bool own)
{
    const struct forward *f = &pass->f;
    const size_t n = pass->options.max_rows, size = element_size(pass->model->options.element);
    const bool inputs = own && pass->adapter && pass->adapter->ops->needs_input;

    b->h_ffn = take(block, n, f->ld_hidden * sizeof(float));
    if (own) {
        b->qkv = take(block, n, f->ld_qkv * sizeof(float));
        b->gate_up = take(block, n, f->ld_gate_up * sizeof(float));
    }
    if (inputs && has_site(pass, first_layer, GROUP_QKV))
        b->attention_input = take(block, n, f->ld_hidden * size);
    if (inputs && has_site(pass, first_layer, GROUP_OUTPUT))
        b->attention_output = take(block, n, f->ld_heads * size);
    if (inputs && has_site(pass, first_layer, GROUP_GATE_UP))
        b->ffn_input = take(block, n, f->ld_hidden * size);
    if (inputs && has_site(pass, first_layer, GROUP_DOWN))
        b->ffn_hidden = take(block, n, f->ld_ffn * size);
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        size_t most = 0; /* of the layers that use this set */
        for (size_t layer = first_layer; layer < first_layer + n_layers; layer++) {
            const int32_t site = adapter_site_at(pass->adapter, layer, (enum projection)p);
            const size_t bytes =
                site < 0 ? 0 : pass->adapter->ops->saved_bytes(pass->adapter, (size_t)site, n);
            most = bytes > most ? bytes : most;
        }
        b->saved[p] = most > 0 ? take(block, 1, most) : NULL;
    }
}

static void place_work(struct pass *pass, struct block *block)
{
    const struct forward *f = &pass->f;
    const size_t n = pass->options.max_rows, size = element_size(pass->model->options.element);
    const size_t n_block = n < PASS_BLOCK ? n : PASS_BLOCK;
    struct pass_work *w = &pass->work;
    size_t ld_g = 0;

    for (int group = 0; group < GROUP_COUNT; group++) {
        const size_t ld = pass_ld_group(pass->model, group);
        ld_g = ld > ld_g ? ld : ld_g;
    }
    w->dh = take(block, n, f->ld_hidden * sizeof(float));
    w->dattention = take(block, n, f->ld_heads * sizeof(float));
    w->dqkv = take(block, n, f->ld_qkv * sizeof(float));
    w->g = take(block, n_block, ld_g * size);
    w->dx = take(block, n_block, f->ld_hidden * sizeof(float));
    w->dffn = take(block, n_block, f->ld_ffn * sizeof(float));
    w->dgate_up = take(block, n_block, pass_ld_group(pass->model, GROUP_GATE_UP) * size);
    w->head_h = take(block, n_block, f->ld_hidden * sizeof(float));
    w->head_dh = take(block, n_block, f->ld_hidden * sizeof(float));
    /* Where gradients are summed that the host then takes; on the host itself, in their place. */
    if (pass->model->engine.memory != &memory_host)
        w->gradient =
            take(block, pass->adapter->n_parameters + pass->adapter->n_sums, sizeof(float));
    if (pass->options.recompute)
        w->h = take(block, n, f->ld_hidden * sizeof(float));
}

/* All buffers, in the block or only counted. pass->layers may be NULL when counting. */
static void place_all(struct pass *pass, struct block *block)
{
    struct forward *f = &pass->f;
    struct layer_buffers *common = &f->buffers;
    const struct model_config *c = &pass->model->config;
    const size_t n = pass->options.max_rows, size = element_size(pass->model->options.element);
    const size_t n_block = n < PASS_BLOCK ? n : PASS_BLOCK;
    const size_t first_kept = pass->with_backward ? pass->lowest / GROUP_COUNT : c->n_layers;

    pass->stream = take(block, n, f->ld_hidden * sizeof(float));
    f->x = take(block, n_block, f->ld_hidden * size);
    pass->work.head_x0 = take(block, n_block, f->ld_hidden * size);
    *common = (struct layer_buffers){0};
    common->attention_input = take(block, n, f->ld_hidden * size);
    common->attention_output = take(block, n, f->ld_heads * size);
    /* Sites that read their inputs backward find both when a layer is run again. */
    common->ffn_input = pass->adapter && pass->adapter->ops->needs_input
                            ? take(block, n, f->ld_hidden * size)
                            : common->attention_input;
    common->ffn_hidden = take(block, n, f->ld_ffn * size);
    if (first_kept > 0 || pass->options.recompute) { /* else every layer has its own */
        common->qkv = take(block, n, f->ld_qkv * sizeof(float));
        common->gate_up = take(block, n, f->ld_gate_up * sizeof(float));
    }
    if (pass->with_backward && pass->options.recompute && first_kept < c->n_layers)
        place_kept(pass, block, common, first_kept, c->n_layers - first_kept, false);
    for (size_t layer = 0; layer < c->n_layers; layer++) {
        struct layer_buffers b = *common;
        memset(b.saved, 0, sizeof b.saved);
        b.h_ffn = NULL;
        if (layer_is_kept(pass, layer)) {
            b.h_attention = take(block, n, f->ld_hidden * sizeof(float));
            if (!pass->options.recompute)
                place_kept(pass, block, &b, layer, 1, true);
        }
        if (pass->layers)
            pass->layers[layer] = b;
    }
    if (pass->with_backward)
        place_work(pass, block);
}

static void describe(struct pass *pass, struct model *model, const struct adapter *adapter,
                     const struct pass_options *options)
{
    *pass = (struct pass){.model = model, .adapter = adapter, .options = *options};
    forward_strides(&pass->f, model);
    pass->f.max_rows = options->max_rows;
    pass->f.adapter = adapter;
    pass->lowest = SIZE_MAX;
    for (size_t i = 0; adapter && i < adapter->n_sites; i++) {
        const struct adapter_site *s = &adapter->sites[i];
        const size_t at = s->module.layer * GROUP_COUNT + (size_t)projection_group(s->projection);
        pass->lowest = at < pass->lowest ? at : pass->lowest;
    }
    pass->with_backward = !options->inference && adapter && adapter->n_sites > 0;
}

size_t pass_bytes(const struct model *model, const struct adapter *adapter,
                  const struct pass_options *options)
{
    struct pass pass;
    struct block block = {0};
    const struct model_config *c = &model->config;
    struct kv_cache cache;

    describe(&pass, (struct model *)model, adapter, options);
    place_all(&pass, &block);
    forward_cache_create(&cache, model);
    const size_t page =
        c->n_layers * c->n_kv_heads * cache.head_elements * element_size(cache.element);
    kv_cache_free(&cache);
    return block.used + adapter_scratch_bytes(adapter, options->max_rows) +
           page * round_up((options->max_rows + KV_PAGE - 1) / KV_PAGE, KV_SLAB_PAGES);
}

/* Transposes of what gradients flow through, in the model's order. */
static int make_transposes(struct pass *pass)
{
    struct model *model = pass->model;
    /* A site that runs its base product goes back through it even where nothing lies below. */
    const size_t first = pass->lowest + !pass->adapter->ops->runs_base;
    for (size_t at = first; at < model->config.n_layers * GROUP_COUNT; at++)
        if (model_transpose(model, at / GROUP_COUNT, (int)(at % GROUP_COUNT)) != 0)
            return -1;
    return model_transpose_head(model);
}

struct pass *pass_create(struct model *model, const struct adapter *adapter,
                         const struct pass_options *options)
{
    struct pass *pass = malloc(sizeof *pass);
    const size_t n = options->max_rows;
    struct block block = {0};
    int status = -1;

    if (!pass) {
        error_set("no memory for a pass");
        return NULL;
    }
    describe(pass, model, adapter, options);
    if (n == 0 || n > INT32_MAX) {
        error_set("a pass of %zu tokens is not possible", n);
        goto done;
    }
    if (pass->with_backward && !adapter->with_backward) {
        error_set("the adapter was made for inference: it has no backward pass");
        goto done;
    }
    if (forward_cache_create(&pass->cache, model) != 0 ||
        (pass->with_backward && make_transposes(pass) != 0))
        goto done;
    pass->layers = calloc(model->config.n_layers, sizeof *pass->layers);
    pass->ids = malloc(n * sizeof *pass->ids);
    pass->row_sequence = malloc(n * sizeof *pass->row_sequence);
    pass->row_position = malloc(n * sizeof *pass->row_position);
    pass->row_keys = malloc(n * sizeof *pass->row_keys);
    pass->runs = malloc(n * sizeof *pass->runs);
    place_all(pass, &block);
    /* Pages that no row reaches cost nothing. */
    pass->memory = memory_take(model->engine.memory, block.used, 1);
    pass->memory_bytes = block.used;
    if (!pass->layers || !pass->ids || !pass->row_sequence || !pass->row_position ||
        !pass->row_keys || !pass->runs || !pass->memory) {
        error_set("no memory for a pass of %zu tokens (%zu MiB): use smaller micro-batches, or "
                  "recompute layers",
                  n, block.used >> 20);
        goto done;
    }
    block = (struct block){.base = pass->memory};
    place_all(pass, &block);
    status = 0;
done:
    if (status != 0) {
        pass_free(pass);
        return NULL;
    }
    return pass;
}

static void forget(struct pass *pass)
{
    for (size_t i = 0; i < pass->n_sequences; i++) {
        struct pass_sequence *q = &pass->sequences[i];
        for (size_t k = 0; k < q->n_pages; k++)
            kv_page_drop(&pass->cache, q->pages[k]);
        free(q->tokens);
        free(q->rows);
        free(q->pages);
    }
    pass->n_sequences = pass->n_rows = pass->n_run = pass->n_copies = pass->n_batches = 0;
}

void pass_free(struct pass *pass)
{
    if (!pass)
        return;
    forget(pass);
    kv_cache_free(&pass->cache);
    const struct engine *e = &pass->model->engine;
    e->ops->wait(e);
    memory_give(e->memory, pass->memory, pass->memory_bytes, 1);
    forward_give_scratch(&pass->f);
    free(pass->layers);
    free(pass->ids);
    free(pass->row_sequence);
    free(pass->row_position);
    free(pass->row_keys);
    free(pass->runs);
    free(pass->sequences);
    free(pass->copies);
    free(pass->batches);
    free(pass->staged);
    free(pass);
}

void pass_reset(struct pass *pass, const float *parameters)
{
    forget(pass);
    pass->parameters = pass->f.parameters = parameters;
    pass->dropout = false;
    adapter_prepare(pass->adapter, pass->model, parameters);
}

void pass_use_dropout(struct pass *pass, uint64_t key)
{
    pass->dropout = true;
    pass->key = key;
}

size_t pass_n_rows(const struct pass *pass)
{
    return pass->n_rows;
}

/* ---- sequences and rows ---------------------------------------------------------------------- */

/* Room for n items in a growing array. */
static int reserve(void *array, size_t *capacity, size_t n, size_t item_bytes)
{
    void **a = array;
    if (n <= *capacity)
        return 0;
    const size_t wanted = n > 2 * *capacity ? n : 2 * *capacity;
    void *p = realloc(*a, wanted * item_bytes);
    if (!p)
        return error_set("no memory for the sequences of a pass");
    *a = p;
    *capacity = wanted;
    return 0;
}

static int reserve_tokens(struct pass_sequence *q, size_t n)
{
    size_t capacity = q->capacity;
    if (reserve(&q->tokens, &capacity, n, sizeof *q->tokens) != 0)
        return -1;
    capacity = q->capacity;
    if (reserve(&q->rows, &capacity, n, sizeof *q->rows) != 0)
        return -1;
    q->capacity = capacity;
    return 0;
}

static int reserve_pages(struct pass_sequence *q, size_t n)
{
    return reserve(&q->pages, &q->pages_capacity, n, sizeof *q->pages);
}

static int check_token(const struct pass *pass, int32_t token)
{
    const size_t vocab = pass->model->config.vocab_size;
    if (token < 0 || (size_t)token >= vocab)
        return error_set("token id %d is outside the model's vocabulary of %zu: tokenizer and "
                         "model do not belong together",
                         token, vocab);
    return 0;
}

/* The longest prefix that tokens share with an earlier sequence. */
static size_t longest_prefix(const struct pass *pass, const int32_t *tokens, size_t n,
                             size_t *sequence)
{
    size_t longest = 0;
    for (size_t i = 0; i < pass->n_sequences && longest < n; i++) {
        const struct pass_sequence *q = &pass->sequences[i];
        const size_t limit = q->n < n ? q->n : n;
        size_t k = 0;
        while (k < limit && q->tokens[k] == tokens[k])
            k++;
        if (k > longest) {
            longest = k;
            *sequence = i;
        }
    }
    return longest;
}

/* The next token of a sequence gets a row of its own. */
static int add_row(struct pass *pass, size_t sequence, int32_t token)
{
    struct pass_sequence *q = &pass->sequences[sequence];
    const size_t row = pass->n_rows;

    if (check_token(pass, token) != 0)
        return -1;
    if (row == pass->options.max_rows)
        return error_set("a pass of %zu tokens is full", row);
    if (q->n == pass->model->config.max_positions)
        return error_set("a sequence of more than the model's %zu positions", q->n);
    if (reserve_tokens(q, q->n + 1) != 0 || reserve_pages(q, q->n / KV_PAGE + 1) != 0)
        return -1;
    if (q->n_pages * KV_PAGE == q->n) {
        const int32_t page = kv_page_take(&pass->cache);
        if (page < 0)
            return -1;
        q->pages[q->n_pages++] = page;
    }
    q->tokens[q->n] = token;
    q->rows[q->n] = (int32_t)row;
    pass->ids[row] = token;
    pass->row_sequence[row] = (int32_t)sequence;
    pass->row_position[row] = (int32_t)q->n;
    pass->row_keys[row] = pass->dropout ? rng_key(q->key, q->n) : 0;
    q->n++;
    pass->n_rows++;
    return 0;
}

/* q takes over the first n positions of another sequence: rows, whole pages by reference, the rest
 * of a page by a copy. */
static int share(struct pass *pass, struct pass_sequence *q, const struct pass_sequence *from,
                 size_t n)
{
    const size_t n_whole = n / KV_PAGE, rest = n % KV_PAGE;

    if (reserve_tokens(q, n) != 0 || reserve_pages(q, n_whole + 1) != 0 ||
        reserve(&pass->copies, &pass->copies_capacity, pass->n_copies + 1, sizeof *pass->copies) !=
            0)
        return -1;
    memcpy(q->tokens, from->tokens, n * sizeof *q->tokens);
    memcpy(q->rows, from->rows, n * sizeof *q->rows);
    q->n = q->own = n;
    for (size_t i = 0; i < n_whole; i++) {
        kv_page_hold(&pass->cache, from->pages[i]);
        q->pages[q->n_pages++] = from->pages[i];
    }
    if (rest > 0) {
        const int32_t page = kv_page_take(&pass->cache);
        if (page < 0)
            return -1;
        q->pages[q->n_pages++] = page;
        pass->copies[pass->n_copies++] =
            (struct pass_copy){{from->pages[n_whole], page, rest}, pass->n_rows};
    }
    return 0;
}

int pass_add(struct pass *pass, const int32_t *tokens, size_t n_tokens, size_t *sequence)
{
    size_t other = 0;

    if (n_tokens == 0)
        return error_set("an empty sequence has no next token: give at least one token");
    if (n_tokens > pass->model->config.max_positions)
        return error_set("a sequence of %zu tokens does not fit the model's %zu positions",
                         n_tokens, pass->model->config.max_positions);
    const size_t shared = longest_prefix(pass, tokens, n_tokens, &other);
    if (n_tokens - shared > pass->options.max_rows - pass->n_rows)
        return error_set("a sequence of %zu new tokens does not fit a pass of %zu that holds %zu",
                         n_tokens - shared, pass->options.max_rows, pass->n_rows);
    for (size_t i = shared; i < n_tokens; i++)
        if (check_token(pass, tokens[i]) != 0)
            return -1;
    if (reserve(&pass->sequences, &pass->sequences_capacity, pass->n_sequences + 1,
                sizeof *pass->sequences) != 0)
        return -1;
    const size_t index = pass->n_sequences++;
    struct pass_sequence *q = &pass->sequences[index];
    *q = (struct pass_sequence){.key = pass->key};
    if (reserve_tokens(q, n_tokens + 16) != 0 ||
        (shared > 0 && share(pass, q, &pass->sequences[other], shared) != 0))
        return -1;
    for (size_t i = shared; i < n_tokens; i++)
        if (add_row(pass, index, tokens[i]) != 0)
            return -1;
    *sequence = index;
    return 0;
}

int pass_append(struct pass *pass, size_t sequence, int32_t token)
{
    if (sequence >= pass->n_sequences)
        return error_set("a pass of %zu sequences has no sequence %zu", pass->n_sequences,
                         sequence);
    return add_row(pass, sequence, token);
}

int pass_rows_of(const struct pass *pass, const struct pass_place *places, size_t n, int32_t *rows)
{
    for (size_t i = 0; i < n; i++) {
        const struct pass_place *place = &places[i];
        if (place->sequence >= pass->n_sequences ||
            place->position >= pass->sequences[place->sequence].n)
            return error_set("a pass has no position %zu of sequence %zu", place->position,
                             place->sequence);
        rows[i] = pass->sequences[place->sequence].rows[place->position];
        if ((size_t)rows[i] >= pass->n_run)
            return error_set("position %zu of sequence %zu has not been run yet", place->position,
                             place->sequence);
    }
    return 0;
}

/* ---- running --------------------------------------------------------------------------------- */

/* The most rows from `first` on that hold at most one run of each sequence. */
static size_t batch_end(const struct pass *pass, size_t first)
{
    size_t end = first;
    while (end < pass->n_rows) {
        const int32_t sequence = pass->row_sequence[end];
        /* Rows of a sequence follow each other in a run, so a later run of it begins after one of
         * its rows that is in the batch already. */
        const size_t position = (size_t)pass->row_position[end];
        const struct pass_sequence *q = &pass->sequences[sequence];
        if (end > first && pass->row_sequence[end - 1] != sequence && position > q->own &&
            (size_t)q->rows[position - 1] >= first)
            break;
        end++;
    }
    return end;
}

static int plan_batch(struct pass *pass)
{
    const size_t first = pass->n_run, end = batch_end(pass, first);
    size_t first_copy = 0;

    if (reserve(&pass->batches, &pass->batches_capacity, pass->n_batches + 1,
                sizeof *pass->batches) != 0)
        return -1;
    if (pass->n_batches > 0) {
        const struct pass_batch *before = &pass->batches[pass->n_batches - 1];
        first_copy = before->first_copy + before->n_copies;
    }
    struct pass_batch *b = &pass->batches[pass->n_batches];
    *b = (struct pass_batch){.first_row = first, .n_rows = end - first, .first_copy = first_copy};
    while (first_copy + b->n_copies < pass->n_copies &&
           pass->copies[first_copy + b->n_copies].before_row < end)
        b->n_copies++;
    pass->n_batches++;
    return 0;
}

int pass_batch_describe(struct pass *pass, const struct pass_batch *b, struct batch *batch)
{
    size_t n_runs = 0;

    if (reserve(&pass->staged, &pass->staged_capacity, b->n_copies, sizeof *pass->staged) != 0)
        return -1;
    for (size_t i = 0; i < b->n_copies; i++)
        pass->staged[i] = pass->copies[b->first_copy + i].copy;
    for (size_t i = 0; i < b->n_rows; i++) {
        const size_t row = b->first_row + i;
        const int32_t sequence = pass->row_sequence[row];
        if (i == 0 || pass->row_sequence[row - 1] != sequence)
            pass->runs[n_runs++] =
                (struct batch_run){.first_row = i,
                                   .first_position = (size_t)pass->row_position[row],
                                   .pages = pass->sequences[sequence].pages};
        pass->runs[n_runs - 1].n_rows++;
    }
    *batch = (struct batch){.n_rows = b->n_rows,
                            .ids = pass->ids + b->first_row,
                            .runs = pass->runs,
                            .n_runs = n_runs,
                            .copies = pass->staged,
                            .n_copies = b->n_copies};
    return 0;
}

static void *at(void *p, size_t bytes)
{
    return p ? (char *)p + bytes : NULL;
}

static struct layer_buffers from_row(const struct pass *pass, size_t layer, struct layer_buffers b,
                                     size_t first)
{
    const struct forward *f = &pass->f;
    const struct layer_buffers *common = &f->buffers;
    const size_t size = element_size(pass->model->options.element);
    /* What layers lend each other holds the rows of one batch, unless a whole pass is run again. */
    const bool all = pass->options.recompute;

    if (all || b.attention_input != common->attention_input)
        b.attention_input = at(b.attention_input, first * f->ld_hidden * size);
    if (all || b.attention_output != common->attention_output)
        b.attention_output = at(b.attention_output, first * f->ld_heads * size);
    if (all || b.ffn_input != common->ffn_input)
        b.ffn_input = at(b.ffn_input, first * f->ld_hidden * size);
    if (all || b.ffn_hidden != common->ffn_hidden)
        b.ffn_hidden = at(b.ffn_hidden, first * f->ld_ffn * size);
    if (all || b.qkv != common->qkv)
        b.qkv = at(b.qkv, first * f->ld_qkv * sizeof(float));
    if (all || b.gate_up != common->gate_up)
        b.gate_up = at(b.gate_up, first * f->ld_gate_up * sizeof(float));
    b.h_attention = at(b.h_attention, first * f->ld_hidden * sizeof(float));
    b.h_ffn = at(b.h_ffn, first * f->ld_hidden * sizeof(float));
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        const int32_t site = adapter_site_at(pass->adapter, layer, (enum projection)p);
        b.saved[p] = b.saved[p] && site >= 0
                         ? at(b.saved[p],
                              pass->adapter->ops->saved_bytes(pass->adapter, (size_t)site, first))
                         : NULL;
    }
    return b;
}

struct layer_buffers pass_kept_at(const struct pass *pass, size_t layer, size_t first)
{
    struct layer_buffers b = pass->layers[layer];
    if (pass->options.recompute) {
        b = pass->f.buffers;
        b.h_attention = pass->layers[layer].h_attention;
    }
    return from_row(pass, layer, b, first);
}

int pass_run(struct pass *pass)
{
    struct forward *f = &pass->f;

    while (pass->n_run < pass->n_rows) {
        struct batch batch;
        if (plan_batch(pass) != 0)
            return -1;
        const struct pass_batch *b = &pass->batches[pass->n_batches - 1];
        if (pass_batch_describe(pass, b, &batch) != 0)
            return -1;
        f->h = pass->stream + b->first_row * f->ld_hidden;
        f->row_keys = pass->dropout ? pass->row_keys + b->first_row : NULL;
        if (forward_begin(f, &batch) != 0)
            return -1;
        for (size_t i = 0; i < pass->model->config.n_layers; i++) {
            const struct layer_buffers buffers = from_row(pass, i, pass->layers[i], b->first_row);
            if (forward_layer(f, &pass->cache, &batch, i, &buffers) != 0)
                return -1;
        }
        pass->n_run += b->n_rows;
    }
    return 0;
}

int pass_head(struct pass *pass, const struct pass_place *places, size_t n, const int32_t *targets,
              struct head_result *results, float *logits)
{
    struct forward *f = &pass->f;
    int32_t rows[PASS_BLOCK];
    /* f->x has room for so many, and for no more than max_rows. */
    const size_t most = pass->options.max_rows < PASS_BLOCK ? pass->options.max_rows : PASS_BLOCK;

    f->h = pass->stream;
    for (size_t first = 0; first < n; first += most) {
        const size_t count = n - first < most ? n - first : most;
        if (pass_rows_of(pass, places + first, count, rows) != 0)
            return -1;
        if (forward_head(f, rows, count, targets ? targets + first : NULL, results + first,
                         logits ? logits + first * f->ld_logits : NULL) != 0)
            return -1;
    }
    return 0;
}
