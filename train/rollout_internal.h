#ifndef T2_TRAIN_ROLLOUT_INTERNAL_H
#define T2_TRAIN_ROLLOUT_INTERNAL_H
/* Between rollout.c (answers, and the gradient over them), shard.c (prompts) and terms.c (the
 * loss). */
#include "train/rollout.h"

static inline const struct train_options *options_of(const struct rollout *r)
{
    return &r->trainer->options;
}

static inline bool by_choice(const struct rollout *r)
{
    return r->items->task.score == TASK_CHOICE && options_of(r)->objective == TRAIN_REINFORCE;
}

static inline size_t max_new_of(const struct rollout *r)
{
    return options_of(r)->max_new ? options_of(r)->max_new : r->items->task.max_new;
}

static inline bool estimates_kl(const struct train_options *o)
{
    return o->kl != 0 && (o->kl_form == KL_K1 || o->kl_form == KL_K3);
}

/* ---- shard.c ---- */

/* The token that ends an answer. */
int32_t shard_end_token(const struct rollout *r);
void answer_clear(struct answer *answer);
/* The stream of random numbers of an answer, by its index in the shard. */
uint64_t shard_stream(const struct shard *shard, const struct rollout *r, size_t answer);
/* Grades and rewards an answer; of code tasks it queues the answer's program in the sandbox, which
 * runs beside the answers that still grow, and shard_take_grades() waits for all of them. 0, or -1
 * with error_set. */
int shard_grade(const struct shard *shard, const struct rollout *r, size_t index);
int shard_take_grades(const struct shard *shard, const struct rollout *r);
/* Puts step, shard and prompts before the message. */
void shard_say_where(const struct shard *shard, const struct rollout *r, size_t first, size_t end);

/* ---- terms.c ---- */

/* The loss's terms of a group: one a token of each of its sequences. */
struct terms {
    struct pass_place *places;
    struct head_term *terms;
    struct head_term_result *results;
    size_t *answer; /* index of the answer (generated, given) or of the prompt (chosen) */
    size_t n, capacity;
};

void terms_free(struct terms *t);
/* Adds the terms of prompts first .. end - 1. */
int terms_make(const struct shard *shard, const struct rollout *r, size_t first, size_t end,
               struct terms *t);
/* A log-probability that is no number means the model has gone: names where. */
int terms_check(const struct shard *shard, const struct rollout *r, const struct terms *t);
/* Draws each prompt's choices from the softmax of their log-likelihoods (greedy: the likeliest). */
void terms_choose(struct shard *shard, const struct rollout *r, const struct terms *t, size_t first,
                  size_t end);
/* The weights of the loss, from advantages [answers] (of tokens NULL: given answers). */
void terms_weigh_choices(const struct shard *shard, const struct rollout *r, struct terms *t,
                         size_t first, size_t end, const double *advantages,
                         struct shard_sums *sums);
void terms_weigh_tokens(const struct shard *shard, const struct rollout *r, struct terms *t,
                        const double *advantages);
void terms_set_exact_kl(const struct rollout *r, struct terms *t);
/* What the results add to the loss and the step's figures. */
void terms_add_token_loss(const struct rollout *r, const struct terms *t, const double *advantages,
                          struct shard_sums *sums);
void terms_add_sums(const struct rollout *r, const struct terms *t, struct shard_sums *sums);

#endif
