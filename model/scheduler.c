/* Continuous batching over a paged cache.
 *
 * The sequences in flight stand in order of arrival. Each step plans one forward pass of at most
 * `chunk` rows: first one row for every sequence that decodes, then the prompts' next tokens. When
 * a sequence gets its first row, the longest prefix that it shares with an earlier sequence (in
 * flight or finished a moment ago) is taken over: whole pages by reference, the rest of a page by
 * a copy. Finished sequences linger in a short list, oldest dropped first, so that prompts with a
 * common start find it even when batches do not overlap. */
#include "model/scheduler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/forward.h"
#include "model/model_internal.h"
#include "model/rng.h"
#include "model/sample.h"
#include "mpi/clock.h"
#include "mpi/error.h"

enum { LINGERING = 16 };

struct sequence {
    struct request request;
    int32_t *tokens; /* prompt, then generated */
    size_t n_tokens, capacity;
    size_t n_planned; /* rows computed, or in the batch being planned, or shared */
    int32_t *pages;
    size_t n_pages;
    float *logprobs;
    bool *greedy;
    char *tail; /* the generated tokens' bytes, when there are stop strings to look for */
    size_t n_tail, tail_capacity;
    double sum_logprob;
    bool started;
};

struct output { /* a row whose hidden state goes through the head */
    size_t sequence, position;
};

struct scheduler {
    struct model *model;
    const struct tokenizer *tokenizer;
    struct scheduler_options options;
    const struct scheduler_client *client;
    struct scheduler_stats *stats;
    struct forward forward;
    struct kv_cache cache;
    struct sequence *active; /* [batch], in order of arrival */
    size_t n_active;
    struct sequence lingering[LINGERING]; /* only tokens, n_planned and pages matter */
    size_t n_lingering;
    struct request pending; /* the client's next one, when has_pending */
    bool has_pending, exhausted;
    size_t held_tokens, most_held; /* by active sequences; the most so far */
    /* the batch being planned, all [chunk] or [batch] */
    int32_t *ids;
    struct batch_run *runs;
    struct batch_copy *copies;
    size_t n_rows, n_runs, n_copies;
    struct output *outputs;
    int32_t *output_rows, *targets;
    int32_t *logit_rows; /* [chunk]: the row of `logits` that an output that generates has */
    size_t n_outputs;
    struct head_result *results;
    float *logits;    /* [least of batch and chunk, ld_logits], once something generates */
    int32_t *scratch; /* [vocab] */
    double start;
};

struct scheduler_options scheduler_defaults(void)
{
    return (struct scheduler_options){.batch = 64, .chunk = 512, .share_prefix = true};
}

/* ---- sequences ---------------------------------------------------------------------------------
 */

static void sequence_free(struct scheduler *s, struct sequence *q)
{
    for (size_t i = 0; i < q->n_pages; i++)
        kv_page_drop(&s->cache, q->pages[i]);
    free(q->pages);
    free(q->tokens);
    free(q->logprobs);
    free(q->greedy);
    free(q->tail);
    memset(q, 0, sizeof *q);
}

static int check_request(const struct scheduler *s, const struct request *r)
{
    const struct model_config *c = &s->model->config;
    if (r->n_tokens == 0)
        return error_set("an empty prompt has no next token: give at least one token");
    if (r->n_scored >= r->n_tokens)
        return error_set("cannot score %zu of %zu tokens: the first has nothing before it",
                         r->n_scored, r->n_tokens);
    if (r->n_tokens + (r->max_new > 0) > c->max_positions)
        return error_set("a prompt of %zu tokens does not fit the model's %zu positions",
                         r->n_tokens, c->max_positions);
    for (size_t i = 0; i < r->n_tokens; i++)
        if (r->tokens[i] < 0 || (size_t)r->tokens[i] >= c->vocab_size)
            return error_set("token id %d is outside the model's vocabulary of %zu: tokenizer and "
                             "model do not belong together",
                             r->tokens[i], c->vocab_size);
    return 0;
}

static size_t reserve_of(const struct scheduler *s, const struct request *r)
{
    const size_t room = s->model->config.max_positions - r->n_tokens;
    return r->n_tokens + (r->max_new < room ? r->max_new : room);
}

/* Finished sequences are dropped, oldest first, until there are at most `most` and they hold no
 * more tokens than the cap leaves or, without a cap, than were in flight at once (or fill a slab):
 * so they double the cache at most. */
static void drop_lingering(struct scheduler *s, size_t most)
{
    const size_t cap = s->options.max_tokens;
    const size_t slab = (size_t)KV_SLAB_PAGES * KV_PAGE;
    const size_t room = cap > s->held_tokens  ? cap - s->held_tokens
                        : cap > 0             ? 0
                        : slab > s->most_held ? slab
                                              : s->most_held;
    size_t n = s->n_lingering, tokens = 0;

    while (n > 0 && s->n_lingering - n < most && tokens + s->lingering[n - 1].n_planned <= room)
        tokens += s->lingering[--n].n_planned;
    for (size_t i = 0; i < n; i++)
        sequence_free(s, &s->lingering[i]);
    s->n_lingering -= n;
    memmove(s->lingering, s->lingering + n, s->n_lingering * sizeof *s->lingering);
}

/* Looks at the client's next request; false when there is none. */
static bool peek(struct scheduler *s)
{
    if (!s->has_pending && !s->exhausted) {
        s->pending = (struct request){0};
        s->has_pending = s->client->next(s->client->context, &s->pending);
        s->exhausted = !s->has_pending;
    }
    return s->has_pending;
}

/* Takes requests from the client until the batch or the cache is full. */
static int admit(struct scheduler *s)
{
    const size_t cap = s->options.max_tokens;

    while (s->n_active < s->options.batch && peek(s)) {
        const struct request r = s->pending;
        if (check_request(s, &r) != 0)
            return -1;
        const size_t capacity = reserve_of(s, &r);
        if (cap > 0 && s->n_active > 0 && s->held_tokens + capacity > cap)
            break;
        s->has_pending = false;
        struct sequence *q = &s->active[s->n_active];
        *q = (struct sequence){.request = r, .n_tokens = r.n_tokens, .capacity = capacity};
        const size_t n_pages = (capacity + KV_PAGE - 1) / KV_PAGE;
        q->tokens = malloc(capacity * sizeof *q->tokens);
        q->pages = malloc(n_pages * sizeof *q->pages);
        q->logprobs = malloc((r.n_scored + 1) * sizeof *q->logprobs);
        q->greedy = malloc((r.n_scored + 1) * sizeof *q->greedy);
        s->n_active++; /* freed with the others from here on */
        if (!q->tokens || !q->pages || !q->logprobs || !q->greedy)
            return error_set("no memory for a prompt of %zu tokens", r.n_tokens);
        memcpy(q->tokens, r.tokens, r.n_tokens * sizeof *q->tokens);
        s->held_tokens += capacity;
        s->most_held = s->held_tokens > s->most_held ? s->held_tokens : s->most_held;
        s->stats->prompt_tokens += r.n_tokens;
    }
    drop_lingering(s, LINGERING);
    return 0;
}

/* The first position whose hidden state the request needs. */
static size_t first_output(const struct request *r)
{
    return r->n_tokens - 1 - r->n_scored;
}

/* ---- sharing -----------------------------------------------------------------------------------
 */

static size_t common_prefix(const struct sequence *q, const struct sequence *other, size_t limit)
{
    size_t n = 0;
    if (limit > other->n_planned)
        limit = other->n_planned;
    while (n < limit && q->tokens[n] == other->tokens[n])
        n++;
    return n;
}

/* Takes over what an earlier sequence has of q's prompt. */
static int share_prefix(struct scheduler *s, struct sequence *q)
{
    const size_t limit = first_output(&q->request);
    const struct sequence *best = NULL;
    size_t n_best = 0;

    for (size_t i = 0; i < s->n_active && &s->active[i] != q; i++) {
        const size_t n = common_prefix(q, &s->active[i], limit);
        if (n > n_best) {
            n_best = n;
            best = &s->active[i];
        }
    }
    for (size_t i = 0; i < s->n_lingering; i++) {
        const size_t n = common_prefix(q, &s->lingering[i], limit);
        if (n > n_best) {
            n_best = n;
            best = &s->lingering[i];
        }
    }
    if (n_best == 0)
        return 0;
    const size_t n_whole = n_best / KV_PAGE, rest = n_best % KV_PAGE;
    for (size_t i = 0; i < n_whole; i++) {
        kv_page_hold(&s->cache, best->pages[i]);
        q->pages[q->n_pages++] = best->pages[i];
    }
    if (rest > 0) {
        const int32_t page = kv_page_take(&s->cache);
        if (page < 0)
            return -1;
        q->pages[q->n_pages++] = page;
        s->copies[s->n_copies++] =
            (struct batch_copy){.from = best->pages[n_whole], .to = page, .n_positions = rest};
    }
    q->n_planned = n_best;
    return 0;
}

/* ---- planning ----------------------------------------------------------------------------------
 */

static bool needs_output(const struct sequence *q, size_t position)
{
    if (position < first_output(&q->request))
        return false;
    /* The prompt's last row only matters if something follows. */
    return position + 1 < q->request.n_tokens || q->request.max_new > 0;
}

/* Puts the next n tokens of active[index] into the batch. */
static int plan_rows(struct scheduler *s, size_t index, size_t n)
{
    struct sequence *q = &s->active[index];
    const size_t end = q->n_planned + n;

    while (q->n_pages * KV_PAGE < end) {
        const int32_t page = kv_page_take(&s->cache);
        if (page < 0)
            return -1;
        q->pages[q->n_pages++] = page;
    }
    s->runs[s->n_runs] = (struct batch_run){
        .first_row = s->n_rows, .n_rows = n, .first_position = q->n_planned, .pages = q->pages};
    for (; q->n_planned < end; q->n_planned++) {
        const size_t position = q->n_planned;
        s->ids[s->n_rows] = q->tokens[position];
        if (needs_output(q, position)) {
            s->outputs[s->n_outputs] = (struct output){index, position};
            s->output_rows[s->n_outputs] = (int32_t)s->n_rows;
            s->targets[s->n_outputs] =
                position + 1 < q->request.n_tokens ? q->tokens[position + 1] : -1;
            s->n_outputs++;
        }
        s->n_rows++;
    }
    s->n_runs++;
    return 0;
}

/* The rows that a request still needs: a scored prompt's last token is never fed. */
static size_t rows_left(const struct sequence *q)
{
    const size_t end =
        q->request.max_new > 0 || q->request.n_scored == 0 ? q->n_tokens : q->n_tokens - 1;
    return end - q->n_planned;
}

static int plan(struct scheduler *s)
{
    s->n_rows = s->n_runs = s->n_copies = s->n_outputs = 0;
    for (size_t i = 0; i < s->n_active && s->n_rows < s->options.chunk; i++)
        if (s->active[i].n_tokens > s->active[i].request.n_tokens && plan_rows(s, i, 1) != 0)
            return -1;
    for (size_t i = 0; i < s->n_active && s->n_rows < s->options.chunk; i++) {
        struct sequence *q = &s->active[i];
        if (q->n_tokens > q->request.n_tokens)
            continue;
        if (!q->started && s->options.share_prefix && share_prefix(s, q) != 0)
            return -1;
        q->started = true;
        const size_t room = s->options.chunk - s->n_rows, left = rows_left(q);
        if (left > 0 && plan_rows(s, i, left < room ? left : room) != 0)
            return -1;
    }
    return 0;
}

/* ---- answers -----------------------------------------------------------------------------------
 */

/* Offset of a stop string in text, or SIZE_MAX. */
static size_t find_stop(const struct request *r, const char *text, size_t n, size_t from)
{
    size_t first = SIZE_MAX;
    for (size_t i = 0; i < r->n_stops; i++) {
        const size_t n_stop = strlen(r->stops[i]);
        const char *at = n_stop > 0 && n_stop <= n - from
                             ? memmem(text + from, n - from, r->stops[i], n_stop)
                             : NULL;
        if (at && (size_t)(at - text) < first)
            first = (size_t)(at - text);
    }
    return first;
}

/* Adds a token's bytes to the tail; true when a stop string has appeared. */
static bool meets_stop(const struct scheduler *s, struct sequence *q, int32_t id)
{
    size_t n, longest = 0;
    if (q->request.n_stops == 0)
        return false;
    const char *bytes = tokenizer_token_bytes(s->tokenizer, id, true, &n);
    if (q->n_tail + n > q->tail_capacity) {
        const size_t capacity = 2 * (q->n_tail + n) + 64;
        char *tail = realloc(q->tail, capacity);
        if (!tail)
            return false; /* the answer then runs to its length */
        q->tail = tail;
        q->tail_capacity = capacity;
    }
    if (n > 0)
        memcpy(q->tail + q->n_tail, bytes, n);
    for (size_t i = 0; i < q->request.n_stops; i++) {
        const size_t length = strlen(q->request.stops[i]);
        longest = length > longest ? length : longest;
    }
    const size_t from = q->n_tail > longest ? q->n_tail - longest : 0;
    q->n_tail += n;
    return find_stop(&q->request, q->tail, q->n_tail, from) != SIZE_MAX;
}

/* Hands an answer to the client. */
static int finish(struct scheduler *s, struct sequence *q, enum finish how)
{
    const struct request *r = &q->request;
    const size_t n_ids = q->n_tokens - r->n_tokens;
    struct response response = {.logprobs = q->logprobs,
                                .greedy = q->greedy,
                                .ids = q->tokens + r->n_tokens,
                                .n_ids = n_ids,
                                .text = "",
                                .finish = how};
    char *text = NULL;

    if (n_ids > 0)
        response.mean_logprob = q->sum_logprob / (double)n_ids;
    if (n_ids > 0 && s->tokenizer) {
        text = tokenizer_decode(s->tokenizer, response.ids, n_ids, true, &response.n_text);
        if (!text)
            return -1;
        const size_t stop = find_stop(r, text, response.n_text, 0);
        if (stop != SIZE_MAX) {
            text[stop] = '\0';
            response.n_text = stop;
        }
        response.text = text;
    }
    s->held_tokens -= q->capacity;
    const int status = s->client->done(s->client->context, r, &response);
    free(text);
    return status;
}

/* One generated token. Sets *over when the answer is finished. */
static int take_token(struct scheduler *s, struct sequence *q, const struct head_result *result,
                      const float *logits, bool *over)
{
    const struct request *r = &q->request;
    const size_t index = q->n_tokens - r->n_tokens;
    int32_t id = result->argmax;

    if (r->sampling.temperature > 0)
        id = sample_token(&r->sampling, logits, s->model->config.vocab_size,
                          rng_uniform(r->sampling.seed, r->stream, index), s->scratch);
    if (index == 0 && s->stats->first_token_seconds == 0)
        s->stats->first_token_seconds = clock_seconds() - s->start;
    s->stats->generated_tokens++;
    *over = true;
    if (!r->ignore_eos && config_is_eos(&s->model->config, id))
        return finish(s, q, FINISH_EOS);
    q->tokens[q->n_tokens++] = id;
    q->sum_logprob += (double)logits[id] - result->log_sum;
    if (s->client->token)
        s->client->token(s->client->context, r, id);
    if (meets_stop(s, q, id))
        return finish(s, q, FINISH_STOP);
    if (q->n_tokens == q->capacity)
        return finish(s, q, FINISH_LENGTH);
    *over = false;
    return 0;
}

/* A finished sequence's pages stay a while for others to share. */
static void retire(struct scheduler *s, struct sequence *q)
{
    if (!s->options.share_prefix) {
        sequence_free(s, q);
        return;
    }
    drop_lingering(s, LINGERING - 1);
    s->lingering[s->n_lingering++] = *q;
    memset(q, 0, sizeof *q);
}

/* Uses the head's results of one pass; drops the finished sequences. */
static int collect(struct scheduler *s)
{
    for (size_t i = 0; i < s->n_outputs; i++) {
        const struct output *o = &s->outputs[i];
        struct sequence *q = &s->active[o->sequence];
        const struct request *r = &q->request;
        const struct head_result *result = &s->results[i];
        if (o->position + 1 < r->n_tokens) {
            const size_t k = o->position - first_output(r);
            q->logprobs[k] = result->target - result->log_sum;
            q->greedy[k] = result->argmax == s->targets[i];
            continue;
        }
        bool over;
        const float *logits = s->logits + (size_t)s->logit_rows[i] * s->forward.ld_logits;
        if (take_token(s, q, result, logits, &over) != 0)
            return -1;
        if (over)
            q->n_planned = SIZE_MAX; /* marks it for the sweep below */
    }
    size_t kept = 0;
    for (size_t i = 0; i < s->n_active; i++) {
        struct sequence *q = &s->active[i];
        bool over = q->n_planned == SIZE_MAX;
        if (over) {
            q->n_planned = q->n_tokens > q->request.n_tokens ? q->n_tokens - 1 : q->n_tokens;
        } else if (q->started && q->request.max_new == 0 && rows_left(q) == 0) {
            if (finish(s, q, FINISH_SCORED) != 0)
                return -1;
            over = true;
        }
        if (over) {
            retire(s, q);
        } else {
            if (kept != i) {
                s->active[kept] = *q;
                memset(q, 0, sizeof *q);
            }
            kept++;
        }
    }
    s->n_active = kept;
    return 0;
}

/* Scored rows need only sums over the vocabulary, generated ones all logits: the head runs once for
 * each kind. logit_rows tells where an output's logits went. */
static int run_head(struct scheduler *s)
{
    size_t n_scored = 0, n_generated = 0;
    for (size_t i = 0; i < s->n_outputs; i++)
        s->targets[i] >= 0 ? n_scored++ : n_generated++;
    if (n_scored == s->n_outputs)
        return forward_head(&s->forward, s->output_rows, s->n_outputs, s->targets, s->results,
                            NULL);
    if (!s->logits) {
        /* A sequence generates from one row of a pass at most. */
        const size_t n = s->options.batch < s->options.chunk ? s->options.batch : s->options.chunk;
        s->logits = aligned_alloc(64, n * s->forward.ld_logits * sizeof(float));
        if (!s->logits)
            return error_set("no memory for the logits of a batch of %zu", n);
    }
    if (n_scored == 0) {
        for (size_t i = 0; i < s->n_outputs; i++)
            s->logit_rows[i] = (int32_t)i;
        return forward_head(&s->forward, s->output_rows, s->n_outputs, s->targets, s->results,
                            s->logits);
    }
    struct head_result *results = malloc(s->n_outputs * sizeof *results);
    int32_t *rows = malloc(2 * s->n_outputs * sizeof *rows);
    int status = -1;
    if (!results || !rows) {
        error_set("no memory for %zu results", s->n_outputs);
        goto done;
    }
    int32_t *targets = rows + s->n_outputs;
    for (int generated = 0; generated <= 1; generated++) {
        size_t n = 0;
        for (size_t i = 0; i < s->n_outputs; i++)
            if ((s->targets[i] < 0) == generated) {
                rows[n] = s->output_rows[i];
                targets[n++] = s->targets[i];
            }
        if (forward_head(&s->forward, rows, n, targets, results, generated ? s->logits : NULL) != 0)
            goto done;
        n = 0;
        for (size_t i = 0; i < s->n_outputs; i++)
            if ((s->targets[i] < 0) == generated) {
                s->logit_rows[i] = (int32_t)n;
                s->results[i] = results[n++];
            }
    }
    status = 0;
done:
    free(results);
    free(rows);
    return status;
}

/* ---- the loop ----------------------------------------------------------------------------------
 */

static int scheduler_create(struct scheduler *s)
{
    struct scheduler_options *o = &s->options;
    if (o->batch == 0)
        o->batch = 1;
    if (o->chunk == 0)
        o->chunk = 1;
    /* No pass is larger than all positions of a batch: the buffers need not be, either. */
    size_t most;
    if (!__builtin_mul_overflow(s->model->config.max_positions, o->batch ? o->batch : 1, &most) &&
        o->chunk > most)
        o->chunk = most;
    if (forward_create(&s->forward, s->model, o->chunk) != 0 ||
        forward_cache_create(&s->cache, s->model) != 0)
        return -1;
    s->active = calloc(o->batch, sizeof *s->active);
    s->ids = malloc(o->chunk * sizeof *s->ids);
    s->runs = malloc((o->chunk + 1) * sizeof *s->runs);
    s->copies = malloc((o->batch + 1) * sizeof *s->copies);
    s->outputs = malloc(o->chunk * sizeof *s->outputs);
    s->output_rows = malloc(o->chunk * sizeof *s->output_rows);
    s->targets = malloc(o->chunk * sizeof *s->targets);
    s->logit_rows = malloc(o->chunk * sizeof *s->logit_rows);
    s->results = malloc(o->chunk * sizeof *s->results);
    s->scratch = malloc(s->model->config.vocab_size * sizeof *s->scratch);
    if (!s->active || !s->ids || !s->runs || !s->copies || !s->outputs || !s->output_rows ||
        !s->targets || !s->logit_rows || !s->results || !s->scratch)
        return error_set("no memory for a batch of %zu requests", o->batch);
    return 0;
}

static void scheduler_destroy(struct scheduler *s)
{
    for (size_t i = 0; s->active && i < s->n_active; i++)
        sequence_free(s, &s->active[i]);
    for (size_t i = 0; i < s->n_lingering; i++)
        sequence_free(s, &s->lingering[i]);
    kv_cache_free(&s->cache);
    forward_free(&s->forward);
    free(s->active);
    free(s->ids);
    free(s->runs);
    free(s->copies);
    free(s->outputs);
    free(s->output_rows);
    free(s->targets);
    free(s->logit_rows);
    free(s->results);
    free(s->logits);
    free(s->scratch);
}

static int step(struct scheduler *s)
{
    if (plan(s) != 0)
        return -1;
    if (s->n_rows > 0) {
        const struct batch batch = {.n_rows = s->n_rows,
                                    .ids = s->ids,
                                    .runs = s->runs,
                                    .n_runs = s->n_runs,
                                    .copies = s->copies,
                                    .n_copies = s->n_copies};
        if (forward_run(&s->forward, &s->cache, &batch) != 0 || run_head(s) != 0)
            return -1;
        s->stats->computed_tokens += s->n_rows;
        s->stats->n_forward++;
    }
    return collect(s);
}

int scheduler_run(struct model *model, const struct tokenizer *tokenizer,
                  const struct scheduler_options *options, const struct scheduler_client *client,
                  struct scheduler_stats *stats)
{
    struct scheduler_stats unused;
    struct scheduler s = {.model = model,
                          .tokenizer = tokenizer,
                          .options = *options,
                          .client = client,
                          .stats = stats ? stats : &unused,
                          .start = clock_seconds()};
    int status = -1;

    memset(s.stats, 0, sizeof *s.stats);
    if (scheduler_create(&s) != 0)
        goto done;
    for (;;) {
        if (admit(&s) != 0)
            goto done;
        if (s.n_active == 0)
            break;
        if (step(&s) != 0)
            goto done;
    }
    status = 0;
done:
    s.stats->seconds = clock_seconds() - s.start;
    scheduler_destroy(&s);
    return status;
}
