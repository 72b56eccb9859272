#ifndef T2_MODEL_FACTORS_H
#define T2_MODEL_FACTORS_H
/* The factor file: the singular values and small factors of a model's matrices (solver/svd.h), in
 * HDF5 (docs/formats.md). A run writes one part file a matrix, closed and renamed when it is
 * finished, in the folder OUT.parts; at the end they are merged into one self-contained file. So
 * finished matrices survive a kill at any moment, also during the merge.
 *
 * Serial: each call is one rank's own; no MPI. HDF5 is not for several threads at once. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "model/modules.h"
#include "model/tensor.h"
#include "solver/svd.h"

/* What every factor file and part says of the run that made it. */
struct factors_origin {
    char identity[65]; /* the model's, checkpoint_identity() */
    char architecture[64];
    const char *model;   /* path as given, for people */
    const char *options; /* what decides the numbers: method, precision, tolerance, factor type ...
                            one line; parts of other options are not resumed */
    const char *recipe;  /* options_record()'s text, or NULL */
    const char *command_line;
    const char *cpu;    /* cpu_describe(); isa of BLAS */
    const char *device; /* device_describe() */
    int n_ranks;
};

enum factors_type { FACTORS_F32, FACTORS_BF16 };

/* One decomposed matrix in memory. */
struct factors_matrix {
    struct module module;
    enum tensor_type source_type; /* as the checkpoint stores it */
    struct svd_report report;
    const double *sigma; /* [r] */
    const float *factor; /* [r, r], rows are singular vectors */
};

/* Writing. */

/* Writes OUT.parts/LAYER.NAME.h5 (made beside, renamed). The folder is made when absent. 0, or -1
 * with error_set (full disk: nothing partial stays). */
int factors_write_part(const char *out, const struct factors_origin *origin, enum factors_type type,
                       const struct factors_matrix *matrix);

/* The same for a factor that comes in rows (svd_grid_solve): begin, rows in order, end. After a
 * failure of rows, abort; end frees the part whether it succeeds or not. */
struct factors_part;
struct factors_part *factors_part_begin(const char *out, const struct factors_origin *origin,
                                        enum factors_type type, const struct module *module);
int factors_part_rows(struct factors_part *part, size_t first, size_t n, const float *rows);
int factors_part_end(struct factors_part *part, enum tensor_type source_type,
                     const struct svd_report *report, const double *sigma);
void factors_part_abort(struct factors_part *part);

/* Which modules have a whole part of the same origin (identity, options, type): done[i]. A part
 * that cannot be read or belongs to other options counts as not done; one of another model is an
 * error that says so. All are done when `out` itself is this run's finished file (killed while it
 * removed the parts); factors_merge then has nothing left but to remove them. */
int factors_parts_done(const char *out, const struct factors_origin *origin, enum factors_type type,
                       const struct module *modules, size_t n_modules, bool *done);

/* The merged file while its matrices are being made: laid out at once inside the parts folder, so
 * that every rank of the node can put its factors in their places; attributes and singular values
 * follow from the parts at the end. Until it is renamed, the parts are what counts. */
struct factors_merge {
    char *path;
    enum factors_type type;
    size_t n_modules, n_bytes, n_chunks; /* n_bytes: room for all */
    uint64_t *offsets;     /* [n_chunks] in the file, of each factor's chunks in turn */
    size_t *first;         /* [n_modules] a factor's first chunk */
    unsigned char *filled; /* [n_modules] the factor is in its place */
};
/* Makes the file in the parts' folder, which is there, with room for everything. Zeroed by the
 * caller; free it in any case. 0, or -1 with error_set: the disk is full, `out` cannot be replaced
 * ... */
int factors_merge_begin(struct factors_merge *merge, const char *out,
                        const struct factors_origin *origin, enum factors_type type,
                        const struct module *modules, size_t n_modules);
/* The same struct on another rank of the node, from rank 0's process number; the caller copies
 * rank 0's offsets into it. */
int factors_merge_allocate(struct factors_merge *merge, const char *out, long process,
                           const struct factors_origin *origin, enum factors_type type,
                           const struct module *modules, size_t n_modules);
/* Puts factor i (f32 [r, r], finite) in its place; any thread, no HDF5. What cannot be written is
 * left to the end. */
void factors_merge_fill(struct factors_merge *merge, size_t i, size_t r, const float *factor);
/* Takes the rest from the parts, each of which must be there, renames the file to `out` (synced)
 * and removes the folder. Holds a chunk in memory at a time. `out` is no link (file_follow): it
 * would be replaced, and the parts might lie on another file system. */
int factors_merge_end(struct factors_merge *merge, const char *out,
                      const struct factors_origin *origin, const struct module *modules);
/* Removes the file unless it has been renamed (path is NULL then). */
void factors_merge_abort(struct factors_merge *merge);
void factors_merge_free(struct factors_merge *merge);

/* Begin and end: everything from the parts. Also removes what a merge left that was killed when it
 * had its file in place. */
int factors_merge(const char *out, const struct factors_origin *origin, enum factors_type type,
                  const struct module *modules, size_t n_modules);

/* Removes OUT.parts with what factors_write_part and factors_merge put there, nothing else. */
int factors_parts_remove(const char *out);

/* Reading. */

struct factors;
/* Checks the whole structure: version, shapes, types, finite descending sigma. NULL with error_set.
 */
struct factors *factors_open(const char *path);
void factors_close(struct factors *f);
const char *factors_identity(const struct factors *f);
/* -1 with a sentence that names both files when the factors are of another model. */
int factors_check_model(const struct factors *f, const char identity[65], const char *model_path);
size_t factors_n_matrices(const struct factors *f);
/* The i-th, in the file's order (layer, then q k v o gate up down): everything but the factor;
 * sigma belongs to f. */
const struct factors_matrix *factors_get(const struct factors *f, size_t i);
/* By path ("/layers/07/mlp.down_proj"); NULL (no message) when absent. */
const struct factors_matrix *factors_find(const struct factors *f, const char *path);
/* Rows first .. first + n - 1 of a matrix's factor, f32 [n, r]. Not finite is an error. */
int factors_read(struct factors *f, const struct factors_matrix *matrix, size_t first, size_t n,
                 float *rows);

/* SHA-256 (64 hex digits + NUL) by which an expert knows its factors again: of the model's identity
 * and each matrix's path, shape, singular values and three of its vectors. */
int factors_fingerprint(struct factors *f, char hex[65]);

/* For t2 inspect: origin, a line a matrix (or a summary by module unless verbose): side, shape,
 * type, largest, median and smallest sigma, condition, share of the sum held by the top r values
 * (the paper's figures 10 and 11), method, checks. */
int factors_describe(const char *path, FILE *file, bool verbose);
/* Is this HDF5 file a factor file (or a part)? */
bool factors_is_file(const char *path);

#endif
