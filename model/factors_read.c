/* Reading factor files: the file as a whole and the rows of its factors. What one matrix must be is
 * checked in factors_read_matrix.c. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "model/factors_internal.h"
#include "mpi/error.h"
#include "mpi/h5.h"

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

    if (module_order(name) < 0)
        return error_set("%s: /layers/%02zu/%s is no matrix that this t2 knows; use a newer t2",
                         f->path, layer, safe_name(name).text);
    snprintf(m.module.name, sizeof m.module.name, "%s", name);
    snprintf(m.module.path, sizeof m.module.path, "/layers/%02zu/%s", layer, name);
    hid_t group = link->type == H5L_TYPE_HARD ? H5Gopen2(parent, name, H5P_DEFAULT) : (hid_t)-1;
    if (group < 0)
        return error_set("%s: %s is not a group of this file", f->path, m.module.path);
    int status = factors_read_matrix(f, group, &m);
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
    return module_order(a->name) - module_order(b->name);
}

static int read_matrices(struct factors *f)
{
    struct walk walk = {.f = f};
    hid_t layers = factors_open_group(f->file, "layers");

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
    char *type = NULL;

    if (!h5_has_kind(f->file, factors_kind))
        return error_set("%s: an HDF5 file, but not a factor file of t2 decompose", f->path);
    if (!h5_get_int(f->file, "format_version", &version) || version < 1)
        return factors_bad_attribute(f, "/", "format_version");
    if (version > FACTORS_FORMAT_VERSION)
        return error_set("%s: factor format %lld, but this t2 reads up to %d; use a newer t2",
                         f->path, (long long)version, FACTORS_FORMAT_VERSION);
    if (!h5_get_text(f->file, "model_sha256", &a->identity) || !is_identity(a->identity))
        return factors_bad_attribute(f, "/", "model_sha256");
    if (!h5_get_text(f->file, "options", &a->options))
        return factors_bad_attribute(f, "/", "options");
    if (!h5_get_text(f->file, "type", &type))
        return factors_bad_attribute(f, "/", "type");
    a->type = strcmp(type, "bf16") == 0 ? FACTORS_BF16 : FACTORS_F32;
    const bool is = strcmp(type, factors_type_name(a->type)) == 0;
    free(type);
    if (!is)
        return factors_bad_attribute(f, "/", "type");
    /* For people: may be missing. */
    h5_get_text(f->file, "architecture", &a->architecture);
    h5_get_text(f->file, "model", &a->model);
    h5_get_text(f->file, "recipe", &a->recipe);
    h5_get_text(f->file, "command_line", &a->command_line);
    h5_get_text(f->file, "cpu", &a->cpu);
    h5_get_text(f->file, "device", &a->device);
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
    free(f->about.device);
    free(f->about.version);
    free(f->about.created);
    free(f->path);
    free(f);
}

bool factors_is_file(const char *path)
{
    return h5_is_kind(path, factors_kind);
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
    size_t r = module_rank(&matrix->module);
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
