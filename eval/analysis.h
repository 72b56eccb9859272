#ifndef T2_EVAL_ANALYSIS_H
#define T2_EVAL_ANALYSIS_H
/* Experts and factor files side by side, for t2 analyze and t2 report: opened, named, and each
 * expert joined with the factors it was trained with where they are among the files. Rank 0 alone.
 */
#include <stdbool.h>
#include <stddef.h>

#include "eval/similarity.h"
#include "model/expert.h"
#include "model/factors.h"

struct analysis_factors {
    char *path, *name; /* name: for tables, the file's without folder and .h5 */
    struct factors *file;
    char fingerprint[65];
};

struct analysis_expert {
    char *path, *name;
    struct expert file;
    const struct factors *factors; /* of another entry, or NULL */
};

struct analysis {
    struct analysis_expert *experts;
    struct analysis_factors *factors;
    size_t n_experts, n_factors;
};

/* Adds a factor file or an expert (expert_is_file, factors_is_file); -1 with error_set for others,
 * and for experts that hold no z. */
int analysis_add(struct analysis *analysis, const char *path);
/* When all files are there: joins experts with factors, and tells files of one name apart by their
 * folders. 0, or -1 with error_set. */
int analysis_join(struct analysis *analysis);
/* Accepts a zeroed struct. */
void analysis_free(struct analysis *analysis);

/* Of all experts; see similarity.h. */
int analysis_similarity(const struct analysis *analysis, enum similarity_mismatch mismatch,
                        struct similarity *similarity);

/* The names of matrices ("mlp.down_proj") that occur, in a layer's order; at most `size`. */
size_t analysis_names(const struct module *modules, size_t n_modules, const char **names,
                      size_t size);

/* Writes everything to HDF5 (docs/formats.md). n_moved: components listed of each expert. 0, or -1
 * with error_set; an earlier file stays then. */
int analysis_write(const struct analysis *analysis, const struct similarity *similarity,
                   size_t n_moved, const char *command_line, const char *path);

#endif
