#include "train/objective.h"

#include <math.h>
#include <string.h>

#include "mpi/error.h"

static int parse(const char *name, const char *const *names, size_t n, const char *what,
                 const char *choices, int *value)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(name, names[i]) == 0) {
            *value = (int)i;
            return 0;
        }
    return error_set("there is no %s '%s': choose %s", what, name, choices);
}

int baseline_parse(const char *name, enum baseline *baseline)
{
    static const char *const names[] = {"none", "mean", "rloo", "grpo"};
    int value = 0;

    if (parse(name, names, 4, "baseline", "none, mean, rloo or grpo", &value) != 0)
        return -1;
    *baseline = (enum baseline)value;
    return 0;
}

int kl_form_parse(const char *name, enum kl_form *form)
{
    static const char *const names[] = {"forward", "reverse", "k1", "k3"};
    int value = 0;

    if (parse(name, names, 4, "KL form", "forward, reverse, k1 or k3", &value) != 0)
        return -1;
    *form = (enum kl_form)value;
    return 0;
}

void objective_advantages(enum baseline baseline, const double *rewards, size_t n_prompts,
                          size_t n_answers, double *advantages)
{
    const size_t n = n_prompts * n_answers;
    double all = 0;

    for (size_t i = 0; i < n; i++)
        all += rewards[i];
    for (size_t p = 0; p < n_prompts; p++) {
        const double *r = rewards + p * n_answers;
        double sum = 0, squares = 0;
        for (size_t a = 0; a < n_answers; a++)
            sum += r[a];
        const double mean = sum / (double)n_answers;
        for (size_t a = 0; a < n_answers; a++)
            squares += (r[a] - mean) * (r[a] - mean);
        /* the sample's deviation, as the public implementations take it */
        const double deviation = n_answers > 1 ? sqrt(squares / (double)(n_answers - 1)) : 0;
        for (size_t a = 0; a < n_answers; a++) {
            double *out = &advantages[p * n_answers + a];
            switch (baseline) {
            case BASELINE_NONE:
                *out = r[a];
                break;
            case BASELINE_MEAN:
                *out = r[a] - all / (double)n;
                break;
            case BASELINE_RLOO:
                *out = n_answers > 1 ? r[a] - (sum - r[a]) / (double)(n_answers - 1) : r[a];
                break;
            case BASELINE_GRPO:
                *out = (r[a] - mean) / (deviation + 1e-4);
                break;
            }
        }
    }
}

double objective_token_weight(double advantage, double logprob, double old_logprob, double clip)
{
    if (clip <= 0)
        return advantage;
    const double ratio = exp(logprob - old_logprob);
    /* The minimum is the clipped, constant branch: nothing flows. */
    if ((advantage > 0 && ratio > 1 + clip) || (advantage < 0 && ratio < 1 - clip))
        return 0;
    return advantage * ratio;
}

double objective_kl_weight(enum kl_form form, double lambda, double logprob, double base_logprob,
                           double *value)
{
    const double d = base_logprob - logprob;

    switch (form) {
    case KL_K1:
        /* As a reward: - lambda (log p - log p0) is added to the advantage. */
        *value = -d;
        return lambda * d;
    case KL_K3:
        /* d/d log p of (e^d - d - 1) is 1 - e^d; a term's weight is minus the loss's derivative. */
        *value = exp(d) - d - 1;
        return lambda * (exp(d) - 1);
    default:
        *value = 0;
        return 0;
    }
}
