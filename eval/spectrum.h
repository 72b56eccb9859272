#ifndef T2_EVAL_SPECTRUM_H
#define T2_EVAL_SPECTRUM_H
/* What singular values say: how much of a matrix its largest ones hold, which of them an expert
 * moves, and what is left of an expert when only some of its components are kept. Local to a rank.
 */
#include <stddef.h>

#include "model/expert.h"
#include "model/factors.h"

/* share[i]: sum of the first i + 1 singular values over the sum of all (figures 10 and 11 of
 * Transformer-Squared, arXiv 2501.06252); energy[i]: the same of their squares, which is the part
 * of |W|_F^2. [r] each; either may be NULL. Zeros where all values are 0. */
void spectrum_shares(const double *sigma, size_t r, double *share, double *energy);

/* How many of the largest values hold this part. */
size_t spectrum_count_for(const double *share, size_t r, double part);

/* A component of an expert. sigma is NaN where no factors are known. */
struct spectrum_moved {
    const struct module *module;
    size_t index;
    double z, sigma;
};
/* The n components with the largest |z - 1|, those first; equal ones in the file's order. Returns
 * how many there are (those with z = 1 are none). factors may be NULL. n below 2^16. */
size_t spectrum_most_moved(const struct expert *expert, const struct factors *factors, size_t n,
                           struct spectrum_moved *moved);

/* Root mean square of z - 1 in each tenth of the spectra, over all matrices of this name. */
enum { SPECTRUM_TENTHS = 10 };
void spectrum_tenths(const struct expert *expert, const char *name, double rms[SPECTRUM_TENTHS]);

/* The part of |W' - W|_F^2 = sum over components of (sigma (z - 1))^2, over all matrices, that is
 * left when each matrix keeps only `part` of its components (rounded up): the first ones (the
 * largest singular values), or those that matter most. Without factors, sigma is taken as 1. 0, or
 * -1 with error_set. */
struct spectrum_kept {
    double first, largest;
};
int spectrum_truncate(const struct expert *expert, const struct factors *factors,
                      const double *parts, size_t n_parts, struct spectrum_kept *kept);

#endif
