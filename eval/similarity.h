#ifndef T2_EVAL_SIMILARITY_H
#define T2_EVAL_SIMILARITY_H
/* How alike experts are: cosines of z - 1, the way from the base model, for each matrix of a model
 * and for sets of them. (Of z itself every cosine would be near 1: all experts begin at z = 1.)
 *
 * Components are compared by their place in the order of the singular values. Experts of different
 * models may have spectra of different lengths; how those meet must be said. Local to a rank. */
#include <stddef.h>

#include "model/expert.h"

enum similarity_mismatch {
    MISMATCH_REFUSE,     /* an error that names the options */
    MISMATCH_TRUNCATE,   /* the longer one's last components are left out */
    MISMATCH_INTERPOLATE /* the longer one is read at the shorter one's relative places */
};

struct similarity {
    size_t n_experts, n_matrices;
    struct module *modules; /* every matrix that any of the experts has; layer, then q k v o ... */
    /* [matrix, a, b]: sum of (z_a - 1)(z_b - 1), and of (z_a - 1)^2 as compared with b. Both are 0
     * where one of the two lacks the matrix. */
    double *products, *squares;
};

/* An SVF expert's multipliers of a matrix; NULL if it has none (another kind of adapter). */
const struct expert_parameter *similarity_vector(const struct expert_matrix *matrix);

/* 0, or -1 with error_set; then nothing to free. */
int similarity_create(struct similarity *similarity, const struct expert *const *experts, size_t n,
                      enum similarity_mismatch mismatch);
void similarity_free(struct similarity *similarity);

/* The cosine between experts a and b over all matrices whose layer and name are those given: layer
 * -1: of any layer; name NULL: of any name. NaN where they share none, or one has not moved. */
double similarity_cosine(const struct similarity *similarity, size_t a, size_t b, long layer,
                         const char *name);

#endif
