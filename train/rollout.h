#ifndef T2_TRAIN_ROLLOUT_H
#define T2_TRAIN_ROLLOUT_H
/* A shard of a batch: its prompts, the answers rolled out and graded, and the gradient of the loss
 * over them. Local to a rank; everything depends on (seed, step, shard) and the parameters alone,
 * and, of code tasks, on what their programs do (docs/training.md).
 *
 * What an answer is, by task and objective:
 *   generated    tokens sampled after the prompt, graded by the task's grader
 *   chosen       one of the item's choices, drawn from the softmax of their log-likelihoods
 *                (tasks scored by choice); the gradient goes through that softmax
 *   given        the task's target after the prompt (next-token prediction) */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "eval/items.h"
#include "eval/sandbox.h"
#include "model/pass.h"
#include "train/trainer.h"

struct answer {
    struct tokens tokens; /* after the prompt, the end-of-text token that ended it included when it
                             is part of the loss */
    char *text;
    int32_t choice; /* chosen answers: index; else -1 */
    bool correct;
    enum sandbox_outcome outcome; /* of code tasks: how its program ended */
    double reward;
    float *logprobs; /* [tokens.n] at the rollout (chosen: [1], of the choice), or NULL */
};

struct shard_prompt {
    size_t row; /* of the training split */
    struct task_item item;
    struct tokens tokens;
    /* Tasks scored by choice: each choice's tokens after the prompt. */
    struct tokens *choices; /* [item.n_choices] */
};

struct shard {
    uint64_t step;
    size_t number, first;        /* index of its first prompt in the batch */
    size_t n_prompts, n_answers; /* answers of a prompt */
    struct shard_prompt *prompts;
    struct answer *answers; /* [n_prompts * n_answers] */
    bool rolled_out;
};

/* What a shard adds to a step's figures: sums over its answers and their tokens. Doubles alone. */
struct shard_sums {
    double loss, kl, entropy, n_tokens, n_rows;
    double seconds_rollout, seconds_gradient;
};

/* A rank's working memory for shards. */
struct rollout {
    const struct trainer *trainer;
    const struct items *items;
    struct pass *pass, *base; /* base: NULL without KL */
    float *logits;            /* [ROLLOUT_HEADS, ld] */
    int32_t *scratch;         /* [vocab] */
};

int rollout_create(struct rollout *rollout, const struct trainer *trainer,
                   const struct items *items);
void rollout_free(struct rollout *rollout);

/* The prompts (and given answers) of shard `number` of `step`. rows [batch]: rollout_order's. 0, or
 * -1 with error_set; shard_free in any case. */
int shard_make(struct shard *shard, const struct rollout *rollout, uint64_t step, size_t number,
               const size_t *rows);
void shard_free(struct shard *shard);

/* Rolls the answers out with these parameters and grades them, without a gradient. */
int shard_roll_out(struct shard *shard, struct rollout *rollout, const float *parameters,
                   struct shard_sums *sums);

/* Adds the gradient of the shard's part of the loss (a sum over answers, not yet divided by their
 * number). advantages [n_prompts * n_answers], or NULL: from the rewards, by the options' baseline,
 * which then looks at one prompt's answers alone. Rolls out first where that has not been done, on
 * the way of the gradient where the options allow. */
int shard_gradient(struct shard *shard, struct rollout *rollout, const float *parameters,
                   const double *advantages, float *gradient, struct shard_sums *sums);

#endif
