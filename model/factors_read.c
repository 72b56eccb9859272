/* Reading factor files, which may come from anywhere: every link, type, shape and size is checked
 * before it is used, and nothing is allocated that the file's own size does not justify. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "model/factors_internal.h"
#include "mpi/error.h"
#include "mpi/h5.h"

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

/* In the order of a layer's tensors (layout.c). */
static const char *const names[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                    "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                    "mlp.down_proj"};
enum { N_NAMES = sizeof names / sizeof *names };

int factors_module_order(const char *name)
{
    for (int i = 0; i < N_NAMES; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

/* A link's name for a message: short, nothing that a terminal would obey. */
struct safe {
    char text[48];
};

static struct safe safe_name(const char *name)
{
    struct safe safe;
    size_t i;

    for (i = 0; name[i] && i < sizeof safe.text - 1; i++)
        safe.text[i] = isgraph((unsigned char)name[i]) ? name[i] : '?';
    safe.text[i] = '\0';
    return safe;
}

/* ---- links and types ---------------------------------------------------------------------------
 */

/* Only what lies in this very file: a soft or external link could lead anywhere. */
static bool is_hard_link(hid_t parent, const char *name)
{
    H5L_info_t info;

    return H5Lexists(parent, name, H5P_DEFAULT) > 0 &&
           H5Lget_info(parent, name, &info, H5P_DEFAULT) >= 0 && info.type == H5L_TYPE_HARD;
}

static hid_t open_group(hid_t parent, const char *name)
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

static int bad_attribute(const struct factors *f, const char *path, const char *name)
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
    return found < 0 ? bad_attribute(f, path, name) : 0;
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
        return bad_attribute(f, module->path, "shape");
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
            return bad_attribute(f, path, reals[i].name);
    return 0;
}

static int get_sigma(struct factors *f, hid_t group, struct factors_matrix *m)
{
    const char *path = m->module.path;
    size_t r = factors_rank(&m->module);
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
    const hsize_t shape[2] = {factors_rank(&m->module), factors_rank(&m->module)};
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

static int get_matrix(struct factors *f, hid_t group, struct factors_matrix *m)
{
    char tensor[sizeof m->module.tensor], *text;

    snprintf(tensor, sizeof tensor, "model.layers.%zu.%s.weight", m->module.layer, m->module.name);
    if (!h5_get_text(group, "tensor", &text))
        return bad_attribute(f, m->module.path, "tensor");
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

/* ---- all of them -------------------------------------------------------------------------------
 */

struct walk {
    struct factors *f;
    size_t layer;
    bool failed;
};

static int add_matrix(struct factors *f, const struct factors_matrix *m)
{
    if (f->n_matrices == f->capacity) {
        size_t capacity = f->capacity ? 2 * f->capacity : 64;
        struct factors_matrix *grown = realloc(f->matrices, capacity * sizeof *grown);
        if (!grown)
            return error_set("%s: out of memory", f->path);
        f->matrices = grown;
        f->capacity = capacity;
    }
    f->matrices[f->n_matrices++] = *m;
    return 0;
}

static int take_module(struct factors *f, size_t layer, hid_t parent, const char *name,
                       const H5L_info_t *link)
{
    struct factors_matrix m = {.module = {.layer = layer}};

    if (factors_module_order(name) < 0)
        return error_set("%s: /layers/%02zu/%s is no matrix that this t2 knows; use a newer t2",
                         f->path, layer, safe_name(name).text);
    snprintf(m.module.name, sizeof m.module.name, "%s", name);
    snprintf(m.module.path, sizeof m.module.path, "/layers/%02zu/%s", layer, name);
    hid_t group = link->type == H5L_TYPE_HARD ? H5Gopen2(parent, name, H5P_DEFAULT) : (hid_t)-1;
    if (group < 0)
        return error_set("%s: %s is not a group of this file", f->path, m.module.path);
    int status = get_matrix(f, group, &m);
    H5Gclose(group);
    if (status == 0 && add_matrix(f, &m)) {
        free((void *)m.sigma);
        status = -1;
    }
    return status;
}

static herr_t walk_module(hid_t parent, const char *name, const H5L_info_t *link, void *context)
{
    struct walk *walk = context;

    walk->failed = take_module(walk->f, walk->layer, parent, name, link) != 0;
    return walk->failed ? -1 : 0;
}

static int take_layer(struct walk *walk, hid_t parent, const char *name, const H5L_info_t *link)
{
    struct factors *f = walk->f;
    char canonical[24];
    char *end = NULL;
    unsigned long layer = isdigit((unsigned char)*name) ? strtoul(name, &end, 10) : 0;

    snprintf(canonical, sizeof canonical, "%02lu", layer);
    if (strcmp(canonical, name) != 0 || layer >= FACTORS_MAX_LAYERS)
        return error_set("%s: /layers/%s is no layer's number (00, 01, ...)", f->path,
                         safe_name(name).text);
    hid_t group = link->type == H5L_TYPE_HARD ? H5Gopen2(parent, name, H5P_DEFAULT) : (hid_t)-1;
    if (group < 0)
        return error_set("%s: /layers/%s is not a group of this file", f->path, name);
    walk->layer = layer;
    herr_t rc = H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, NULL, walk_module, walk);
    if (rc < 0 && !walk->failed)
        error_set("%s: /layers/%s cannot be listed; the file is damaged", f->path, name);
    H5Gclose(group);
    return rc < 0 ? -1 : 0;
}

static herr_t walk_layer(hid_t parent, const char *name, const H5L_info_t *link, void *context)
{
    struct walk *walk = context;

    if (take_layer(walk, parent, name, link) == 0)
        return 0;
    walk->failed = true;
    return -1;
}

static int compare(const void *left, const void *right)
{
    const struct module *a = &((const struct factors_matrix *)left)->module;
    const struct module *b = &((const struct factors_matrix *)right)->module;

    if (a->layer != b->layer)
        return a->layer < b->layer ? -1 : 1;
    return factors_module_order(a->name) - factors_module_order(b->name);
}

static int read_matrices(struct factors *f)
{
    struct walk walk = {.f = f};
    hid_t layers = open_group(f->file, "layers");

    if (layers < 0)
        return error_set("%s: the group /layers is missing", f->path);
    herr_t rc = H5Literate(layers, H5_INDEX_NAME, H5_ITER_INC, NULL, walk_layer, &walk);
    H5Gclose(layers);
    if (rc < 0)
        return walk.failed
                   ? -1
                   : error_set("%s: /layers cannot be listed; the file is damaged", f->path);
    if (f->n_matrices == 0)
        return error_set("%s: /layers is empty", f->path);
    qsort(f->matrices, f->n_matrices, sizeof *f->matrices, compare);
    return 0;
}

/* ---- the file ----------------------------------------------------------------------------------
 */

static bool is_identity(const char *text)
{
    return strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64;
}

static int read_about(struct factors *f)
{
    struct factors_about *a = &f->about;
    int64_t version = 0;
    char *kind = NULL, *type = NULL;
    bool is = h5_get_text(f->file, "kind", &kind) && strcmp(kind, factors_kind) == 0;

    free(kind);
    if (!is)
        return error_set("%s: an HDF5 file, but not a factor file of t2 decompose", f->path);
    if (!h5_get_int(f->file, "format_version", &version) || version < 1)
        return bad_attribute(f, "/", "format_version");
    if (version > FACTORS_FORMAT_VERSION)
        return error_set("%s: factor format %lld, but this t2 reads up to %d; use a newer t2",
                         f->path, (long long)version, FACTORS_FORMAT_VERSION);
    if (!h5_get_text(f->file, "model_sha256", &a->identity) || !is_identity(a->identity))
        return bad_attribute(f, "/", "model_sha256");
    if (!h5_get_text(f->file, "options", &a->options))
        return bad_attribute(f, "/", "options");
    if (!h5_get_text(f->file, "type", &type))
        return bad_attribute(f, "/", "type");
    a->type = strcmp(type, "bf16") == 0 ? FACTORS_BF16 : FACTORS_F32;
    is = strcmp(type, factors_type_name(a->type)) == 0;
    free(type);
    if (!is)
        return bad_attribute(f, "/", "type");
    /* For people: may be missing. */
    h5_get_text(f->file, "architecture", &a->architecture);
    h5_get_text(f->file, "model", &a->model);
    h5_get_text(f->file, "recipe", &a->recipe);
    h5_get_text(f->file, "command_line", &a->command_line);
    h5_get_text(f->file, "cpu", &a->cpu);
    h5_get_text(f->file, "t2_version", &a->version);
    h5_get_text(f->file, "created", &a->created);
    if (!h5_get_int(f->file, "ranks", &a->n_ranks))
        a->n_ranks = 0;
    return 0;
}

static int open_file(struct factors *f)
{
    struct stat info;

    if (stat(f->path, &info) != 0)
        return error_set("%s: %s", f->path, strerror(errno));
    if (!S_ISREG(info.st_mode)) /* a pipe would wait for ever */
        return error_set("%s: not an ordinary file", f->path);
    f->n_bytes = (size_t)info.st_size;
    f->file = h5_open(f->path);
    if (f->file < 0)
        return error_set("%s: not a readable HDF5 file (truncated?)", f->path);
    return 0;
}

struct factors *factors_open(const char *path)
{
    struct factors *f = calloc(1, sizeof *f);
    struct h5_quiet quiet;

    if (f) {
        f->file = f->dataset = f->memory_type = -1;
        f->path = strdup(path);
    }
    if (!f || !f->path) {
        error_set("%s: out of memory", path);
        factors_close(f);
        return NULL;
    }
    h5_quiet_begin(&quiet);
    int status = open_file(f) || read_about(f) || read_matrices(f);
    h5_quiet_end(&quiet);
    if (status) {
        factors_close(f);
        return NULL;
    }
    return f;
}

void factors_close(struct factors *f)
{
    struct h5_quiet quiet;

    if (!f)
        return;
    h5_quiet_begin(&quiet);
    if (f->dataset >= 0)
        H5Dclose(f->dataset);
    if (f->memory_type >= 0)
        H5Tclose(f->memory_type);
    h5_close(f->file);
    h5_quiet_end(&quiet);
    for (size_t i = 0; i < f->n_matrices; i++)
        free((void *)f->matrices[i].sigma);
    free(f->matrices);
    free(f->about.identity);
    free(f->about.architecture);
    free(f->about.model);
    free(f->about.options);
    free(f->about.recipe);
    free(f->about.command_line);
    free(f->about.cpu);
    free(f->about.version);
    free(f->about.created);
    free(f->path);
    free(f);
}

bool factors_is_file(const char *path)
{
    struct h5_quiet quiet;
    struct stat info;
    char *kind = NULL;
    bool is = false;

    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode))
        return false;
    h5_quiet_begin(&quiet);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file >= 0) {
        is = h5_get_text(file, "kind", &kind) && strcmp(kind, factors_kind) == 0;
        h5_close(file);
    }
    h5_quiet_end(&quiet);
    free(kind);
    return is;
}

/* ---- questions ---------------------------------------------------------------------------------
 */

const char *factors_identity(const struct factors *f)
{
    return f->about.identity;
}

const struct factors_about *factors_about(const struct factors *f)
{
    return &f->about;
}

int factors_check_model(const struct factors *f, const char identity[65], const char *model_path)
{
    if (strcmp(f->about.identity, identity) == 0)
        return 0;
    return error_set("%s holds the factors of another model than %s (SHA-256 %.12s..., not "
                     "%.12s...); decompose this model, or name the one that they were made of%s%s",
                     f->path, model_path, f->about.identity, identity,
                     f->about.model && *f->about.model ? ": " : "",
                     f->about.model && *f->about.model ? safe_name(f->about.model).text : "");
}

size_t factors_n_matrices(const struct factors *f)
{
    return f->n_matrices;
}

const struct factors_matrix *factors_get(const struct factors *f, size_t i)
{
    return &f->matrices[i];
}

const struct factors_matrix *factors_find(const struct factors *f, const char *path)
{
    for (size_t i = 0; i < f->n_matrices; i++)
        if (strcmp(f->matrices[i].module.path, path) == 0)
            return &f->matrices[i];
    return NULL;
}

/* ---- a factor's rows ---------------------------------------------------------------------------
 */

/* Leaves the matrix's factor open in f->dataset. */
static int open_factor(struct factors *f, const struct factors_matrix *m)
{
    char path[sizeof m->module.path + 8];

    if (f->opened == m)
        return 0;
    if (f->dataset >= 0)
        H5Dclose(f->dataset);
    f->opened = NULL;
    snprintf(path, sizeof path, "%s/factor", m->module.path);
    f->dataset = H5Dopen2(f->file, path, H5P_DEFAULT);
    if (f->memory_type < 0)
        f->memory_type = factors_type_memory(f->about.type);
    if (f->dataset < 0 || f->memory_type < 0)
        return error_set("%s: %s cannot be opened; the file is damaged", f->path, path);
    f->opened = m;
    return 0;
}

static int read_rows(struct factors *f, size_t r, size_t first, size_t n, void *out)
{
    const hsize_t start[2] = {first, 0}, count[2] = {n, r};
    int status = -1;
    hid_t space = H5Dget_space(f->dataset), memory = H5Screate_simple(2, count, NULL);

    if (space >= 0 && memory >= 0 &&
        H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
        H5Dread(f->dataset, f->memory_type, memory, space, H5P_DEFAULT, out) >= 0)
        status = 0;
    if (memory >= 0)
        H5Sclose(memory);
    if (space >= 0)
        H5Sclose(space);
    return status;
}

/* bf16 in the second half of the buffer -> f32 in all of it. In order, a value is read before its
 * place is written over. */
static void widen(float *values, size_t n)
{
    const char *half = (const char *)values + 2 * n;

    for (size_t i = 0; i < n; i++) {
        uint16_t bf16;
        memcpy(&bf16, half + 2 * i, sizeof bf16);
        uint32_t bits = (uint32_t)bf16 << 16;
        memcpy(&values[i], &bits, sizeof bits);
    }
}

int factors_read(struct factors *f, const struct factors_matrix *matrix, size_t first, size_t n,
                 float *rows)
{
    size_t r = factors_rank(&matrix->module);
    struct h5_quiet quiet;
    bool bf16 = f->about.type == FACTORS_BF16;

    if (first > r || n > r - first)
        return error_set("%s: %s/factor has %zu rows, not %zu", f->path, matrix->module.path, r,
                         first + n);
    if (n == 0)
        return 0;
    h5_quiet_begin(&quiet);
    int status = open_factor(f, matrix);
    if (status == 0 && read_rows(f, r, first, n, bf16 ? (void *)((char *)rows + 2 * n * r) : rows))
        status = error_set("%s: %s/factor cannot be read; the file is damaged", f->path,
                           matrix->module.path);
    h5_quiet_end(&quiet);
    if (status)
        return -1;
    if (bf16)
        widen(rows, n * r);
    for (size_t i = 0; i < n * r; i++)
        if (!isfinite(rows[i]))
            return error_set("%s: %s/factor has a value that is not finite in row %zu; decompose "
                             "the model again",
                             f->path, matrix->module.path, first + i / r);
    return 0;
}
