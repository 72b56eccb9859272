/* Byte-pair encoding of one piece of text: start from single characters (bytes), then always merge
 * the pair of least rank, the leftmost of equals (Sennrich et al. 2016). Short pieces scan for it;
 * long ones keep the pairs in a heap, so that a piece of n characters costs O(n log n). A small
 * cache remembers the pieces of one call. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"
#include "mpi/error.h"

enum {
    SCAN_LIMIT = 40,   /* pieces of more symbols go through the heap */
    CACHED_BYTES = 23, /* longer pieces are not cached, nor those of more tokens */
    CACHED_IDS = 9,
    MAX_CACHE = 8192
};

struct cached {
    uint8_t n_bytes, n_ids; /* n_bytes == 0: empty */
    char bytes[CACHED_BYTES];
    int32_t ids[CACHED_IDS];
};

struct symbol {
    uint32_t id; /* DEAD: merged into the one before it */
    uint32_t previous, next;
};
#define DEAD UINT32_MAX
#define NOWHERE UINT32_MAX

struct candidate {
    uint32_t rank, position;
    uint32_t left, right, id;
};

struct bpe_scratch {
    uint32_t *ids;
    size_t n_ids, id_capacity;
    struct symbol *symbols;
    size_t symbol_capacity;
    struct candidate *heap;
    size_t n_heap, heap_capacity;
    struct text mapped; /* a piece in byte-level characters */
    struct cached *cache;
    size_t cache_mask;
};

struct bpe_scratch *bpe_scratch_new(size_t n_bytes)
{
    struct bpe_scratch *scratch = calloc(1, sizeof *scratch);
    size_t n = 64;

    if (!scratch) {
        error_set("out of memory");
        return NULL;
    }
    while (n < MAX_CACHE && n < n_bytes / 8)
        n *= 2;
    if (n_bytes >= 256) { /* without it everything still works */
        scratch->cache = calloc(n, sizeof *scratch->cache);
        scratch->cache_mask = n - 1;
    }
    return scratch;
}

void bpe_scratch_free(struct bpe_scratch *scratch)
{
    if (!scratch)
        return;
    free(scratch->ids);
    free(scratch->symbols);
    free(scratch->heap);
    free(scratch->cache);
    text_free(&scratch->mapped);
    free(scratch);
}

static int grow(void **data, size_t *capacity, size_t n, size_t size)
{
    if (n <= *capacity)
        return 0;
    size_t more = n + n / 2 + 64, bytes;
    void *grown = NULL;
    if (!__builtin_mul_overflow(more, size, &bytes))
        grown = realloc(*data, bytes);
    if (!grown)
        return error_set("out of memory: a text of %zu characters", more);
    *data = grown;
    *capacity = more;
    return 0;
}

static int push_id(struct bpe_scratch *scratch, uint32_t id)
{
    if (scratch->n_ids == scratch->id_capacity &&
        grow((void **)&scratch->ids, &scratch->id_capacity, scratch->n_ids + 1, sizeof(uint32_t)))
        return -1;
    scratch->ids[scratch->n_ids++] = id;
    return 0;
}

/* The ids of the single characters, as tokenizers' BPE starts: bytes by table, other characters by
 * vocabulary, then as their <0xAB> bytes, then as (fused) unknown tokens, else left out. A pending
 * unknown token is written when the next known character comes, after any byte tokens between: so
 * it is there. */
static int start_symbols(const struct tokenizer *t, struct bpe_scratch *scratch, const char *s,
                         size_t n)
{
    int unknown = 0;

    scratch->n_ids = 0;
    if (grow((void **)&scratch->ids, &scratch->id_capacity, n, sizeof(uint32_t)))
        return -1;
    for (size_t i = 0, length; i < n; i += length) {
        unsigned char lead = (unsigned char)s[i];
        int32_t id;
        length = 1;
        if (t->byte_level) {
            id = t->byte_ids[lead];
        } else if (lead < 0x80) {
            id = t->character_ids[lead];
        } else {
            uint32_t c;
            length = utf8_decode(s + i, n - i, &c, NULL);
            id = tokenizer_lookup_model(t, s + i, length);
        }
        if (id >= 0) {
            if (unknown && push_id(scratch, (uint32_t)t->unk))
                return -1;
            unknown = 0;
            if (push_id(scratch, (uint32_t)id))
                return -1;
            continue;
        }
        if (t->byte_fallback && !t->byte_level) {
            bool all = true;
            for (size_t k = 0; k < length; k++)
                all = all && t->byte_ids[(unsigned char)s[i + k]] >= 0;
            for (size_t k = 0; all && k < length; k++) {
                if (push_id(scratch, (uint32_t)t->byte_ids[(unsigned char)s[i + k]]))
                    return -1;
            }
            if (all)
                continue;
        }
        if (t->unk < 0)
            continue;
        if (unknown && !t->fuse_unk && push_id(scratch, (uint32_t)t->unk))
            return -1;
        unknown = 1;
    }
    return unknown ? push_id(scratch, (uint32_t)t->unk) : 0;
}

/* Merges ids[0..n) in place by scanning; returns how many are left. n <= SCAN_LIMIT. */
static size_t merge_scanning(const struct tokenizer *t, uint32_t *ids, size_t n)
{
    uint32_t ranks[SCAN_LIMIT], merged[SCAN_LIMIT];

    for (size_t i = 0; i + 1 < n; i++) {
        const struct merge *merge = tokenizer_find_merge(t, ids[i], ids[i + 1]);
        ranks[i] = merge ? merge->rank : UINT32_MAX;
        merged[i] = merge ? merge->id : 0;
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (ranks[i] < ranks[best])
                best = i;
        }
        if (ranks[best] == UINT32_MAX)
            break;
        ids[best] = merged[best];
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        if (n - best > 2) {
            memmove(ranks + best + 1, ranks + best + 2, (n - best - 3) * sizeof *ranks);
            memmove(merged + best + 1, merged + best + 2, (n - best - 3) * sizeof *merged);
        }
        n--;
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const struct merge *merge = tokenizer_find_merge(t, ids[i], ids[i + 1]);
            ranks[i] = merge ? merge->rank : UINT32_MAX;
            merged[i] = merge ? merge->id : 0;
        }
    }
    return n;
}

static bool comes_before(const struct candidate *a, const struct candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->position < b->position;
}

static int heap_push(struct bpe_scratch *scratch, struct candidate candidate)
{
    if (scratch->n_heap == scratch->heap_capacity &&
        grow((void **)&scratch->heap, &scratch->heap_capacity, scratch->n_heap + 1,
             sizeof *scratch->heap))
        return -1;
    size_t i = scratch->n_heap++;
    for (; i > 0 && comes_before(&candidate, &scratch->heap[(i - 1) / 2]); i = (i - 1) / 2)
        scratch->heap[i] = scratch->heap[(i - 1) / 2];
    scratch->heap[i] = candidate;
    return 0;
}

static struct candidate heap_pop(struct bpe_scratch *scratch)
{
    struct candidate *heap = scratch->heap, top = heap[0], last = heap[--scratch->n_heap];
    size_t n = scratch->n_heap, i = 0;

    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && comes_before(&heap[child + 1], &heap[child]))
            child++;
        if (!comes_before(&heap[child], &last))
            break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

static int push_pair(const struct tokenizer *t, struct bpe_scratch *scratch, uint32_t position)
{
    const struct symbol *left = &scratch->symbols[position];
    if (left->next == NOWHERE)
        return 0;
    const struct symbol *right = &scratch->symbols[left->next];
    const struct merge *merge = tokenizer_find_merge(t, left->id, right->id);
    if (!merge)
        return 0;
    return heap_push(scratch,
                     (struct candidate){merge->rank, position, left->id, right->id, merge->id});
}

static int merge_heaping(const struct tokenizer *t, struct bpe_scratch *scratch)
{
    size_t n = scratch->n_ids, left = 0;

    if (n >= NOWHERE)
        return error_set("a text of %zu characters is too long to be cut into tokens", n);
    if (grow((void **)&scratch->symbols, &scratch->symbol_capacity, n, sizeof *scratch->symbols))
        return -1;
    struct symbol *symbols = scratch->symbols;
    for (size_t i = 0; i < n; i++)
        symbols[i] = (struct symbol){scratch->ids[i], i > 0 ? (uint32_t)i - 1 : NOWHERE,
                                     i + 1 < n ? (uint32_t)i + 1 : NOWHERE};
    scratch->n_heap = 0;
    for (size_t i = 0; i + 1 < n; i++) {
        if (push_pair(t, scratch, (uint32_t)i))
            return -1;
    }
    while (scratch->n_heap > 0) {
        struct candidate top = heap_pop(scratch);
        struct symbol *symbol = &symbols[top.position];
        /* an entry is out of date when one of its two symbols has changed since */
        if (symbol->id != top.left || symbol->next == NOWHERE ||
            symbols[symbol->next].id != top.right)
            continue;
        struct symbol *right = &symbols[symbol->next];
        symbol->id = top.id;
        right->id = DEAD;
        symbol->next = right->next;
        if (symbol->next != NOWHERE)
            symbols[symbol->next].previous = top.position;
        if ((symbol->previous != NOWHERE && push_pair(t, scratch, symbol->previous)) ||
            push_pair(t, scratch, top.position))
            return -1;
    }
    for (uint32_t i = 0; i != NOWHERE && left < n; i = symbols[i].next)
        scratch->ids[left++] = symbols[i].id;
    scratch->n_ids = left;
    return 0;
}

/* The token that is the whole piece, for models that look for it before any merging: -1 when there
 * is none, -2 with error_set. */
static int32_t whole_piece(const struct tokenizer *t, struct bpe_scratch *scratch, const char *s,
                           size_t n)
{
    struct text *text = &scratch->mapped;

    if (!t->byte_level)
        return tokenizer_lookup_model(t, s, n);
    text->n = 0;
    for (size_t i = 0; i < n; i++) {
        if (text_append_char(text, byte_level_character((unsigned char)s[i])))
            return -2;
    }
    return tokenizer_lookup_model(t, text->data, text->n);
}

static int append_ids(struct tokens *out, const uint32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (tokens_push(out, (int32_t)ids[i]))
            return -1;
    }
    return 0;
}

static int encode_word(const struct tokenizer *t, struct bpe_scratch *scratch, const char *s,
                       size_t n, struct tokens *out)
{
    struct cached *cached = NULL;

    if (n == 0)
        return 0;
    if (scratch->cache && n <= CACHED_BYTES) {
        char key[24] = {0};
        uint64_t parts[3];
        memcpy(key, s, n);
        memcpy(parts, key, sizeof parts);
        uint64_t h = (parts[0] * 0x9e3779b97f4a7c15u) ^ (parts[1] * 0xc4ceb9fe1a85ec53u) ^
                     (parts[2] * 0xff51afd7ed558ccdu) ^ n;
        h *= 0xff51afd7ed558ccdu;
        cached = &scratch->cache[h >> 40 & scratch->cache_mask];
        if (cached->n_bytes == n && memcmp(cached->bytes, s, n) == 0)
            return append_ids(out, (const uint32_t *)cached->ids, cached->n_ids);
    }
    int32_t whole = t->ignore_merges ? whole_piece(t, scratch, s, n) : -1;
    if (whole == -2)
        return -1;
    if (whole >= 0) {
        scratch->n_ids = 0;
        if (push_id(scratch, (uint32_t)whole))
            return -1;
    } else {
        if (start_symbols(t, scratch, s, n))
            return -1;
        if (scratch->n_ids <= SCAN_LIMIT)
            scratch->n_ids = merge_scanning(t, scratch->ids, scratch->n_ids);
        else if (merge_heaping(t, scratch))
            return -1;
    }
    if (cached && scratch->n_ids <= CACHED_IDS) {
        cached->n_bytes = (uint8_t)n;
        cached->n_ids = (uint8_t)scratch->n_ids;
        memcpy(cached->bytes, s, n);
        if (scratch->n_ids > 0)
            memcpy(cached->ids, scratch->ids, scratch->n_ids * sizeof *scratch->ids);
    }
    return append_ids(out, scratch->ids, scratch->n_ids);
}

static bool starts_metaspace(const char *s, size_t n)
{
    return n >= 3 && memcmp(s, "\xe2\x96\x81", 3) == 0;
}

int bpe_encode(const struct tokenizer *t, struct bpe_scratch *scratch, const char *s, size_t n,
               struct tokens *out)
{
    size_t start = 0, i = 0;

    if (!t->words_are_safe)
        return encode_word(t, scratch, s, n, out);
    while (i < n) {
        while (starts_metaspace(s + i, n - i))
            i += 3;
        while (i < n && !starts_metaspace(s + i, n - i))
            i++;
        if (encode_word(t, scratch, s + start, i - start, out))
            return -1;
        start = i;
    }
    return 0;
}
