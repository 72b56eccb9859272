#include "model/export.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/export_internal.h"
#include "mpi/error.h"

enum { EXPORT_ROWS = 256 }; /* converted at a time */

const char *export_type_name(enum export_type type)
{
    return type == EXPORT_F32 ? "float32" : type == EXPORT_BF16 ? "bfloat16" : "float16";
}

const char *export_type_code(enum export_type type)
{
    return type == EXPORT_F32 ? "F32" : type == EXPORT_BF16 ? "BF16" : "F16";
}

/* To nearest even; what is too large for a half becomes infinite, which the caller refuses. */
static uint16_t f16_from_f32(float value)
{
    union {
        float f;
        uint32_t u;
    } v = {value};
    const uint32_t sign = v.u >> 16 & 0x8000u;
    uint32_t mantissa = v.u & 0x7fffffu;
    int exponent = (int)(v.u >> 23 & 0xff) - 127 + 15;

    if (exponent >= 31)
        return (uint16_t)(sign | 0x7c00u);
    if (exponent <= 0) {
        if (exponent < -10)
            return (uint16_t)sign;
        mantissa |= 0x800000u;
        const int shift = 14 - exponent;
        const uint32_t half = 1u << (shift - 1), rest = mantissa & ((1u << shift) - 1);
        uint32_t out = mantissa >> shift;
        out += rest > half || (rest == half && (out & 1));
        return (uint16_t)(sign | out);
    }
    uint32_t out = (uint32_t)exponent << 10 | mantissa >> 13;
    const uint32_t rest = mantissa & 0x1fffu;
    out += rest > 0x1000u || (rest == 0x1000u && (out & 1));
    return (uint16_t)(sign | out);
}

static size_t type_bytes(enum export_type type)
{
    return type == EXPORT_F32 ? 4 : 2;
}

static size_t tensor_elements(const struct tensor *t)
{
    return tensor_n_rows(t) * tensor_row_elements(t);
}

/* ---- one tensor --------------------------------------------------------------------------------
 */

static int put(FILE *file, const char *path, const void *bytes, size_t n)
{
    if (fwrite(bytes, 1, n, file) != n)
        return error_set("%s: cannot be written: %s", path, strerror(errno));
    return 0;
}

static int put_rows(FILE *file, const char *path, const struct tensor *t, enum export_type type,
                    const float *rows, size_t n, uint16_t *halves)
{
    if (type == EXPORT_F32)
        return put(file, path, rows, n * sizeof *rows);
    for (size_t i = 0; i < n; i++) {
        halves[i] = type == EXPORT_BF16 ? bf16_from_f32(rows[i]) : f16_from_f32(rows[i]);
        if (type == EXPORT_F16 && (halves[i] & 0x7c00u) == 0x7c00u)
            return error_set("tensor %s has %g, which f16 cannot hold: export in bf16 or f32",
                             t->name, (double)rows[i]);
    }
    return put(file, path, halves, n * sizeof *halves);
}

static int put_tensor(FILE *file, const char *path, const struct checkpoint *ck,
                      const struct tensor *t, const struct export_options *o, struct team *team,
                      struct export_summary *summary)
{
    const size_t n_rows = tensor_n_rows(t), width = tensor_row_elements(t);
    const bool changed = o->merge && merge_wants(o->merge, t);
    const size_t held = changed || n_rows < EXPORT_ROWS ? n_rows : EXPORT_ROWS;
    float *rows = malloc(held * width * sizeof *rows);
    uint16_t *halves = malloc(held * width * sizeof *halves);
    int status = rows && halves ? 0 : error_set("no memory to write tensor %s", t->name);

    if (status == 0 && changed) {
        tensor_read_rows(t, 0, n_rows, rows);
        status = merge_apply(o->merge, t, rows, o->type == EXPORT_BF16 ? ELEMENT_BF16 : ELEMENT_F32,
                             team);
        summary->n_changed++;
    }
    for (size_t r = 0; status == 0 && r < n_rows; r += held) {
        const size_t n = n_rows - r < held ? n_rows - r : held;
        if (!changed)
            tensor_read_rows(t, r, n, rows);
        status = put_rows(file, path, t, o->type, rows, n * width, halves);
    }
    checkpoint_release(ck, t);
    free(rows);
    free(halves);
    return status;
}

/* ---- files -------------------------------------------------------------------------------------
 */

static json_t *header_of(const struct checkpoint *ck, size_t first, size_t end,
                         enum export_type type)
{
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    size_t at = 0;

    for (size_t i = first; header && i < end; i++) {
        const struct tensor *t = checkpoint_tensor(ck, i);
        const size_t n = tensor_elements(t) * type_bytes(type);
        json_t *shape = json_array();
        for (size_t d = 0; shape && d < t->n_dims; d++)
            json_array_append_new(shape, json_integer((json_int_t)t->shape[d]));
        json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", export_type_code(type), "shape",
                                  shape, "data_offsets", (json_int_t)at, (json_int_t)(at + n));
        if (!entry || json_object_set_new(header, t->name, entry) != 0) {
            json_decref(header);
            return NULL;
        }
        at += n;
    }
    return header;
}

static int close_synced(FILE *file, const char *path, int status)
{
    if (status == 0 && (fflush(file) != 0 || fsync(fileno(file)) != 0))
        status = error_set("%s: cannot be written: %s", path, strerror(errno));
    if (fclose(file) != 0 && status == 0)
        status = error_set("%s: cannot be written: %s", path, strerror(errno));
    return status;
}

static int write_file(const struct checkpoint *ck, size_t first, size_t end,
                      const struct export_options *o, struct team *team, const char *path,
                      struct export_summary *summary)
{
    json_t *header = header_of(ck, first, end, o->type);
    char *text = header ? json_dumps(header, JSON_COMPACT) : NULL;
    FILE *file = NULL;
    int status = -1;

    json_decref(header);
    if (!text) {
        error_set("out of memory");
        goto done;
    }
    /* The data begin at a multiple of 8. */
    const size_t n = strlen(text), padded = (n + 7) / 8 * 8;
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)padded >> 8 * i);
    file = fopen(path, "wb");
    if (!file) {
        error_set("%s: cannot be written: %s", path, strerror(errno));
        goto done;
    }
    status = put(file, path, length, sizeof length);
    if (status == 0)
        status = put(file, path, text, n);
    if (status == 0)
        status = put(file, path, "       ", padded - n);
    for (size_t i = first; status == 0 && i < end; i++)
        status = put_tensor(file, path, ck, checkpoint_tensor(ck, i), o, team, summary);
    status = close_synced(file, path, status);
    summary->n_files++;
done:
    free(text);
    return status;
}

/* The tensor after the last of the file that begins with `first`. */
static size_t file_end(const struct checkpoint *ck, size_t first, const struct export_options *o)
{
    const size_t most = o->shard_bytes ? o->shard_bytes : (size_t)4000 * 1000 * 1000;
    size_t bytes = 0, end = first;

    while (end < checkpoint_n_tensors(ck)) {
        bytes += tensor_elements(checkpoint_tensor(ck, end)) * type_bytes(o->type);
        if (end > first && bytes > most)
            break;
        end++;
    }
    return end;
}

static void file_name(char *name, size_t size, size_t i, size_t n)
{
    if (n == 1)
        snprintf(name, size, "model.safetensors");
    else
        snprintf(name, size, "model-%05zu-of-%05zu.safetensors", i + 1, n);
}

static int write_weights(const struct checkpoint *ck, const struct export_options *o,
                         struct team *team, const char *folder, struct export_summary *summary)
{
    const size_t n_tensors = checkpoint_n_tensors(ck);
    json_t *map = json_object();
    size_t n_files = 0, first = 0;
    int status = map ? 0 : error_set("out of memory");

    for (size_t at = 0; at < n_tensors; at = file_end(ck, at, o))
        n_files++;
    for (size_t i = 0; status == 0 && i < n_files; i++) {
        const size_t end = file_end(ck, first, o);
        char name[64], *path = NULL;
        file_name(name, sizeof name, i, n_files);
        for (size_t t = first; t < end; t++) {
            json_object_set_new(map, checkpoint_tensor(ck, t)->name, json_string(name));
            summary->n_bytes += tensor_elements(checkpoint_tensor(ck, t)) * type_bytes(o->type);
        }
        if (asprintf(&path, "%s/%s", folder, name) < 0)
            status = error_set("out of memory");
        else
            status = write_file(ck, first, end, o, team, path, summary);
        free(path);
        first = end;
    }
    summary->n_tensors = n_tensors;
    if (status == 0 && n_files > 1)
        return export_write_json(folder, "model.safetensors.index.json",
                                 json_pack("{s:{s:I}, s:o}", "metadata", "total_size",
                                           (json_int_t)summary->n_bytes, "weight_map", map));
    json_decref(map);
    return status;
}

int export_write_json(const char *folder, const char *name, json_t *value)
{
    char *text = value ? json_dumps(value, JSON_INDENT(2)) : NULL, *path = NULL;
    FILE *file = NULL;
    int status = -1;

    json_decref(value);
    if (!text || asprintf(&path, "%s/%s", folder, name) < 0) {
        path = NULL;
        error_set("out of memory");
        goto done;
    }
    if (!(file = fopen(path, "wb"))) {
        error_set("%s: cannot be written: %s", path, strerror(errno));
        goto done;
    }
    status = put(file, path, text, strlen(text));
    if (status == 0)
        status = put(file, path, "\n", 1);
    status = close_synced(file, path, status);
done:
    free(text);
    free(path);
    return status;
}

/* Removes a folder of plain files. */
static void remove_folder(const char *folder)
{
    DIR *dir = opendir(folder);

    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(folder);
}

int export_in_folder(const char *folder, int (*fill)(void *context, const char *temporary),
                     void *context)
{
    struct stat info;
    char *temporary = NULL;
    size_t n = strlen(folder);
    int status = -1;

    while (n > 1 && folder[n - 1] == '/')
        n--;
    if (stat(folder, &info) == 0)
        return error_set("%s: is there already; name a folder that is not", folder);
    if (asprintf(&temporary, "%.*s.tmp-%ld", (int)n, folder, (long)getpid()) < 0)
        return error_set("out of memory");
    if (mkdir(temporary, 0777) != 0) {
        error_set("%s: cannot be made: %s", temporary, strerror(errno));
        goto done;
    }
    if (fill(context, temporary) == 0) {
        char *target = strndup(folder, n);
        if (!target || rename(temporary, target) != 0)
            error_set("%s: cannot be made: %s", folder, strerror(errno));
        else
            status = 0;
        free(target);
    }
    if (status != 0)
        remove_folder(temporary);
done:
    free(temporary);
    return status;
}

struct exporting {
    const struct checkpoint *ck;
    const struct export_options *options;
    struct team *team;
    struct export_summary *summary;
};

static int fill_model(void *context, const char *folder)
{
    const struct exporting *x = context;

    return export_describe_model(x->ck, x->options->type, folder, x->summary) != 0
               ? -1
               : write_weights(x->ck, x->options, x->team, folder, x->summary);
}

int export_model(const struct checkpoint *ck, const struct export_options *options,
                 struct team *team, const char *folder, struct export_summary *summary)
{
    struct exporting exporting = {ck, options, team, summary};

    *summary = (struct export_summary){0};
    return export_in_folder(folder, fill_model, &exporting);
}
