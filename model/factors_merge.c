/* From part files to one factor file, so that a kill at any moment leaves the parts or the whole.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
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
        *done = f && same_origin(factors_about(f), origin, type) && factors_n_matrices(f) == 1 &&
                find_module(f, module);
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

static int copy_matrix(hid_t file, struct factors *part, const char *path,
                       const struct factors_matrix *m, enum factors_type type)
{
    struct factors_rows rows = {.dataset = -1, .memory_type = -1};
    size_t r = module_rank(&m->module);
    float *buffer = NULL;
    int status = -1;
    hid_t group = factors_group_create(file, &m->module);

    if (group < 0 || factors_put_matrix(group, &m->module, m->source_type, &m->report, m->sigma) ||
        factors_rows_begin(&rows, group, type, r))
        goto done;
    buffer = malloc(rows.chunk_rows * r * sizeof *buffer);
    if (!buffer) {
        error_set("out of memory");
        goto done;
    }
    for (size_t first = 0; first < r; first += rows.chunk_rows) {
        size_t n = rows.chunk_rows < r - first ? rows.chunk_rows : r - first;
        if (factors_read(part, m, first, n, buffer) || check_unit_rows(path, buffer, first, n, r) ||
            factors_rows_put(&rows, first, n, buffer))
            goto done;
    }
    status = 0;
done:
    free(buffer);
    factors_rows_end(&rows);
    if (group >= 0)
        H5Gclose(group);
    return status;
}

/* Opens a part that must be there, of this origin. */
static int merge_part(hid_t file, const char *out, const struct factors_origin *origin,
                      enum factors_type type, const struct module *module)
{
    char *path = factors_part_path(out, module);
    struct factors *part = path ? factors_open(path) : NULL;
    const struct factors_matrix *m = part ? find_module(part, module) : NULL;
    int status = -1;

    if (part && (!m || !same_origin(factors_about(part), origin, type)))
        error_set("%s: of another model or other options; remove it and run again with --resume",
                  path);
    else if (part)
        status = copy_matrix(file, part, path, m, type);
    factors_close(part);
    free(path);
    return status;
}

/* The sum of the parts' sizes, and a little for the folder of groups. */
static int room_needed(const char *out, const struct module *modules, size_t n_modules,
                       size_t *n_bytes)
{
    struct stat info;

    *n_bytes = 1 << 20;
    for (size_t i = 0; i < n_modules; i++) {
        char *path = factors_part_path(out, &modules[i]);
        int rc = path ? stat(path, &info) : -1;
        if (rc)
            error_set("%s: %s; run again with --resume", path ? path : out, strerror(errno));
        free(path);
        if (rc)
            return -1;
        *n_bytes += (size_t)info.st_size;
    }
    return 0;
}

static int merge_into(const char *temporary, const char *out, const struct factors_origin *origin,
                      enum factors_type type, const struct module *modules, size_t n_modules,
                      size_t n_bytes)
{
    hid_t file = h5_disk_create(temporary, n_bytes);
    if (file < 0)
        return -1;
    int status = factors_put_origin(file, origin, type);
    for (size_t i = 0; i < n_modules && status == 0; i++)
        status = merge_part(file, out, origin, type, &modules[i]);
    if (status) {
        h5_disk_abort(file, temporary);
        return error_prefix("%s", out);
    }
    return h5_disk_close(file, temporary, true);
}

static int check_target(const char *out)
{
    struct stat info;

    if (stat(out, &info) == 0 && !S_ISREG(info.st_mode))
        return error_set("%s: cannot be written: it is not an ordinary file", out);
    return 0;
}

int factors_merge(const char *out, const struct factors_origin *origin, enum factors_type type,
                  const struct module *modules, size_t n_modules)
{
    char *folder = factors_parts_folder(out), *temporary = NULL, *target = NULL;
    size_t n_bytes;
    int status = -1;

    if (!folder || check_target(out))
        goto done;
    if (asprintf(&temporary, "%s/merged.tmp-%ld", folder, (long)getpid()) < 0) {
        temporary = NULL;
        error_set("%s: out of memory", out);
        goto done;
    }
    /* A link stays one: the file that it leads to is replaced. */
    target = realpath(out, NULL);
    if (sweep(folder, is_merge))
        goto done;
    if (room_needed(out, modules, n_modules, &n_bytes) == 0) {
        if (merge_into(temporary, out, origin, type, modules, n_modules, n_bytes) == 0)
            status = h5_disk_rename(temporary, target ? target : out, true);
    } else if (out_is_complete(out, origin, type, modules, n_modules)) {
        status = 0; /* an earlier merge was killed while it removed the parts */
    }
    if (status == 0 && factors_parts_remove(out))
        error_clear(); /* somebody else's files keep the folder; the factors are safe */
done:
    free(target);
    free(temporary);
    free(folder);
    return status;
}
