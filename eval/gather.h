#ifndef T2_EVAL_GATHER_H
#define T2_EVAL_GATHER_H
/* Brings the item records of all ranks to rank 0, in item order. */
#include <stddef.h>

#include "eval/evaluate.h"
#include "mpi/comm.h"

/* Collective. records [n] of this rank are taken over (emptied) in any case. On rank 0, *items gets
 * n_items records, one for each index 0 .. n_items - 1; elsewhere NULL. 0 on all ranks, or -1 on
 * all with error_set. */
int gather_records(const struct comm *comm, struct item_record *records, size_t n, size_t n_items,
                   struct item_record **items);

void item_record_free(struct item_record *record);

#endif
