#include "mpi/ini_text.h"

#include <ctype.h>
#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

struct reading {
    const char *path, *text; /* text: what is left */
    int line;
    bool indented, failed;
    int (*take)(void *context, const struct ini_line *line);
    void *context;
};

int ini_fail(const char *path, int line, const char *format, ...)
{
    char *what = NULL;
    va_list arguments;

    va_start(arguments, format);
    const int n = vasprintf(&what, format, arguments);
    va_end(arguments);
    error_set("%s:%d: %s", path, line, n < 0 ? "out of memory" : what);
    if (n >= 0)
        free(what);
    return -1;
}

/* ---- lines -------------------------------------------------------------------------------------
 */

/* inih's buffer holds a line of limited length and cuts what is longer into two; that would be a
 * wrong value, so it is an error here. */
static char *read_line(char *line, int size, void *stream)
{
    struct reading *r = stream;
    const size_t n = strcspn(r->text, "\n"), whole = n + (r->text[n] == '\n');

    if (r->failed || whole == 0)
        return NULL;
    r->line++;
    if (whole >= (size_t)size) {
        r->failed = true;
        ini_fail(r->path, r->line,
                 "the line is longer than %d characters: go on with the value on a new line that "
                 "starts with a space",
                 size - 2);
        return NULL;
    }
    memcpy(line, r->text, whole);
    line[whole] = '\0';
    r->indented = line[0] == ' ' || line[0] == '\t';
    r->text += whole;
    return line;
}

static int take_line(void *user, const char *section, const char *name, const char *value)
{
    struct reading *r = user;
    const struct ini_line line = {.path = r->path,
                                  .number = r->line,
                                  .indented = r->indented,
                                  .section = section,
                                  .name = name,
                                  .value = value ? value : ""};

    if (!r->failed && r->take(r->context, &line) != 0)
        r->failed = true;
    return !r->failed;
}

int ini_read(const char *text, const char *path, const char *expected,
             int (*take)(void *context, const struct ini_line *line), void *context)
{
    struct reading r = {.path = path, .text = text, .take = take, .context = context};
    const int bad_line = ini_parse_stream(read_line, &r, take_line, &r);

    if (r.failed)
        return -1;
    if (bad_line < 0)
        return error_set("%s: out of memory", path);
    return bad_line > 0 ? ini_fail(path, bad_line, "expected %s", expected) : 0;
}

/* ---- values ------------------------------------------------------------------------------------
 */

int ini_value_take(struct ini_value *value, const struct ini_line *line, bool goes_on)
{
    char *joined = NULL;

    if (value->raw && !goes_on)
        return ini_fail(line->path, line->number, "'%s' is set twice (first on line %d)",
                        line->name, value->line);
    if (asprintf(&joined, "%s%s%s", value->raw ? value->raw : "", value->raw ? "\n" : "",
                 line->value) < 0)
        return ini_fail(line->path, line->number, "out of memory");
    if (!value->raw)
        value->line = line->number;
    free(value->raw);
    value->raw = joined;
    return 0;
}

/* Reads one piece from *p: quoted to the closing quote, else up to one of `ends` (or NUL) with
 * blanks trimmed. Appends to out (which has room); undoes escapes. -1: an open quote. */
static int read_piece(const char **p, const char *ends, char *out, bool *quoted)
{
    size_t n = 0, kept = 0; /* kept: up to the last byte that trimming leaves */
    const char *s = *p + strspn(*p, " \t");

    *quoted = *s == '"';
    if (*quoted)
        s++;
    for (; *s; s++) {
        if (*quoted ? *s == '"' : strchr(ends, *s) != NULL)
            break;
        if (*s == '\\' && s[1] && strchr("nt\"\\;|", s[1])) {
            s++;
            out[n++] = *s == 'n' ? '\n' : *s == 't' ? '\t' : *s;
            kept = n;
        } else {
            out[n++] = *s;
            if (*quoted || !isspace((unsigned char)*s))
                kept = n;
        }
    }
    if (*quoted) {
        if (*s != '"')
            return -1;
        s++;
        s += strspn(s, " \t");
        if (*s && !strchr(ends, *s))
            return -1;
    }
    out[kept] = '\0';
    *p = s;
    return 0;
}

static int fail_quote(const struct ini_value *value, const char *path)
{
    return ini_fail(path, value->line,
                    "a quoted text must end with a quote, with nothing after it (write \\\" for a "
                    "quote inside; a ; after a blank starts a comment: write \\;)");
}

char *ini_value_text(const struct ini_value *value, const char *path)
{
    const char *p = value->raw;
    char *text = calloc(1, 2 * strlen(p) + 2);
    bool quoted = true, first = true;
    size_t n = 0;

    if (!text) {
        ini_fail(path, value->line, "out of memory");
        return NULL;
    }
    for (;;) {
        bool was_quoted = quoted;
        char *start = text + n;
        if (!first && !was_quoted && p[strspn(p, " \t")] != '"')
            *start++ = ' ';
        if (read_piece(&p, "\n", start, &quoted)) {
            fail_quote(value, path);
            free(text);
            return NULL;
        }
        n = (size_t)(start - text) + strlen(start);
        first = false;
        if (*p != '\n')
            return text;
        p++;
    }
}

int ini_value_list(const struct ini_value *value, const char *path, char **items, size_t max,
                   size_t *n, bool *quoted)
{
    const char *p = value->raw;
    char *item = calloc(1, strlen(p) + 1);
    int status = -1;

    *n = 0;
    *quoted = false;
    if (!item)
        return ini_fail(path, value->line, "out of memory");
    for (;; p++) {
        if (*n == max) {
            ini_fail(path, value->line, "a list has at most %zu items", max);
            goto done;
        }
        if (read_piece(&p, "|\n", item, quoted)) {
            fail_quote(value, path);
            goto done;
        }
        if (*item || *quoted) {
            if (!*item) {
                ini_fail(path, value->line, "a list's item is empty");
                goto done;
            }
            if (!(items[*n] = strdup(item))) {
                ini_fail(path, value->line, "out of memory");
                goto done;
            }
            ++*n;
        }
        if (!*p)
            break;
    }
    status = 0;
done:
    free(item);
    return status;
}
