/* Part files: one decomposed matrix each, laid out as the merged file is. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "model/factors_internal.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_disk.h"

const char factors_kind[] = "t2 factors";

/* ---- types -------------------------------------------------------------------------------------
 */

const char *factors_type_name(enum factors_type type)
{
    return type == FACTORS_BF16 ? "bf16" : "f32";
}

size_t factors_type_bytes(enum factors_type type)
{
    return type == FACTORS_BF16 ? 2 : 4;
}

/* The upper half of a binary32. */
static hid_t make_type(enum factors_type type, hid_t f32)
{
    hid_t made = H5Tcopy(f32);

    if (made >= 0 && type == FACTORS_BF16 &&
        (H5Tset_fields(made, 15, 7, 8, 0, 7) < 0 || H5Tset_size(made, 2) < 0 ||
         H5Tset_ebias(made, 127) < 0)) {
        H5Tclose(made);
        return -1;
    }
    return made;
}

hid_t factors_type_stored(enum factors_type type)
{
    return make_type(type, H5T_IEEE_F32LE);
}

hid_t factors_type_memory(enum factors_type type)
{
    return make_type(type, H5T_NATIVE_FLOAT);
}

uint16_t factors_bf16(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- a factor's rows ---------------------------------------------------------------------------
 */

size_t factors_chunk_rows(enum factors_type type, size_t r)
{
    size_t row = r * factors_type_bytes(type);
    size_t fit = row >= FACTORS_CHUNK_BYTES ? 1 : FACTORS_CHUNK_BYTES / row;
    size_t n_chunks = (r + fit - 1) / fit;

    return (r + n_chunks - 1) / n_chunks;
}

hid_t factors_dataset_create(hid_t group, enum factors_type type, size_t r, bool early)
{
    hsize_t shape[2] = {r, r}, chunk[2] = {factors_chunk_rows(type, r), r};
    hid_t dataset = -1, stored = factors_type_stored(type);
    hid_t space = H5Screate_simple(2, shape, NULL), layout = H5Pcreate(H5P_DATASET_CREATE);

    if (stored >= 0 && space >= 0 && layout >= 0 && H5Pset_chunk(layout, 2, chunk) >= 0 &&
        H5Pset_fill_time(layout, H5D_FILL_TIME_NEVER) >= 0 &&
        H5Pset_alloc_time(layout, early ? H5D_ALLOC_TIME_EARLY : H5D_ALLOC_TIME_INCR) >= 0 &&
        H5Pset_obj_track_times(layout, false) >= 0)
        dataset = H5Dcreate2(group, "factor", stored, space, H5P_DEFAULT, layout, H5P_DEFAULT);
    if (layout >= 0)
        H5Pclose(layout);
    if (space >= 0)
        H5Sclose(space);
    if (stored >= 0)
        H5Tclose(stored);
    return dataset;
}

int factors_rows_begin(struct factors_rows *rows, hid_t group, enum factors_type type, size_t r)
{
    struct h5_quiet quiet;

    *rows = (struct factors_rows){.type = type,
                                  .r = r,
                                  .chunk_rows = factors_chunk_rows(type, r),
                                  .dataset = -1,
                                  .memory_type = -1};
    if (type == FACTORS_BF16) {
        rows->rounded = malloc(rows->chunk_rows * r * sizeof *rows->rounded);
        if (!rows->rounded)
            return error_set("out of memory");
    }
    h5_quiet_begin(&quiet);
    rows->memory_type = factors_type_memory(type);
    rows->dataset = factors_dataset_create(group, type, r, false);
    h5_quiet_end(&quiet);
    return rows->dataset < 0 || rows->memory_type < 0 ? error_set("HDF5 cannot make the factor")
                                                      : 0;
}

static int write_rows(struct factors_rows *rows, size_t n, const void *values)
{
    struct h5_quiet quiet;
    hsize_t start[2] = {rows->next, 0}, count[2] = {n, rows->r};
    int status = -1;

    h5_quiet_begin(&quiet);
    hid_t space = H5Dget_space(rows->dataset), memory = H5Screate_simple(2, count, NULL);
    if (space >= 0 && memory >= 0 &&
        H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
        H5Dwrite(rows->dataset, rows->memory_type, memory, space, H5P_DEFAULT, values) >= 0)
        status = 0;
    if (memory >= 0)
        H5Sclose(memory);
    if (space >= 0)
        H5Sclose(space);
    h5_quiet_end(&quiet);
    rows->next += n;
    return status ? error_set("HDF5 cannot write the factor (is the disk full?)") : 0;
}

int factors_rows_put(struct factors_rows *rows, size_t first, size_t n, const float *values)
{
    if (first != rows->next || n > rows->r - rows->next)
        return error_set("rows %zu to %zu of the factor do not follow row %zu of %zu", first,
                         first + n, rows->next, rows->r);
    for (size_t i = 0; i < n * rows->r; i++)
        if (!isfinite(values[i]))
            return error_set("the factor's row %zu has a value that is not finite",
                             first + i / rows->r);
    for (size_t done = 0, step; done < n; done += step) {
        const float *from = values + done * rows->r;
        /* Whole chunks where possible. */
        step = rows->chunk_rows - rows->next % rows->chunk_rows;
        if (step > n - done)
            step = n - done;
        for (size_t i = 0; rows->rounded && i < step * rows->r; i++)
            rows->rounded[i] = factors_bf16(from[i]);
        if (write_rows(rows, step, rows->rounded ? (const void *)rows->rounded : from))
            return -1;
    }
    return 0;
}

void factors_rows_end(struct factors_rows *rows)
{
    struct h5_quiet quiet;

    h5_quiet_begin(&quiet);
    if (rows->dataset >= 0)
        H5Dclose(rows->dataset);
    if (rows->memory_type >= 0)
        H5Tclose(rows->memory_type);
    h5_quiet_end(&quiet);
    free(rows->rounded);
    *rows = (struct factors_rows){.dataset = -1, .memory_type = -1};
}

/* ---- attributes --------------------------------------------------------------------------------
 */

static const char *text_or_empty(const char *text)
{
    return text ? text : "";
}

size_t factors_room(const struct factors_origin *origin, enum factors_type type, size_t r)
{
    size_t height = factors_chunk_rows(type, r), n_chunks = (r + height - 1) / height;

    return n_chunks * (height * r * factors_type_bytes(type) + 256) + r * 8 + (128 << 10) +
           strlen(text_or_empty(origin->model)) + strlen(text_or_empty(origin->options)) +
           strlen(text_or_empty(origin->recipe)) + strlen(text_or_empty(origin->command_line)) +
           strlen(text_or_empty(origin->cpu)) + strlen(text_or_empty(origin->device));
}

int factors_put_origin(hid_t file, const struct factors_origin *origin, enum factors_type type)
{
    char created[32] = "";
    time_t now = time(NULL);
    struct tm tm;

    if (gmtime_r(&now, &tm))
        strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return h5_put_text(file, "kind", factors_kind) ||
                   h5_put_int(file, "format_version", FACTORS_FORMAT_VERSION) ||
                   h5_put_text(file, "t2_version", T2_VERSION) ||
                   h5_put_text(file, "model_sha256", origin->identity) ||
                   h5_put_text(file, "architecture", origin->architecture) ||
                   h5_put_text(file, "model", text_or_empty(origin->model)) ||
                   h5_put_text(file, "options", text_or_empty(origin->options)) ||
                   h5_put_text(file, "type", factors_type_name(type)) ||
                   (origin->recipe && h5_put_text(file, "recipe", origin->recipe)) ||
                   h5_put_text(file, "command_line", text_or_empty(origin->command_line)) ||
                   h5_put_text(file, "cpu", text_or_empty(origin->cpu)) ||
                   (origin->device && h5_put_text(file, "device", origin->device)) ||
                   h5_put_int(file, "ranks", origin->n_ranks) ||
                   h5_put_text(file, "created", created)
               ? -1
               : 0;
}

hid_t factors_group_create(hid_t file, const struct module *module)
{
    char number[24];
    hid_t layers = h5_group_create(file, "layers"), layer = -1, group = -1;

    snprintf(number, sizeof number, "%02zu", module->layer);
    if (layers >= 0)
        layer = h5_group_create(layers, number);
    if (layer >= 0)
        group = h5_group_create(layer, module->name);
    if (layer >= 0)
        H5Gclose(layer);
    if (layers >= 0)
        H5Gclose(layers);
    return group;
}

static int put_shape(hid_t group, const struct module *module)
{
    struct h5_quiet quiet;
    const int64_t shape[2] = {(int64_t)module->n_rows, (int64_t)module->n_columns};
    const hsize_t two = 2;
    int status = -1;

    h5_quiet_begin(&quiet);
    hid_t space = H5Screate_simple(1, &two, NULL);
    hid_t attribute =
        space < 0 ? (hid_t)-1
                  : H5Acreate2(group, "shape", H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute >= 0 && H5Awrite(attribute, H5T_NATIVE_INT64, shape) >= 0)
        status = 0;
    if (attribute >= 0)
        H5Aclose(attribute);
    if (space >= 0)
        H5Sclose(space);
    h5_quiet_end(&quiet);
    return status ? error_set("HDF5 cannot write the attribute shape") : 0;
}

static int put_sigma(hid_t group, size_t r, const double *sigma)
{
    struct h5_quiet quiet;
    const hsize_t n = r;
    hid_t dataset = -1;
    int status = -1;

    for (size_t i = 0; i < r; i++)
        if (!isfinite(sigma[i]) || sigma[i] < 0 || (i > 0 && sigma[i] > sigma[i - 1]))
            return error_set("singular value %zu of %zu is %g: not finite, negative or larger than "
                             "the one before it",
                             i, r, sigma[i]);
    h5_quiet_begin(&quiet);
    hid_t space = H5Screate_simple(1, &n, NULL), layout = H5Pcreate(H5P_DATASET_CREATE);
    if (space >= 0 && layout >= 0 && H5Pset_obj_track_times(layout, false) >= 0)
        dataset =
            H5Dcreate2(group, "sigma", H5T_IEEE_F64LE, space, H5P_DEFAULT, layout, H5P_DEFAULT);
    if (dataset >= 0 &&
        H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, sigma) >= 0)
        status = 0;
    if (dataset >= 0)
        H5Dclose(dataset);
    if (layout >= 0)
        H5Pclose(layout);
    if (space >= 0)
        H5Sclose(space);
    h5_quiet_end(&quiet);
    return status ? error_set("HDF5 cannot write sigma (is the disk full?)") : 0;
}

double factors_sigma_sum(const double *sigma, size_t r)
{
    double sum = 0;

    for (size_t i = 0; i < r; i++)
        sum += sigma[i];
    return sum;
}

int factors_put_matrix(hid_t group, const struct module *module, enum tensor_type source_type,
                       const struct svd_report *report, const double *sigma)
{
    const char *tried = report->tried_f32 && report->tried_f64 ? "f32 f64"
                        : report->tried_f32                    ? "f32"
                        : report->tried_f64                    ? "f64"
                                                               : "";

    return put_sigma(group, module_rank(module), sigma) || put_shape(group, module) ||
                   h5_put_text(group, "side", report->wide ? "U" : "V") ||
                   h5_put_text(group, "tensor", module->tensor) ||
                   h5_put_text(group, "source_type", tensor_type_name(source_type)) ||
                   h5_put_text(group, "method", svd_method_name(report->method)) ||
                   h5_put_text(group, "precision", svd_precision_name(report->precision)) ||
                   h5_put_text(group, "tried", tried) ||
                   h5_put_text(group, "repair", svd_repair_name(report->repair)) ||
                   h5_put_text(group, "checked", report->checked_in_full ? "full" : "probes") ||
                   h5_put_real(group, "orthogonality", report->orthogonality) ||
                   h5_put_real(group, "residual", report->residual) ||
                   h5_put_real(group, "bound", report->bound) ||
                   h5_put_real(group, "seconds", report->seconds) ||
                   h5_put_real(group, "flops", report->flops)
               ? -1
               : 0;
}

/* ---- parts -------------------------------------------------------------------------------------
 */

char *factors_parts_folder(const char *out)
{
    char *path;

    if (asprintf(&path, "%s.parts", out) < 0) {
        error_set("%s: out of memory", out);
        return NULL;
    }
    return path;
}

char *factors_part_path(const char *out, const struct module *module)
{
    char *path;

    if (asprintf(&path, "%s.parts/%02zu.%s.h5", out, module->layer, module->name) < 0) {
        error_set("%s: out of memory", out);
        return NULL;
    }
    return path;
}

struct factors_part {
    char *path, *temporary;
    struct module module;
    hid_t file, group;
    struct factors_rows rows;
};

static void close_objects(struct factors_part *part)
{
    factors_rows_end(&part->rows);
    if (part->group >= 0)
        H5Gclose(part->group);
    part->group = -1;
}

static void part_free(struct factors_part *part)
{
    free(part->path);
    free(part->temporary);
    free(part);
}

void factors_part_abort(struct factors_part *part)
{
    if (!part)
        return;
    close_objects(part);
    h5_disk_abort(part->file, part->temporary);
    part_free(part);
}

static int make_folder(const char *out)
{
    char *folder = factors_parts_folder(out);
    int status = !folder ? -1
                 : mkdir(folder, 0777) == 0 || errno == EEXIST
                     ? 0
                     : error_set("%s: the folder cannot be made: %s", folder, strerror(errno));

    free(folder);
    return status;
}

static int open_part(struct factors_part *part, const struct factors_origin *origin,
                     enum factors_type type)
{
    size_t r = module_rank(&part->module), bytes;

    if (r == 0 || __builtin_mul_overflow(r, r, &bytes) || bytes > SIZE_MAX / 16)
        return error_set("%s: %s cannot be a matrix of %zu x %zu", part->path, part->module.name,
                         part->module.n_rows, part->module.n_columns);
    part->file = h5_disk_create(part->temporary, factors_room(origin, type, r));
    if (part->file < 0)
        return -1;
    part->group = factors_group_create(part->file, &part->module);
    if (part->group < 0 || factors_put_origin(part->file, origin, type) ||
        factors_rows_begin(&part->rows, part->group, type, r))
        return error_prefix("%s", part->path);
    return 0;
}

struct factors_part *factors_part_begin(const char *out, const struct factors_origin *origin,
                                        enum factors_type type, const struct module *module)
{
    struct factors_part *part = calloc(1, sizeof *part);

    if (!part) {
        error_set("%s: out of memory", out);
        return NULL;
    }
    part->module = *module;
    part->file = part->group = part->rows.dataset = part->rows.memory_type = -1;
    part->path = factors_part_path(out, module);
    if (!part->path || asprintf(&part->temporary, "%s.tmp-%ld", part->path, (long)getpid()) < 0) {
        part->temporary = NULL;
        error_set("%s: out of memory", out);
    } else if (make_folder(out) == 0 && open_part(part, origin, type) == 0) {
        return part;
    }
    factors_part_abort(part);
    return NULL;
}

int factors_part_rows(struct factors_part *part, size_t first, size_t n, const float *rows)
{
    return factors_rows_put(&part->rows, first, n, rows) ? error_prefix("%s", part->path) : 0;
}

int factors_part_end(struct factors_part *part, enum tensor_type source_type,
                     const struct svd_report *report, const double *sigma)
{
    if (part->rows.next != part->rows.r) {
        error_set("%s: only %zu of the factor's %zu rows were given", part->path, part->rows.next,
                  part->rows.r);
        factors_part_abort(part);
        return -1;
    }
    const size_t r = module_rank(&part->module);
    if (factors_put_matrix(part->group, &part->module, source_type, report, sigma) ||
        h5_put_real(part->group, FACTORS_SIGMA_SUM, factors_sigma_sum(sigma, r))) {
        error_prefix("%s", part->path);
        factors_part_abort(part);
        return -1;
    }
    close_objects(part);
    /* Not synced: a kill loses nothing that was written, and what a power failure spoils is
     * noticed when the part is read. */
    int status = h5_disk_close(part->file, part->temporary, false);
    if (status == 0)
        status = h5_disk_rename(part->temporary, part->path, false);
    part_free(part);
    return status;
}

int factors_write_part(const char *out, const struct factors_origin *origin, enum factors_type type,
                       const struct factors_matrix *matrix)
{
    struct factors_part *part = factors_part_begin(out, origin, type, &matrix->module);

    if (!part)
        return -1;
    if (factors_part_rows(part, 0, module_rank(&matrix->module), matrix->factor)) {
        factors_part_abort(part);
        return -1;
    }
    return factors_part_end(part, matrix->source_type, &matrix->report, matrix->sigma);
}
