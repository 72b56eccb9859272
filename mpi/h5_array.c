#include "mpi/h5_array.h"

#include <stdlib.h>

#include "mpi/error.h"
#include "mpi/h5.h"

static int put(hid_t group, const char *name, hid_t type, const void *values, size_t n_rows,
               size_t n_columns)
{
    const hsize_t shape[2] = {n_rows, n_columns};
    struct h5_quiet quiet;
    int status = -1;

    h5_quiet_begin(&quiet);
    hid_t space = H5Screate_simple(n_columns ? 2 : 1, shape, NULL);
    hid_t dataset =
        space < 0 ? -1
                  : H5Dcreate2(group, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (dataset >= 0 &&
        (n_rows == 0 || H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0))
        status = 0;
    if (dataset >= 0)
        H5Dclose(dataset);
    if (space >= 0)
        H5Sclose(space);
    h5_quiet_end(&quiet);
    return status ? error_set("HDF5 cannot write the dataset %s", name) : 0;
}

int h5_put_floats(hid_t group, const char *name, const float *values, size_t n_rows,
                  size_t n_columns)
{
    return put(group, name, H5T_NATIVE_FLOAT, values, n_rows, n_columns);
}

int h5_put_doubles(hid_t group, const char *name, const double *values, size_t n_rows,
                   size_t n_columns)
{
    return put(group, name, H5T_NATIVE_DOUBLE, values, n_rows, n_columns);
}

/* Are all its bytes in the file? So that a few cannot stand for gigabytes. */
static bool is_stored(hid_t dataset, hid_t type, hsize_t n_rows, hsize_t n_columns)
{
    size_t n_bytes = H5Tget_size(type);

    return !__builtin_mul_overflow(n_bytes, n_rows, &n_bytes) &&
           !__builtin_mul_overflow(n_bytes, n_columns, &n_bytes) &&
           H5Dget_storage_size(dataset) >= n_bytes;
}

/* The dataset, if it holds real numbers in one or two dimensions; else negative. */
static hid_t open_real(hid_t group, const char *name, size_t *n_rows, size_t *n_columns)
{
    hsize_t shape[2] = {0, 0};
    hid_t dataset =
        H5Lexists(group, name, H5P_DEFAULT) > 0 ? H5Dopen2(group, name, H5P_DEFAULT) : (hid_t)-1;
    hid_t type = dataset >= 0 ? H5Dget_type(dataset) : -1;
    hid_t space = dataset >= 0 ? H5Dget_space(dataset) : -1;
    const int n_dims = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    const bool good = type >= 0 && H5Tget_class(type) == H5T_FLOAT &&
                      (n_dims == 1 || n_dims == 2) &&
                      H5Sget_simple_extent_dims(space, shape, NULL) == n_dims &&
                      is_stored(dataset, type, shape[0], n_dims == 2 ? shape[1] : 1);

    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    if (!good && dataset >= 0) {
        H5Dclose(dataset);
        dataset = -1;
    }
    *n_rows = (size_t)shape[0];
    *n_columns = n_dims == 2 ? (size_t)shape[1] : 0;
    return dataset;
}

bool h5_shape(hid_t group, const char *name, size_t *n_rows, size_t *n_columns)
{
    struct h5_quiet quiet;

    h5_quiet_begin(&quiet);
    hid_t dataset = open_real(group, name, n_rows, n_columns);
    if (dataset >= 0)
        H5Dclose(dataset);
    h5_quiet_end(&quiet);
    return dataset >= 0;
}

static int get(hid_t group, const char *name, hid_t type, void *values, size_t n_rows,
               size_t n_columns)
{
    struct h5_quiet quiet;
    size_t rows, columns;
    int status = -1;

    h5_quiet_begin(&quiet);
    hid_t dataset = open_real(group, name, &rows, &columns);
    if (dataset < 0)
        error_set("there is no dataset %s of real numbers", name);
    else if (rows != n_rows || columns != n_columns)
        error_set("the dataset %s has the shape [%zu, %zu], expected [%zu, %zu]", name, rows,
                  columns, n_rows, n_columns);
    else if (n_rows > 0 && H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0)
        error_set("the dataset %s cannot be read: the file is damaged", name);
    else
        status = 0;
    if (dataset >= 0)
        H5Dclose(dataset);
    h5_quiet_end(&quiet);
    return status;
}

int h5_get_floats(hid_t group, const char *name, float *values, size_t n_rows, size_t n_columns)
{
    return get(group, name, H5T_NATIVE_FLOAT, values, n_rows, n_columns);
}

int h5_get_doubles(hid_t group, const char *name, double *values, size_t n_rows, size_t n_columns)
{
    return get(group, name, H5T_NATIVE_DOUBLE, values, n_rows, n_columns);
}

double *h5_numbers(hid_t group, const char *name, size_t *n_rows, size_t *n_columns)
{
    struct h5_quiet quiet;
    hsize_t shape[2] = {0, 0};
    double *values = NULL;

    h5_quiet_begin(&quiet);
    hid_t dataset =
        H5Lexists(group, name, H5P_DEFAULT) > 0 ? H5Dopen2(group, name, H5P_DEFAULT) : (hid_t)-1;
    hid_t type = dataset >= 0 ? H5Dget_type(dataset) : -1;
    hid_t space = dataset >= 0 ? H5Dget_space(dataset) : -1;
    const H5T_class_t class = type >= 0 ? H5Tget_class(type) : H5T_NO_CLASS;
    const int n_dims = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    if ((class == H5T_FLOAT || class == H5T_INTEGER || class == H5T_ENUM) &&
        (n_dims == 1 || n_dims == 2) && H5Sget_simple_extent_dims(space, shape, NULL) == n_dims) {
        const hsize_t columns = n_dims == 2 ? shape[1] : 1;
        if (is_stored(dataset, type, shape[0], columns))
            values = malloc(((size_t)(shape[0] * columns) + 1) * sizeof *values);
        if (values && shape[0] * columns > 0 &&
            H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0) {
            free(values);
            values = NULL;
        }
    }
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    if (dataset >= 0)
        H5Dclose(dataset);
    h5_quiet_end(&quiet);
    *n_rows = values ? (size_t)shape[0] : 0;
    *n_columns = values && n_dims == 2 ? (size_t)shape[1] : 0;
    return values;
}
