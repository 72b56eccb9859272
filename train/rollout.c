#include "train/rollout_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/evaluate.h"
#include "model/rng.h"
#include "model/sample.h"
#include "mpi/clock.h"
#include "mpi/error.h"

enum { HEADS = 32 }; /* rows of logits that rollouts look at together */

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

/* One more token for an answer: *over when it is the last. The end-of-text token counts as one of
 * the answer's where it is part of the loss. */
static int take_token(const struct rollout *r, struct answer *answer, int32_t id, bool *over)
{
    const struct train_options *o = options_of(r);
    const bool end = config_is_eos(model_get_config(r->trainer->model), id);

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
                        rng_uniform(sampling.seed, shard_stream(shard, r, index), answer->tokens.n),
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
        if (shard_grade(shard, r, first * shard->n_answers + s) != 0)
            goto done;
    status = shard_take_grades(shard, r);
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
                                .stream = shard_stream(l->shard, r, l->next),
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
        tokens_push(&answer->tokens, shard_end_token(l->rollout)))
        return error_set("out of memory");
    answer->text = strndup(response->text, response->n_text);
    if (!answer->text)
        return error_set("out of memory");
    return shard_grade(l->shard, l->rollout, (size_t)(answer - l->shard->answers));
}

static int roll_out_long(struct shard *shard, struct rollout *r, const float *parameters)
{
    struct long_rollout l = {shard, r, 0, shard->n_prompts * shard->n_answers};
    const struct scheduler_client client = {
        .next = next_request, .done = request_done, .context = &l};
    struct scheduler_options options = scheduler_defaults();
    struct scheduler_stats stats;

    model_attach(r->trainer->model, r->trainer->adapter, parameters);
    const int status =
        scheduler_run(r->trainer->model, r->trainer->tokenizer, &options, &client, &stats);
    return shard_take_grades(shard, r) != 0 ? -1 : status;
}

/* ---- sequences of a group in a pass
 * --------------------------------------------------------------- */

/* Masks hang on (seed, step, answer) and the position: the same whoever computes them. Inner steps
 * on the same answers see the same masks. */
static uint64_t dropout_key(const struct shard *shard, const struct rollout *r, size_t answer)
{
    return rng_key(rng_key(options_of(r)->seed, 0x64726f70), shard_stream(shard, r, answer));
}

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
                size_t end, bool dropout)
{
    for (size_t i = first; i < end; i++) {
        const struct shard_prompt *p = &shard->prompts[i];
        const size_t n = by_choice(r) ? p->item.n_choices : shard->n_answers;
        for (size_t j = 0; j < n; j++) {
            if (dropout)
                pass_use_dropout(pass, dropout_key(shard, r, i * shard->n_answers + j));
            if (add_sequence(pass, &p->tokens,
                             by_choice(r) ? &p->choices[j]
                                          : &shard->answers[i * shard->n_answers + j].tokens) != 0)
                return -1;
        }
    }
    return pass_run(pass);
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
    /* Answers are sampled without dropout, as PEFT's users generate: where the rollout is the
     * forward pass, there is none. Given answers are learned with it. */
    if (by_choice(r) || shard->rolled_out)
        return feed(shard, r, r->pass, first, end, options_of(r)->objective == TRAIN_NEXT_TOKEN);
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
    const double start = clock_seconds();
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
            terms_make(shard, r, first, end, &t) != 0 ||
            pass_backward(r->pass, NULL, t.places, t.terms, t.n, NULL, t.results) != 0 ||
            terms_check(shard, r, &t) != 0)
            goto done;
        if (by_choice(r))
            terms_choose(shard, r, &t, first, end);
        else if (keep_logprobs(shard, &t) != 0)
            goto done;
    }
    shard->rolled_out = true;
    status = 0;
done:
    if (status != 0)
        shard_say_where(shard, r, first, end);
    terms_free(&t);
    sums->seconds_rollout += clock_seconds() - start;
    return status;
}

static int group_gradient(struct shard *shard, struct rollout *r, const float *parameters,
                          size_t first, size_t end, double *advantages, bool own_advantages,
                          float *gradient, struct shard_sums *sums)
{
    const struct train_options *o = options_of(r);
    const bool chosen = by_choice(r), choose_now = chosen && !shard->rolled_out;
    const double *token_advantages = o->objective == TRAIN_NEXT_TOKEN ? NULL : advantages;
    struct pass *base = NULL;
    struct terms t = {0};
    double start = clock_seconds();
    int status = -1;

    if (run_group(shard, r, parameters, first, end) != 0)
        goto done;
    sums->seconds_rollout += shard->rolled_out ? 0 : clock_seconds() - start;
    start = shard->rolled_out ? start : clock_seconds();
    if (terms_make(shard, r, first, end, &t) != 0)
        goto done;
    if (o->kl != 0) {
        base = r->base;
        pass_reset(base, NULL);
        if (feed(shard, r, base, first, end, false) != 0)
            goto done;
    }
    /* What the weights depend on beside rewards: the choices' likelihoods, ratios, estimates. */
    if (chosen || estimates_kl(o) || (o->clip_ratio > 0 && shard->rolled_out)) {
        if (pass_backward(r->pass, base, t.places, t.terms, t.n, NULL, t.results) != 0 ||
            terms_check(shard, r, &t) != 0)
            goto done;
        if (choose_now)
            terms_choose(shard, r, &t, first, end);
    }
    if (own_advantages)
        for (size_t i = first; i < end; i++) {
            double rewards[1024];
            const size_t n = shard->n_answers;
            for (size_t a = 0; a < n; a++)
                rewards[a] = shard->answers[i * n + a].reward;
            objective_advantages(o->baseline, rewards, 1, n, advantages + i * n);
        }
    if (chosen)
        terms_weigh_choices(shard, r, &t, first, end, advantages, sums);
    else
        terms_weigh_tokens(shard, r, &t, token_advantages);
    terms_set_exact_kl(r, &t);
    if (pass_backward(r->pass, base, t.places, t.terms, t.n, gradient, t.results) != 0 ||
        terms_check(shard, r, &t) != 0)
        goto done;
    if (!chosen)
        terms_add_token_loss(r, &t, token_advantages, sums);
    terms_add_sums(r, &t, sums);
    sums->n_rows += (double)pass_n_rows(r->pass);
    status = 0;
done:
    if (status != 0)
        shard_say_where(shard, r, first, end);
    sums->seconds_gradient += clock_seconds() - start;
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
        const double start = clock_seconds();
        if (roll_out_long(shard, r, parameters) != 0) {
            shard_say_where(shard, r, 0, shard->n_prompts);
            goto done;
        }
        shard->rolled_out = true;
        sums->seconds_rollout += clock_seconds() - start;
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
