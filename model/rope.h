#ifndef T2_MODEL_ROPE_H
#define T2_MODEL_ROPE_H
/* Rotary position embedding: the tables of cosines and sines for each position, with the scalings
 * "linear", "llama3" and "yarn" (Su et al. 2021; Peng et al. 2023, arXiv 2309.00071; Llama 3.1).
 * The arithmetic follows the reference's f32 steps, so that angles agree at large positions. */
#include <stddef.h>

#include "model/config.h"
#include "solver/memory.h"

struct rope_table {
    size_t half;                /* head_dim / 2 */
    size_t n_positions;         /* filled so far */
    float *inverse_frequencies; /* [half] */
    float *cos, *sin;           /* [n_positions, half], in `memory` */
    float amplitude;            /* on both (yarn's attention factor), else 1 */
    const struct memory *memory;
};

/* 0, or -1 with error_set. */
int rope_create(struct rope_table *table, const struct model_config *config,
                const struct memory *memory);
/* Makes sure that positions 0 .. n - 1 are there. May move cos and sin: nobody reads them now. */
int rope_extend(struct rope_table *table, size_t n);
void rope_free(struct rope_table *table);

#endif
