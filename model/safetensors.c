#include "model/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "model/file_map.h"
#include "model/json_file.h"
#include "mpi/error.h"

enum { LENGTH_BYTES = 8, MAX_DTYPE = 16 };

struct item {
    struct tensor tensor;
    size_t start, end; /* bytes from the start of the data */
    char dtype[MAX_DTYPE];
};

struct safetensors {
    char *path;
    struct file_map map; /* empty when over memory */
    const uint8_t *data; /* the whole file */
    size_t n_bytes;
    struct item *items;
    size_t n_items;
};

static const struct {
    const char *name;
    enum tensor_type type; /* TENSOR_TYPE_COUNT: known, not read */
    size_t bytes;
} dtypes[] = {
    {"F32", TENSOR_F32, 4},
    {"F16", TENSOR_F16, 2},
    {"BF16", TENSOR_BF16, 2},
    {"F64", TENSOR_TYPE_COUNT, 8},
    {"I64", TENSOR_TYPE_COUNT, 8},
    {"U64", TENSOR_TYPE_COUNT, 8},
    {"C64", TENSOR_TYPE_COUNT, 8},
    {"I32", TENSOR_TYPE_COUNT, 4},
    {"U32", TENSOR_TYPE_COUNT, 4},
    {"I16", TENSOR_TYPE_COUNT, 2},
    {"U16", TENSOR_TYPE_COUNT, 2},
    {"I8", TENSOR_TYPE_COUNT, 1},
    {"U8", TENSOR_TYPE_COUNT, 1},
    {"BOOL", TENSOR_TYPE_COUNT, 1},
    {"F8_E4M3", TENSOR_TYPE_COUNT, 1},
    {"F8_E5M2", TENSOR_TYPE_COUNT, 1},
    {"F8_E8M0", TENSOR_TYPE_COUNT, 1},
};

static int error_entry(const struct safetensors *st, const char *name, const char *what)
{
    return error_set("%s: tensor %s: %s; the file is damaged", st->path, name, what);
}

/* A whole number of at least 0. */
static bool get_size(const json_t *json, size_t *size)
{
    if (!json_is_integer(json) || json_integer_value(json) < 0)
        return false;
    *size = (size_t)json_integer_value(json);
    return true;
}

/* Leaves the number of elements in *n. */
static int read_shape(const struct safetensors *st, struct item *item, const json_t *shape,
                      size_t *n)
{
    struct tensor *t = &item->tensor;

    if (!json_is_array(shape))
        return error_entry(st, t->name, "its shape is no list");
    t->n_dims = json_array_size(shape);
    *n = 1;
    for (size_t i = 0; i < t->n_dims; i++) {
        size_t size;
        if (!get_size(json_array_get(shape, i), &size))
            return error_entry(st, t->name, "its shape is no list of sizes");
        if (__builtin_mul_overflow(*n, size, n))
            return error_entry(st, t->name, "its shape is impossibly large");
        if (i < TENSOR_MAX_DIMS)
            t->shape[i] = size;
    }
    return 0;
}

static int read_item(const struct safetensors *st, struct item *item, const char *name,
                     const json_t *entry)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    struct tensor *t = &item->tensor;
    size_t n = 0, n_bytes, unit = 0;

    t->name = name; /* still the header's: replaced by a copy below */
    t->file = st->path;
    t->type = TENSOR_TYPE_COUNT;
    if (!dtype || strlen(dtype) >= MAX_DTYPE)
        return error_entry(st, name, "it has no valid element type");
    strcpy(item->dtype, dtype);
    if (read_shape(st, item, json_object_get(entry, "shape"), &n) != 0)
        return -1;
    if (json_array_size(offsets) != 2 || !get_size(json_array_get(offsets, 0), &item->start) ||
        !get_size(json_array_get(offsets, 1), &item->end) || item->end < item->start)
        return error_entry(st, name, "its data_offsets are no pair of a start and an end");
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtype, dtypes[i].name) == 0) {
            t->type = dtypes[i].type;
            unit = dtypes[i].bytes;
        }
    t->n_bytes = item->end - item->start;
    if (unit != 0 && (__builtin_mul_overflow(n, unit, &n_bytes) || n_bytes != t->n_bytes))
        return error_set("%s: tensor %s has %zu bytes, its type %s and shape make it %zu elements "
                         "of %zu bytes; the file is damaged",
                         st->path, name, t->n_bytes, dtype, n, unit);
    t->name = strdup(name);
    if (!t->name)
        return error_set("%s: out of memory", st->path);
    return 0;
}

static int compare_places(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    if (x->start != y->start)
        return x->start < y->start ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct item *)a)->tensor.name, ((const struct item *)b)->tensor.name);
}

/* Turns offsets into addresses. header_end: where the data starts */
static int place_items(struct safetensors *st, size_t header_end)
{
    size_t available = st->n_bytes - header_end, needed = 0;
    const struct item *outside = NULL, *before = NULL;

    qsort(st->items, st->n_items, sizeof *st->items, compare_places);
    for (size_t i = 0; i < st->n_items; i++) {
        struct item *item = &st->items[i];
        if (item->start == item->end)
            continue;
        if (before && item->start < before->end)
            return error_set("%s: tensors %s and %s overlap; the file is damaged", st->path,
                             before->tensor.name, item->tensor.name);
        before = item;
        needed = item->end;
        if (item->end > available && !outside)
            outside = item;
        if (item->end <= available && item->tensor.type != TENSOR_TYPE_COUNT)
            item->tensor.data = st->data + header_end + item->start;
    }
    if (outside)
        return error_set("%s: is cut off: tensor %s is not all there; the file has %zu bytes, %zu "
                         "more are missing; download it again",
                         st->path, outside->tensor.name, st->n_bytes, needed - available);
    return 0;
}

static int read_items(struct safetensors *st, json_t *header)
{
    const char *name;
    json_t *entry;

    st->items = calloc(json_object_size(header) + 1, sizeof *st->items);
    if (!st->items)
        return error_set("%s: out of memory", st->path);
    json_object_foreach(header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        if (read_item(st, &st->items[st->n_items], name, entry) != 0)
            return -1;
        st->n_items++;
    }
    return 0;
}

/* Tensors of more dimensions than struct tensor holds leave the list once they are checked. */
static void drop_unlisted(struct safetensors *st)
{
    size_t kept = 0;

    for (size_t i = 0; i < st->n_items; i++) {
        if (st->items[i].tensor.n_dims > TENSOR_MAX_DIMS)
            free((char *)st->items[i].tensor.name);
        else
            st->items[kept++] = st->items[i];
    }
    st->n_items = kept;
}

static int parse(struct safetensors *st)
{
    uint64_t length;
    json_t *header = NULL;
    int result = -1;

    if (file_check_impostor(st->data, st->n_bytes, st->path) != 0)
        return -1;
    if (st->n_bytes < LENGTH_BYTES)
        return error_set(
            "%s: has only %zu bytes, too few for a safetensors file; download it again", st->path,
            st->n_bytes);
    memcpy(&length, st->data, sizeof length);
    if (length > JSON_INDEX_MAX_BYTES ||
        (st->n_bytes > LENGTH_BYTES && st->data[LENGTH_BYTES] != '{'))
        return error_set("%s: is not a safetensors file (it does not begin with a header)",
                         st->path);
    if (length > st->n_bytes - LENGTH_BYTES)
        return error_set("%s: is cut off: it ends inside its header (%" PRIu64 " bytes of it are "
                         "missing, and all data); download it again",
                         st->path, length - (st->n_bytes - LENGTH_BYTES));
    header = json_object_parse((const char *)st->data + LENGTH_BYTES, length, st->path);
    if (!header) {
        error_prefix("damaged safetensors header");
        goto done;
    }
    if (read_items(st, header) != 0 || place_items(st, LENGTH_BYTES + length) != 0)
        goto done;
    drop_unlisted(st);
    qsort(st->items, st->n_items, sizeof *st->items, compare_names);
    result = 0;
done:
    json_decref(header);
    return result;
}

/* Takes over the map. */
static struct safetensors *create(struct file_map map, const void *data, size_t n_bytes,
                                  const char *name)
{
    struct safetensors *st = calloc(1, sizeof *st);

    if (!st || !(st->path = strdup(name))) {
        error_set("%s: out of memory", name);
        file_map_close(&map);
        free(st);
        return NULL;
    }
    st->map = map;
    st->data = data;
    st->n_bytes = n_bytes;
    if (parse(st) != 0) {
        safetensors_free(st);
        return NULL;
    }
    return st;
}

struct safetensors *safetensors_from_memory(const void *data, size_t n_bytes, const char *name)
{
    return create((struct file_map){0}, data, n_bytes, name);
}

struct safetensors *safetensors_open(const char *path)
{
    struct file_map map;

    if (file_map_open(&map, path) != 0)
        return NULL;
    return create(map, map.data, map.n_bytes, path);
}

void safetensors_free(struct safetensors *st)
{
    if (!st)
        return;
    for (size_t i = 0; i < st->n_items; i++)
        free((char *)st->items[i].tensor.name);
    free(st->items);
    file_map_close(&st->map);
    free(st->path);
    free(st);
}

size_t safetensors_n_tensors(const struct safetensors *st)
{
    return st->n_items;
}

const struct tensor *safetensors_tensor(const struct safetensors *st, size_t i)
{
    return &st->items[i].tensor;
}

const char *safetensors_dtype(const struct safetensors *st, size_t i)
{
    return st->items[i].dtype;
}
