#include "mpi/h5.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "mpi/error.h"
#include "mpi/file_write.h"

enum { CHUNK_ROWS = 1024, GROW_BYTES = 1 << 20 };

void h5_quiet_begin(struct h5_quiet *quiet)
{
    H5Eget_auto2(H5E_DEFAULT, &quiet->function, &quiet->data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

void h5_quiet_end(const struct h5_quiet *quiet)
{
    H5Eset_auto2(H5E_DEFAULT, quiet->function, quiet->data);
}

/* ---- files -------------------------------------------------------------------------------------
 */

hid_t h5_create(const char *name)
{
    struct h5_quiet quiet;
    hid_t file = -1;

    h5_quiet_begin(&quiet);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access >= 0 && H5Pset_fapl_core(access, GROW_BYTES, 0) >= 0)
        file = H5Fcreate(name, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    if (access >= 0)
        H5Pclose(access);
    h5_quiet_end(&quiet);
    if (file < 0)
        error_set("%s: HDF5 cannot make a file in memory", name);
    return file;
}

char *h5_image(hid_t file, const char *name, size_t *n_bytes)
{
    struct h5_quiet quiet;

    h5_quiet_begin(&quiet);
    const ssize_t n =
        H5Fflush(file, H5F_SCOPE_GLOBAL) < 0 ? (ssize_t)-1 : H5Fget_file_image(file, NULL, 0);
    char *bytes = n > 0 ? malloc((size_t)n) : NULL;
    if (!bytes || H5Fget_file_image(file, bytes, (size_t)n) != n) {
        free(bytes);
        bytes = NULL;
        error_set("%s: HDF5 cannot give the file's bytes (out of memory?)", name);
    }
    h5_quiet_end(&quiet);
    *n_bytes = bytes ? (size_t)n : 0;
    return bytes;
}

int h5_write(hid_t file, const char *path)
{
    size_t n;
    char *bytes = h5_image(file, path, &n);
    const int status = bytes ? file_write(path, bytes, n) : -1;

    free(bytes);
    return status;
}

void h5_without_locks(hid_t access)
{
#if H5_VERSION_GE(1, 12, 1) || (H5_VERSION_GE(1, 10, 7) && !H5_VERSION_GE(1, 12, 0))
    H5Pset_file_locking(access, 0, 1);
#else
    (void)access;
#endif
}

hid_t h5_open(const char *path)
{
    struct h5_quiet quiet;

    h5_quiet_begin(&quiet);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    h5_quiet_end(&quiet);
    if (file < 0)
        error_set("%s: not a readable HDF5 file", path);
    return file;
}

void h5_close(hid_t file)
{
    if (file >= 0)
        H5Fclose(file);
}

hid_t h5_group_create(hid_t parent, const char *name)
{
    struct h5_quiet quiet;

    h5_quiet_begin(&quiet);
    hid_t group = H5Lexists(parent, name, H5P_DEFAULT) > 0
                      ? H5Gopen2(parent, name, H5P_DEFAULT)
                      : H5Gcreate2(parent, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    h5_quiet_end(&quiet);
    if (group < 0)
        error_set("HDF5 cannot make the group %s", name);
    return group;
}

/* ---- types -------------------------------------------------------------------------------------
 */

/* Close with H5Tclose. */
static hid_t text_type(void)
{
    hid_t type = H5Tcopy(H5T_C_S1);

    if (type >= 0 &&
        (H5Tset_size(type, H5T_VARIABLE) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0)) {
        H5Tclose(type);
        return -1;
    }
    return type;
}

/* The enum that h5py makes of numpy's bool. */
static hid_t bool_type(void)
{
    hid_t type = H5Tenum_create(H5T_NATIVE_INT8);
    int8_t no = 0, yes = 1;

    if (type >= 0 &&
        (H5Tenum_insert(type, "FALSE", &no) < 0 || H5Tenum_insert(type, "TRUE", &yes) < 0)) {
        H5Tclose(type);
        return -1;
    }
    return type;
}

/* ---- writing -----------------------------------------------------------------------------------
 */

static int put_attribute(hid_t object, const char *name, hid_t type, const void *value)
{
    struct h5_quiet quiet;
    int status = -1;

    h5_quiet_begin(&quiet);
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = space < 0 || type < 0
                          ? -1
                          : H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute >= 0 && H5Awrite(attribute, type, value) >= 0)
        status = 0;
    if (attribute >= 0)
        H5Aclose(attribute);
    if (space >= 0)
        H5Sclose(space);
    h5_quiet_end(&quiet);
    return status ? error_set("HDF5 cannot write the attribute %s", name) : 0;
}

int h5_put_text(hid_t object, const char *name, const char *text)
{
    hid_t type = text_type();
    int status = put_attribute(object, name, type, &text);

    if (type >= 0)
        H5Tclose(type);
    return status;
}

int h5_put_int(hid_t object, const char *name, int64_t value)
{
    return put_attribute(object, name, H5T_NATIVE_INT64, &value);
}

int h5_put_real(hid_t object, const char *name, double value)
{
    return put_attribute(object, name, H5T_NATIVE_DOUBLE, &value);
}

/* n_columns 0: one dimension. */
static int put_column(hid_t group, const char *name, hid_t type, const void *values, size_t n_rows,
                      size_t n_columns)
{
    struct h5_quiet quiet;
    int status = -1, n_dims = n_columns ? 2 : 1;
    hsize_t shape[2] = {n_rows, n_columns};
    hsize_t chunk[2] = {n_rows < CHUNK_ROWS ? n_rows : CHUNK_ROWS, n_columns};
    hid_t dataset = -1;

    h5_quiet_begin(&quiet);
    hid_t space = H5Screate_simple(n_dims, shape, NULL);
    hid_t layout = H5Pcreate(H5P_DATASET_CREATE);
    if (type >= 0 && space >= 0 && layout >= 0 &&
        (n_rows == 0 || H5Pset_chunk(layout, n_dims, chunk) >= 0))
        dataset = H5Dcreate2(group, name, type, space, H5P_DEFAULT, layout, H5P_DEFAULT);
    if (dataset >= 0 &&
        (n_rows == 0 || H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0))
        status = 0;
    if (dataset >= 0)
        H5Dclose(dataset);
    if (layout >= 0)
        H5Pclose(layout);
    if (space >= 0)
        H5Sclose(space);
    h5_quiet_end(&quiet);
    return status ? error_set("HDF5 cannot write the column %s", name) : 0;
}

int h5_column_texts(hid_t group, const char *name, const char *const *texts, size_t n)
{
    hid_t type = text_type();
    int status = put_column(group, name, type, texts, n, 0);

    if (type >= 0)
        H5Tclose(type);
    return status;
}

int h5_column_bools(hid_t group, const char *name, const bool *values, size_t n_rows,
                    size_t n_columns)
{
    _Static_assert(sizeof(bool) == 1, "a bool is stored as one byte");
    hid_t type = bool_type();
    int status = put_column(group, name, type, values, n_rows, n_columns);

    if (type >= 0)
        H5Tclose(type);
    return status;
}

int h5_column_ints(hid_t group, const char *name, const int64_t *values, size_t n_rows,
                   size_t n_columns)
{
    return put_column(group, name, H5T_NATIVE_INT64, values, n_rows, n_columns);
}

int h5_column_reals(hid_t group, const char *name, const double *values, size_t n_rows,
                    size_t n_columns)
{
    return put_column(group, name, H5T_NATIVE_DOUBLE, values, n_rows, n_columns);
}

/* ---- reading -----------------------------------------------------------------------------------
 */

/* Reads a scalar attribute of class `kind` as `type`. */
static bool get_attribute(hid_t object, const char *name, H5T_class_t kind, hid_t type, void *value)
{
    struct h5_quiet quiet;
    bool found = false;

    h5_quiet_begin(&quiet);
    hid_t attribute = H5Aexists(object, name) > 0 ? H5Aopen(object, name, H5P_DEFAULT) : (hid_t)-1;
    hid_t stored = attribute >= 0 ? H5Aget_type(attribute) : -1;
    hid_t space = attribute >= 0 ? H5Aget_space(attribute) : -1;
    if (stored >= 0 && space >= 0 && H5Tget_class(stored) == kind &&
        H5Sget_simple_extent_npoints(space) == 1 &&
        (kind != H5T_STRING || H5Tis_variable_str(stored) > 0))
        found = H5Aread(attribute, type, value) >= 0;
    if (space >= 0)
        H5Sclose(space);
    if (stored >= 0)
        H5Tclose(stored);
    if (attribute >= 0)
        H5Aclose(attribute);
    h5_quiet_end(&quiet);
    return found;
}

bool h5_get_text(hid_t object, const char *name, char **text)
{
    hid_t type = text_type();
    char *read = NULL;
    bool found = type >= 0 && get_attribute(object, name, H5T_STRING, type, &read);

    if (type >= 0)
        H5Tclose(type);
    *text = found ? strdup(read ? read : "") : NULL;
    if (read)
        H5free_memory(read);
    return *text != NULL;
}

bool h5_get_int(hid_t object, const char *name, int64_t *value)
{
    return get_attribute(object, name, H5T_INTEGER, H5T_NATIVE_INT64, value);
}

bool h5_get_real(hid_t object, const char *name, double *value)
{
    return get_attribute(object, name, H5T_FLOAT, H5T_NATIVE_DOUBLE, value);
}

bool h5_has_kind(hid_t file, const char *kind)
{
    char *text = NULL;
    const bool has = h5_get_text(file, "kind", &text) && strcmp(text, kind) == 0;

    free(text);
    return has;
}

bool h5_is_kind(const char *path, const char *kind)
{
    struct h5_quiet quiet;
    struct stat info;

    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode))
        return false;
    h5_quiet_begin(&quiet);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    const bool is = file >= 0 && h5_has_kind(file, kind);
    h5_close(file);
    h5_quiet_end(&quiet);
    return is;
}

char *h5_text_at(hid_t group, const char *name, size_t index)
{
    struct h5_quiet quiet;
    char *read = NULL, *text = NULL;
    hsize_t at = index, one = 1, extent[1];

    h5_quiet_begin(&quiet);
    hid_t type = text_type();
    hid_t dataset =
        H5Lexists(group, name, H5P_DEFAULT) > 0 ? H5Dopen2(group, name, H5P_DEFAULT) : (hid_t)-1;
    hid_t space = dataset >= 0 ? H5Dget_space(dataset) : -1;
    hid_t stored = dataset >= 0 ? H5Dget_type(dataset) : -1;
    hid_t memory = H5Screate_simple(1, &one, NULL);
    if (type >= 0 && space >= 0 && stored >= 0 && memory >= 0 &&
        H5Tget_class(stored) == H5T_STRING && H5Tis_variable_str(stored) > 0 &&
        H5Sget_simple_extent_ndims(space) == 1 &&
        H5Sget_simple_extent_dims(space, extent, NULL) == 1 && at < extent[0] &&
        H5Sselect_hyperslab(space, H5S_SELECT_SET, &at, NULL, &one, NULL) >= 0 &&
        H5Dread(dataset, type, memory, space, H5P_DEFAULT, &read) >= 0)
        text = strdup(read ? read : "");
    if (read)
        H5free_memory(read);
    if (memory >= 0)
        H5Sclose(memory);
    if (stored >= 0)
        H5Tclose(stored);
    if (space >= 0)
        H5Sclose(space);
    if (dataset >= 0)
        H5Dclose(dataset);
    if (type >= 0)
        H5Tclose(type);
    h5_quiet_end(&quiet);
    return text;
}
