#ifndef T2_EVAL_DOMAINS_H
#define T2_EVAL_DOMAINS_H
/* The adaptation prompt as a data file: the domains that prompts are sorted into before an expert
 * answers (Transformer-Squared, arXiv 2501.06252, section 3.2), and how a model is asked for them.
 * Makes the tasks that do the sorting; runs nothing itself. Stands on task.h.
 *
 *   [adapt]
 *   prompt = "{@names} ... {prompt}"   what the model is asked; {prompt} is the user's, {@names}
 *                           "a, b or c", {@domains} lines "name: description", {{ }} braces
 *   system = ...            system message (default: the chat template's)
 *   chat = yes              in the model's chat format, where it has one
 *   way = rank              of strategy "prompt": generate | rank | channel
 *   calibrate = no          rank: less what the names have after a prompt that says nothing
 *   empty = N/A             that prompt
 *   cls_way = rank          of the task `cls`: generate | rank
 *   cls_tasks = a | b       what `cls` is made of, unless tasks are named (cls:a,b)
 *   choice = "{choice}"     a name as it is ranked
 *   max_new = 8             tokens of a generated name
 *   others = others         the domain that no expert is for; a section may describe it
 *   seed = 0                draws the items of `cls`
 *
 *   [math]
 *   description = sums ...
 *   tasks = gsm8k | mawps   whose prompts belong there, and an expert that was trained on them
 *   examples = "..."        channel: what stands before the prompt
 *
 * Ways. generate: the answer's first word or words are a domain's name, else it is `others`. rank:
 * the names by their log-likelihood after the prompt, with calibration as Zhao et al. (2021, arXiv
 * 2102.09690). channel: the domains by the log-likelihood of the prompt after their examples (Min
 * et al., 2022, arXiv 2108.04106), for models too small to follow instructions.
 * Values are written as in task files (task.h). */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "eval/task.h"

enum domains_way { DOMAINS_GENERATE, DOMAINS_RANK, DOMAINS_CHANNEL };
enum { DOMAINS_MAX = TASK_MAX_LIST };

struct domain {
    char *name, *description, *examples; /* may be NULL but for the name */
    char *tasks[TASK_MAX_LIST];
    size_t n_tasks;
};

struct domains {
    char *path, *text; /* of the file */
    char *prompt, *system, *empty, *choice;
    bool chat, calibrate;
    enum domains_way way, cls_way;
    char *cls_tasks[TASK_MAX_LIST];
    size_t n_cls_tasks;
    size_t max_new;
    uint64_t seed;
    struct domain items[DOMAINS_MAX];
    size_t n, others; /* others: index */
};

/* 0, or -1 with error_set (file, line, and the nearest known key). domains_free in any case. */
int domains_read(struct domains *domains, const char *path);
/* From text (tests, fuzzing); path stands for the file in errors. */
int domains_from_text(struct domains *domains, const char *text, const char *path);
void domains_free(struct domains *domains);

/* "generate", "rank", "channel" */
const char *domains_way_name(enum domains_way way);

/* The domain of this name, or the one that names this task; `others` when there is none. */
size_t domains_of(const struct domains *domains, const char *name);

/* Whether any domain, `others` included, has that name or names this task. */
bool domains_know(const struct domains *domains, const char *name);

/* A task that sorts prompts into the domains with used[i] ([n]; the task's choices in that order):
 * rows are objects with the texts "prompt" and "domain" (one of the names, the gold). The caller
 * frees the task, which stands alone. 0, or -1 with error_set and nothing to free. */
int domains_task(const struct domains *domains, const bool *used, enum domains_way way, bool chat,
                 struct task *task);

#endif
