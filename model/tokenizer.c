/* The tokenizer's interface: encoding as a whole, and questions about the vocabulary. */
#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"
#include "mpi/error.h"

void tokens_free(struct tokens *tokens)
{
    free(tokens->ids);
    *tokens = (struct tokens){0};
}

int tokens_push(struct tokens *tokens, int32_t id)
{
    if (tokens->n == tokens->capacity) {
        size_t capacity = tokens->capacity ? 2 * tokens->capacity : 64, bytes;
        int32_t *ids = NULL;
        if (!__builtin_mul_overflow(capacity, sizeof *ids, &bytes))
            ids = realloc(tokens->ids, bytes);
        if (!ids)
            return error_set("out of memory: %zu tokens", capacity);
        tokens->ids = ids;
        tokens->capacity = capacity;
    }
    tokens->ids[tokens->n++] = id;
    return 0;
}

/* Replaces every match of the pattern. */
static int replace_all(const struct normalizer_step *step, const char *s, size_t n, size_t limit,
                       struct text *out)
{
    struct matcher matcher = {0};
    size_t start, end, previous = 0;
    int found, status = -1;

    if (matcher_start(&matcher, &step->pattern, s, n))
        return -1;
    while ((found = matcher_next(&matcher, &start, &end)) > 0) {
        if (text_append(out, s + previous, start - previous) ||
            text_append(out, step->content, step->n_content))
            goto done;
        if (out->n > limit) {
            error_set("the normalizer's Replace makes more than %zu bytes of a text", limit);
            goto done;
        }
        previous = end;
    }
    if (found == 0)
        status = text_append(out, s + previous, n - previous);
done:
    matcher_stop(&matcher);
    return status;
}

int normalize_run(const struct tokenizer *t, const char *s, size_t n, struct text *out)
{
    struct text other = {0};
    size_t limit = expansion_limit(n);
    int status = -1;

    if (t->n_normalizer == 0)
        return text_append(out, s, n);
    for (size_t i = 0; i < t->n_normalizer; i++) {
        const struct normalizer_step *step = &t->normalizer[i];
        struct text next = other;
        next.n = 0;
        switch (step->kind) {
        case NORMALIZE_FORM:
            status = utf8_append_normalized(&next, s, n, step->form);
            break;
        case NORMALIZE_PREPEND:
            status = n > 0 ? text_append(&next, step->content, step->n_content) : 0;
            if (status == 0)
                status = text_append(&next, s, n);
            break;
        case NORMALIZE_REPLACE:
            status = replace_all(step, s, n, limit, &next);
            break;
        }
        other = *out;
        *out = next;
        if (status)
            goto done;
        s = out->data;
        n = out->n;
    }
    status = 0;
done:
    text_free(&other);
    return status;
}

struct encoder {
    const struct tokenizer *t;
    bool special;
    struct text normalized;
    struct pretokenize_buffers buffers;
    struct bpe_scratch *scratch;
    struct tokens *out;
};

static int encode_plain(struct encoder *e, const char *s, size_t n, bool first)
{
    struct pieces *pieces;

    if (n == 0)
        return 0;
    if (pretokenize_run(e->t, s, n, first, &e->buffers, &s, &pieces))
        return -1;
    for (size_t i = 0; i < pieces->n; i++) {
        const struct piece *piece = &pieces->data[i];
        if (bpe_encode(e->t, e->scratch, s + piece->start, piece->end - piece->start, e->out))
            return -1;
    }
    return 0;
}

static int encode_unnormalized(struct encoder *e, const char *s, size_t n, bool first)
{
    size_t position = 0, start, end;
    int32_t id;

    if (n == 0)
        return 0;
    if (e->t->n_normalizer > 0) {
        e->normalized.n = 0;
        if (normalize_run(e->t, s, n, &e->normalized))
            return -1;
        s = e->normalized.data;
        n = e->normalized.n;
    }
    while (
        added_find(e->t, &e->t->added_normalized, s, n, position, e->special, &start, &end, &id)) {
        if (encode_plain(e, s + position, start - position, first && position == 0) ||
            tokens_push(e->out, id))
            return -1;
        position = end;
    }
    return encode_plain(e, s + position, n - position, first && position == 0);
}

static int push_all(struct tokens *out, const struct tokens *ids)
{
    for (size_t i = 0; i < ids->n; i++) {
        if (tokens_push(out, ids->ids[i]))
            return -1;
    }
    return 0;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n_bytes, int flags,
                     struct tokens *out)
{
    struct encoder e = {.t = t, .special = flags & TOKENIZER_SPECIAL, .out = out};
    struct text repaired = {0};
    size_t position = 0, start, end, n_before = out->n;
    int32_t id;
    int status = -1;

    if (n_bytes == 0)
        text = "";
    e.scratch = bpe_scratch_new(n_bytes);
    if (!e.scratch)
        goto done;
    if (!utf8_is_valid(text, n_bytes)) {
        if (utf8_append_lossy(&repaired, text, n_bytes))
            goto done;
        text = repaired.data;
        n_bytes = repaired.n;
    }
    if ((flags & TOKENIZER_ADD_BOS) && push_all(out, &t->prefix))
        goto done;
    while (added_find(t, &t->added, text, n_bytes, position, e.special, &start, &end, &id)) {
        if (encode_unnormalized(&e, text + position, start - position, position == 0) ||
            tokens_push(out, id))
            goto done;
        position = end;
    }
    if (encode_unnormalized(&e, text + position, n_bytes - position, position == 0))
        goto done;
    if ((flags & TOKENIZER_ADD_BOS) && push_all(out, &t->suffix))
        goto done;
    status = 0;
done:
    if (status) {
        out->n = n_before;
        error_prefix("%s", t->name);
    }
    text_free(&repaired);
    text_free(&e.normalized);
    pretokenize_free(&e.buffers);
    bpe_scratch_free(e.scratch);
    return status;
}

size_t tokenizer_size(const struct tokenizer *t)
{
    return t->n_tokens;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *text)
{
    return tokenizer_lookup(t, text, strlen(text));
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && (size_t)id < t->n_tokens && (t->tokens[id].flags & TOKEN_SPECIAL);
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

const char *tokenizer_describe(const struct tokenizer *t)
{
    return t->describe;
}

const char *tokenizer_token_bytes(const struct tokenizer *t, int32_t id, bool skip_special,
                                  size_t *n_bytes)
{
    *n_bytes = 0;
    if (id < 0 || (size_t)id >= t->n_tokens || !(t->tokens[id].flags & TOKEN_EXISTS) ||
        (skip_special && (t->tokens[id].flags & TOKEN_SPECIAL)))
        return "";
    *n_bytes = t->tokens[id].n_bytes;
    return t->arena.data + t->tokens[id].bytes;
}
