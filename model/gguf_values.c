/* Access to a GGUF file's metadata. gguf.c has checked all of it against the end of the file. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/gguf.h"
#include "model/gguf_internal.h"

static const struct gguf_entry *find(const struct gguf *gguf, const char *key)
{
    for (size_t i = 0; i < gguf->n_entries; i++)
        if (strcmp(gguf->entries[i].key, key) == 0)
            return &gguf->entries[i];
    return NULL;
}

/* A number as the file has it: an integer, or (is_float) a double. */
struct number {
    bool is_float, too_large; /* too_large: an unsigned value that int64_t does not hold */
    int64_t i;
    double d;
};

#define LOAD(type)                                                                                 \
    {                                                                                              \
        type x;                                                                                    \
        memcpy(&x, p, sizeof x);                                                                   \
        n.i = x;                                                                                   \
        n.d = (double)x;                                                                           \
        break;                                                                                     \
    }

/* One value of a scalar type, not a string. */
static struct number load(const uint8_t *p, uint32_t type)
{
    struct number n = {0};

    switch (type) {
    case GGUF_U8:
    case GGUF_BOOL:
        LOAD(uint8_t)
    case GGUF_I8:
        LOAD(int8_t)
    case GGUF_U16:
        LOAD(uint16_t)
    case GGUF_I16:
        LOAD(int16_t)
    case GGUF_U32:
        LOAD(uint32_t)
    case GGUF_I32:
        LOAD(int32_t)
    case GGUF_I64:
        LOAD(int64_t)
    case GGUF_U64: {
        uint64_t x;
        memcpy(&x, p, sizeof x);
        n.too_large = x > INT64_MAX;
        n.i = n.too_large ? 0 : (int64_t)x;
        n.d = (double)x;
        break;
    }
    case GGUF_F32: {
        float x;
        memcpy(&x, p, sizeof x);
        n.is_float = true;
        n.d = (double)x;
        break;
    }
    default:
        n.is_float = true;
        memcpy(&n.d, p, sizeof n.d);
        break;
    }
    return n;
}
#undef LOAD

static bool number_as_int(struct number n, int64_t *value)
{
    if (n.is_float) {
        /* 2^63 itself does not fit; the comparison is false for NaN. */
        if (!(n.d >= -0x1p63 && n.d < 0x1p63) || n.d != floor(n.d))
            return false;
        n.i = (int64_t)n.d;
    }
    if (n.too_large)
        return false;
    *value = n.i;
    return true;
}

static bool is_numeric(uint32_t type)
{
    return gguf_scalar_bytes(type) != 0;
}

bool gguf_get_int(const struct gguf *gguf, const char *key, int64_t *value)
{
    const struct gguf_entry *e = find(gguf, key);

    return e && is_numeric(e->type) &&
           number_as_int(load(gguf->data + e->position, e->type), value);
}

bool gguf_get_float(const struct gguf *gguf, const char *key, double *value)
{
    const struct gguf_entry *e = find(gguf, key);

    if (!e || !is_numeric(e->type))
        return false;
    *value = load(gguf->data + e->position, e->type).d;
    return true;
}

bool gguf_get_bool(const struct gguf *gguf, const char *key, bool *value)
{
    int64_t i;

    if (!gguf_get_int(gguf, key, &i) || (i != 0 && i != 1))
        return false;
    *value = i == 1;
    return true;
}

/* The string whose length stands at *position; moves past it. The header's check has seen it. */
static const char *string_at(const struct gguf *gguf, size_t *position, size_t *n_bytes)
{
    uint64_t n;
    const char *text = (const char *)gguf->data + *position + sizeof n;

    memcpy(&n, gguf->data + *position, sizeof n);
    *n_bytes = n;
    *position += sizeof n + n;
    return text;
}

bool gguf_get_string(const struct gguf *gguf, const char *key, const char **text, size_t *n_bytes)
{
    const struct gguf_entry *e = find(gguf, key);

    if (!e || e->type != GGUF_STRING)
        return false;
    size_t position = e->position;
    *text = string_at(gguf, &position, n_bytes);
    return true;
}

bool gguf_array_size(const struct gguf *gguf, const char *key, size_t *n)
{
    const struct gguf_entry *e = find(gguf, key);

    if (!e || e->type != GGUF_ARRAY)
        return false;
    *n = e->count;
    return true;
}

bool gguf_get_strings(const struct gguf *gguf, const char *key, const char **texts, size_t *lengths)
{
    const struct gguf_entry *e = find(gguf, key);

    if (!e || e->type != GGUF_ARRAY || e->element != GGUF_STRING)
        return false;
    size_t position = e->position;
    for (size_t i = 0; i < e->count; i++)
        texts[i] = string_at(gguf, &position, &lengths[i]);
    return true;
}

bool gguf_get_ints(const struct gguf *gguf, const char *key, int64_t *values)
{
    const struct gguf_entry *e = find(gguf, key);
    int64_t value;

    if (!e || e->type != GGUF_ARRAY || !is_numeric(e->element))
        return false;
    const uint8_t *p = gguf->data + e->position;
    size_t step = gguf_scalar_bytes(e->element);
    for (size_t i = 0; i < e->count; i++) /* all or nothing: the output is untouched on failure */
        if (!number_as_int(load(p + i * step, e->element), &value))
            return false;
    for (size_t i = 0; i < e->count; i++)
        number_as_int(load(p + i * step, e->element), &values[i]);
    return true;
}

bool gguf_get_floats(const struct gguf *gguf, const char *key, float *values)
{
    const struct gguf_entry *e = find(gguf, key);

    if (!e || e->type != GGUF_ARRAY || !is_numeric(e->element))
        return false;
    for (size_t i = 0; i < e->count; i++)
        values[i] =
            (float)load(gguf->data + e->position + i * gguf_scalar_bytes(e->element), e->element).d;
    return true;
}

/* ---- inspection -------------------------------------------------------------------------------
 */

size_t gguf_n_keys(const struct gguf *gguf)
{
    return gguf->n_entries;
}

const char *gguf_key(const struct gguf *gguf, size_t i)
{
    return gguf->entries[i].key;
}

/* Control characters become spaces; long texts end in "...". */
static void describe_string(const char *bytes, size_t n, char *text, size_t size)
{
    size_t m = n < size ? n : size - 1;

    memcpy(text, bytes, m);
    text[m] = '\0';
    for (size_t i = 0; i < m; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            text[i] = ' ';
    if (m < n && size > 3) {
        size_t end = size - 4;
        while (end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80)
            end--; /* not in the middle of a UTF-8 character */
        memcpy(text + end, "...", 4);
    }
}

static void describe_number(const uint8_t *p, uint32_t type, char *text, size_t size)
{
    struct number n = load(p, type);

    if (type == GGUF_BOOL)
        snprintf(text, size, "%s", n.i ? "true" : "false");
    else if (n.is_float || n.too_large)
        snprintf(text, size, "%.7g", n.d);
    else
        snprintf(text, size, "%" PRId64, n.i);
}

void gguf_describe_value(const struct gguf *gguf, size_t i, char *text, size_t size)
{
    static const char *const type_names[GGUF_TYPE_COUNT] = {"u8",  "i8",  "u16",  "i16",    "u32",
                                                            "i32", "f32", "bool", "string", "array",
                                                            "u64", "i64", "f64"};
    const struct gguf_entry *e = &gguf->entries[i];

    if (size == 0)
        return;
    if (e->type == GGUF_STRING) {
        size_t n, position = e->position;
        const char *bytes = string_at(gguf, &position, &n);
        describe_string(bytes, n, text, size);
    } else if (e->type == GGUF_ARRAY) {
        snprintf(text, size, "%zu x %s", e->count, type_names[e->element]);
    } else {
        describe_number(gguf->data + e->position, e->type, text, size);
    }
}
