/* Cuts text into the pieces that BPE works on, step by step as Hugging Face tokenizers'
 * pre-tokenizers do. The patterns of GPT-2, Llama 3 and Qwen 2 are hand-written here, since a
 * regular-expression engine takes several times as long; all others run in PCRE2. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"
#include "mpi/error.h"

/* ---- known patterns ----------------------------------------------------------------------- */

static enum utf8_class class_at(const char *s, size_t n, size_t i, size_t *length)
{
    uint32_t c = (unsigned char)s[i];

    *length = 1;
    if (c >= 0x80)
        *length = utf8_decode(s + i, n - i, &c, NULL);
    return utf8_classify(c);
}

/* End of the run of one class from position on. Letters, numbers or others only. */
static size_t run_end(const char *s, size_t n, size_t i, enum utf8_class class)
{
    size_t length;

    while (i < n && class_at(s, n, i, &length) == class)
        i += length;
    return i;
}

/* 's 't 're 've 'm 'll 'd at position (which holds the apostrophe): its length or 0. Case folding
 * makes U+017F an s. */
static size_t contraction_length(const char *s, size_t n, bool any_case)
{
    char a = n > 1 ? s[1] : 0, b = n > 2 ? s[2] : 0;

    if (any_case) {
        if (n > 2 && memcmp(s + 1, "\xc5\xbf", 2) == 0)
            return 3;
        a = a >= 'A' && a <= 'Z' ? (char)(a + 32) : a;
        b = b >= 'A' && b <= 'Z' ? (char)(b + 32) : b;
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if ((b == 'e' && (a == 'r' || a == 'v')) || (a == 'l' && b == 'l'))
        return 3;
    return 0;
}

/* \s+(?!\S)|\s+ : a run of spaces without its last character when something follows it. With
 * newlines, \s*[\r\n]+ before it: up to the run's last newline. */
static size_t space_end(const char *s, size_t n, size_t i, bool newlines)
{
    size_t last = i, newline = 0, end = i, length;

    while (end < n) {
        enum utf8_class class = class_at(s, n, end, &length);
        if (class != UTF8_SPACE && class != UTF8_NEWLINE)
            break;
        last = end;
        end += length;
        if (class == UTF8_NEWLINE)
            newline = end;
    }
    if (newlines && newline > 0)
        return newline;
    return end == n || last == i ? end : last;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t gpt2_end(const char *s, size_t n, size_t i)
{
    size_t length, first = i;

    if (s[i] == '\'') {
        length = contraction_length(s + i, n - i, false);
        if (length > 0)
            return i + length;
    }
    if (s[i] == ' ' && i + 1 < n)
        first++;
    enum utf8_class class = class_at(s, n, first, &length);
    if (class == UTF8_SPACE || class == UTF8_NEWLINE)
        return space_end(s, n, i, false);
    return run_end(s, n, first + length, class);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|
 * \s*[\r\n]+|\s+(?!\S)|\s+   with max_digits 3; Qwen 2 has \p{N}. */
static size_t llama3_end(const char *s, size_t n, size_t i, size_t max_digits)
{
    size_t length, next_length, end;
    enum utf8_class class, next = UTF8_SPACE;

    if (s[i] == '\'') {
        length = contraction_length(s + i, n - i, true);
        if (length > 0)
            return i + length;
    }
    class = class_at(s, n, i, &length);
    end = i + length;
    if (class == UTF8_LETTER)
        return run_end(s, n, end, UTF8_LETTER);
    if (class == UTF8_NUMBER) {
        for (size_t k = 1; k < max_digits && end < n; k++, end += length) {
            if (class_at(s, n, end, &length) != UTF8_NUMBER)
                break;
        }
        return end;
    }
    if (end < n)
        next = class_at(s, n, end, &next_length);
    if (class != UTF8_NEWLINE && next == UTF8_LETTER)
        return run_end(s, n, end + next_length, UTF8_LETTER);
    if (class == UTF8_OTHER || (s[i] == ' ' && next == UTF8_OTHER)) {
        end = run_end(s, n, end, UTF8_OTHER);
        while (end < n && (s[end] == '\r' || s[end] == '\n'))
            end++;
        return end;
    }
    return space_end(s, n, i, true);
}

size_t pattern_known_end(enum pattern_kind kind, const char *s, size_t n, size_t position)
{
    if (kind == PATTERN_GPT2)
        return gpt2_end(s, n, position);
    return llama3_end(s, n, position, kind == PATTERN_LLAMA3 ? 3 : 1);
}

/* ---- pieces ------------------------------------------------------------------------------- */

int pieces_push(struct pieces *pieces, size_t start, size_t end)
{
    if (start == end)
        return 0;
    if (pieces->n == pieces->capacity) {
        size_t capacity = pieces->capacity ? 2 * pieces->capacity : 32, bytes;
        struct piece *data = NULL;
        if (!__builtin_mul_overflow(capacity, sizeof *data, &bytes))
            data = realloc(pieces->data, bytes);
        if (!data)
            return error_set("out of memory: a text of %zu words", capacity);
        pieces->data = data;
        pieces->capacity = capacity;
    }
    pieces->data[pieces->n++] = (struct piece){start, end};
    return 0;
}

/* A cut: a stretch and whether the pattern matched it. Follows NormalizedString::split of Hugging
 * Face tokenizers. */
struct splitter {
    struct pieces *out;
    enum split_behavior behavior;
    size_t start, end;   /* the piece being put together */
    bool open, previous; /* there is one; it (or what preceded) was a match */
};

static int splitter_put(struct splitter *splitter, size_t start, size_t end, bool match)
{
    bool join = false, keep = true;

    switch (splitter->behavior) {
    case SPLIT_REMOVED:
        keep = !match;
        break;
    case SPLIT_ISOLATED:
        break;
    case SPLIT_CONTIGUOUS:
        join = splitter->open && match == splitter->previous;
        break;
    case SPLIT_MERGED_WITH_PREVIOUS:
        join = splitter->open && match && !splitter->previous;
        break;
    case SPLIT_MERGED_WITH_NEXT:
        join = splitter->open && !match && splitter->previous;
        break;
    }
    if (join) {
        splitter->end = end;
    } else {
        if (splitter->open && pieces_push(splitter->out, splitter->start, splitter->end))
            return -1;
        splitter->open = keep;
        splitter->start = start;
        splitter->end = end;
    }
    splitter->previous = match;
    return 0;
}

static int splitter_finish(struct splitter *splitter)
{
    return splitter->open ? pieces_push(splitter->out, splitter->start, splitter->end) : 0;
}

static int split_piece(const struct pretokenizer_step *step, struct matcher *matcher, const char *s,
                       size_t start, size_t end, struct pieces *out)
{
    struct splitter splitter = {.out = out, .behavior = step->behavior};
    size_t match_start, match_end, previous = 0, n = end - start;
    int found;

    if (step->pattern.kind >= PATTERN_GPT2 &&
        (step->behavior == SPLIT_REMOVED ? step->invert : step->behavior == SPLIT_ISOLATED)) {
        for (size_t i = 0, next; i < n; i = next) {
            next = pattern_known_end(step->pattern.kind, s + start, n, i);
            if (pieces_push(out, start + i, start + next))
                return -1;
        }
        return 0;
    }
    if (matcher_start(matcher, &step->pattern, s + start, n))
        return -1;
    while ((found = matcher_next(matcher, &match_start, &match_end)) > 0) {
        if ((previous != match_start &&
             splitter_put(&splitter, start + previous, start + match_start, step->invert)) ||
            splitter_put(&splitter, start + match_start, start + match_end, !step->invert)) {
            found = -1;
            break;
        }
        previous = match_end;
    }
    if (found < 0 ||
        (previous != n && splitter_put(&splitter, start + previous, end, step->invert)))
        return -1;
    return splitter_finish(&splitter);
}

static int split_digits(const struct pretokenizer_step *step, const char *s, size_t start,
                        size_t end, struct pieces *out)
{
    size_t from = start;
    bool numeric = false;

    for (size_t i = start; i < end;) {
        uint32_t c = (unsigned char)s[i];
        size_t length = 1;
        if (c >= 0x80)
            length = utf8_decode(s + i, end - i, &c, NULL);
        bool now = c < 0x80 ? c >= '0' && c <= '9' : utf8_is_numeric(c);
        if ((now != numeric || (now && step->individual)) && i > from) {
            if (pieces_push(out, from, i))
                return -1;
            from = i;
        }
        numeric = now;
        i += length;
    }
    return pieces_push(out, from, end);
}

/* Spaces become the replacement, which is put in front as the scheme says; then the text is cut in
 * front of each replacement. */
static int metaspace_piece(const struct pretokenizer_step *step, const char *s, size_t n,
                           bool first, struct text *text, struct pieces *out)
{
    const char *mark = step->replacement;
    size_t n_mark = step->n_replacement, start = text->n;
    bool marked = n > 0 && (s[0] == ' ' || (n >= n_mark && memcmp(s, mark, n_mark) == 0));

    if (!marked && n > 0 &&
        (step->scheme == PREPEND_ALWAYS || (step->scheme == PREPEND_FIRST && first)) &&
        text_append(text, mark, n_mark))
        return -1;
    for (size_t i = 0, from = 0; i <= n; i++) {
        if (i < n && s[i] != ' ')
            continue;
        if (text_append(text, s + from, i - from) || (i < n && text_append(text, mark, n_mark)))
            return -1;
        from = i + 1;
    }
    if (step->split) {
        for (size_t i = start; i + n_mark <= text->n; i++) {
            if (memcmp(text->data + i, mark, n_mark) == 0 && i > start) {
                if (pieces_push(out, start, i))
                    return -1;
                start = i;
            }
        }
    }
    return pieces_push(out, start, text->n);
}

int pretokenize_run(const struct tokenizer *t, const char *s, size_t n, bool first,
                    struct pretokenize_buffers *buffers, const char **result,
                    struct pieces **pieces)
{
    struct pieces *from = &buffers->pieces[0], *to = &buffers->pieces[1];
    size_t which = 0;

    from->n = 0;
    if (pieces_push(from, 0, n))
        return -1;
    /* tells whether the first piece still begins where the input does */
    bool at_start = first;
    for (size_t k = 0; k < t->n_pretokenizer; k++) {
        const struct pretokenizer_step *step = &t->pretokenizer[k];
        bool makes_text =
            step->kind == PRETOKENIZE_METASPACE || step->kind == PRETOKENIZE_PREFIX_SPACE;
        struct text *text = &buffers->text[which];
        size_t first_start = from->n > 0 ? from->data[0].start : 0;
        to->n = 0;
        if (makes_text)
            text->n = 0;
        for (size_t i = 0; i < from->n; i++) {
            size_t start = from->data[i].start, end = from->data[i].end, before = text->n;
            int status = 0;
            switch (step->kind) {
            case PRETOKENIZE_SPLIT:
                status = split_piece(step, &buffers->matcher, s, start, end, to);
                break;
            case PRETOKENIZE_DIGITS:
                status = split_digits(step, s, start, end, to);
                break;
            case PRETOKENIZE_METASPACE:
                status =
                    metaspace_piece(step, s + start, end - start, at_start && i == 0, text, to);
                break;
            case PRETOKENIZE_PREFIX_SPACE:
                if (s[start] != ' ')
                    status = text_append(text, " ", 1);
                if (status == 0)
                    status = text_append(text, s + start, end - start);
                if (status == 0)
                    status = pieces_push(to, before, text->n);
                break;
            }
            if (status)
                return -1;
        }
        if (!makes_text && to->n > 0 && to->data[0].start != first_start)
            at_start = false;
        if (makes_text) {
            s = text->data;
            which ^= 1;
        }
        struct pieces *swap = from;
        from = to;
        to = swap;
    }
    *result = s;
    *pieces = from;
    return 0;
}

void pretokenize_free(struct pretokenize_buffers *buffers)
{
    for (size_t i = 0; i < 2; i++) {
        text_free(&buffers->text[i]);
        free(buffers->pieces[i].data);
    }
    matcher_stop(&buffers->matcher);
    *buffers = (struct pretokenize_buffers){0};
}
