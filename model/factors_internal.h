#ifndef T2_MODEL_FACTORS_INTERNAL_H
#define T2_MODEL_FACTORS_INTERNAL_H
/* What the writers, the reader and the description of factor files share. */
#include <hdf5.h>

#include "model/factors.h"

enum {
    FACTORS_FORMAT_VERSION = 1,
    FACTORS_CHUNK_BYTES = 1 << 20, /* what HDF5's chunk cache holds by default */
    FACTORS_MAX_LAYERS = 100000
};
extern const char factors_kind[]; /* the root attribute `kind` */

/* "f32", "bf16"; bytes of one element. */
const char *factors_type_name(enum factors_type type);
size_t factors_type_bytes(enum factors_type type);
/* As the file has it (little-endian; bf16 as a float of 16 bits with 8 bits of exponent, which HDF5
 * and h5py convert) or as this machine's memory has it. Close with H5Tclose. */
hid_t factors_type_stored(enum factors_type type);
hid_t factors_type_memory(enum factors_type type);

/* An upper bound of the bytes of a file with this one matrix. */
size_t factors_room(const struct factors_origin *origin, enum factors_type type, size_t r);
/* The root's attributes. */
int factors_put_origin(hid_t file, const struct factors_origin *origin, enum factors_type type);
/* Makes the module's group (and those above it). Close with H5Gclose; negative with error_set. */
hid_t factors_group_create(hid_t file, const struct module *module);
/* sigma [r] and the attributes. */
int factors_put_matrix(hid_t group, const struct module *module, enum tensor_type source_type,
                       const struct svd_report *report, const double *sigma);

/* Attribute of a part's matrix: the sum of its singular values, in their order. */
#define FACTORS_SIGMA_SUM "sigma_sum"
double factors_sigma_sum(const double *sigma, size_t r);

/* Rows of a chunk: chunks of equal height, none larger than HDF5's cache unless one row is. */
size_t factors_chunk_rows(enum factors_type type, size_t r);
/* The dataset `factor` [r, r] in chunks; `early`: with places in the file at once. Close with
 * H5Dclose; negative without a message. */
hid_t factors_dataset_create(hid_t group, enum factors_type type, size_t r, bool early);
/* To nearest, ties to even; x finite. */
uint16_t factors_bf16(float x);

/* A factor that is being written. */
struct factors_rows {
    enum factors_type type;
    size_t r, chunk_rows, next; /* rows next and after are still to come */
    hid_t dataset, memory_type;
    uint16_t *rounded; /* bf16 [chunk_rows, r], or NULL */
};
int factors_rows_begin(struct factors_rows *rows, hid_t group, enum factors_type type, size_t r);
/* f32 [n, r]; first is the next row. */
int factors_rows_put(struct factors_rows *rows, size_t first, size_t n, const float *values);
/* Also after a failed begin. */
void factors_rows_end(struct factors_rows *rows);

/* "OUT.parts/07.mlp.down_proj.h5"; malloc'ed. */
char *factors_part_path(const char *out, const struct module *module);
/* "OUT.parts"; malloc'ed. */
char *factors_parts_folder(const char *out);

/* ---- reading ---- */

/* What an open file says of its origin. NULL where it says nothing. */
struct factors_about {
    char *identity, *architecture, *model, *options, *recipe, *command_line, *cpu, *device,
        *version, *created;
    int64_t n_ranks;
    enum factors_type type;
};
const struct factors_about *factors_about(const struct factors *f);

struct factors {
    char *path;
    hid_t file;
    size_t n_bytes, n_claimed; /* of the file; by the datasets seen so far */
    struct factors_about about;
    struct factors_matrix *matrices;
    size_t n_matrices, capacity;
    /* The factor that was read last stays open. */
    const struct factors_matrix *opened;
    hid_t dataset, memory_type;
};

/* A group of this very file behind a hard link, or negative without a message. */
hid_t factors_open_group(hid_t parent, const char *name);
/* What the group of m->module.path says: everything of *m but the factor; m->sigma is malloc'ed.
 * 0, or -1 with error_set. */
int factors_read_matrix(struct factors *f, hid_t group, struct factors_matrix *m);
/* -1 with error_set. */
int factors_bad_attribute(const struct factors *f, const char *path, const char *name);

#endif
