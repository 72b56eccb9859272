/* Added tokens: texts that are cut out before the model sees the rest. Two passes as in Hugging
 * Face tokenizers, one over the text as given, one over its normal form; in each the leftmost match
 * wins, of those the longest. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"
#include "mpi/error.h"

/* Bounds the time per position of the text. Real ones have a few dozen bytes. */
enum { MAX_ADDED_BYTES = 1024 };

static int compare_entries(const void *a, const void *b)
{
    const struct added_entry *x = a, *y = b;
    size_t n = x->n_text < y->n_text ? x->n_text : y->n_text;
    int order = memcmp(x->text, y->text, n);

    if (order != 0)
        return order;
    if (x->n_text != y->n_text)
        return x->n_text < y->n_text ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

int added_set_build(struct tokenizer *t, struct added_set *set, bool normalized)
{
    struct text text = {0};
    size_t n = 0;
    int status = -1;

    for (size_t i = 0; i < t->n_tokens; i++)
        n += (t->tokens[i].flags & TOKEN_ADDED) != 0;
    set->entries = calloc(n + 1, sizeof *set->entries);
    if (!set->entries)
        return error_set("%s: out of memory for %zu added tokens", t->name, n);
    for (size_t i = 0; i < t->n_tokens; i++) {
        const struct token *token = &t->tokens[i];
        const char *s = t->arena.data + token->text;
        if (!(token->flags & TOKEN_ADDED) || ((token->flags & TOKEN_NORMALIZED) != 0) != normalized)
            continue;
        text.n = 0;
        if (normalized ? normalize_run(t, s, token->n_text, &text)
                       : text_append(&text, s, token->n_text))
            goto done;
        if (text.n == 0)
            continue;
        if (text.n > MAX_ADDED_BYTES) {
            error_set("%s: added token %zu has %zu bytes, more than %d are not supported", t->name,
                      i, text.n, MAX_ADDED_BYTES);
            goto done;
        }
        struct added_entry *entry = &set->entries[set->n];
        entry->text = malloc(text.n);
        if (!entry->text) {
            error_set("%s: out of memory for %zu added tokens", t->name, n);
            goto done;
        }
        memcpy(entry->text, text.data, text.n);
        entry->n_text = (uint32_t)text.n;
        entry->id = (int32_t)i;
        set->n++;
    }
    qsort(set->entries, set->n, sizeof *set->entries, compare_entries);
    for (size_t b = 0, k = 0; b <= 256; b++) {
        while (k < set->n && (unsigned char)set->entries[k].text[0] < b)
            k++;
        set->first[b] = (uint32_t)k;
    }
    status = 0;
done:
    text_free(&text);
    return status;
}

void added_set_free(struct added_set *set)
{
    for (size_t i = 0; i < set->n; i++)
        free(set->entries[i].text);
    free(set->entries);
    *set = (struct added_set){0};
}

/* The longest entry that s starts with, or NULL. Narrows the sorted range byte by byte. */
static const struct added_entry *longest_match(const struct added_set *set, const char *s, size_t n)
{
    const struct added_entry *entries = set->entries, *best = NULL;
    size_t low = set->first[(unsigned char)s[0]], high = set->first[(unsigned char)s[0] + 1];

    for (size_t k = 1; low < high; k++) {
        if (entries[low].n_text == k) {
            best = &entries[low];
            while (low < high && entries[low].n_text == k)
                low++;
        }
        if (k >= n)
            break;
        unsigned char c = (unsigned char)s[k];
        size_t a = low, b = high;
        while (a < b) { /* first with a byte >= c at k */
            size_t middle = a + (b - a) / 2;
            if ((unsigned char)entries[middle].text[k] < c)
                a = middle + 1;
            else
                b = middle;
        }
        low = a;
        b = high;
        while (a < b) { /* first with a byte > c */
            size_t middle = a + (b - a) / 2;
            if ((unsigned char)entries[middle].text[k] <= c)
                a = middle + 1;
            else
                b = middle;
        }
        high = a;
    }
    return best;
}

/* The character that ends at s + i, i > 0. */
static uint32_t character_before(const char *s, size_t i, size_t *start)
{
    uint32_t c;
    size_t k = i - 1;

    while (k > 0 && i - k < 4 && ((unsigned char)s[k] & 0xc0) == 0x80)
        k--;
    utf8_decode(s + k, i - k, &c, NULL);
    *start = k;
    return c;
}

static bool touches_word(const char *s, size_t n, size_t start, size_t end)
{
    uint32_t c;
    size_t ignored;

    if (start > 0 && utf8_is_word(character_before(s, start, &ignored)))
        return true;
    if (end == n)
        return false;
    utf8_decode(s + end, n - end, &c, NULL);
    return utf8_is_word(c);
}

bool added_find(const struct tokenizer *t, const struct added_set *set, const char *s, size_t n,
                size_t position, bool special, size_t *start, size_t *end, int32_t *id)
{
    size_t from = position;

    if (set->n == 0)
        return false;
    for (size_t i = position; i < n;) {
        const struct added_entry *entry = NULL;
        if (set->first[(unsigned char)s[i]] < set->first[(unsigned char)s[i] + 1])
            entry = longest_match(set, s + i, n - i);
        if (!entry) {
            i++;
            continue;
        }
        uint32_t flags = t->tokens[entry->id].flags;
        size_t a = i, b = i + entry->n_text;
        i = b; /* a match that does not count still uses up its text */
        if (((flags & TOKEN_SPECIAL) && !special) ||
            ((flags & TOKEN_SINGLE_WORD) && touches_word(s, n, a, b)))
            continue;
        if (flags & TOKEN_LSTRIP) {
            size_t before;
            while (a > from && utf8_is_space(character_before(s, a, &before)))
                a = before;
        }
        if (flags & TOKEN_RSTRIP) {
            uint32_t c;
            size_t length;
            while (b < n && (length = utf8_decode(s + b, n - b, &c, NULL), utf8_is_space(c)))
                b += length;
        }
        *start = a;
        *end = b;
        *id = entry->id;
        return true;
    }
    return false;
}
