#ifndef T2_SOLVER_AXPY_H
#define T2_SOLVER_AXPY_H
/* Weights of a mixture, in the packed layout of the product kernels, without composing anything:
 *
 *   out = round(scale * base + sum_k a_k change_k)
 *
 * element by element over arrays of one layout, which are read once in order: as fast as memory.
 * Products and sums are rounded one by one in f32 (no fused multiply-adds), k ascending, so the
 * bits are the same on every instruction set and for any split over threads.
 *
 * To bf16 it rounds stochastically: up with the probability that makes the mean right, from a hash
 * of (key, element). Sums must be finite: a NaN may round to another number, an infinity to a NaN
 * (whoever makes a and the changes checks them). An element that is a bf16 number already keeps its
 * bits: with scale 1 and changes of 0, out is base. */
#include <stddef.h>
#include <stdint.h>

#include "solver/cpu.h"
#include "solver/kernels.h"
#include "solver/team.h"

enum { AXPY_MAX = 64 };

struct axpy {
    enum element element; /* of base, changes and out */
    const void *base;
    const void *changes[AXPY_MAX];
    float a[AXPY_MAX];
    size_t n; /* changes */
    float scale;
    uint32_t key; /* of the rounding */
};

/* out [n_elements]; may be base. isa: of the run, checked to be available. */
void axpy_mix(const struct axpy *axpy, void *out, size_t n_elements, enum isa isa,
              struct team *team);

#endif
