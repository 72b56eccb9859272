#ifndef T2_SOLVER_ATTENTION_INTERNAL_H
#define T2_SOLVER_ATTENTION_INTERNAL_H
/* The halves of the CPU's attention: what goes into the cache (attention_store_cpu.c) and what is
 * made of it (attention_cpu.c). */
#include "solver/engine_cpu_internal.h"

/* What a call of attention works on. */
struct attention_call {
    const struct engine *e;
    const struct attention_layer *a;
    struct kv_cache *cache;
    const struct batch *batch;
    const float *qkv; /* [n_rows, ldqkv] */
    size_t ldqkv;
    void *out; /* elements [n_rows, ldo] */
    size_t ldo;
};

/* Keys and values of a run's rows first .. end - 1, for one head. Runs and heads may be stored at
 * the same time, unless two runs write to one page. */
void attention_store_rows(const struct attention_call *call, const struct batch_run *run,
                          size_t head, size_t first, size_t end);

/* Marks in early [n_runs] the runs whose keys and values must be in the cache before any run's
 * attention begins: those that write to a page which another run reads or writes, and all where
 * pages are copied. The others' are needed by their own attention alone. Returns the number of
 * marks. */
size_t attention_mark_early(const struct attention_call *call, bool *early);

/* Stores the marked runs and carries out the batch's page copies. */
void attention_store_early(const struct attention_call *call, const bool *early);

#endif
