/* The vocabulary: token texts, their hash, the merges' hash, and what is derived from them. Both
 * hashes use open addressing at a load of at most one half. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"
#include "mpi/error.h"

/* U+2581, which stands for a space in SentencePiece vocabularies. */
static const char metaspace[] = "\xe2\x96\x81";

struct tokenizer *tokenizer_new(const char *name)
{
    struct tokenizer *t = calloc(1, sizeof *t);

    if (t)
        t->name = strdup(name);
    if (!t || !t->name) {
        free(t);
        error_set("%s: out of memory", name);
        return NULL;
    }
    t->bos = t->eos = t->unk = -1;
    for (size_t i = 0; i < 256; i++)
        t->byte_ids[i] = -1;
    for (size_t i = 0; i < 128; i++)
        t->character_ids[i] = -1;
    return t;
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->n_normalizer; i++) {
        pattern_free(&t->normalizer[i].pattern);
        free(t->normalizer[i].content);
    }
    for (size_t i = 0; i < t->n_pretokenizer; i++)
        pattern_free(&t->pretokenizer[i].pattern);
    for (size_t i = 0; i < t->n_decoder; i++) {
        pattern_free(&t->decoder[i].pattern);
        free(t->decoder[i].content);
    }
    added_set_free(&t->added);
    added_set_free(&t->added_normalized);
    tokens_free(&t->prefix);
    tokens_free(&t->suffix);
    text_free(&t->arena);
    free(t->tokens);
    free(t->slots);
    free(t->merges);
    free(t->name);
    free(t);
}

uint32_t byte_level_character(unsigned char byte)
{
    /* printable Latin-1 stands for itself, the other 68 bytes follow from U+0100 in order */
    if ((byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad))
        return byte;
    if (byte <= 0x20)
        return 0x100u + byte;
    if (byte <= 0xa0)
        return 0x100u + 33 + (byte - 0x7fu);
    return 0x100u + 67;
}

int byte_level_byte(uint32_t c)
{
    if (c < 0x100)
        return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c != 0xad) ? (int)c : -1;
    if (c <= 0x120)
        return (int)c - 0x100;
    if (c <= 0x142)
        return (int)c - 0x121 + 0x7f;
    return c == 0x143 ? 0xad : -1;
}

static uint32_t hash_text(const char *s, size_t n)
{
    uint64_t h = 0x9e3779b97f4a7c15u ^ n, part;

    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&part, s, 8);
        h = (h ^ part) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    part = 0;
    memcpy(&part, s, n);
    h = (h ^ part) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
    return (uint32_t)((h * 0xc4ceb9fe1a85ec53u) >> 32);
}

static size_t find_slot(const struct tokenizer *t, const char *text, size_t n, uint32_t hash)
{
    size_t mask = t->n_slots - 1, i = hash & mask;

    for (; t->slots[i].id >= 0; i = (i + 1) & mask) {
        if (t->slots[i].hash != hash)
            continue;
        const struct token *token = &t->tokens[t->slots[i].id];
        if (token->n_text == n && memcmp(t->arena.data + token->text, text, n) == 0)
            break;
    }
    return i;
}

int32_t tokenizer_lookup(const struct tokenizer *t, const char *text, size_t n)
{
    if (t->n_slots == 0)
        return -1;
    return t->slots[find_slot(t, text, n, hash_text(text, n))].id;
}

int32_t tokenizer_lookup_model(const struct tokenizer *t, const char *text, size_t n)
{
    int32_t id = tokenizer_lookup(t, text, n);
    return id >= 0 && (t->tokens[id].flags & TOKEN_MODEL) ? id : -1;
}

static int grow_slots(struct tokenizer *t)
{
    size_t n_old = t->n_slots, n = n_old ? 2 * n_old : 1024, mask = n - 1;
    struct token_slot *old = t->slots, *slots = malloc(n * sizeof *slots);

    if (!slots)
        return error_set("%s: out of memory for %zu tokens", t->name, n);
    memset(slots, -1, n * sizeof *slots);
    for (size_t i = 0; i < n_old; i++) {
        size_t k = old[i].hash & mask;
        if (old[i].id < 0)
            continue;
        while (slots[k].id >= 0)
            k = (k + 1) & mask;
        slots[k] = old[i];
    }
    t->slots = slots;
    t->n_slots = n;
    free(old);
    return 0;
}

static int grow_tokens(struct tokenizer *t, size_t n)
{
    if (n > t->token_capacity) {
        size_t capacity = n + n / 2;
        struct token *tokens = realloc(t->tokens, capacity * sizeof *tokens);
        if (!tokens)
            return error_set("%s: out of memory for %zu tokens", t->name, capacity);
        t->tokens = tokens;
        t->token_capacity = capacity;
    }
    if (n > t->n_tokens) {
        memset(t->tokens + t->n_tokens, 0, (n - t->n_tokens) * sizeof *t->tokens);
        t->n_tokens = n;
    }
    return 0;
}

int tokenizer_add_token(struct tokenizer *t, const char *text, size_t n, int64_t id, size_t limit,
                        uint32_t flags)
{
    int shown = n > 60 ? 60 : (int)n; /* text need not end with a NUL */

    if (id < 0 || (uint64_t)id >= limit || id >= INT32_MAX)
        return error_set(
            "%s: token \"%.*s\" has id %lld, expected 0 to %zu for a file of this size", t->name,
            shown, text, (long long)id, limit - 1);
    if (n > UINT32_MAX / 2)
        return error_set("%s: a token's text has %zu bytes", t->name, n);
    if (!utf8_is_valid(text, n))
        return error_set("%s: the text of token %lld is not UTF-8", t->name, (long long)id);
    if ((t->n_used + 1) * 2 > t->n_slots && grow_slots(t))
        return -1;
    uint32_t hash = hash_text(text, n);
    size_t slot = find_slot(t, text, n, hash);
    int32_t known = t->slots[slot].id;
    if (known >= 0 && known != id)
        return error_set("%s: token \"%.*s\" has id %lld, but also id %d", t->name, shown, text,
                         (long long)id, known);
    if (grow_tokens(t, (size_t)id + 1))
        return -1;
    struct token *token = &t->tokens[id];
    if (known >= 0) {
        token->flags |= flags;
        return 0;
    }
    if (token->flags & TOKEN_EXISTS)
        return error_set("%s: id %lld belongs to two tokens, \"%.*s\" and \"%.*s\"", t->name,
                         (long long)id, token->n_text > 60 ? 60 : (int)token->n_text,
                         t->arena.data + token->text, shown, text);
    token->text = t->arena.n;
    token->n_text = (uint32_t)n;
    token->flags = flags | TOKEN_EXISTS;
    if (text_append(&t->arena, text, n) || text_append(&t->arena, "", 1))
        return -1;
    t->slots[slot] = (struct token_slot){hash, (int32_t)id};
    t->n_used++;
    return 0;
}

static size_t find_merge_slot(const struct tokenizer *t, uint32_t left, uint32_t right)
{
    uint64_t key = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    size_t mask = t->n_merge_slots - 1, i = (key ^ key >> 29) >> 16 & mask;

    while (t->merges[i].left != MERGE_EMPTY &&
           (t->merges[i].left != left || t->merges[i].right != right))
        i = (i + 1) & mask;
    return i;
}

const struct merge *tokenizer_find_merge(const struct tokenizer *t, uint32_t left, uint32_t right)
{
    if (t->n_merges == 0)
        return NULL;
    const struct merge *merge = &t->merges[find_merge_slot(t, left, right)];
    return merge->left == MERGE_EMPTY ? NULL : merge;
}

int tokenizer_put_merge(struct tokenizer *t, uint32_t left, uint32_t right, uint32_t rank,
                        uint32_t id)
{
    if ((t->n_merges + 1) * 2 > t->n_merge_slots) {
        size_t n_old = t->n_merge_slots, n = n_old ? 2 * n_old : 1024, bytes;
        struct merge *old = t->merges, *merges = NULL;
        if (!__builtin_mul_overflow(n, sizeof *merges, &bytes))
            merges = malloc(bytes);
        if (!merges)
            return error_set("%s: out of memory for %zu merges", t->name, n);
        memset(merges, 0xff, bytes);
        t->merges = merges;
        t->n_merge_slots = n;
        for (size_t i = 0; i < n_old; i++) {
            if (old[i].left != MERGE_EMPTY)
                merges[find_merge_slot(t, old[i].left, old[i].right)] = old[i];
        }
        free(old);
    }
    struct merge *merge = &t->merges[find_merge_slot(t, left, right)];
    t->n_merges += merge->left == MERGE_EMPTY;
    *merge = (struct merge){left, right, rank, id};
    return 0;
}

int tokenizer_add_merge(struct tokenizer *t, const char *left, size_t n_left, const char *right,
                        size_t n_right, uint32_t rank)
{
    char joined[256], *text = joined;
    int32_t ids[3];

    if (n_left + n_right > sizeof joined && !(text = malloc(n_left + n_right)))
        return error_set("%s: out of memory for a merge", t->name);
    memcpy(text, left, n_left);
    memcpy(text + n_left, right, n_right);
    ids[0] = tokenizer_lookup_model(t, left, n_left);
    ids[1] = tokenizer_lookup_model(t, right, n_right);
    ids[2] = tokenizer_lookup_model(t, text, n_left + n_right);
    if (text != joined)
        free(text);
    if (ids[0] < 0 || ids[1] < 0 || ids[2] < 0)
        return error_set("%s: merge %u joins \"%.*s\" and \"%.*s\", which are not "
                         "both, or not together, in the vocabulary",
                         t->name, rank, n_left > 60 ? 60 : (int)n_left, left,
                         n_right > 60 ? 60 : (int)n_right, right);
    return tokenizer_put_merge(t, (uint32_t)ids[0], (uint32_t)ids[1], rank, (uint32_t)ids[2]);
}

/* <0xAB> as a byte, -1 for other texts. */
static int byte_token_value(const char *s, size_t n)
{
    int value = 0;

    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
        return -1;
    for (size_t i = 3; i < 5; i++) {
        int c = s[i];
        if (c >= '0' && c <= '9')
            value = value * 16 + (c - '0');
        else if (c >= 'A' && c <= 'F')
            value = value * 16 + (c - 'A' + 10);
        else if (c >= 'a' && c <= 'f')
            value = value * 16 + (c - 'a' + 10);
        else
            return -1;
    }
    return value;
}

/* What decoding makes of a token: as tokenizers 0.23, it starts from an added token's normalized
 * text. (But a special token is skipped whatever its normalized text is.) Then the bytes that it
 * stands for when read alone: what tokenizer_token_bytes gives. */
static int append_decoded(struct tokenizer *t, struct token *token, struct text *bytes)
{
    const struct decoder_step *step = t->decoder;
    const char *s = t->arena.data + token->text;
    size_t n = token->n_text;
    bool plain = true;

    token->shown = token->text;
    token->n_shown = token->n_text;
    if ((token->flags & TOKEN_ADDED) && (token->flags & TOKEN_NORMALIZED) && t->n_normalizer > 0) {
        bytes->n = 0;
        if (normalize_run(t, s, n, bytes))
            return error_prefix("%s", t->name);
        token->shown = t->arena.n;
        token->n_shown = (uint32_t)bytes->n;
        if (text_append(&t->arena, bytes->data, bytes->n) || text_append(&t->arena, "", 1))
            return -1;
        s = t->arena.data + token->shown;
        n = token->n_shown;
    }
    bytes->n = 0;
    for (size_t i = 0; i < t->n_decoder; i++, step++) {
        if (step->kind == DECODE_BYTE_LEVEL) {
            for (size_t k = 0; plain && k < n;) {
                uint32_t c;
                k += utf8_decode(s + k, n - k, &c, NULL);
                plain = byte_level_byte(c) >= 0;
            }
            for (size_t k = 0; plain && k < n;) {
                uint32_t c;
                k += utf8_decode(s + k, n - k, &c, NULL);
                char byte = (char)byte_level_byte(c);
                if (text_append(bytes, &byte, 1))
                    return -1;
            }
            if (plain)
                goto store;
        } else if (step->kind == DECODE_BYTE_FALLBACK && byte_token_value(s, n) >= 0) {
            char byte = (char)byte_token_value(s, n);
            if (text_append(bytes, &byte, 1))
                return -1;
            goto store;
        }
    }
    if (t->byte_level) {
        if (text_append(bytes, s, n))
            return -1;
        goto store;
    }
    for (size_t k = 0; k < n;) {
        if (n - k >= 3 && memcmp(s + k, metaspace, 3) == 0) {
            if (text_append(bytes, " ", 1))
                return -1;
            k += 3;
        } else {
            if (text_append(bytes, s + k, 1))
                return -1;
            k++;
        }
    }
store:
    token->bytes = t->arena.n;
    token->n_bytes = (uint32_t)bytes->n;
    if (text_append(&t->arena, bytes->data, bytes->n) || text_append(&t->arena, "", 1))
        return -1;
    return 0;
}

/* True where no token has a U+2581 after another character, so that merges never cross the front
 * of a run of them: words can then be merged (and cached) one by one with the same result. */
static bool words_are_safe(const struct tokenizer *t)
{
    if (t->ignore_merges || tokenizer_lookup_model(t, metaspace, 3) < 0)
        return false;
    for (size_t i = 0; i < t->n_merge_slots; i++) {
        if (t->merges[i].left == MERGE_EMPTY)
            continue;
        const struct token *token = &t->tokens[t->merges[i].id];
        const char *s = t->arena.data + token->text;
        for (size_t k = 1; k + 3 <= token->n_text; k++) {
            if (memcmp(s + k, metaspace, 3) == 0 && (k < 3 || memcmp(s + k - 3, metaspace, 3) != 0))
                return false;
        }
    }
    return true;
}

int tokenizer_finish(struct tokenizer *t)
{
    struct text bytes = {0};
    int status = 0;

    if (t->n_tokens == 0)
        return error_set("%s: the tokenizer's vocabulary is empty", t->name);
    for (size_t i = 0; i < 256; i++) {
        char text[8];
        size_t n = t->byte_level ? utf8_encode(byte_level_character((unsigned char)i), text)
                                 : (size_t)snprintf(text, sizeof text, "<0x%02zX>", i);
        if (t->byte_level || t->byte_fallback)
            t->byte_ids[i] = tokenizer_lookup_model(t, text, n);
    }
    for (size_t i = 0; i < 128; i++) {
        char c = (char)i;
        t->character_ids[i] = tokenizer_lookup_model(t, &c, 1);
    }
    for (size_t i = 0; status == 0 && i < t->n_tokens; i++)
        status = append_decoded(t, &t->tokens[i], &bytes);
    text_free(&bytes);
    if (status)
        return -1;
    t->words_are_safe = !t->byte_level && words_are_safe(t);
    return added_set_build(t, &t->added, false) || added_set_build(t, &t->added_normalized, true)
               ? -1
               : 0;
}
