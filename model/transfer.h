#ifndef T2_MODEL_TRANSFER_H
#define T2_MODEL_TRANSFER_H
/* An SVF expert of one model put on another (Transformer-Squared, tables 5 and 9): the numbers that
 * scaled one model's singular components scale the other's, component by component in the order of
 * singular values, matrix by matrix of the same name. Local to a rank; stands on expert.h and
 * factors.h. */
#include <stdint.h>

#include "model/expert.h"
#include "model/factors.h"

/* The order within a matrix. Shuffled is the paper's control: what is left when the order is lost.
 */
enum transfer_order { TRANSFER_ORDERED, TRANSFER_SHUFFLED };

/* What becomes of matrices of another rank and of another number of layers. */
enum transfer_shape {
    TRANSFER_SAME,     /* an error */
    TRANSFER_TRUNCATE, /* the largest components and the first layers; the rest stays the base's */
    /* Linear between the neighbours in relative position i / (r - 1); of layers the nearest. */
    TRANSFER_INTERPOLATE,
};

struct transfer_options {
    enum transfer_order order;
    enum transfer_shape shape;
    uint64_t seed; /* of the shuffle */
};

/* Fills *to (zeroed before) with an expert for the model and factors of `factors`: every matrix of
 * the expert's names there. `model` and `task` are left to the caller. An expert of the sigmoid
 * parametrisation gives its p, from which the multipliers follow with the other model's singular
 * values; a direct one its z. *n_moved: how many of the expert's matrices have gone somewhere. 0,
 * or -1 with error_set; expert_free(to) in any case. */
int transfer_expert(const struct expert *from, struct factors *factors,
                    const struct transfer_options *options, struct expert *to, size_t *n_moved);

#endif
