#ifndef T2_MODEL_SAMPLE_H
#define T2_MODEL_SAMPLE_H
/* Chooses the next token from logits. */
#include <stddef.h>
#include <stdint.h>

#include "model/scheduler.h"

/* Draws a token from logits [n]: divides by the temperature, keeps the top_k largest (ties: lower
 * ids first), of those the smallest set that holds top_p of their probability, and inverts the
 * distribution function in that order at `uniform` in [0, 1). temperature 0: the argmax. scratch:
 * [n] ids. */
int32_t sample_token(const struct sampling *s, const float *logits, size_t n, float uniform,
                     int32_t *scratch);

#endif
