#ifndef T2_TRAIN_ROLLOUT_ORDER_H
#define T2_TRAIN_ROLLOUT_ORDER_H
/* Which examples a step trains on: a fresh permutation of the training items every epoch by
 * counter-based random numbers, or a draw without replacement per step (the published code). A
 * function of (seed, step) alone, so a resumed run and any rank count see the same examples. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* items [batch] gets the indices, below n_items, of step `step` (from 0). An epoch is as many whole
 * batches as there are; the items left over sit it out. A batch larger than the data goes through
 * the items several times. 0, or -1 with error_set. */
int rollout_order(uint64_t seed, uint64_t step, size_t n_items, size_t batch, size_t *items);

#endif
