#ifndef T2_MPI_H5_ARRAY_H
#define T2_MPI_H5_ARRAY_H
/* Whole numeric datasets of HDF5 files, checked against the shape that the reader expects, bits
 * kept. Serial, as h5.h. Functions return 0, or -1 with error_set naming the dataset. */
#include <hdf5.h>
#include <stdbool.h>
#include <stddef.h>

/* Contiguous datasets [n_rows], or [n_rows, n_columns] where n_columns > 0. */
int h5_put_floats(hid_t group, const char *name, const float *values, size_t n_rows,
                  size_t n_columns);
int h5_put_doubles(hid_t group, const char *name, const double *values, size_t n_rows,
                   size_t n_columns);

/* Is there a dataset of real numbers of one or two dimensions? Its shape; *n_columns 0: one. */
bool h5_shape(hid_t group, const char *name, size_t *n_rows, size_t *n_columns);

/* Reads one of exactly this shape. Converts between real types. */
int h5_get_floats(hid_t group, const char *name, float *values, size_t n_rows, size_t n_columns);
int h5_get_doubles(hid_t group, const char *name, double *values, size_t n_rows, size_t n_columns);

/* A whole dataset [n_rows] or [n_rows, n_columns] of integers, bools or reals as doubles,
 * malloc'ed; NULL (without a message) where there is none, or where not all of it is stored.
 * *n_columns 0: one dimension. */
double *h5_numbers(hid_t group, const char *name, size_t *n_rows, size_t *n_columns);

#endif
