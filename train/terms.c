/* The terms of a group's loss: made, weighed, added up. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/rng.h"
#include "mpi/error.h"
#include "train/rollout_internal.h"

void terms_free(struct terms *t)
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

int terms_make(const struct shard *shard, const struct rollout *r, size_t first, size_t end,
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

/* A log-probability that is no number means the model has gone: name where. */
int terms_check(const struct shard *shard, const struct rollout *r, const struct terms *t)
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
void terms_choose(struct shard *shard, const struct rollout *r, const struct terms *t, size_t first,
                  size_t end)
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
            double u = rng_uniform(o->seed, shard_stream(shard, r, index), 0), sum = 0;
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
            (void)shard_grade(shard, r, index); /* no program: cannot fail */
        }
    }
}

/* ---- weights ------------------------------------------------------------------------------------
 */

/* Of chosen answers: d(- A log pi(a))/d l_j = -A (1[j = a] - pi_j) for every token of choice j. */
void terms_weigh_choices(const struct shard *shard, const struct rollout *r, struct terms *t,
                         size_t first, size_t end, const double *advantages,
                         struct shard_sums *sums)
{
    const struct train_options *o = options_of(r);
    double policy[TASK_MAX_LIST], base[TASK_MAX_LIST];
    size_t k = 0;

    for (size_t i = first; i < end; i++) {
        const struct shard_prompt *p = &shard->prompts[i];
        size_t at = k;
        double weights[TASK_MAX_LIST] = {0};
        if (estimates_kl(o))
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
            if (estimates_kl(o))
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

/* advantages: NULL where the answers are given. */
static double advantage_of(const struct terms *t, size_t k, const double *advantages)
{
    return advantages ? advantages[t->answer[k]] : 1;
}

void terms_weigh_tokens(const struct shard *shard, const struct rollout *r, struct terms *t,
                        const double *advantages)
{
    const struct train_options *o = options_of(r);
    size_t place = 0;

    for (size_t k = 0; k < t->n; k++) {
        const struct answer *answer = &shard->answers[t->answer[k]];
        const struct head_term_result *result = &t->results[k];
        double weight = advantage_of(t, k, advantages), value;
        place = k > 0 && t->answer[k] == t->answer[k - 1] ? place + 1 : 0;
        if (advantages && o->clip_ratio > 0 && answer->logprobs)
            weight = objective_token_weight(weight, result->logprob, answer->logprobs[place],
                                            o->clip_ratio);
        if (estimates_kl(o))
            weight += objective_kl_weight(o->kl_form, o->kl, result->logprob, result->base_logprob,
                                          &value);
        t->terms[k].weight = (float)weight;
    }
}

/* What the tokens' results add to the loss, once they are known. */
void terms_add_token_loss(const struct rollout *r, const struct terms *t, const double *advantages,
                          struct shard_sums *sums)
{
    const struct train_options *o = options_of(r);

    for (size_t k = 0; k < t->n; k++) {
        const struct head_term_result *result = &t->results[k];
        double value = 0;
        sums->loss -= advantage_of(t, k, advantages) * result->logprob;
        if (estimates_kl(o))
            objective_kl_weight(o->kl_form, o->kl, result->logprob, result->base_logprob, &value);
        sums->kl += value;
    }
}

/* Both exact forms come with the gradient. */
void terms_set_exact_kl(const struct rollout *r, struct terms *t)
{
    const struct train_options *o = options_of(r);

    for (size_t k = 0; k < t->n; k++) {
        t->terms[k].kl_weight = o->kl_form == KL_REVERSE ? (float)o->kl : 0;
        t->terms[k].kl0_weight = o->kl_form == KL_FORWARD ? (float)o->kl : 0;
    }
}

void terms_add_sums(const struct rollout *r, const struct terms *t, struct shard_sums *sums)
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
