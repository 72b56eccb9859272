/* From part files to one factor file, so that a kill at any moment leaves the parts or the whole.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/factors_internal.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_disk.h"

/* A unit row of a bf16 factor is off by 2^-9 at most. */
static const double norm_tolerance = 1e-2;

static bool same_origin(const struct factors_about *about, const struct factors_origin *origin,
                        enum factors_type type)
{
    return strcmp(about->identity, origin->identity) == 0 &&
           strcmp(about->options, origin->options ? origin->options : "") == 0 &&
           about->type == type;
}

static const struct factors_matrix *find_module(const struct factors *f,
                                                const struct module *module)
{
    const struct factors_matrix *m = factors_find(f, module->path);

    return m && m->module.n_rows == module->n_rows && m->module.n_columns == module->n_columns
               ? m
               : NULL;
}

/* Is `out` the finished file of this very run? So it is when the run was killed while it removed
 * the parts. */
static bool out_is_complete(const char *out, const struct factors_origin *origin,
                            enum factors_type type, const struct module *modules, size_t n_modules)
{
    char *message = strdup(error_message()); /* the caller's, should this say no */
    struct factors *f = access(out, R_OK) == 0 ? factors_open(out) : NULL;
    bool is =
        f && same_origin(factors_about(f), origin, type) && factors_n_matrices(f) == n_modules;

    for (size_t i = 0; i < n_modules && is; i++)
        is = find_module(f, &modules[i]) != NULL;
    factors_close(f);
    error_clear();
    if (!is && message && *message)
        error_set("%s", message);
    free(message);
    return is;
}

/* Parts are not synced: has a power failure emptied the block of the singular values? (The factor's
 * rows have length 1, check_unit_rows.) Parts of earlier versions do not say the sum. */
static bool sigma_is_whole(const struct factors *part, const struct factors_matrix *m)
{
    struct h5_quiet quiet;
    double sum;

    h5_quiet_begin(&quiet);
    const hid_t group = factors_open_group(part->file, m->module.path);
    const bool says = group >= 0 && h5_get_real(group, FACTORS_SIGMA_SUM, &sum);
    if (group >= 0)
        H5Gclose(group);
    h5_quiet_end(&quiet);
    return !says || sum == factors_sigma_sum(m->sigma, module_rank(&m->module));
}

/* ---- which parts are there ---------------------------------------------------------------------
 */

static int part_is_done(const char *out, const struct factors_origin *origin,
                        enum factors_type type, const struct module *module, bool *done)
{
    char *path = factors_part_path(out, module);
    int status = -1;

    if (!path)
        return -1;
    struct factors *f = access(path, F_OK) == 0 ? factors_open(path) : NULL;
    if (f && strcmp(factors_identity(f), origin->identity) != 0) {
        factors_check_model(f, origin->identity, origin->model ? origin->model : "the model");
        error_prefix("cannot resume; remove %s.parts or choose another file", out);
    } else {
        const struct factors_matrix *m = f ? find_module(f, module) : NULL;
        *done = m && same_origin(factors_about(f), origin, type) && factors_n_matrices(f) == 1 &&
                sigma_is_whole(f, m);
        status = 0;
        error_clear(); /* what cannot be read is done again */
    }
    factors_close(f);
    free(path);
    return status;
}

int factors_parts_done(const char *out, const struct factors_origin *origin, enum factors_type type,
                       const struct module *modules, size_t n_modules, bool *done)
{
    size_t n_done = 0;

    for (size_t i = 0; i < n_modules; i++) {
        done[i] = false;
        if (part_is_done(out, origin, type, &modules[i], &done[i]))
            return -1;
        n_done += done[i];
    }
    if (n_done < n_modules && out_is_complete(out, origin, type, modules, n_modules))
        for (size_t i = 0; i < n_modules; i++)
            done[i] = true;
    return 0;
}

/* ---- cleaning up -------------------------------------------------------------------------------
 */

static const char *skip_digits(const char *s)
{
    while (isdigit((unsigned char)*s))
        s++;
    return s;
}

/* "" or ".tmp-123" */
static bool is_ending(const char *s)
{
    if (strncmp(s, ".tmp-", 5) != 0)
        return *s == '\0';
    return isdigit((unsigned char)s[5]) && *skip_digits(s + 5) == '\0';
}

/* "merged.tmp-123": a merge that was killed. */
static bool is_merge(const char *name)
{
    return strncmp(name, "merged.tmp-", 11) == 0 && is_ending(name + 6);
}

/* Also "07.mlp.down_proj.h5", perhaps with ".tmp-123". */
static bool is_ours(const char *name)
{
    const char *at = skip_digits(name);
    char module[32];

    if (is_merge(name))
        return true;
    const char *end = strstr(at, ".h5");
    if (at < name + 2 || *at != '.' || !end || end <= at || (size_t)(end - at) > sizeof module)
        return false;
    snprintf(module, sizeof module, "%.*s", (int)(end - at - 1), at + 1);
    return module_order(module) >= 0 && is_ending(end + 3);
}

/* Removes the folder's files that `is` names. */
static int sweep(const char *folder, bool (*is)(const char *name))
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    int status = 0;

    if (!dir)
        return errno == ENOENT ? 0 : error_set("%s: %s", folder, strerror(errno));
    while (status == 0 && (entry = readdir(dir)))
        if (is(entry->d_name) && unlinkat(dirfd(dir), entry->d_name, 0) && errno != ENOENT)
            status =
                error_set("%s/%s: cannot be removed: %s", folder, entry->d_name, strerror(errno));
    closedir(dir);
    return status;
}

int factors_parts_remove(const char *out)
{
    char *folder = factors_parts_folder(out);
    int status = folder ? sweep(folder, is_ours) : -1;

    if (status == 0 && rmdir(folder) && errno != ENOENT)
        status =
            error_set("%s: cannot be removed: %s", folder,
                      errno == ENOTEMPTY || errno == EEXIST ? "it holds files that are not t2's"
                                                            : strerror(errno));
    free(folder);
    return status;
}

/* ---- the file before its matrices -------------------------------------------------------------
 */

static size_t chunks_of(size_t height, size_t r)
{
    return (r + height - 1) / height;
}

static int count_chunks(struct factors_merge *merge, const struct factors_origin *origin,
                        const struct module *modules)
{
    merge->n_bytes = 1 << 20;
    for (size_t i = 0; i < merge->n_modules; i++) {
        const size_t r = module_rank(&modules[i]);
        merge->first[i] = merge->n_chunks;
        merge->n_chunks += chunks_of(factors_chunk_rows(merge->type, r), r);
        merge->n_bytes += factors_room(origin, merge->type, r);
    }
    merge->offsets = calloc(merge->n_chunks + 1, sizeof *merge->offsets);
    return merge->offsets ? 0 : error_set("out of memory");
}

/* Also on ranks that only fill. */
int factors_merge_allocate(struct factors_merge *merge, const char *out, long process,
                           const struct factors_origin *origin, enum factors_type type,
                           const struct module *modules, size_t n_modules)
{
    merge->type = type;
    merge->n_modules = n_modules;
    merge->first = calloc(n_modules + 1, sizeof *merge->first);
    merge->filled = calloc(n_modules + 1, 1);
    if (asprintf(&merge->path, "%s.parts/merged.tmp-%ld", out, process) < 0)
        merge->path = NULL;
    if (!merge->first || !merge->filled || !merge->path)
        return error_set("%s: out of memory", out);
    return count_chunks(merge, origin, modules);
}

/* A factor's place, and where its chunks are. */
static int lay_out(struct factors_merge *merge, hid_t file, size_t i, const struct module *module)
{
    const size_t r = module_rank(module), height = factors_chunk_rows(merge->type, r);
    struct h5_quiet quiet;
    hid_t group = factors_group_create(file, module);
    int status = 0;

    if (group < 0)
        return -1;
    h5_quiet_begin(&quiet);
    hid_t dataset = factors_dataset_create(group, merge->type, r, true);
    if (dataset < 0)
        status = -1;
    for (size_t k = 0; status == 0 && k < chunks_of(height, r); k++) {
        const hsize_t at[2] = {k * height, 0};
        haddr_t address = HADDR_UNDEF;
        hsize_t size = 0;
        unsigned mask = 0;
        if (H5Dget_chunk_info_by_coord(dataset, at, &mask, &address, &size) < 0 ||
            address == HADDR_UNDEF)
            status = -1;
        merge->offsets[merge->first[i] + k] = address;
    }
    if (dataset >= 0)
        H5Dclose(dataset);
    H5Gclose(group);
    h5_quiet_end(&quiet);
    return status ? error_set("HDF5 cannot make the factor of %s", module->path) : 0;
}

static int check_target(const char *out)
{
    struct stat info;

    if (stat(out, &info) == 0 && !S_ISREG(info.st_mode))
        return error_set("%s: cannot be written: it is not an ordinary file", out);
    return 0;
}

int factors_merge_begin(struct factors_merge *merge, const char *out,
                        const struct factors_origin *origin, enum factors_type type,
                        const struct module *modules, size_t n_modules)
{
    char *folder = factors_parts_folder(out);
    int status = folder ? check_target(out) : -1;

    if (status == 0)
        status = sweep(folder, is_merge);
    free(folder);
    if (status == 0)
        status =
            factors_merge_allocate(merge, out, (long)getpid(), origin, type, modules, n_modules);
    if (status != 0)
        return -1;
    hid_t file = h5_disk_create(merge->path, merge->n_bytes);
    if (file < 0)
        return -1;
    for (size_t i = 0; i < n_modules && status == 0; i++)
        status = lay_out(merge, file, i, &modules[i]);
    if (status) {
        h5_disk_abort(file, merge->path);
        return error_prefix("%s", out);
    }
    return h5_disk_close(file, merge->path, false);
}

void factors_merge_abort(struct factors_merge *merge)
{
    if (merge->path)
        unlink(merge->path);
    free(merge->path);
    merge->path = NULL;
}

void factors_merge_free(struct factors_merge *merge)
{
    free(merge->path);
    free(merge->offsets);
    free(merge->first);
    free(merge->filled);
    *merge = (struct factors_merge){0};
}

/* ---- factors to their places -------------------------------------------------------------------
 */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "factors are written as they are here");

static int write_at(int fd, const void *bytes, size_t n, uint64_t at)
{
    const char *from = bytes;

    while (n > 0) {
        const ssize_t written = pwrite(fd, from, n, (off_t)at);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return -1;
        from += written;
        at += (size_t)written;
        n -= (size_t)written;
    }
    return 0;
}

/* Rows of one chunk, from its first. */
static int write_chunk(const struct factors_merge *merge, int fd, size_t chunk, size_t n_elements,
                       const float *rows, uint16_t *rounded)
{
    const size_t n_bytes = n_elements * factors_type_bytes(merge->type);
    const uint64_t at = merge->offsets[chunk];

    for (size_t i = 0; rounded && i < n_elements; i++)
        rounded[i] = factors_bf16(rows[i]);
    const int status = write_at(fd, rounded ? (const void *)rounded : rows, n_bytes, at);
#ifdef SYNC_FILE_RANGE_WRITE
    /* The disk begins now, not when the end waits for it. */
    if (status == 0)
        (void)sync_file_range(fd, (off_t)at, (off_t)n_bytes, SYNC_FILE_RANGE_WRITE);
#endif
    return status;
}

/* For bf16. */
static int take_rounded(const struct factors_merge *merge, size_t n, uint16_t **rounded)
{
    *rounded = merge->type == FACTORS_BF16 ? malloc(n * sizeof **rounded) : NULL;
    return merge->type == FACTORS_BF16 && !*rounded ? error_set("out of memory") : 0;
}

void factors_merge_fill(struct factors_merge *merge, size_t i, size_t r, const float *factor)
{
    const size_t height = factors_chunk_rows(merge->type, r);
    const int fd = open(merge->path, O_WRONLY | O_CLOEXEC);
    uint16_t *rounded;
    int status = fd < 0 ? -1 : take_rounded(merge, height * r, &rounded);

    if (status == 0) {
        for (size_t k = 0, row = 0; status == 0 && row < r; k++, row += height)
            status =
                write_chunk(merge, fd, merge->first[i] + k,
                            (r - row < height ? r - row : height) * r, factor + row * r, rounded);
        free(rounded);
    }
    if (fd >= 0 && close(fd) != 0)
        status = -1;
    merge->filled[i] = status == 0;
}

/* ---- the merge ---------------------------------------------------------------------------------
 */

/* The rows of a singular factor have length 1: what a power failure made of a part has not. */
static int check_unit_rows(const char *path, const float *rows, size_t first, size_t n, size_t r)
{
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t j = 0; j < r; j++)
            sum += (double)rows[i * r + j] * (double)rows[i * r + j];
        if (!(fabs(sum - 1) < norm_tolerance))
            return error_set("%s: row %zu of the factor has the length %g in place of 1; the file "
                             "is damaged: remove it and run again with --resume",
                             path, first + i, sqrt(sum));
    }
    return 0;
}

/* What no rank has filled: chunk by chunk from the part. */
static int copy_factor(const struct factors_merge *merge, size_t i, struct factors *part,
                       const char *path, const struct factors_matrix *m)
{
    const size_t r = module_rank(&m->module), height = factors_chunk_rows(merge->type, r);
    float *rows = malloc(height * r * sizeof *rows);
    uint16_t *rounded = NULL;
    int status = rows ? take_rounded(merge, height * r, &rounded) : error_set("out of memory");
    const int fd = status == 0 ? open(merge->path, O_WRONLY | O_CLOEXEC) : -1;

    for (size_t k = 0, row = 0; status == 0 && row < r; k++, row += height) {
        const size_t n = r - row < height ? r - row : height;
        if (factors_read(part, m, row, n, rows) || check_unit_rows(path, rows, row, n, r))
            status = -1;
        else if (fd < 0 || write_chunk(merge, fd, merge->first[i] + k, n * r, rows, rounded))
            status = error_set("%s: cannot be written: %s", merge->path, strerror(errno));
    }
    if (fd >= 0 && close(fd) != 0 && status == 0)
        status = error_set("%s: cannot be written: %s", merge->path, strerror(errno));
    free(rows);
    free(rounded);
    return status;
}

/* Opens a part that must be there, of this origin. */
static int merge_part(const struct factors_merge *merge, size_t i, hid_t file, const char *out,
                      const struct factors_origin *origin, const struct module *module)
{
    char *path = factors_part_path(out, module);
    struct factors *part = path ? factors_open(path) : NULL;
    const struct factors_matrix *m = part ? find_module(part, module) : NULL;
    int status = -1;

    if (part && (!m || !same_origin(factors_about(part), origin, merge->type))) {
        error_set("%s: of another model or other options; remove it and run again with --resume",
                  path);
    } else if (part && !sigma_is_whole(part, m)) {
        error_set("%s: the singular values are damaged; remove it and run again with --resume",
                  path);
    } else if (part) {
        hid_t group = factors_group_create(file, module);
        status = group < 0
                     ? -1
                     : factors_put_matrix(group, module, m->source_type, &m->report, m->sigma);
        if (group >= 0)
            H5Gclose(group);
        if (status == 0 && !merge->filled[i])
            status = copy_factor(merge, i, part, path, m);
    }
    factors_close(part);
    free(path);
    return status;
}

static int parts_exist(const char *out, const struct module *modules, size_t n_modules)
{
    for (size_t i = 0; i < n_modules; i++) {
        char *path = factors_part_path(out, &modules[i]);
        int rc = path ? access(path, F_OK) : -1;
        if (rc)
            error_set("%s: %s; run again with --resume", path ? path : out, strerror(errno));
        free(path);
        if (rc)
            return -1;
    }
    return 0;
}

int factors_merge_end(struct factors_merge *merge, const char *out,
                      const struct factors_origin *origin, const struct module *modules)
{
    hid_t file = h5_disk_reopen(merge->path, merge->n_bytes);
    int status = file < 0 ? -1 : factors_put_origin(file, origin, merge->type);

    for (size_t i = 0; i < merge->n_modules && status == 0; i++)
        status = merge_part(merge, i, file, out, origin, &modules[i]);
    if (file >= 0 && status) {
        h5_disk_abort(file, merge->path);
        status = error_prefix("%s", out);
    } else if (file >= 0) {
        status = h5_disk_close(file, merge->path, true);
    }
    if (status == 0)
        status = h5_disk_rename(merge->path, out, true);
    if (status != 0)
        return -1;
    free(merge->path);
    merge->path = NULL;
    if (factors_parts_remove(out))
        error_clear(); /* somebody else's files keep the folder; the factors are safe */
    return 0;
}

int factors_merge(const char *out, const struct factors_origin *origin, enum factors_type type,
                  const struct module *modules, size_t n_modules)
{
    struct factors_merge merge = {0};
    int status = -1;

    if (check_target(out))
        return -1;
    if (parts_exist(out, modules, n_modules) == 0) {
        status = factors_merge_begin(&merge, out, origin, type, modules, n_modules);
        if (status == 0)
            status = factors_merge_end(&merge, out, origin, modules);
        factors_merge_abort(&merge);
    } else if (out_is_complete(out, origin, type, modules, n_modules)) {
        /* an earlier merge was killed while it removed the parts */
        status = 0;
        if (factors_parts_remove(out))
            error_clear();
    }
    factors_merge_free(&merge);
    return status;
}
