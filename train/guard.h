#ifndef T2_TRAIN_GUARD_H
#define T2_TRAIN_GUARD_H
/* Watches a run for collapse: a policy that gives one answer to everything earns what chance earns,
 * and its gradient, all of one sign, keeps it there. Three alarms:
 *
 *   - over the last steps (guard_window) nearly all answers of a batch are the same one and the
 * answers' entropy is nearly nothing
 *   - nearly all items of a validation get the same answer, and those of the first did not: words
 *     that are generated behind the answer can hide this from the first alarm
 *   - the validation score is below the base model's by more than two standard errors
 *
 * warn: one sentence on stderr (rank 0). rollback: as well back to the best validated state (or the
 * start), the learning rate halved, the optimizer's moments cleared. Decides from the training
 * state alone, so that all ranks and a resumed run decide alike. */
#include <stdbool.h>
#include <stddef.h>

#include "train/trainer.h"

/* Steps that are looked at together: about a hundred answers. */
size_t guard_window(const struct train_options *options);

/* Do the last `window` of n points, all after step `since`, look collapsed? */
bool guard_looks_collapsed(const struct train_point *curve, size_t since, size_t n, size_t window);
/* Does the last validation give one answer to everything, where the first did not? */
bool guard_answers_one_thing(const struct train_state *state);
/* Is the last validation worse than the first by more than chance? */
bool guard_is_below_base(const struct train_state *state);

/* After a step or a validation. origin [n]: the parameters at the start. */
void guard_check(const struct trainer *trainer, struct train_state *state, const float *origin);

#endif
