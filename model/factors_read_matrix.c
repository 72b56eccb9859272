/* Reading one matrix of a factor file: its group, attributes, sigma, and the shape and type of its
 * factor. Files may come from anywhere: every link, type, shape and size is checked before it is
 * used, and nothing is allocated that the file's own size does not justify. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/factors_internal.h"
#include "mpi/error.h"
#include "mpi/h5.h"

/* ---- links and types ---------------------------------------------------------------------------
 */

/* Only what lies in this very file: a soft or external link could lead anywhere. */
static bool is_hard_link(hid_t parent, const char *name)
{
    H5L_info_t info;

    return H5Lexists(parent, name, H5P_DEFAULT) > 0 &&
           H5Lget_info(parent, name, &info, H5P_DEFAULT) >= 0 && info.type == H5L_TYPE_HARD;
}

hid_t factors_open_group(hid_t parent, const char *name)
{
    return is_hard_link(parent, name) ? H5Gopen2(parent, name, H5P_DEFAULT) : (hid_t)-1;
}

static bool dataset_is_of(hid_t dataset, hid_t wanted)
{
    hid_t type = H5Dget_type(dataset);
    bool is = type >= 0 && wanted >= 0 && H5Tequal(type, wanted) > 0;

    if (type >= 0)
        H5Tclose(type);
    return is;
}

static bool dataset_has_shape(hid_t dataset, int n_dims, const hsize_t *shape)
{
    hid_t space = H5Dget_space(dataset);
    hsize_t extent[2] = {0, 0};
    bool has = space >= 0 && H5Sget_simple_extent_type(space) == H5S_SIMPLE &&
               H5Sget_simple_extent_ndims(space) == n_dims &&
               H5Sget_simple_extent_dims(space, extent, NULL) == n_dims &&
               memcmp(extent, shape, (size_t)n_dims * sizeof *shape) == 0;

    if (space >= 0)
        H5Sclose(space);
    return has;
}

/* Plain storage inside the file: contiguous or in chunks no larger than the array, no filters (a
 * few bytes could stand for gigabytes), no other files. */
static bool dataset_is_plain(hid_t dataset, int n_dims, const hsize_t *shape)
{
    hid_t layout = H5Dget_create_plist(dataset);
    hsize_t chunk[2] = {0, 0};
    bool plain = false;

    if (layout < 0)
        return false;
    H5D_layout_t kind = H5Pget_layout(layout);
    if (H5Pget_nfilters(layout) == 0 && H5Pget_external_count(layout) == 0) {
        if (kind == H5D_CHUNKED)
            plain = H5Pget_chunk(layout, n_dims, chunk) == n_dims && chunk[0] <= shape[0] &&
                    (n_dims < 2 || chunk[1] <= shape[1]);
        else
            plain = kind == H5D_CONTIGUOUS;
    }
    H5Pclose(layout);
    return plain;
}

/* Opens group/name, a dataset of exactly this type and shape whose bytes are in the file. */
static hid_t open_dataset(struct factors *f, hid_t group, const char *path, const char *name,
                          hid_t wanted, const char *type_name, int n_dims, const hsize_t *shape)
{
    size_t n_bytes = H5Tget_size(wanted);
    hid_t dataset = is_hard_link(group, name) ? H5Dopen2(group, name, H5P_DEFAULT) : (hid_t)-1;

    if (dataset < 0) {
        error_set("%s: %s: the dataset %s is missing", f->path, path, name);
        return -1;
    }
    for (int i = 0; i < n_dims; i++)
        if (__builtin_mul_overflow(n_bytes, shape[i], &n_bytes))
            n_bytes = SIZE_MAX;
    if (!dataset_is_of(dataset, wanted))
        error_set("%s: %s/%s: not of the type %s (little-endian)", f->path, path, name, type_name);
    else if (!dataset_has_shape(dataset, n_dims, shape))
        error_set("%s: %s/%s: not of the shape that the attribute `shape` asks for", f->path, path,
                  name);
    else if (!dataset_is_plain(dataset, n_dims, shape))
        error_set("%s: %s/%s: stored with filters, in other files or in odd chunks; h5repack -f "
                  "NONE makes a plain one",
                  f->path, path, name);
    else if (n_bytes > f->n_bytes - f->n_claimed || H5Dget_storage_size(dataset) < n_bytes)
        error_set("%s: %s/%s: its %zu bytes are not all in the file (truncated?)", f->path, path,
                  name, n_bytes);
    else {
        f->n_claimed += n_bytes;
        return dataset;
    }
    H5Dclose(dataset);
    return -1;
}

/* ---- one matrix --------------------------------------------------------------------------------
 */

int factors_bad_attribute(const struct factors *f, const char *path, const char *name)
{
    return error_set("%s: %s: the attribute %s is missing or not one that t2 writes", f->path, path,
                     name);
}

/* One of n words (NULL ends none); the index in *value. */
static int get_word(const struct factors *f, hid_t group, const char *path, const char *name,
                    const char *(*word)(int), int n, int *value)
{
    char *text;
    int found = -1;

    if (h5_get_text(group, name, &text)) {
        for (int i = 0; i < n && found < 0; i++)
            if (strcmp(text, word(i)) == 0)
                found = i;
        free(text);
    }
    *value = found;
    return found < 0 ? factors_bad_attribute(f, path, name) : 0;
}

static const char *side_word(int i)
{
    return i ? "U" : "V";
}
static const char *checked_word(int i)
{
    return i ? "full" : "probes";
}
static const char *tried_word(int i)
{
    static const char *const words[] = {"", "f32", "f64", "f32 f64"};
    return words[i];
}
static const char *method_word(int i)
{
    return svd_method_name((enum svd_method)i);
}
static const char *precision_word(int i)
{
    return svd_precision_name((enum svd_precision)i);
}
static const char *repair_word(int i)
{
    return svd_repair_name((enum svd_repair)i);
}
static const char *source_word(int i)
{
    return tensor_type_name((enum tensor_type)i);
}

static int get_shape(const struct factors *f, hid_t group, struct module *module)
{
    int64_t shape[2] = {0, 0};
    hsize_t n = 0;
    bool found = false;
    hid_t attribute =
        H5Aexists(group, "shape") > 0 ? H5Aopen(group, "shape", H5P_DEFAULT) : (hid_t)-1;
    hid_t type = attribute >= 0 ? H5Aget_type(attribute) : -1;
    hid_t space = attribute >= 0 ? H5Aget_space(attribute) : -1;

    if (type >= 0 && space >= 0 && H5Tget_class(type) == H5T_INTEGER &&
        H5Sget_simple_extent_ndims(space) == 1 && H5Sget_simple_extent_dims(space, &n, NULL) == 1 &&
        n == 2)
        found = H5Aread(attribute, H5T_NATIVE_INT64, shape) >= 0;
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    if (attribute >= 0)
        H5Aclose(attribute);
    if (!found || shape[0] < 1 || shape[1] < 1)
        return factors_bad_attribute(f, module->path, "shape");
    module->n_rows = (size_t)shape[0];
    module->n_columns = (size_t)shape[1];
    return 0;
}

static int get_report(const struct factors *f, hid_t group, struct factors_matrix *m)
{
    struct svd_report *report = &m->report;
    const char *path = m->module.path;
    int wide, method, precision, repair, checked, tried, source;

    if (get_word(f, group, path, "side", side_word, 2, &wide) ||
        get_word(f, group, path, "method", method_word, SVD_METHOD_COUNT, &method) ||
        get_word(f, group, path, "precision", precision_word, SVD_PRECISION_COUNT, &precision) ||
        get_word(f, group, path, "repair", repair_word, SVD_REPAIR_GESVD + 1, &repair) ||
        get_word(f, group, path, "checked", checked_word, 2, &checked) ||
        get_word(f, group, path, "tried", tried_word, 4, &tried) ||
        get_word(f, group, path, "source_type", source_word, TENSOR_TYPE_COUNT, &source))
        return -1;
    if ((wide != 0) != (m->module.n_rows < m->module.n_columns))
        return error_set("%s: %s: the side %s does not fit a matrix of %zu x %zu", f->path, path,
                         side_word(wide), m->module.n_rows, m->module.n_columns);
    *report = (struct svd_report){.wide = wide,
                                  .method = (enum svd_method)method,
                                  .precision = (enum svd_precision)precision,
                                  .tried_f32 = tried & 1,
                                  .tried_f64 = tried & 2,
                                  .repair = (enum svd_repair)repair,
                                  .checked_in_full = checked};
    m->source_type = (enum tensor_type)source;
    const struct {
        const char *name;
        double *value;
    } reals[] = {{"orthogonality", &report->orthogonality},
                 {"residual", &report->residual},
                 {"bound", &report->bound},
                 {"seconds", &report->seconds},
                 {"flops", &report->flops}};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        if (!h5_get_real(group, reals[i].name, reals[i].value))
            return factors_bad_attribute(f, path, reals[i].name);
    return 0;
}

static int get_sigma(struct factors *f, hid_t group, struct factors_matrix *m)
{
    const char *path = m->module.path;
    size_t r = module_rank(&m->module);
    const hsize_t n = r;
    double *sigma = NULL;
    int status = -1;
    hid_t dataset = open_dataset(f, group, path, "sigma", H5T_IEEE_F64LE, "float64", 1, &n);

    if (dataset < 0)
        return -1;
    sigma = malloc(r * sizeof *sigma);
    if (!sigma)
        error_set("%s: out of memory", f->path);
    else if (H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, sigma) < 0)
        error_set("%s: %s/sigma cannot be read; the file is damaged", f->path, path);
    else
        status = 0;
    H5Dclose(dataset);
    for (size_t i = 0; status == 0 && i < r; i++)
        if (!isfinite(sigma[i]) || sigma[i] < 0 || (i > 0 && sigma[i] > sigma[i - 1]))
            status = error_set("%s: %s/sigma: value %zu is %g: not finite, negative or larger than "
                               "the one before it; decompose the model again",
                               f->path, path, i, sigma[i]);
    if (status) {
        free(sigma);
        return -1;
    }
    m->sigma = sigma;
    return 0;
}

/* The factor's own values are read later. */
static int check_factor(struct factors *f, hid_t group, const struct factors_matrix *m)
{
    const hsize_t shape[2] = {module_rank(&m->module), module_rank(&m->module)};
    hid_t wanted = factors_type_stored(f->about.type);
    hid_t dataset = wanted < 0 ? (hid_t)-1
                               : open_dataset(f, group, m->module.path, "factor", wanted,
                                              factors_type_name(f->about.type), 2, shape);

    if (wanted >= 0)
        H5Tclose(wanted);
    if (dataset >= 0)
        H5Dclose(dataset);
    return dataset < 0 ? -1 : 0;
}

int factors_read_matrix(struct factors *f, hid_t group, struct factors_matrix *m)
{
    char tensor[sizeof m->module.tensor], *text;

    snprintf(tensor, sizeof tensor, "model.layers.%zu.%s.weight", m->module.layer, m->module.name);
    if (!h5_get_text(group, "tensor", &text))
        return factors_bad_attribute(f, m->module.path, "tensor");
    bool same = strcmp(text, tensor) == 0;
    free(text);
    if (!same)
        return error_set("%s: %s: the attribute tensor is not %s", f->path, m->module.path, tensor);
    snprintf(m->module.tensor, sizeof m->module.tensor, "%s", tensor);
    if (get_shape(f, group, &m->module) || get_report(f, group, m) || get_sigma(f, group, m))
        return -1;
    if (check_factor(f, group, m)) {
        free((void *)m->sigma);
        m->sigma = NULL;
        return -1;
    }
    return 0;
}
