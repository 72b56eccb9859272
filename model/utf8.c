#include "model/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "mpi/error.h"

void text_free(struct text *text)
{
    free(text->data);
    *text = (struct text){0};
}

static int text_reserve(struct text *text, size_t n)
{
    size_t need, capacity = text->capacity ? text->capacity : 64;

    if (__builtin_add_overflow(text->n, n, &need) || need > SIZE_MAX / 2)
        return error_set("out of memory: a text of more than %zu bytes", text->n);
    if (need <= text->capacity)
        return 0;
    while (capacity < need)
        capacity *= 2;
    char *data = realloc(text->data, capacity);
    if (!data)
        return error_set("out of memory: a text of %zu bytes", capacity);
    text->data = data;
    text->capacity = capacity;
    return 0;
}

int text_append(struct text *text, const char *bytes, size_t n)
{
    if (n == 0)
        return 0;
    if (text_reserve(text, n))
        return -1;
    memcpy(text->data + text->n, bytes, n);
    text->n += n;
    return 0;
}

int text_append_char(struct text *text, uint32_t code_point)
{
    char bytes[4];
    return text_append(text, bytes, utf8_encode(code_point, bytes));
}

size_t utf8_decode(const char *text, size_t n, uint32_t *code_point, bool *valid)
{
    const unsigned char *s = (const unsigned char *)text;
    unsigned char lead = s[0], low = 0x80, high = 0xbf;
    size_t length, i;
    uint32_t c;

    if (valid)
        *valid = true;
    if (lead < 0x80) {
        *code_point = lead;
        return 1;
    }
    if (lead >= 0xc2 && lead <= 0xdf) {
        length = 2;
        c = lead & 0x1fu;
    } else if (lead >= 0xe0 && lead <= 0xef) {
        length = 3;
        c = lead & 0x0fu;
        low = lead == 0xe0 ? 0xa0 : 0x80;
        high = lead == 0xed ? 0x9f : 0xbf;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
        length = 4;
        c = lead & 0x07u;
        low = lead == 0xf0 ? 0x90 : 0x80;
        high = lead == 0xf4 ? 0x8f : 0xbf;
    } else {
        length = 1;
        c = 0;
    }
    /* only the first continuation byte has a narrower range (table 3-7) */
    for (i = 1; i < length && i < n && s[i] >= low && s[i] <= high; i++) {
        c = c << 6 | (s[i] & 0x3fu);
        low = 0x80;
        high = 0xbf;
    }
    if (length > 1 && i == length) {
        *code_point = c;
        return length;
    }
    *code_point = 0xfffd;
    if (valid)
        *valid = false;
    return i;
}

size_t utf8_encode(uint32_t c, char *s)
{
    if (c < 0x80) {
        s[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        s[0] = (char)(0xc0 | c >> 6);
        s[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        s[0] = (char)(0xe0 | c >> 12);
        s[1] = (char)(0x80 | (c >> 6 & 0x3f));
        s[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    s[0] = (char)(0xf0 | c >> 18);
    s[1] = (char)(0x80 | (c >> 12 & 0x3f));
    s[2] = (char)(0x80 | (c >> 6 & 0x3f));
    s[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

bool utf8_is_valid(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint64_t eight;
        if (n - i >= 8 && (memcpy(&eight, s + i, 8), (eight & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        uint32_t c;
        bool valid;
        i += utf8_decode(s + i, n - i, &c, &valid);
        if (!valid)
            return false;
    }
    return true;
}

int utf8_append_lossy(struct text *text, const char *s, size_t n)
{
    size_t good = 0;

    if (n == 0)
        return 0;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        bool valid;
        size_t length = utf8_decode(s + i, n - i, &c, &valid);
        if (!valid) {
            if (text_append(text, s + good, i - good) || text_append(text, "\xef\xbf\xbd", 3))
                return -1;
            good = i + length;
        }
        i += length;
    }
    return text_append(text, s + good, n - good);
}

struct range {
    uint32_t first, last;
};

static bool in_ranges(const struct range *ranges, size_t n, uint32_t c)
{
    for (size_t i = 0; i < n; i++) {
        if (c <= ranges[i].last)
            return c >= ranges[i].first;
    }
    return false;
}
#define IN_RANGES(table, c) in_ranges(table, sizeof(table) / sizeof *(table), c)

/* Letters and numbers that Unicode 15.1 and 16 added to utf8proc 2.8's Unicode 15.0 (found by
 * asking tokenizers' patterns about every code point; see tests/oracle/tokenizer_oracle.py). */
static const struct range new_letters[] = {
    {0x1c89, 0x1c8a},   {0xa7cb, 0xa7cd},   {0xa7da, 0xa7dc},   {0x105c0, 0x105f3},
    {0x10d4a, 0x10d65}, {0x10d6f, 0x10d85}, {0x10ec2, 0x10ec4}, {0x11380, 0x11389},
    {0x1138b, 0x1138b}, {0x1138e, 0x1138e}, {0x11390, 0x113b5}, {0x113b7, 0x113b7},
    {0x113d1, 0x113d1}, {0x113d3, 0x113d3}, {0x11bc0, 0x11be0}, {0x13460, 0x143fa},
    {0x16100, 0x1611d}, {0x16d40, 0x16d6c}, {0x18cff, 0x18cff}, {0x1e5d0, 0x1e5ed},
    {0x1e5f0, 0x1e5f0}, {0x2ebf0, 0x2ee5d},
};
static const struct range new_numbers[] = {
    {0x10d40, 0x10d49}, {0x116d0, 0x116e3}, {0x11bf0, 0x11bf9}, {0x16130, 0x16139},
    {0x16d70, 0x16d79}, {0x1ccf0, 0x1ccf9}, {0x1e5f1, 0x1e5fa},
};
/* Unicode 17's, known to Rust's char::is_numeric but not to the patterns. */
static const struct range newest_numbers[] = {{0x11de0, 0x11de9}, {0x16ff4, 0x16ff6}};

bool utf8_is_space(uint32_t c)
{
    return c == ' ' || (c >= 9 && c <= 13) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

enum utf8_class utf8_classify(uint32_t c)
{
    if (c < 0x80) {
        if ((c | 0x20) >= 'a' && (c | 0x20) <= 'z')
            return UTF8_LETTER;
        if (c >= '0' && c <= '9')
            return UTF8_NUMBER;
        if (c == '\r' || c == '\n')
            return UTF8_NEWLINE;
        return c == ' ' || (c >= 9 && c <= 13) ? UTF8_SPACE : UTF8_OTHER;
    }
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return UTF8_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return UTF8_NUMBER;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return UTF8_SPACE;
    case UTF8PROC_CATEGORY_CC:
        return c == 0x85 ? UTF8_SPACE : UTF8_OTHER;
    case UTF8PROC_CATEGORY_CN:
        if (IN_RANGES(new_letters, c))
            return UTF8_LETTER;
        return IN_RANGES(new_numbers, c) ? UTF8_NUMBER : UTF8_OTHER;
    default:
        return UTF8_OTHER;
    }
}

bool utf8_is_numeric(uint32_t c)
{
    return utf8_classify(c) == UTF8_NUMBER || IN_RANGES(newest_numbers, c);
}

bool utf8_is_word(uint32_t c)
{
    enum utf8_class class = utf8_classify(c);

    if (class == UTF8_LETTER || c == 0x200c || c == 0x200d)
        return true;
    if ((c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
        (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189))
        return true; /* Other_Alphabetic symbols */
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return class == UTF8_NUMBER &&
               utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_CN;
    }
}

/* ---- normal forms ------------------------------------------------------------------------- */

/* Characters that tokenizers' normalisation tables (Unicode 9) do not know as combining marks or,
 * U+11930, as the second half of a composition: they neither move nor compose. Found like the
 * letters above. */
static const struct range unknown_marks[] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
    {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
    {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0x10d24, 0x10d27},
    {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85},
    {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
    {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943},
    {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99},
    {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42},
    {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae},
    {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
};

struct points {
    int32_t *data;
    size_t n, capacity;
};

static int points_reserve(struct points *points, size_t n)
{
    if (points->n + n <= points->capacity)
        return 0;
    size_t capacity = 2 * points->capacity + n + 64, bytes;
    if (__builtin_mul_overflow(capacity, sizeof *points->data, &bytes))
        return error_set("out of memory: a text of %zu characters", capacity);
    int32_t *data = realloc(points->data, bytes);
    if (!data)
        return error_set("out of memory: a text of %zu characters", capacity);
    points->data = data;
    points->capacity = capacity;
    return 0;
}

static int combining_class(int32_t c)
{
    return utf8proc_get_property(c)->combining_class;
}

static int compare_marks(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Canonical order of a run of marks: stable by combining class. The position in the key makes
 * qsort stable. */
static int order_marks(int32_t *marks, size_t n)
{
    bool ordered = true;

    for (size_t i = 1; i < n; i++)
        ordered = ordered && combining_class(marks[i - 1]) <= combining_class(marks[i]);
    if (ordered)
        return 0;
    uint64_t *keys = malloc(n * (sizeof *keys + sizeof *marks));
    if (!keys)
        return error_set("out of memory: %zu combining marks", n);
    int32_t *copy = (int32_t *)(keys + n);
    memcpy(copy, marks, n * sizeof *marks);
    for (size_t i = 0; i < n; i++)
        keys[i] = (uint64_t)combining_class(marks[i]) << 32 | i;
    qsort(keys, n, sizeof *keys, compare_marks);
    for (size_t i = 0; i < n; i++)
        marks[i] = copy[keys[i] & UINT32_MAX];
    free(keys);
    return 0;
}

/* Orders and (NFC, NFKC) composes what was decomposed, and appends it. */
static int flush_points(struct text *text, struct points *points, enum utf8_form form)
{
    size_t n = points->n;

    for (size_t i = 0; i < n;) {
        size_t start = i;
        while (i < n && combining_class(points->data[i]) != 0)
            i++;
        if (order_marks(points->data + start, i - start))
            return -1;
        i += i == start;
    }
    if (n > 0 && (form == UTF8_NFC || form == UTF8_NFKC)) {
        utf8proc_ssize_t composed = utf8proc_normalize_utf32(points->data, (utf8proc_ssize_t)n,
                                                             UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        if (composed < 0)
            return error_set("cannot normalise a text: %s", utf8proc_errmsg(composed));
        n = (size_t)composed;
    }
    for (size_t i = 0; i < n; i++) {
        if (text_append_char(text, (uint32_t)points->data[i]))
            return -1;
    }
    points->n = 0;
    return 0;
}

/* True where NFC leaves c alone whatever its neighbours are. Below U+0300 nothing combines with
 * what stands before it; above, anything that takes part in a composition is looked at. */
static bool composition_is_inert(uint32_t c)
{
    if (c < 0x300)
        return true;
    if (c >= 0x1100 && c <= 0x11ff)
        return false; /* Hangul Jamo compose by arithmetic */
    const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)c);
    return p->combining_class == 0 && p->decomp_seqindex == UINT16_MAX &&
           p->comb_index == UINT16_MAX;
}

static bool is_normalized(const char *s, size_t n, enum utf8_form form)
{
    for (size_t i = 0; i < n;) {
        uint32_t c = (unsigned char)s[i];
        if (c < 0x80) {
            i++;
            continue;
        }
        i += utf8_decode(s + i, n - i, &c, NULL);
        if (form != UTF8_NFC || !composition_is_inert(c))
            return false;
    }
    return true;
}

int utf8_append_normalized(struct text *text, const char *s, size_t n, enum utf8_form form)
{
    struct points points = {0};
    utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    int status = -1, boundary = 0;

    if (is_normalized(s, n, form))
        return text_append(text, s, n);
    if (points_reserve(&points, 64))
        goto done;
    if (form == UTF8_NFKC || form == UTF8_NFKD)
        options |= UTF8PROC_COMPAT;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        i += utf8_decode(s + i, n - i, &c, NULL);
        if (IN_RANGES(unknown_marks, c)) {
            if (flush_points(text, &points, form) || text_append_char(text, c))
                goto done;
            continue;
        }
        for (;;) {
            size_t room = points.capacity - points.n;
            utf8proc_ssize_t got =
                utf8proc_decompose_char((utf8proc_int32_t)c, points.data + points.n,
                                        (utf8proc_ssize_t)room, options, &boundary);
            if (got < 0) {
                error_set("cannot normalise U+%04X: %s", c, utf8proc_errmsg(got));
                goto done;
            }
            if ((size_t)got <= room) {
                points.n += (size_t)got;
                break;
            }
            if (points_reserve(&points, (size_t)got))
                goto done;
        }
    }
    status = flush_points(text, &points, form);
done:
    free(points.data);
    return status;
}
