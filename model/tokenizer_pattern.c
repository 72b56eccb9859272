/* Patterns of tokenizer.json: literal texts, the known splitting patterns, and any other regular
 * expression in PCRE2. Hugging Face tokenizers use Oniguruma; the pattern is rewritten where the
 * two mean different things, and refused where that cannot be done:
 *
 *   \s      White_Space (PCRE2's also has U+180E)
 *   \w      Alphabetic, M, Nd, Pc
 *   \uHHHH  \x{HHHH}
 *   ^ and $ match at every line
 *
 * A pattern comes from a file that we do not trust: its size, nesting and each match's effort are
 * limited. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"
#include "mpi/error.h"

enum {
    MAX_PATTERN = 4096,
    MATCH_LIMIT = 200000, /* steps for one match; the known patterns need about one per character */
    HEAP_LIMIT = 65536,   /* KiB */
    JIT_STACK = 1 << 20
};

static const struct {
    const char *text;
    enum pattern_kind kind;
} known[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
     PATTERN_GPT2},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     PATTERN_LLAMA3},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     PATTERN_QWEN2},
};

static int append(struct text *out, const char *s)
{
    return text_append(out, s, strlen(s));
}

/* Rewrites one escape sequence at s (a backslash and more); returns its length, 0 with error_set
 * when it is not supported. */
static size_t rewrite_escape(struct text *out, const char *s, size_t n, bool in_class)
{
    char c = n > 1 ? s[1] : '\0';
    int status;
    size_t length = 2;

    switch (c) {
    case 's':
        status = append(out, "\\p{White_Space}");
        break;
    case 'S':
        status = append(out, "\\P{White_Space}");
        break;
    case 'w':
        status = append(out, in_class ? "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
                                      : "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]");
        break;
    case 'W':
        if (in_class)
            goto unsupported;
        status = append(out, "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]");
        break;
    case 'u':
        if (n < 6 || strspn(s + 2, "0123456789abcdefABCDEF") < 4)
            goto unsupported;
        status = append(out, "\\x{") || text_append(out, s + 2, 4) || append(out, "}");
        length = 6;
        break;
    default:
        if (c == '\0' || !strchr("pPdDrntfx\\/.,;:!?'\"`~@#$%^&*()-_=+[]{}|<> ", c))
            goto unsupported;
        status = text_append(out, s, 2);
    }
    return status ? 0 : length;
unsupported:
    error_set("the pattern's \\%.1s is not supported%s", n > 1 ? s + 1 : "",
              in_class ? " inside [ ]" : "");
    return 0;
}

static int rewrite(struct text *out, const char *s, size_t n)
{
    bool in_class = false;

    for (size_t i = 0, length; i < n; i += length) {
        length = 1;
        if (s[i] == '\\') {
            length = rewrite_escape(out, s + i, n - i, in_class);
            if (length == 0)
                return -1;
            continue;
        }
        if (in_class && (s[i] == '[' || (s[i] == '&' && i + 1 < n && s[i + 1] == '&')))
            return error_set("the pattern nests or intersects character classes, which is not "
                             "supported");
        if (!in_class && s[i] == '(' && i + 1 < n && s[i + 1] == '*')
            return error_set("the pattern's (* is not supported");
        if (!in_class && s[i] == '(' && i + 2 < n && s[i + 1] == '?' &&
            !strchr(":=!<>i-", s[i + 2]))
            return error_set("the pattern's (?%c is not supported", s[i + 2]);
        if (text_append(out, s + i, 1))
            return -1;
        if (!in_class && s[i] == '[') {
            in_class = true;
            if (i + 1 < n && s[i + 1] == '^') {
                length = 2;
                if (text_append(out, "^", 1))
                    return -1;
            }
        } else if (in_class && s[i] == ']') {
            in_class = false;
        }
    }
    return 0;
}

static int compile_regex(struct pattern *pattern, const char *text, size_t n)
{
    struct text regex = {0};
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    int status = -1, code;
    size_t offset;

    if (!context) {
        error_set("out of memory");
        goto done;
    }
    if (rewrite(&regex, text, n) || text_append(&regex, "", 1))
        goto done;
    pcre2_set_parens_nest_limit(context, 50);
    pattern->code = pcre2_compile((PCRE2_SPTR)regex.data, regex.n - 1,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                  &code, &offset, context);
    if (!pattern->code) {
        char reason[128];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        error_set("the pattern \"%.80s\" is wrong or not supported: %s", text, reason);
        goto done;
    }
    pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE); /* without it, slower */
    status = 0;
done:
    pcre2_compile_context_free(context);
    text_free(&regex);
    return status;
}

int pattern_compile(struct pattern *pattern, const char *text, size_t n, bool literal)
{
    *pattern = (struct pattern){.kind = literal ? PATTERN_LITERAL : PATTERN_REGEX};
    if (n == 0 || n > MAX_PATTERN)
        return error_set("a pattern of %zu bytes is not supported", n);
    if (!literal) {
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
            if (strlen(known[i].text) == n && memcmp(known[i].text, text, n) == 0)
                pattern->kind = known[i].kind;
        }
        if (pattern->kind != PATTERN_REGEX)
            return 0;
        if (memchr(text, '\0', n))
            return error_set("a pattern holds a NUL character");
        return compile_regex(pattern, text, n);
    }
    pattern->literal = malloc(n);
    if (!pattern->literal)
        return error_set("out of memory");
    memcpy(pattern->literal, text, n);
    pattern->n_literal = n;
    return 0;
}

void pattern_free(struct pattern *pattern)
{
    free(pattern->literal);
    pcre2_code_free(pattern->code);
    *pattern = (struct pattern){0};
}

int matcher_start(struct matcher *m, const struct pattern *pattern, const char *s, size_t n)
{
    m->pattern = pattern;
    m->s = s;
    m->n = n;
    m->position = 0;
    m->last_end = SIZE_MAX;
    if (pattern->kind != PATTERN_REGEX || m->context)
        return 0;
    m->data = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    m->stack = pcre2_jit_stack_create(32 * 1024, JIT_STACK, NULL);
    if (!m->data || !m->context) {
        matcher_stop(m);
        return error_set("out of memory");
    }
    pcre2_set_match_limit(m->context, MATCH_LIMIT);
    pcre2_set_heap_limit(m->context, HEAP_LIMIT);
    if (m->stack)
        pcre2_jit_stack_assign(m->context, NULL, m->stack);
    return 0;
}

void matcher_stop(struct matcher *m)
{
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    m->data = m->context = m->stack = NULL;
}

static int regex_next(struct matcher *m, size_t *start, size_t *end)
{
    for (;;) {
        int found = pcre2_match(m->pattern->code, (PCRE2_SPTR)m->s, m->n, m->position,
                                PCRE2_NO_UTF_CHECK, m->data, m->context);
        if (found == PCRE2_ERROR_NOMATCH)
            return 0;
        if (found < 0)
            return error_set("a pattern of the tokenizer takes too long on this text");
        const size_t *span = pcre2_get_ovector_pointer(m->data);
        if (span[0] < m->position || span[1] < span[0])
            return error_set("a pattern of the tokenizer matches backwards");
        if (span[0] == span[1] && span[1] == m->last_end) {
            /* nothing right behind a match is no match: try from the next character */
            uint32_t c;
            if (m->position >= m->n)
                return 0;
            m->position += utf8_decode(m->s + m->position, m->n - m->position, &c, NULL);
            m->last_end = SIZE_MAX;
            continue;
        }
        *start = span[0];
        *end = span[1];
        m->position = m->last_end = span[1];
        return 1;
    }
}

int matcher_next(struct matcher *m, size_t *start, size_t *end)
{
    const struct pattern *pattern = m->pattern;

    if (m->position > m->n || (pattern->kind != PATTERN_REGEX && m->position == m->n))
        return 0;
    if (pattern->kind == PATTERN_REGEX)
        return regex_next(m, start, end);
    if (pattern->kind == PATTERN_LITERAL) {
        const char *found =
            memmem(m->s + m->position, m->n - m->position, pattern->literal, pattern->n_literal);
        if (!found)
            return 0;
        *start = (size_t)(found - m->s);
        *end = *start + pattern->n_literal;
    } else {
        *start = m->position;
        *end = pattern_known_end(pattern->kind, m->s, m->n, m->position);
    }
    m->position = *end;
    return 1;
}
