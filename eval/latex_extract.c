/* Where in a solution its final answer stands. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "eval/latex.h"

enum { MAX_TRIES = 16, MAX_WHOLE = 256 };

/* Length of what is between the brace at p and the one that closes it; (size_t)-1 if none does. */
static size_t group_length(const char *p)
{
    size_t depth = 0;

    for (const char *q = p; *q; q++) {
        if (*q == '\\' && q[1])
            q++;
        else if (*q == '{')
            depth++;
        else if (*q == '}' && --depth == 0)
            return (size_t)(q - p) - 1;
    }
    return (size_t)-1;
}

static const char *find_last(const char *text, const char *end, const char *wanted)
{
    const size_t n = strlen(wanted);

    for (const char *p = end; p-- > text;)
        if (*p == *wanted && strncmp(p, wanted, n) == 0)
            return p;
    return NULL;
}

static char *last_box(const char *text, const char *name)
{
    const char *end = text + strlen(text);

    for (int tries = 0; tries < MAX_TRIES; tries++) {
        const char *box = find_last(text, end, name);
        if (!box)
            return NULL;
        const char *open = box + strlen(name);
        open += strspn(open, " ");
        if (*open == '{') {
            const size_t n = group_length(open);
            if (n != (size_t)-1)
                return strndup(open + 1, n);
        } else if (!isalpha((unsigned char)*open) || open > box + strlen(name)) { /* "\boxed 5" */
            const size_t n = strcspn(open, " $\n");
            if (n)
                return strndup(open, n);
        }
        end = box;
    }
    return NULL;
}

/* After the last cue, to the end of the line or sentence. */
static char *after_cue(const char *text)
{
    static const char *const cues[] = {"final answer is", "final answer:", "answer is", "answer:"};
    const char *found = NULL;

    for (size_t i = 0; i < sizeof cues / sizeof *cues && !found; i++)
        for (const char *p = strcasestr(text, cues[i]); p; p = strcasestr(p + 1, cues[i]))
            found = p + strlen(cues[i]);
    if (!found)
        return NULL;
    found += strspn(found, " \t\r\n:*");
    size_t n = strcspn(found, "\r\n");
    for (size_t i = 0; i + 2 < n; i++)
        if (found[i] == '.' && found[i + 1] == ' ' && isupper((unsigned char)found[i + 2]))
            n = i;
    const char *dollar = memchr(found, '$', n);
    if (dollar && dollar[1] && (dollar == found || dollar[-1] != '\\')) {
        const char *start = dollar + 1 + (dollar[1] == '$');
        const char *close = strchr(start, '$');
        if (close && close < found + n && close > start && dollar == found &&
            !memchr(close + 1 + (close[1] == '$'), '$',
                    (size_t)(found + n - close) - (size_t)(close[1] == '$') - 1))
            return strndup(start, (size_t)(close - start));
    }
    return n ? strndup(found, n) : NULL;
}

/* The last $...$ of a text that is more than that. */
static char *last_formula(const char *text)
{
    const char *close = NULL, *open = NULL;

    for (const char *p = text + strlen(text); p-- > text;) {
        if (*p != '$' || (p > text && p[-1] == '\\'))
            continue;
        if (!close) {
            close = p;
        } else if (p + 1 == close) {
            close = p; /* $$ */
        } else {
            open = p;
            break;
        }
    }
    if (!open)
        return NULL;
    const char *first = text + strspn(text, " \t\r\n");
    if (*first == '$' && open > first + 1 && strlen(text) < MAX_WHOLE) /* "$1$, $2$" */
        return strdup(text);
    return strndup(open + 1, (size_t)(close - open) - 1);
}

char *latex_extract(const char *text)
{
    char *answer = last_box(text, "\\boxed");

    if (!answer)
        answer = last_box(text, "\\fbox");
    if (!answer)
        answer = after_cue(text);
    if (!answer)
        answer = last_formula(text);
    if (!answer && strlen(text) <= MAX_WHOLE && text[strspn(text, " \t\r\n")])
        answer = strdup(text);
    return answer;
}
