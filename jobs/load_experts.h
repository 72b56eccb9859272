#ifndef T2_JOBS_LOAD_EXPERTS_H
#define T2_JOBS_LOAD_EXPERTS_H
/* A model with a set of experts on every rank, or on none. */
#include "jobs/load.h"
#include "model/expert_set.h"

/* Loads the model (load_open) and the experts of `list` (expert_set_open), finds their factors
 * (factors: a file, or NULL: those that the experts were trained with) and gives loaded->model an
 * adapter for any mixture of them: loaded->adapter, attached as the base model. Collective. 0, or
 * -1 on all with error_set and nothing to free; else load_free and expert_set_free. */
int load_experts(const struct comm *comm, const char *path, const char *list, const char *factors,
                 const struct load_options *options, bool chat_asked, struct loaded *loaded,
                 struct expert_set *set);

/* The same without the adapter: the model keeps its weights, and *factors are the caller's to
 * close.
 */
int load_experts_plain(const struct comm *comm, const char *path, const char *list,
                       const char *factors_path, const struct load_options *options,
                       bool chat_asked, struct loaded *loaded, struct expert_set *set,
                       struct factors **factors);

#endif
