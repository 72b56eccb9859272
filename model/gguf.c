#include "model/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/file_map.h"
#include "model/gguf_internal.h"
#include "mpi/error.h"

enum {
    MAX_NESTING = 4,
    MAX_KEY_BYTES = 65535, /* the specification's limit */
    MAX_NAME_BYTES = 255,  /* ggml's own limit is 63 */
    DEFAULT_ALIGNMENT = 32,
    MAX_ALIGNMENT = 1 << 20,
    LARGEST_TYPE_NUMBER = 41
};

/* ggml's type numbers. Those without a reader are named, so that the message can name them. */
static const struct {
    const char *name;
    int type; /* enum tensor_type, or -1 */
} tensor_types[LARGEST_TYPE_NUMBER + 1] = {
    [0] = {"F32", TENSOR_F32},
    [1] = {"F16", TENSOR_F16},
    [2] = {"Q4_0", TENSOR_Q4_0},
    [3] = {"Q4_1", TENSOR_Q4_1},
    [6] = {"Q5_0", TENSOR_Q5_0},
    [7] = {"Q5_1", TENSOR_Q5_1},
    [8] = {"Q8_0", TENSOR_Q8_0},
    [9] = {"Q8_1", -1},
    [10] = {"Q2_K", TENSOR_Q2_K},
    [11] = {"Q3_K", TENSOR_Q3_K},
    [12] = {"Q4_K", TENSOR_Q4_K},
    [13] = {"Q5_K", TENSOR_Q5_K},
    [14] = {"Q6_K", TENSOR_Q6_K},
    [15] = {"Q8_K", TENSOR_Q8_K},
    [16] = {"IQ2_XXS", -1},
    [17] = {"IQ2_XS", -1},
    [18] = {"IQ3_XXS", -1},
    [19] = {"IQ1_S", -1},
    [20] = {"IQ4_NL", -1},
    [21] = {"IQ3_S", -1},
    [22] = {"IQ2_S", -1},
    [23] = {"IQ4_XS", -1},
    [24] = {"I8", -1},
    [25] = {"I16", -1},
    [26] = {"I32", -1},
    [27] = {"I64", -1},
    [28] = {"F64", -1},
    [29] = {"IQ1_M", -1},
    [30] = {"BF16", TENSOR_BF16},
    [34] = {"TQ1_0", -1},
    [35] = {"TQ2_0", -1},
    [39] = {"MXFP4", -1},
    [40] = {"NVFP4", -1},
    [41] = {"Q1_0", -1},
};

/* ---- reading the header: every read is checked against the end of the file --------------------
 */

struct reader {
    const struct gguf *gguf;
    size_t position;
    const char *what; /* what is being read, for messages */
};

static int error_cut_off(const struct reader *r)
{
    return error_set("%s: ends at byte %zu, inside its header (%s); download it again",
                     r->gguf->path, r->gguf->n_bytes, r->what);
}

static int skip(struct reader *r, uint64_t n)
{
    if (n > r->gguf->n_bytes - r->position)
        return error_cut_off(r);
    r->position += n;
    return 0;
}

static int read_scalar(struct reader *r, void *value, size_t size)
{
    size_t at = r->position;

    if (skip(r, size) != 0)
        return -1;
    memcpy(value, r->gguf->data + at, size);
    return 0;
}

/* The bytes stay in the file. */
static int read_string(struct reader *r, const char **text, size_t *n_bytes)
{
    uint64_t n;

    if (read_scalar(r, &n, sizeof n) != 0)
        return -1;
    *text = (const char *)r->gguf->data + r->position;
    *n_bytes = n;
    return skip(r, n);
}

/* A key or tensor name, NUL-terminated, malloc'ed. */
static char *read_name(struct reader *r, size_t limit)
{
    const char *text;
    size_t n;

    if (read_string(r, &text, &n) != 0)
        return NULL;
    if (n == 0 || n > limit || memchr(text, 0, n)) {
        error_set("%s: %s: a name of %zu bytes%s is not a valid GGUF name", r->gguf->path, r->what,
                  n, n != 0 && n <= limit ? " with a NUL in it" : "");
        return NULL;
    }
    char *name = strndup(text, n);
    if (!name)
        error_set("%s: out of memory", r->gguf->path);
    return name;
}

static int check_bools(struct reader *r, uint64_t count)
{
    const uint8_t *bytes = r->gguf->data + r->position;

    if (count > r->gguf->n_bytes - r->position)
        return error_cut_off(r);
    for (size_t i = 0; i < count; i++)
        if (bytes[i] > 1)
            return error_set("%s: %s: the value %u is no bool; the file is damaged", r->gguf->path,
                             r->what, bytes[i]);
    return 0;
}

/* Checks `count` values of a type and moves past them. Each value has at least one byte in the
 * file, so a hostile count ends at the end of the file. */
static int skip_values(struct reader *r, uint32_t type, uint64_t count, int nesting)
{
    if (type >= GGUF_TYPE_COUNT)
        return error_set("%s: %s: unknown value type %u", r->gguf->path, r->what, type);
    if (type == GGUF_BOOL && check_bools(r, count) != 0)
        return -1;
    if (gguf_scalar_bytes(type) != 0) {
        uint64_t n;
        if (__builtin_mul_overflow(count, (uint64_t)gguf_scalar_bytes(type), &n))
            return error_cut_off(r);
        return skip(r, n);
    }
    for (uint64_t i = 0; i < count; i++) {
        if (type == GGUF_STRING) {
            const char *text;
            size_t n;
            if (read_string(r, &text, &n) != 0)
                return -1;
        } else {
            uint32_t element;
            uint64_t n;
            if (nesting == MAX_NESTING)
                return error_set("%s: %s: arrays are nested deeper than %d", r->gguf->path, r->what,
                                 MAX_NESTING);
            if (read_scalar(r, &element, sizeof element) != 0 ||
                read_scalar(r, &n, sizeof n) != 0 || skip_values(r, element, n, nesting + 1) != 0)
                return -1;
        }
    }
    return 0;
}

static int read_entry(struct reader *r, struct gguf_entry *e)
{
    char what[200];

    r->what = "a key";
    e->key = read_name(r, MAX_KEY_BYTES);
    if (!e->key)
        return -1;
    snprintf(what, sizeof what, "key %.180s", e->key);
    r->what = what;
    int result = -1;
    if (read_scalar(r, &e->type, sizeof e->type) != 0)
        goto done;
    e->count = 1;
    if (e->type == GGUF_ARRAY) {
        uint64_t n;
        if (read_scalar(r, &e->element, sizeof e->element) != 0 ||
            read_scalar(r, &n, sizeof n) != 0)
            goto done;
        e->count = n;
        e->position = r->position;
        result = skip_values(r, e->element, n, 1);
    } else {
        e->position = r->position;
        result = skip_values(r, e->type, 1, 0);
    }
done:
    r->what = "";
    return result;
}

static int set_type(struct gguf *gguf, struct tensor *t, uint32_t number)
{
    const char *name = number <= LARGEST_TYPE_NUMBER ? tensor_types[number].name : NULL;

    if (!name)
        return error_set("%s: tensor %s has the unknown type %u; this t2 may be too old for it",
                         gguf->path, t->name, number);
    if (tensor_types[number].type < 0)
        return error_set("%s: tensor %s is %s, which t2 does not read (it reads F32, F16, BF16, "
                         "Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K); take another quantisation",
                         gguf->path, t->name, name);
    t->type = (enum tensor_type)tensor_types[number].type;
    return 0;
}

static int set_shape(struct gguf *gguf, struct tensor *t, const uint64_t *dims, uint32_t n_dims)
{
    size_t n = 1, block = tensor_block_elements(t->type);

    t->n_dims = n_dims;
    for (uint32_t i = 0; i < n_dims; i++) {
        if (dims[i] == 0 || __builtin_mul_overflow(n, dims[i], &n))
            return error_set("%s: tensor %s has an impossible shape; the file is damaged",
                             gguf->path, t->name);
        t->shape[n_dims - 1 - i] = dims[i]; /* the file has the fastest dimension first */
    }
    if (dims[0] % block != 0)
        return error_set("%s: tensor %s: rows of %" PRIu64 " elements do not fit %s's blocks of "
                         "%zu; the file is damaged",
                         gguf->path, t->name, dims[0], tensor_type_name(t->type), block);
    if (__builtin_mul_overflow(n / block, tensor_block_bytes(t->type), &t->n_bytes))
        return error_set("%s: tensor %s has an impossible shape; the file is damaged", gguf->path,
                         t->name);
    return 0;
}

/* Leaves the offset from the start of the tensor data in *offset. */
static int read_tensor(struct reader *r, struct gguf *gguf, struct tensor *t, uint64_t *offset)
{
    uint64_t dims[TENSOR_MAX_DIMS];
    uint32_t n_dims, number;
    char what[MAX_NAME_BYTES + 16];

    r->what = "a tensor's name";
    t->name = read_name(r, MAX_NAME_BYTES);
    if (!t->name)
        return -1;
    t->file = gguf->path;
    snprintf(what, sizeof what, "tensor %s", t->name);
    r->what = what;
    int result = -1;
    if (read_scalar(r, &n_dims, sizeof n_dims) != 0)
        goto done;
    if (n_dims == 0 || n_dims > TENSOR_MAX_DIMS) {
        error_set("%s: tensor %s has %u dimensions, 1 to %d are possible; the file is damaged",
                  gguf->path, t->name, n_dims, TENSOR_MAX_DIMS);
        goto done;
    }
    for (uint32_t i = 0; i < n_dims; i++)
        if (read_scalar(r, &dims[i], sizeof dims[i]) != 0)
            goto done;
    if (read_scalar(r, &number, sizeof number) != 0 || read_scalar(r, offset, sizeof *offset) != 0)
        goto done;
    result = set_type(gguf, t, number);
    if (result == 0)
        result = set_shape(gguf, t, dims, n_dims);
done:
    r->what = "";
    return result;
}

/* Room for one more element. Arrays grow as entries are found, never by a count the file states. */
static void *grown(void *array, size_t n, size_t *capacity, size_t element)
{
    if (n < *capacity)
        return array;
    size_t more = *capacity ? *capacity * 2 : 64;
    void *larger = realloc(array, more * element);
    if (larger)
        *capacity = more;
    return larger;
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* names: n pointers, reordered */
static int check_duplicates(const struct gguf *gguf, const char **names, size_t n, const char *kind)
{
    qsort(names, n, sizeof *names, compare_strings);
    for (size_t i = 1; i < n; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            return error_set("%s: %s %s is there twice; the file is damaged", gguf->path, kind,
                             names[i]);
    return 0;
}

static int check_all_duplicates(const struct gguf *gguf)
{
    size_t n = gguf->n_entries > gguf->n_tensors ? gguf->n_entries : gguf->n_tensors;
    const char **names = malloc((n + 1) * sizeof *names);

    if (!names)
        return error_set("%s: out of memory", gguf->path);
    for (size_t i = 0; i < gguf->n_entries; i++)
        names[i] = gguf->entries[i].key;
    int result = check_duplicates(gguf, names, gguf->n_entries, "key");
    for (size_t i = 0; i < gguf->n_tensors; i++)
        names[i] = gguf->tensors[i].name;
    if (result == 0)
        result = check_duplicates(gguf, names, gguf->n_tensors, "tensor");
    free(names);
    return result;
}

static int compare_places(const void *a, const void *b)
{
    const struct tensor *x = *(const struct tensor *const *)a,
                        *y = *(const struct tensor *const *)b;

    return x->data < y->data ? -1 : x->data > y->data;
}

static int check_overlaps(const struct gguf *gguf)
{
    const struct tensor **order = malloc((gguf->n_tensors + 1) * sizeof *order);
    int result = 0;

    if (!order)
        return error_set("%s: out of memory", gguf->path);
    for (size_t i = 0; i < gguf->n_tensors; i++)
        order[i] = &gguf->tensors[i];
    qsort(order, gguf->n_tensors, sizeof *order, compare_places);
    for (size_t i = 1; i < gguf->n_tensors && result == 0; i++)
        if ((const uint8_t *)order[i]->data <
            (const uint8_t *)order[i - 1]->data + order[i - 1]->n_bytes)
            result = error_set("%s: tensors %s and %s overlap; the file is damaged", gguf->path,
                               order[i - 1]->name, order[i]->name);
    free(order);
    return result;
}

static int find_alignment(const struct gguf *gguf, size_t *alignment)
{
    int64_t value;

    *alignment = DEFAULT_ALIGNMENT;
    if (!gguf_get_int(gguf, "general.alignment", &value))
        return 0;
    if (value < 1 || value > MAX_ALIGNMENT || (value & (value - 1)) != 0)
        return error_set("%s: general.alignment is %" PRId64 ", a power of two up to %d is "
                         "possible; the file is damaged",
                         gguf->path, value, MAX_ALIGNMENT);
    *alignment = (size_t)value;
    return 0;
}

/* Turns offsets into addresses. All tensors are looked at before the verdict, so that a message
 * about a short file can tell how much is missing. offsets: [n_tensors] */
static int place_tensors(struct gguf *gguf, const uint64_t *offsets, size_t header_end)
{
    size_t alignment, start, needed = 0, first_outside = gguf->n_tensors;

    if (find_alignment(gguf, &alignment) != 0)
        return -1;
    start = (header_end + alignment - 1) / alignment * alignment;
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        struct tensor *t = &gguf->tensors[i];
        size_t end;
        if (offsets[i] % alignment != 0)
            return error_set("%s: tensor %s: its offset %" PRIu64 " is no multiple of the "
                             "alignment %zu; the file is damaged",
                             gguf->path, t->name, offsets[i], alignment);
        if (__builtin_add_overflow(start, offsets[i], &end) ||
            __builtin_add_overflow(end, t->n_bytes, &end))
            return error_set("%s: tensor %s lies beyond any file's end; the file is damaged",
                             gguf->path, t->name);
        if (end > gguf->n_bytes) {
            if (first_outside == gguf->n_tensors)
                first_outside = i;
        } else {
            t->data = gguf->data + start + offsets[i];
        }
        needed = end > needed ? end : needed;
    }
    if (first_outside < gguf->n_tensors)
        return error_set("%s: is cut off: tensor %s is not all there; the file has %zu of %zu "
                         "bytes (%zu are missing); download it again",
                         gguf->path, gguf->tensors[first_outside].name, gguf->n_bytes, needed,
                         needed - gguf->n_bytes);
    return check_overlaps(gguf);
}

static int parse_start(struct reader *r, uint64_t *n_tensors, uint64_t *n_entries)
{
    const struct gguf *gguf = r->gguf;
    uint32_t version;

    if (gguf->n_bytes < 4 || memcmp(gguf->data, "GGUF", 4) != 0) {
        if (file_check_impostor(gguf->data, gguf->n_bytes, gguf->path) != 0)
            return -1;
        return error_set("%s: is not a GGUF file (it does not begin with GGUF)", gguf->path);
    }
    r->position = 4;
    r->what = "the version and counts";
    if (read_scalar(r, &version, sizeof version) != 0)
        return -1;
    if (version == __builtin_bswap32(2) || version == __builtin_bswap32(3))
        return error_set("%s: is a big-endian GGUF file, t2 reads little-endian ones", gguf->path);
    if (version != 2 && version != 3)
        return error_set("%s: has GGUF version %u, t2 reads versions 2 and 3", gguf->path, version);
    if (read_scalar(r, n_tensors, sizeof *n_tensors) != 0 ||
        read_scalar(r, n_entries, sizeof *n_entries) != 0)
        return -1;
    /* The smallest possible entry takes 8 + 1 + 4 + 1 bytes, the smallest tensor 8+1+4+8+4+8. */
    size_t left = gguf->n_bytes - r->position;
    if (*n_entries > left / 14 || *n_tensors > left / 33)
        return error_set("%s: claims %" PRIu64 " keys and %" PRIu64 " tensors, more than its %zu "
                         "bytes can hold; the file is damaged or cut off",
                         gguf->path, *n_entries, *n_tensors, gguf->n_bytes);
    return 0;
}

static int parse(struct gguf *gguf)
{
    struct reader r = {gguf, 0, ""};
    uint64_t n_tensors, n_entries, *offsets = NULL;
    size_t offsets_capacity = 0;
    int result = -1;

    if (parse_start(&r, &n_tensors, &n_entries) != 0)
        return -1;
    while (gguf->n_entries < n_entries) {
        struct gguf_entry *entries =
            grown(gguf->entries, gguf->n_entries, &gguf->entries_capacity, sizeof *gguf->entries);
        if (!entries)
            goto no_memory;
        gguf->entries = entries;
        entries[gguf->n_entries] = (struct gguf_entry){0};
        if (read_entry(&r, &entries[gguf->n_entries++]) != 0)
            goto done;
    }
    while (gguf->n_tensors < n_tensors) {
        struct tensor *tensors =
            grown(gguf->tensors, gguf->n_tensors, &gguf->tensors_capacity, sizeof *gguf->tensors);
        if (!tensors)
            goto no_memory;
        gguf->tensors = tensors;
        uint64_t *more = grown(offsets, gguf->n_tensors, &offsets_capacity, sizeof *offsets);
        if (!more)
            goto no_memory;
        offsets = more;
        size_t i = gguf->n_tensors++;
        tensors[i] = (struct tensor){0};
        if (read_tensor(&r, gguf, &tensors[i], &offsets[i]) != 0)
            goto done;
    }
    if (check_all_duplicates(gguf) != 0)
        goto done;
    result = place_tensors(gguf, offsets, r.position);
    goto done;
no_memory:
    error_set("%s: out of memory", gguf->path);
done:
    free(offsets);
    return result;
}

static struct gguf *gguf_create(const void *data, size_t n_bytes, const char *name)
{
    struct gguf *gguf = calloc(1, sizeof *gguf);

    if (gguf)
        gguf->path = strdup(name);
    if (!gguf || !gguf->path) {
        free(gguf);
        error_set("%s: out of memory", name);
        return NULL;
    }
    gguf->data = data;
    gguf->n_bytes = n_bytes;
    return gguf;
}

struct gguf *gguf_from_memory(const void *data, size_t n_bytes, const char *name)
{
    struct gguf *gguf = gguf_create(data, n_bytes, name);

    if (gguf && parse(gguf) != 0) {
        gguf_free(gguf);
        return NULL;
    }
    return gguf;
}

struct gguf *gguf_open(const char *path)
{
    struct file_map map;
    struct gguf *gguf;

    if (file_map_open(&map, path) != 0)
        return NULL;
    gguf = gguf_create(map.data, map.n_bytes, path);
    if (!gguf) {
        file_map_close(&map);
        return NULL;
    }
    gguf->map = map;
    if (parse(gguf) != 0) {
        gguf_free(gguf);
        return NULL;
    }
    return gguf;
}

void gguf_free(struct gguf *gguf)
{
    if (!gguf)
        return;
    for (size_t i = 0; i < gguf->n_entries; i++)
        free(gguf->entries[i].key);
    for (size_t i = 0; i < gguf->n_tensors; i++)
        free((char *)gguf->tensors[i].name);
    free(gguf->entries);
    free(gguf->tensors);
    file_map_close(&gguf->map);
    free(gguf->path);
    free(gguf);
}

const char *gguf_path(const struct gguf *gguf)
{
    return gguf->path;
}

size_t gguf_n_tensors(const struct gguf *gguf)
{
    return gguf->n_tensors;
}

const struct tensor *gguf_tensor(const struct gguf *gguf, size_t i)
{
    return &gguf->tensors[i];
}
