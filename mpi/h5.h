#ifndef T2_MPI_H5_H
#define T2_MPI_H5_H
/* Attributes and columns of HDF5 files, one call each, with UTF-8 strings of variable length and
 * bools as h5py reads them. Files are built in memory and written in one go (file_write.h), so a
 * full disk never leaves HDF5 with a file that it cannot close. Serial: one rank alone calls it.
 *
 * The functions that write return 0, or -1 with error_set naming the object. */
#include <hdf5.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* HDF5 prints its error stack unless told not to; our callers get a sentence instead. */
struct h5_quiet {
    H5E_auto2_t function;
    void *data;
};
void h5_quiet_begin(struct h5_quiet *quiet);
void h5_quiet_end(const struct h5_quiet *quiet);

/* A new file in memory; negative with error_set. `name` is for messages. */
hid_t h5_create(const char *name);
/* The file's bytes so far, malloc'ed; NULL with error_set. */
char *h5_image(hid_t file, const char *name, size_t *n_bytes);
/* Writes the file's bytes to path; the file stays open. */
int h5_write(hid_t file, const char *path);
/* Opens a file for reading; negative with error_set. */
hid_t h5_open(const char *path);
void h5_close(hid_t file);

/* For an access list: no locks, which not every file system of a cluster has. */
void h5_without_locks(hid_t access);

/* A group inside another (made, or opened when it is there). Close with H5Gclose. */
hid_t h5_group_create(hid_t parent, const char *name);

int h5_put_text(hid_t object, const char *name, const char *text);
int h5_put_int(hid_t object, const char *name, int64_t value);
int h5_put_real(hid_t object, const char *name, double value);

/* Chunked datasets of n rows, or [n_rows, n_columns]. */
int h5_column_texts(hid_t group, const char *name, const char *const *texts, size_t n);
int h5_column_bools(hid_t group, const char *name, const bool *values, size_t n_rows,
                    size_t n_columns);
int h5_column_ints(hid_t group, const char *name, const int64_t *values, size_t n_rows,
                   size_t n_columns);
int h5_column_reals(hid_t group, const char *name, const double *values, size_t n_rows,
                    size_t n_columns);

/* Attributes; false where there is none of that kind. Text is malloc'ed. */
bool h5_get_text(hid_t object, const char *name, char **text);
bool h5_get_int(hid_t object, const char *name, int64_t *value);
bool h5_get_real(hid_t object, const char *name, double *value);

/* Every file of ours says in the attribute `kind` what it is ("t2 expert"). Is this an open file of
 * that kind? Is there a regular file of that kind at `path`? Without a message. */
bool h5_has_kind(hid_t file, const char *kind);
bool h5_is_kind(const char *path, const char *kind);

/* Row `index` of a column of strings, malloc'ed; NULL if there is none. */
char *h5_text_at(hid_t group, const char *name, size_t index);

#endif
