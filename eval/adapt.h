#ifndef T2_EVAL_ADAPT_H
#define T2_EVAL_ADAPT_H
/* Self-adaptation in two passes (Transformer-Squared, arXiv 2501.06252, section 3.2): pass one
 * sorts every prompt into a domain, by the base model (strategy "prompt") or by an expert trained
 * to classify ("cls"); pass two answers, prompts of one expert after another, so that a mixed
 * stream costs little more than one expert. All experts live in one adapter as parameter vectors
 * (model/expert_set.h): to change over is to attach another vector. Records depend on the item and
 * the settings alone: not on ranks, batch or what else is in the stream. Stands on domains.h, cls.h
 * and evaluate.h. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "eval/domains.h"
#include "eval/evaluate.h"
#include "model/adapter.h"

struct adapt {
    const char *strategy; /* "prompt", "cls", or how else the expert was chosen */
    const struct domains *domains;
    enum domains_way way;
    bool calibrate;
    bool used[DOMAINS_MAX];         /* the domains to choose from */
    int32_t expert_of[DOMAINS_MAX]; /* index into names and vectors; -1: the base model */
    int32_t fixed;                  /* without domains: this one for all prompts */

    const struct adapter *adapter;
    size_t n_experts;
    char *const *names;          /* [n_experts] */
    const float *const *vectors; /* [n_experts] parameters of the adapter */
    const float *classifier;     /* pass one's; NULL: the base model */
};

/* Matches experts with domains. keys [n_experts]: what the experts are called, tasks [n_experts]:
 * what they were trained on (may be NULL): an expert is of the domain with its name, else of the
 * one that names its task. Two of one domain, or one of none, are errors. 0, or -1 with error_set.
 */
int adapt_match(struct adapt *adapt, const char *const *tasks);

/* What a pass took: tokens are summed over the ranks. */
struct adapt_pass {
    double seconds;
    size_t prompt_tokens, computed_tokens, generated_tokens;
};

/* What stands for the right answer in a row that is only asked about. */
const char *adapt_row_domain(const struct adapt *adapt);

/* The domains of many prompts. rows: made by cls_add_row (calibration adds one). chosen [n rows]:
 * indices of domains, the same on all ranks. chat may be CHAT_NONE. Collective; leaves the base
 * model attached. 0, or -1 on all with error_set. */
int adapt_classify(const struct adapt *adapt, const struct comm *comm, struct model *model,
                   const struct tokenizer *tokenizer, const struct chat_format *chat,
                   const struct evaluate_options *options, struct dataset *rows, size_t *capacity,
                   int32_t *chosen, struct adapt_pass *pass);

/* Attaches an expert (-1: the base model). */
void adapt_attach(const struct adapt *adapt, struct model *model, int32_t expert);

/* The expert of each of n chosen domains as a group number for evaluate_groups: 0 is the base
 * model, k + 1 is expert k. */
static inline int32_t adapt_group(const struct adapt *adapt, int32_t domain)
{
    return 1 + (domain < 0 ? adapt->fixed : adapt->expert_of[domain]);
}

/* evaluate_task in two passes; result->adapt and the items' `domain` and `expert` say what was
 * chosen. With options->check_only: can both be run? Collective, as evaluate_task. */
int adapt_evaluate(const struct adapt *adapt, const struct comm *comm, struct model *model,
                   const struct tokenizer *tokenizer, const struct chat_format *chat,
                   const struct task *task, const struct evaluate_options *options,
                   struct task_result *result);

/* What adaptation did in one task; a part of struct task_result. */
struct adapt_record {
    char *strategy, *way; /* way: of pass one; "" where there was none */
    char *truth;          /* the task's own domain; "": not known, or no pass one */
    size_t n_domains, n_experts;
    char **domains;   /* [n_domains] those to choose from */
    char **experts;   /* [n_experts] */
    int32_t *answers; /* [n_domains] the domain's expert; -1: the base model */
    int64_t *chosen;  /* [n_domains] prompts: a row of the confusion matrix */
    int64_t *used;    /* [n_experts + 1] prompts that the base model and each expert answered */
    struct adapt_pass first, second;
};
void adapt_record_free(struct adapt_record *record);

#endif
