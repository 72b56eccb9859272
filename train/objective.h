#ifndef T2_TRAIN_OBJECTIVE_H
#define T2_TRAIN_OBJECTIVE_H
/* From graded answers to the terms of a loss (engine_train.h's head_term). Plain arithmetic.
 *
 *   REINFORCE     L = - (1/N) sum_i A_i sum_t log p(y_it) + lambda KL      (Williams 1992; the
 * paper's eq. 1) baselines     none: A = r. mean: A = r - mean of the batch. rloo: r - mean of the
 * other answers to the same prompt (Ahmadian et al. 2024). grpo: (r - group mean) / (group std +
 * 1e-4) (Shao et al. 2024) clipping      over several inner steps: ratio rho = p/p_old of a token;
 * its term counts where the clipped objective min(rho A, clip(rho, 1-e, 1+e) A) has a gradient
 * (PPO, Schulman et al. 2017) KL            exact over the vocabulary: "forward" KL(p0 || p), as
 * the published code has it, or "reverse" KL(p || p0); sampled estimators k1 and k3 (Schulman 2020)
 * of the reverse next-token    L = - (1/N_tokens) sum log p(y_t), prompt masked */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum baseline { BASELINE_NONE, BASELINE_MEAN, BASELINE_RLOO, BASELINE_GRPO };
enum kl_form { KL_FORWARD, KL_REVERSE, KL_K1, KL_K3 };
int baseline_parse(const char *name, enum baseline *baseline);
int kl_form_parse(const char *name, enum kl_form *form);

/* advantages [n_prompts * n_answers] from rewards of the same shape. n_answers = 1 with rloo or
 * grpo is the caller's mistake (checked where options are). */
void objective_advantages(enum baseline baseline, const double *rewards, size_t n_prompts,
                          size_t n_answers, double *advantages);

/* The weight of one token's log-probability, d(-L)/d log p, for advantage a, log-probabilities now
 * and at the rollout, clip range (0: none). */
double objective_token_weight(double advantage, double logprob, double old_logprob, double clip);

/* Weight that the sampled estimators add to a token's log-probability: k1: lambda (log p - log p0);
 * k3: with d = log p0 - log p, of e^d - d - 1; as a gradient through log p(y). *value gets the
 * estimate. */
double objective_kl_weight(enum kl_form form, double lambda, double logprob, double base_logprob,
                           double *value);

#endif
