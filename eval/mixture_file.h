#ifndef T2_EVAL_MIXTURE_FILE_H
#define T2_EVAL_MIXTURE_FILE_H
/* The coefficients of a mixture of experts as files hold them: t2 adapt writes them beside the
 * mixture's matrices, t2 eval copies them into the results that it made with such a file, so that
 * results alone can show them (Transformer-Squared, figure 7). Serial; stands on mpi/h5.h.
 *
 *   /mixture            experts, files (strings, one an expert), groups (strings: whose matrices
 *                       have coefficients of their own), alpha f64 [groups, experts]
 *   its attributes, in results   file (the adapter), task (that the shots came from), adaptation
 *                       (the method), mix */
#include <hdf5.h>
#include <stddef.h>
#include <stdio.h>

struct mixture {
    size_t n_experts, n_groups;       /* no experts: the file is no mixture */
    char **experts, **files;          /* [n_experts] */
    char **groups;                    /* [n_groups] */
    double *alpha;                    /* [n_groups, n_experts] */
    char *file, *task, *method, *mix; /* may be NULL */
};

/* Reads the mixture out of a file of t2 adapt. Anything else (another expert, a folder) is none and
 * no error. 0, or -1 with error_set where it is a mixture and damaged; mixture_free in any case. */
int mixture_read(struct mixture *mixture, const char *path);
void mixture_free(struct mixture *mixture);

/* Writes the group into an open file. 0, or -1 with error_set. */
int mixture_put(hid_t file, const struct mixture *mixture);

/* For t2 inspect: the coefficients of an open file, a row a group; nothing where there are none. */
void mixture_describe(hid_t file, FILE *out);

#endif
