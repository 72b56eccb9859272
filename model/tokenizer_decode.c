/* Ids back to text: Hugging Face tokenizers' chain of decoders, each a map from a list of strings
 * to a list of strings, joined at the end. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"
#include "mpi/error.h"

/* A list of strings in one text: piece i is [start, end). */
struct list {
    struct text text;
    struct pieces pieces;
    size_t start; /* of the string being written */
};

static int list_close(struct list *list)
{
    /* empty strings are kept: the next step may look at the first one */
    struct pieces *pieces = &list->pieces;
    size_t start = list->start;

    list->start = list->text.n;
    if (start < list->text.n)
        return pieces_push(pieces, start, list->text.n);
    if (pieces_push(pieces, 0, 1)) /* makes room */
        return -1;
    pieces->data[pieces->n - 1] = (struct piece){start, start};
    return 0;
}

static int list_put(struct list *list, const char *s, size_t n)
{
    return text_append(&list->text, s, n) || list_close(list) ? -1 : 0;
}

static void list_clear(struct list *list)
{
    list->text.n = list->pieces.n = list->start = 0;
}

static void list_free(struct list *list)
{
    text_free(&list->text);
    free(list->pieces.data);
}

/* One token's text to bytes; as it is when it holds a character that stands for no byte. */
static int append_bytes(struct text *out, const char *s, size_t n)
{
    size_t before = out->n;

    for (size_t i = 0; i < n;) {
        uint32_t c;
        i += utf8_decode(s + i, n - i, &c, NULL);
        int byte = byte_level_byte(c);
        if (byte < 0) {
            out->n = before;
            return text_append(out, s, n);
        }
        char b = (char)byte;
        if (text_append(out, &b, 1))
            return -1;
    }
    return 0;
}

static int decode_byte_level(const struct list *in, struct list *out)
{
    struct text bytes = {0};
    int status = -1;

    for (size_t i = 0; i < in->pieces.n; i++) {
        const struct piece *piece = &in->pieces.data[i];
        if (append_bytes(&bytes, in->text.data + piece->start, piece->end - piece->start))
            goto done;
    }
    if (utf8_append_lossy(&out->text, bytes.data, bytes.n))
        goto done;
    status = list_close(out);
done:
    text_free(&bytes);
    return status;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Ends a run of <0xAB> tokens: their text when it is UTF-8, else one U+FFFD each. */
static int flush_bytes(struct text *bytes, struct list *out)
{
    if (bytes->n == 0)
        return 0;
    if (utf8_is_valid(bytes->data, bytes->n)) {
        if (list_put(out, bytes->data, bytes->n))
            return -1;
    } else {
        for (size_t i = 0; i < bytes->n; i++) {
            if (list_put(out, "\xef\xbf\xbd", 3))
                return -1;
        }
    }
    bytes->n = 0;
    return 0;
}

static int decode_byte_fallback(const struct list *in, struct list *out)
{
    struct text bytes = {0};
    int status = -1;

    for (size_t i = 0; i < in->pieces.n; i++) {
        const char *s = in->text.data + in->pieces.data[i].start;
        size_t n = in->pieces.data[i].end - in->pieces.data[i].start;
        if (n == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>' && hex_value(s[3]) >= 0 &&
            hex_value(s[4]) >= 0) {
            char byte = (char)(hex_value(s[3]) << 4 | hex_value(s[4]));
            if (text_append(&bytes, &byte, 1))
                goto done;
            continue;
        }
        if (flush_bytes(&bytes, out) || list_put(out, s, n))
            goto done;
    }
    status = flush_bytes(&bytes, out);
done:
    text_free(&bytes);
    return status;
}

static int decode_replace(const struct decoder_step *step, struct matcher *matcher, const char *s,
                          size_t n, size_t limit, struct list *out)
{
    size_t start, end, previous = 0;
    int found;

    if (matcher_start(matcher, &step->pattern, s, n))
        return -1;
    while ((found = matcher_next(matcher, &start, &end)) > 0) {
        if (text_append(&out->text, s + previous, start - previous) ||
            text_append(&out->text, step->content, step->n_content))
            return -1;
        if (out->text.n > limit)
            return error_set("the decoder's Replace makes more than %zu bytes of a text", limit);
        previous = end;
    }
    if (found < 0 || text_append(&out->text, s + previous, n - previous))
        return -1;
    return list_close(out);
}

static int decode_strip(const struct decoder_step *step, const char *s, size_t n, struct list *out)
{
    char mark[4];
    size_t n_mark = utf8_encode(step->character, mark);

    for (size_t i = 0; i < step->n_start && n >= n_mark && memcmp(s, mark, n_mark) == 0; i++) {
        s += n_mark;
        n -= n_mark;
    }
    for (size_t i = 0; i < step->n_stop && n >= n_mark && memcmp(s + n - n_mark, mark, n_mark) == 0;
         i++)
        n -= n_mark;
    return list_put(out, s, n);
}

static int decode_metaspace(const struct decoder_step *step, const char *s, size_t n, bool first,
                            struct list *out)
{
    char mark[4];
    size_t n_mark = utf8_encode(step->character, mark);
    bool drop = first && step->scheme != PREPEND_NEVER;

    for (size_t i = 0; i < n;) {
        if (n - i >= n_mark && memcmp(s + i, mark, n_mark) == 0) {
            if (!drop && text_append(&out->text, " ", 1))
                return -1;
            i += n_mark;
        } else {
            if (text_append(&out->text, s + i, 1))
                return -1;
            i++;
        }
    }
    return list_close(out);
}

static int decode_step(const struct decoder_step *step, const struct list *in, size_t limit,
                       struct list *out)
{
    struct matcher matcher = {0};
    int status = 0;

    if (step->kind == DECODE_BYTE_LEVEL)
        return decode_byte_level(in, out);
    if (step->kind == DECODE_BYTE_FALLBACK)
        return decode_byte_fallback(in, out);
    if (step->kind == DECODE_FUSE)
        return list_put(out, in->text.data, in->text.n);
    for (size_t i = 0; status == 0 && i < in->pieces.n; i++) {
        const char *s = in->text.data + in->pieces.data[i].start;
        size_t n = in->pieces.data[i].end - in->pieces.data[i].start;
        if (step->kind == DECODE_REPLACE)
            status = decode_replace(step, &matcher, s, n, limit, out);
        else if (step->kind == DECODE_STRIP)
            status = decode_strip(step, s, n, out);
        else
            status = decode_metaspace(step, s, n, i == 0, out);
    }
    matcher_stop(&matcher);
    return status;
}

char *tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                       size_t *n_bytes)
{
    struct list lists[2] = {0};
    struct list *in = &lists[0], *out = &lists[1];
    char *result = NULL;

    if (text_append(&in->text, "", 1) || text_append(&out->text, "", 1))
        goto done;
    list_clear(in);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0) {
            error_set("%s: id %d is not in the vocabulary of %zu tokens", t->name, ids[i],
                      t->n_tokens);
            goto done;
        }
        if ((size_t)ids[i] >= t->n_tokens) /* a model's vocabulary may be padded */
            continue;
        const struct token *token = &t->tokens[ids[i]];
        if (!(token->flags & TOKEN_EXISTS) || (skip_special && (token->flags & TOKEN_SPECIAL)))
            continue;
        if (t->n_decoder == 0 && in->pieces.n > 0 && text_append(&in->text, " ", 1))
            goto done;
        if (list_put(in, t->arena.data + token->shown, token->n_shown))
            goto done;
    }
    size_t limit = expansion_limit(in->text.n);
    for (size_t i = 0; i < t->n_decoder; i++) {
        list_clear(out);
        if (decode_step(&t->decoder[i], in, limit, out)) {
            error_prefix("%s", t->name);
            goto done;
        }
        struct list *swap = in;
        in = out;
        out = swap;
    }
    *n_bytes = in->text.n;
    if (text_append(&in->text, "", 1))
        goto done;
    result = in->text.data;
    in->text = (struct text){0};
done:
    list_free(&lists[0]);
    list_free(&lists[1]);
    return result;
}
