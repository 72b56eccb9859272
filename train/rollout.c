#include "train/rollout.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "eval/evaluate.h"
#include "model/rng.h"
#include "model/sample.h"
#include "mpi/error.h"

enum { HEADS = 32 }; /* rows of logits that rollouts look at together */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const struct train_options *options_of(const struct rollout *r)
{
    return &r->trainer->options;
}

static bool by_choice(const struct rollout *r)
{
    return r->items->task.score == TASK_CHOICE && options_of(r)->objective == TRAIN_REINFORCE;
}

static size_t max_new_of(const struct rollout *r)
{
    return options_of(r)->max_new ? options_of(r)->max_new : r->items->task.max_new;
}

static size_t logits_width(const struct rollout *r)
{
    return round_up(model_get_config(r->trainer->model)->vocab_size, KERNEL_COLUMNS);
}

int rollout_create(struct rollout *rollout, const struct trainer *trainer,
                   const struct items *items)
{
    const struct train_options *o = &trainer->options;
    const struct pass_options pass = {.max_rows = o->max_rows, .recompute = o->recompute};
    const struct pass_options base = {.max_rows = o->max_rows, .inference = true};
    const size_t vocab = model_get_config(trainer->model)->vocab_size;

    *rollout = (struct rollout){.trainer = trainer, .items = items};
    rollout->pass = pass_create(trainer->model, trainer->adapter, &pass);
    if (!rollout->pass)
        goto fail;
    if (o->kl != 0 && !(rollout->base = pass_create(trainer->model, trainer->adapter, &base)))
        goto fail;
    rollout->logits = aligned_alloc(64, HEADS * logits_width(rollout) * sizeof(float));
    rollout->scratch = malloc(vocab * sizeof *rollout->scratch);
    if (!rollout->logits || !rollout->scratch) {
        error_set("no memory for the logits of a vocabulary of %zu", vocab);
        goto fail;
    }
    return 0;
fail:
    rollout_free(rollout);
    return -1;
}

void rollout_free(struct rollout *rollout)
{
    if (!rollout)
        return;
    pass_free(rollout->pass);
    pass_free(rollout->base);
    free(rollout->logits);
    free(rollout->scratch);
    memset(rollout, 0, sizeof *rollout);
}

/* ---- prompts -----------------------------------------------------------------------------------
 */

static int32_t end_token(const struct rollout *r)
{
    const struct model_config *c = model_get_config(r->trainer->model);
    const int32_t own = tokenizer_eos(r->trainer->tokenizer);

    for (size_t i = 0; i < c->n_eos; i++)
        if (c->eos_ids[i] == own)
            return own;
    return c->n_eos ? c->eos_ids[0] : own;
}

/* Tokens of text after the prompt's. Where prompt and text together are not encoded as the prompt
 * is, the text is encoded alone in a chat (generation begins there), and otherwise as evaluation
 * does it: blanks at the prompt's end go over to the text, and the prompt is cut there. */
static int encode_after(const struct rollout *r, const struct task_item *item, const char *text,
                        struct tokens *prompt, struct tokens *out)
{
    const struct tokenizer *tokenizer = r->trainer->tokenizer;
    const int flags = item->chat ? TOKENIZER_SPECIAL : TOKENIZER_SPECIAL | TOKENIZER_ADD_BOS;
    struct tokens whole = {0};
    char *both = NULL;
    size_t n_scored, cut = prompt->n;
    int status = -1;

    if (asprintf(&both, "%s%s", item->prompt, text) < 0) {
        both = NULL;
        error_set("out of memory");
        goto done;
    }
    if (tokenizer_encode(tokenizer, both, strlen(both), flags, &whole))
        goto done;
    if (whole.n <= cut || memcmp(whole.ids, prompt->ids, cut * sizeof *whole.ids) != 0) {
        whole.n = 0;
        if (item->chat) {
            cut = 0;
            if (tokenizer_encode(tokenizer, text, strlen(text), TOKENIZER_SPECIAL, &whole))
                goto done;
        } else {
            if (evaluate_encode_pair(tokenizer, item->prompt, text, flags, &whole, &n_scored))
                goto done;
            cut = whole.n - n_scored;
            if (cut > prompt->n || memcmp(whole.ids, prompt->ids, cut * sizeof *whole.ids) != 0) {
                error_set("the answer \"%.40s\" is not cut from its prompt at a token", text);
                goto done;
            }
            prompt->n = cut;
        }
    }
    if (whole.n <= cut) {
        error_set("the answer \"%.40s\" has no tokens", text);
        goto done;
    }
    for (size_t i = cut; i < whole.n; i++)
        if (tokens_push(out, whole.ids[i])) {
            error_set("out of memory");
            goto done;
        }
    status = 0;
done:
    free(both);
    tokens_free(&whole);
    return status;
}

static int make_choices(const struct rollout *r, struct shard_prompt *p)
{
    p->choices = calloc(p->item.n_choices, sizeof *p->choices);
    if (!p->choices)
        return error_set("out of memory");
    for (size_t i = 0; i < p->item.n_choices; i++)
        if (encode_after(r, &p->item, p->item.choices[i], &p->tokens, &p->choices[i]))
            return -1;
    return 0;
}

static int make_given(const struct rollout *r, struct shard_prompt *p, struct answer *answer)
{
    char *text =
        task_target(&r->items->task, &r->items->context, &r->items->data, p->row, &p->item);
    int status = -1;

    if (!text)
        return -1;
    if (encode_after(r, &p->item, text, &p->tokens, &answer->tokens))
        goto done;
    if (options_of(r)->eos_in_loss && r->items->task.score == TASK_GENERATE &&
        tokens_push(&answer->tokens, end_token(r))) {
        error_set("out of memory");
        goto done;
    }
    answer->text = text;
    text = NULL;
    answer->correct = true;
    status = 0;
done:
    free(text);
    return status;
}

static int make_prompt(const struct rollout *r, struct shard *shard, size_t i, size_t row)
{
    struct shard_prompt *p = &shard->prompts[i];
    const struct items *items = r->items;
    const struct model_config *c = model_get_config(r->trainer->model);
    size_t longest = max_new_of(r);

    p->row = row;
    if (task_item_make(&items->task, &items->context, &items->data, row, &p->item))
        return -1;
    if (items_encode(r->trainer->tokenizer, &p->item, &p->tokens))
        goto fail;
    if (by_choice(r)) {
        if (make_choices(r, p))
            goto fail;
        longest = 0;
        for (size_t j = 0; j < p->item.n_choices; j++)
            longest = p->choices[j].n > longest ? p->choices[j].n : longest;
    } else if (options_of(r)->objective == TRAIN_NEXT_TOKEN) {
        if (make_given(r, p, &shard->answers[i]))
            goto fail;
        longest = shard->answers[i].tokens.n;
    }
    if (p->tokens.n + longest > c->max_positions) {
        error_set("prompt and answer take up to %zu tokens, more than the model's %zu positions",
                  p->tokens.n + longest, c->max_positions);
        goto fail;
    }
    if (p->tokens.n + longest > options_of(r)->max_rows) {
        error_set("prompt and answer take up to %zu tokens, more than --max-rows %zu: give more",
                  p->tokens.n + longest, options_of(r)->max_rows);
        goto fail;
    }
    return 0;
fail:
    return error_prefix("task %s: %s:%zu", items->task.name, items->data.path,
                        items->data.lines[row]);
}

int shard_make(struct shard *shard, const struct rollout *rollout, uint64_t step, size_t number,
               const size_t *rows)
{
    const struct train_options *o = options_of(rollout);
    const size_t first = number * o->shard;
    const size_t left = o->batch - first;

    *shard = (struct shard){.step = step,
                            .number = number,
                            .first = first,
                            .n_prompts = left < o->shard ? left : o->shard,
                            .n_answers = o->n_answers};
    shard->prompts = calloc(shard->n_prompts, sizeof *shard->prompts);
    shard->answers = calloc(shard->n_prompts * shard->n_answers, sizeof *shard->answers);
    if (!shard->prompts || !shard->answers)
        return error_set("no memory for %zu prompts", shard->n_prompts);
    for (size_t i = 0; i < shard->n_prompts * shard->n_answers; i++)
        shard->answers[i].choice = -1;
    for (size_t i = 0; i < shard->n_prompts; i++)
        if (make_prompt(rollout, shard, i, rows[first + i]))
            return -1;
    shard->rolled_out = o->objective == TRAIN_NEXT_TOKEN;
    return 0;
}

static void answer_clear(struct answer *answer)
{
    tokens_free(&answer->tokens);
    free(answer->text);
    free(answer->logprobs);
    memset(answer, 0, sizeof *answer);
}

void shard_free(struct shard *shard)
{
    if (!shard)
        return;
    for (size_t i = 0; shard->prompts && i < shard->n_prompts; i++) {
        struct shard_prompt *p = &shard->prompts[i];
        for (size_t j = 0; p->choices && j < p->item.n_choices; j++)
            tokens_free(&p->choices[j]);
        free(p->choices);
        tokens_free(&p->tokens);
        task_item_free(&p->item);
    }
    for (size_t i = 0; shard->answers && i < shard->n_prompts * shard->n_answers; i++)
        answer_clear(&shard->answers[i]);
    free(shard->prompts);
    free(shard->answers);
    memset(shard, 0, sizeof *shard);
}

/* ---- groups: as many prompts as one pass holds
 * --------------------------------------------------- */

/* Rows that prompt i may need at most, shared beginnings aside. */
static size_t rows_bound(const struct shard *shard, const struct rollout *r, size_t i)
{
    const struct shard_prompt *p = &shard->prompts[i];
    size_t n = p->tokens.n;

    if (by_choice(r))
        for (size_t j = 0; j < p->item.n_choices; j++)
            n += p->choices[j].n;
    else if (shard->rolled_out)
        for (size_t a = 0; a < shard->n_answers; a++)
            n += shard->answers[i * shard->n_answers + a].tokens.n;
    else
        n += shard->n_answers * max_new_of(r);
    return n;
}

/* The end of the group that begins with prompt `first`. */
static size_t group_end(const struct shard *shard, const struct rollout *r, size_t first)
{
    size_t end = first, rows = 0;

    while (end < shard->n_prompts) {
        rows += rows_bound(shard, r, end);
        if (end > first && rows > options_of(r)->max_rows)
            break;
        end++;
    }
    return end;
}

/* ---- rolling out --------------------------------------------------------------------------------
 */

static uint64_t stream_of(const struct shard *shard, const struct rollout *r, size_t answer)
{
    return (shard->step * options_of(r)->batch + shard->first) * shard->n_answers + answer;
}

static int set_text(const struct rollout *r, struct answer *answer, size_t n_ids)
{
    size_t n;

    answer->text = tokenizer_decode(r->trainer->tokenizer, answer->tokens.ids, n_ids, true, &n);
    return answer->text ? 0 : -1;
}

/* Cuts text at the first stop string; true when there is one. */
static bool cut_at_stop(const struct rollout *r, char *text)
{
    const struct task_list *stops = &r->items->task.stops;
    char *first = NULL;

    for (size_t i = 0; i < stops->n_items; i++) {
        char *at = *stops->items[i] ? strstr(text, stops->items[i]) : NULL;
        if (at && (!first || at < first))
            first = at;
    }
    if (first)
        *first = '\0';
    return first != NULL;
}

static void grade(const struct shard *shard, const struct rollout *r, size_t index)
{
    const struct shard_prompt *p = &shard->prompts[index / shard->n_answers];
    struct answer *answer = &shard->answers[index];
    int predicted = -1;

    if (by_choice(r))
        answer->correct = (size_t)answer->choice == p->item.gold_index;
    else
        answer->correct = task_grade(&r->items->task, &p->item, answer->text, &predicted);
    answer->reward = answer->correct ? options_of(r)->reward_right : options_of(r)->reward_wrong;
}

static bool is_end(const struct rollout *r, int32_t id)
{
    const struct model_config *c = model_get_config(r->trainer->model);

    for (size_t i = 0; i < c->n_eos; i++)
        if (c->eos_ids[i] == id)
            return true;
    return false;
}

/* One more token for an answer: *over when it is the last. The end-of-text token counts as one of
 * the answer's where it is part of the loss. */
static int take_token(const struct rollout *r, struct answer *answer, int32_t id, bool *over)
{
    const struct train_options *o = options_of(r);
    const bool end = is_end(r, id);

    if ((!end || o->eos_in_loss) && tokens_push(&answer->tokens, id))
        return error_set("out of memory");
    *over = end || answer->tokens.n >= max_new_of(r);
    if (!*over && r->items->task.stops.n_items > 0) {
        if (set_text(r, answer, answer->tokens.n) != 0)
            return -1;
        *over = cut_at_stop(r, answer->text);
        if (!*over) {
            free(answer->text);
            answer->text = NULL;
        }
    } else if (*over && set_text(r, answer, answer->tokens.n) == 0) {
        cut_at_stop(r, answer->text);
    }
    return *over && !answer->text ? -1 : 0;
}

/* Grows answers inside the pass, which holds the group's sequences in order, one an answer. */
static int grow_answers(struct shard *shard, struct rollout *r, size_t first, size_t end)
{
    const struct train_options *o = options_of(r);
    const size_t n = (end - first) * shard->n_answers, ld = logits_width(r);
    struct sampling sampling = o->sampling;
    size_t *active = malloc(n * sizeof *active), n_active = n;
    int status = -1;

    sampling.seed = o->seed;
    if (!active)
        return error_set("out of memory");
    for (size_t i = 0; i < n; i++)
        active[i] = i;
    while (n_active > 0) {
        size_t kept = 0;
        if (pass_run(r->pass) != 0)
            goto done;
        for (size_t a0 = 0; a0 < n_active; a0 += HEADS) {
            const size_t count = n_active - a0 < HEADS ? n_active - a0 : HEADS;
            struct pass_place places[HEADS];
            struct head_result results[HEADS];
            for (size_t i = 0; i < count; i++) {
                const size_t s = active[a0 + i];
                const size_t index = first * shard->n_answers + s;
                places[i] =
                    (struct pass_place){s, shard->prompts[index / shard->n_answers].tokens.n +
                                               shard->answers[index].tokens.n - 1};
            }
            if (pass_head(r->pass, places, count, NULL, results, r->logits) != 0)
                goto done;
            for (size_t i = 0; i < count; i++) {
                const size_t s = active[a0 + i], index = first * shard->n_answers + s;
                struct answer *answer = &shard->answers[index];
                int32_t id = results[i].argmax;
                bool over = false;
                if (sampling.temperature > 0)
                    id = sample_token(
                        &sampling, r->logits + i * ld,
                        model_get_config(r->trainer->model)->vocab_size,
                        rng_uniform(sampling.seed, stream_of(shard, r, index), answer->tokens.n),
                        r->scratch);
                if (take_token(r, answer, id, &over) != 0)
                    goto done;
                if (!over) {
                    if (pass_append(r->pass, s, id) != 0)
                        goto done;
                    active[kept++] = s;
                }
            }
        }
        n_active = kept;
    }
    for (size_t s = 0; s < n; s++)
        grade(shard, r, first * shard->n_answers + s);
    status = 0;
done:
    free(active);
    return status;
}

/* The answers of the group through the scheduler. */
struct long_rollout {
    struct shard *shard;
    const struct rollout *rollout;
    size_t next, end;
};

static bool next_request(void *context, struct request *request)
{
    struct long_rollout *l = context;
    const struct rollout *r = l->rollout;

    if (l->next == l->end)
        return false;
    const struct shard_prompt *p = &l->shard->prompts[l->next / l->shard->n_answers];
    *request = (struct request){.tokens = p->tokens.ids,
                                .n_tokens = p->tokens.n,
                                .max_new = max_new_of(r),
                                .sampling = options_of(r)->sampling,
                                .stream = stream_of(l->shard, r, l->next),
                                .stops = (const char *const *)r->items->task.stops.items,
                                .n_stops = r->items->task.stops.n_items,
                                .user = (void *)&l->shard->answers[l->next]};
    request->sampling.seed = options_of(r)->seed;
    l->next++;
    return true;
}

static int request_done(void *context, const struct request *request,
                        const struct response *response)
{
    struct long_rollout *l = context;
    struct answer *answer = request->user;

    for (size_t i = 0; i < response->n_ids; i++)
        if (tokens_push(&answer->tokens, response->ids[i]))
            return error_set("out of memory");
    if (response->finish == FINISH_EOS && options_of(l->rollout)->eos_in_loss &&
        tokens_push(&answer->tokens, end_token(l->rollout)))
        return error_set("out of memory");
    answer->text = strndup(response->text, response->n_text);
    if (!answer->text)
        return error_set("out of memory");
    grade(l->shard, l->rollout, (size_t)(answer - l->shard->answers));
    return 0;
}

static int roll_out_long(struct shard *shard, struct rollout *r, const float *parameters)
{
    struct long_rollout l = {shard, r, 0, shard->n_prompts * shard->n_answers};
    const struct scheduler_client client = {
        .next = next_request, .done = request_done, .context = &l};
    struct scheduler_options options = scheduler_defaults();
    struct scheduler_stats stats;

    model_attach(r->trainer->model, r->trainer->adapter, parameters);
    return scheduler_run(r->trainer->model, r->trainer->tokenizer, &options, &client, &stats);
}

/* ---- sequences of a group in a pass
 * --------------------------------------------------------------- */

static int add_sequence(struct pass *pass, const struct tokens *prompt, const struct tokens *after)
{
    const size_t n_after = after ? after->n : 0;
    /* The last token's row would predict what nobody asks for. */
    const size_t n = prompt->n + (n_after ? n_after - 1 : 0);
    int32_t *ids = malloc(n * sizeof *ids);
    size_t sequence;

    if (!ids)
        return error_set("out of memory");
    memcpy(ids, prompt->ids, prompt->n * sizeof *ids);
    if (n_after)
        memcpy(ids + prompt->n, after->ids, (n_after - 1) * sizeof *ids);
    const int status = pass_add(pass, ids, n, &sequence);
    free(ids);
    return status;
}

/* Puts the group's sequences into a pass and runs it: a prompt's choices, or its answers. */
static int feed(const struct shard *shard, const struct rollout *r, struct pass *pass, size_t first,
                size_t end)
{
    for (size_t i = first; i < end; i++) {
        const struct shard_prompt *p = &shard->prompts[i];
        const size_t n = by_choice(r) ? p->item.n_choices : shard->n_answers;
        for (size_t j = 0; j < n; j++)
            if (add_sequence(pass, &p->tokens,
                             by_choice(r) ? &p->choices[j]
                                          : &shard->answers[i * shard->n_answers + j].tokens) != 0)
                return -1;
    }
    return pass_run(pass);
}

/* ---- terms --------------------------------------------------------------------------------------
 */

/* The loss's terms of a group: one a token of each of its sequences. */
struct terms {
    struct pass_place *places;
    struct head_term *terms;
    struct head_term_result *results;
    size_t *answer; /* index of the answer (generated, given) or of the prompt (chosen) */
    size_t n, capacity;
};

static void terms_free(struct terms *t)
{
    free(t->places);
    free(t->terms);
    free(t->results);
    free(t->answer);
    memset(t, 0, sizeof *t);
}

static int terms_add(struct terms *t, size_t sequence, size_t position, int32_t target,
                     size_t answer)
{
    if (t->n == t->capacity) {
        const size_t capacity = 2 * t->capacity + 64;
        struct pass_place *places = realloc(t->places, capacity * sizeof *places);
        if (places)
            t->places = places;
        struct head_term *terms = realloc(t->terms, capacity * sizeof *terms);
        if (terms)
            t->terms = terms;
        struct head_term_result *results = realloc(t->results, capacity * sizeof *results);
        if (results)
            t->results = results;
        size_t *answers = realloc(t->answer, capacity * sizeof *answers);
        if (answers)
            t->answer = answers;
        if (!places || !terms || !results || !answers)
            return error_set("out of memory");
        t->capacity = capacity;
    }
    t->places[t->n] = (struct pass_place){sequence, position};
    t->terms[t->n] = (struct head_term){.target = target};
    t->results[t->n] = (struct head_term_result){0};
    t->answer[t->n++] = answer;
    return 0;
}

static int make_terms(const struct shard *shard, const struct rollout *r, size_t first, size_t end,
                      struct terms *t)
{
    size_t sequence = 0;

    for (size_t i = first; i < end; i++) {
        const struct shard_prompt *p = &shard->prompts[i];
        const size_t n = by_choice(r) ? p->item.n_choices : shard->n_answers;
        for (size_t j = 0; j < n; j++, sequence++) {
            const size_t index = i * shard->n_answers + j;
            const struct tokens *after =
                by_choice(r) ? &p->choices[j] : &shard->answers[index].tokens;
            for (size_t k = 0; k < after->n; k++)
                if (terms_add(t, sequence, p->tokens.n - 1 + k, after->ids[k],
                              by_choice(r) ? i : index) != 0)
                    return -1;
        }
    }
    return 0;
}

/* The step, shard and prompts in which something failed, before the message. */
static void say_where(const struct shard *shard, const struct rollout *r, size_t first, size_t end)
{
    const size_t *lines = r->items->data.lines;

    error_prefix("step %llu, shard %zu, %s: prompts of lines %zu to %zu",
                 (unsigned long long)shard->step + 1, shard->number, r->items->data.path,
                 lines[shard->prompts[first < end ? first : 0].row],
                 lines[shard->prompts[end - 1].row]);
}

/* A log-probability that is no number means the model has gone: name where. */
static int check_terms(const struct shard *shard, const struct rollout *r, const struct terms *t)
{
    for (size_t k = 0; k < t->n; k++) {
        if (isfinite(t->results[k].logprob))
            continue;
        const size_t i = by_choice(r) ? t->answer[k] : t->answer[k] / shard->n_answers;
        return error_set("the log-probability of an answer to %s:%zu is not a number",
                         r->items->data.path, r->items->data.lines[shard->prompts[i].row]);
    }
    return 0;
}

/* Softmax of the choices' log-likelihoods (base: the base model's); terms k .. are the prompt's,
 * returned: past its last. */
static size_t choice_policy(const struct shard_prompt *p, const struct terms *t, size_t k,
                            bool base, double *policy)
{
    double largest = -INFINITY, sum = 0;

    for (size_t j = 0; j < p->item.n_choices; j++) {
        policy[j] = 0;
        for (size_t i = 0; i < p->choices[j].n; i++, k++)
            policy[j] += base ? t->results[k].base_logprob : t->results[k].logprob;
        largest = fmax(largest, policy[j]);
    }
    for (size_t j = 0; j < p->item.n_choices; j++)
        sum += policy[j] = exp(policy[j] - largest);
    for (size_t j = 0; j < p->item.n_choices; j++)
        policy[j] /= sum;
    return k;
}

/* Draws each prompt's choices from the softmax of their log-likelihoods (greedy: the likeliest). */
static void choose(struct shard *shard, const struct rollout *r, const struct terms *t,
                   size_t first, size_t end)
{
    const struct train_options *o = options_of(r);
    double policy[TASK_MAX_LIST];
    size_t k = 0;

    for (size_t i = first; i < end; i++) {
        const struct shard_prompt *p = &shard->prompts[i];
        k = choice_policy(p, t, k, false, policy);
        for (size_t a = 0; a < shard->n_answers; a++) {
            const size_t index = i * shard->n_answers + a;
            struct answer *answer = &shard->answers[index];
            double u = rng_uniform(o->seed, stream_of(shard, r, index), 0), sum = 0;
            size_t best = 0, drawn = p->item.n_choices - 1;
            for (size_t j = 0; j < p->item.n_choices; j++)
                best = policy[j] > policy[best] ? j : best;
            for (size_t j = 0; j < p->item.n_choices; j++) {
                sum += policy[j];
                if (u < sum) {
                    drawn = j;
                    break;
                }
            }
            answer->choice = (int32_t)(o->sampling.temperature > 0 ? drawn : best);
            answer->text = strdup(p->item.plain[answer->choice]);
            answer->logprobs = malloc(sizeof *answer->logprobs);
            if (answer->logprobs)
                answer->logprobs[0] = (float)log(policy[answer->choice]);
            grade(shard, r, index);
        }
    }
}

/* ---- weights ------------------------------------------------------------------------------------
 */

/* Of chosen answers: d(- A log pi(a))/d l_j = -A (1[j = a] - pi_j) for every token of choice j. */
static void weigh_choices(const struct shard *shard, const struct rollout *r, struct terms *t,
                          size_t first, size_t end, const double *advantages,
                          struct shard_sums *sums)
{
    const struct train_options *o = options_of(r);
    const bool estimate = o->kl != 0 && (o->kl_form == KL_K1 || o->kl_form == KL_K3);
    double policy[TASK_MAX_LIST], base[TASK_MAX_LIST];
    size_t k = 0;

    for (size_t i = first; i < end; i++) {
        const struct shard_prompt *p = &shard->prompts[i];
        size_t at = k;
        double weights[TASK_MAX_LIST] = {0};
        if (estimate)
            choice_policy(p, t, k, true, base);
        k = choice_policy(p, t, k, false, policy);
        for (size_t j = 0; j < p->item.n_choices; j++)
            sums->entropy -= policy[j] > 0 ? policy[j] * log(policy[j]) : 0;
        sums->n_tokens++;
        for (size_t a = 0; a < shard->n_answers; a++) {
            const struct answer *answer = &shard->answers[i * shard->n_answers + a];
            const double advantage = advantages[i * shard->n_answers + a];
            const double logprob = log(policy[answer->choice]);
            double value = 0, w = objective_token_weight(
                                  advantage, logprob,
                                  answer->logprobs ? answer->logprobs[0] : logprob, o->clip_ratio);
            if (estimate)
                w += objective_kl_weight(o->kl_form, o->kl, logprob, log(base[answer->choice]),
                                         &value);
            sums->kl += value;
            sums->loss -= advantage * logprob;
            for (size_t j = 0; j < p->item.n_choices; j++)
                weights[j] += w * ((j == (size_t)answer->choice) - policy[j]);
        }
        for (size_t j = 0; j < p->item.n_choices; j++)
            for (size_t c = 0; c < p->choices[j].n; c++)
                t->terms[at++].weight = (float)weights[j];
    }
}

static void weigh_tokens(const struct shard *shard, const struct rollout *r, struct terms *t,
                         const double *advantages, struct shard_sums *sums)
{
    const struct train_options *o = options_of(r);
    const bool given = o->objective == TRAIN_NEXT_TOKEN;
    size_t place = 0;

    for (size_t k = 0; k < t->n; k++) {
        const struct answer *answer = &shard->answers[t->answer[k]];
        const struct head_term_result *result = &t->results[k];
        const double advantage = given ? 1 : advantages[t->answer[k]];
        double weight = advantage;
        place = k > 0 && t->answer[k] == t->answer[k - 1] ? place + 1 : 0;
        if (!given && o->clip_ratio > 0 && answer->logprobs)
            weight = objective_token_weight(advantage, result->logprob, answer->logprobs[place],
                                            o->clip_ratio);
        sums->loss -= advantage * result->logprob;
        if (o->kl_form == KL_K1 || o->kl_form == KL_K3) {
            double value = 0;
            if (o->kl != 0)
                weight += objective_kl_weight(o->kl_form, o->kl, result->logprob,
                                              result->base_logprob, &value);
            sums->kl += value;
        }
        t->terms[k].weight = (float)weight;
    }
}

/* Both exact forms come with the gradient. */
static void set_exact_kl(const struct rollout *r, struct terms *t)
{
    const struct train_options *o = options_of(r);

    for (size_t k = 0; k < t->n; k++) {
        t->terms[k].kl_weight = o->kl_form == KL_REVERSE ? (float)o->kl : 0;
        t->terms[k].kl0_weight = o->kl_form == KL_FORWARD ? (float)o->kl : 0;
    }
}

static void add_sums(const struct rollout *r, const struct terms *t, struct shard_sums *sums)
{
    const struct train_options *o = options_of(r);
    double kl = 0;

    for (size_t k = 0; k < t->n; k++) {
        if (o->kl_form == KL_REVERSE)
            kl += t->results[k].kl;
        else if (o->kl_form == KL_FORWARD)
            kl += t->results[k].kl0;
        if (!by_choice(r)) {
            sums->entropy += t->results[k].entropy;
            sums->n_tokens++;
        }
    }
    sums->kl += kl;
    sums->loss += o->kl * kl;
}

/* ---- a group ------------------------------------------------------------------------------------
 */

static int keep_logprobs(struct shard *shard, const struct terms *t)
{
    for (size_t k = 0; k < t->n;) {
        struct answer *answer = &shard->answers[t->answer[k]];
        free(answer->logprobs);
        answer->logprobs = malloc((answer->tokens.n + 1) * sizeof *answer->logprobs);
        if (!answer->logprobs)
            return error_set("out of memory");
        for (size_t i = 0; i < answer->tokens.n; i++)
            answer->logprobs[i] = t->results[k++].logprob;
    }
    return 0;
}

/* Gets the group's sequences into the pass; answers exist afterwards, except chosen ones. */
static int run_group(struct shard *shard, struct rollout *r, const float *parameters, size_t first,
                     size_t end)
{
    pass_reset(r->pass, parameters);
    if (by_choice(r) || shard->rolled_out)
        return feed(shard, r, r->pass, first, end);
    for (size_t i = first; i < end; i++)
        for (size_t a = 0; a < shard->n_answers; a++) {
            answer_clear(&shard->answers[i * shard->n_answers + a]);
            shard->answers[i * shard->n_answers + a].choice = -1;
            if (add_sequence(r->pass, &shard->prompts[i].tokens, NULL) != 0)
                return -1;
        }
    return grow_answers(shard, r, first, end);
}

static bool in_pass(const struct rollout *r)
{
    return by_choice(r) || max_new_of(r) <= options_of(r)->pass_max_new;
}

int shard_roll_out(struct shard *shard, struct rollout *r, const float *parameters,
                   struct shard_sums *sums)
{
    const double start = now();
    struct terms t = {0};
    size_t first = 0, end = shard->n_prompts;
    int status = -1;

    if (!in_pass(r) && roll_out_long(shard, r, parameters) != 0)
        goto done;
    shard->rolled_out = !in_pass(r);
    for (; first < shard->n_prompts; first = end) {
        end = group_end(shard, r, first);
        t.n = 0;
        if (run_group(shard, r, parameters, first, end) != 0 ||
            make_terms(shard, r, first, end, &t) != 0 ||
            pass_backward(r->pass, NULL, t.places, t.terms, t.n, NULL, t.results) != 0 ||
            check_terms(shard, r, &t) != 0)
            goto done;
        if (by_choice(r))
            choose(shard, r, &t, first, end);
        else if (keep_logprobs(shard, &t) != 0)
            goto done;
    }
    shard->rolled_out = true;
    status = 0;
done:
    if (status != 0)
        say_where(shard, r, first, end);
    terms_free(&t);
    sums->seconds_rollout += now() - start;
    return status;
}

static int group_gradient(struct shard *shard, struct rollout *r, const float *parameters,
                          size_t first, size_t end, double *advantages, bool own_advantages,
                          float *gradient, struct shard_sums *sums)
{
    const struct train_options *o = options_of(r);
    const bool chosen = by_choice(r), choose_now = chosen && !shard->rolled_out;
    const bool estimate = o->kl != 0 && (o->kl_form == KL_K1 || o->kl_form == KL_K3);
    struct pass *base = NULL;
    struct terms t = {0};
    double start = now();
    int status = -1;

    if (run_group(shard, r, parameters, first, end) != 0)
        goto done;
    sums->seconds_rollout += shard->rolled_out ? 0 : now() - start;
    start = shard->rolled_out ? start : now();
    if (make_terms(shard, r, first, end, &t) != 0)
        goto done;
    if (o->kl != 0) {
        const bool rolled_out = shard->rolled_out;
        base = r->base;
        pass_reset(base, NULL);
        shard->rolled_out = true;
        const int fed = feed(shard, r, base, first, end);
        shard->rolled_out = rolled_out;
        if (fed != 0)
            goto done;
    }
    /* What the weights depend on beside rewards: the choices' likelihoods, ratios, estimates. */
    if (chosen || estimate || (o->clip_ratio > 0 && shard->rolled_out)) {
        if (pass_backward(r->pass, base, t.places, t.terms, t.n, NULL, t.results) != 0 ||
            check_terms(shard, r, &t) != 0)
            goto done;
        if (choose_now)
            choose(shard, r, &t, first, end);
    }
    if (own_advantages)
        for (size_t i = first; i < end; i++) {
            double rewards[1024];
            const size_t n = shard->n_answers;
            for (size_t a = 0; a < n; a++)
                rewards[a] = shard->answers[i * n + a].reward;
            objective_advantages(o->baseline, rewards, 1, n, advantages + i * n);
        }
    struct shard_sums ignored = {0};
    if (chosen)
        weigh_choices(shard, r, &t, first, end, advantages, sums);
    else
        weigh_tokens(shard, r, &t, advantages, &ignored);
    set_exact_kl(r, &t);
    if (pass_backward(r->pass, base, t.places, t.terms, t.n, gradient, t.results) != 0 ||
        check_terms(shard, r, &t) != 0)
        goto done;
    if (!chosen)
        weigh_tokens(shard, r, &t, advantages, sums); /* the same weights; now the loss is known */
    add_sums(r, &t, sums);
    sums->n_rows += (double)pass_n_rows(r->pass);
    status = 0;
done:
    if (status != 0)
        say_where(shard, r, first, end);
    sums->seconds_gradient += now() - start;
    terms_free(&t);
    return status;
}

int shard_gradient(struct shard *shard, struct rollout *r, const float *parameters,
                   const double *advantages, float *gradient, struct shard_sums *sums)
{
    const size_t n = shard->n_prompts * shard->n_answers;
    double *own = calloc(n, sizeof *own);
    int status = -1;

    if (!own)
        return error_set("out of memory");
    if (advantages)
        memcpy(own, advantages, n * sizeof *own);
    if (!shard->rolled_out && !in_pass(r)) {
        const double start = now();
        if (roll_out_long(shard, r, parameters) != 0) {
            say_where(shard, r, 0, shard->n_prompts);
            goto done;
        }
        shard->rolled_out = true;
        sums->seconds_rollout += now() - start;
    }
    for (size_t first = 0, end; first < shard->n_prompts; first = end) {
        end = group_end(shard, r, first);
        if (group_gradient(shard, r, parameters, first, end, own, !advantages, gradient, sums) != 0)
            goto done;
    }
    shard->rolled_out = true;
    status = 0;
done:
    free(own);
    return status;
}
