#include "eval/latex_lex.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool is_one_of(const char *name, size_t n, const char *const *names)
{
    for (; *names; names++)
        if (strlen(*names) == n && memcmp(*names, name, n) == 0)
            return true;
    return false;
}

/* Length of the command's name after the backslash at p: letters, or one other character. */
static size_t command_length(const char *p)
{
    size_t n = 0;

    while (isalpha((unsigned char)p[1 + n]))
        n++;
    return n ? n : p[1] ? 1 : 0;
}

/* Commands that change how a thing looks, not what it is. */
static const char *const looks[] = {
    "left",     "right",      "big",       "Big",          "bigg",      "Bigg",   "bigl",
    "bigr",     "Bigl",       "Bigr",      "biggl",        "biggr",     "Biggl",  "Biggr",
    "middle",   "quad",       "qquad",     "displaystyle", "textstyle", "limits", "nolimits",
    "mathbf",   "boldsymbol", "bm",        "vec",          "hat",       "mathit", "mathsf",
    "mathcal",  "boxed",      "fbox",      "scriptstyle",  "rm",        "bf",     "it",
    "hspace",   "phantom",    "underline", "ensuremath",   "mathstrut", "hfill",  "thinspace",
    "nonumber", "bar",        "hphantom",  "strut",        NULL};

static const char *skip_looks(const char *p)
{
    for (;;) {
        if (isspace((unsigned char)*p) || *p == '~' || *p == '$' || (*p == '\\' && !p[1])) {
            p++;
        } else if (*p == '\\' && p[1] && strchr("!,;:> $\n\t()[]", p[1])) {
            p += 2;
        } else if (*p == '\\' && is_one_of(p + 1, command_length(p), looks)) {
            const size_t n = command_length(p);
            const bool bracket = strncmp(p + 1, "left", n) == 0 || strncmp(p + 1, "right", n) == 0;
            p += 1 + n;
            if (bracket && *p == '.')
                p++;
        } else {
            return p;
        }
    }
}

/* Past what groups a number's digits, if three digits follow and no fourth: "," "\!" "{,}" "\,". */
static const char *skip_grouping(const char *p, bool grouped)
{
    const char *q = p;
    bool any = false;

    if (strncmp(q, "{,}", 3) == 0) {
        q += 3;
        any = true;
    } else if (*q == ',' && (grouped || strncmp(q + 1, "\\!", 2) == 0)) {
        q++;
        any = true;
    } else if (strncmp(q, "\\,", 2) == 0 && grouped) {
        q += 2;
        any = true;
    }
    if (!any)
        return p;
    const bool plain = *q != '\\';
    while (strncmp(q, "\\!", 2) == 0)
        q += 2;
    if (!plain)
        q += strspn(q, " ");
    for (int i = 0; i < 3; i++)
        if (!isdigit((unsigned char)q[i]))
            return p;
    return isdigit((unsigned char)q[3]) ? p : q;
}

static bool put(struct latex_token *token, size_t *n, char c)
{
    if (*n + 1 >= sizeof token->text)
        return false;
    token->text[(*n)++] = c;
    token->text[*n] = '\0';
    return true;
}

static bool lex_number(const char *p, bool grouped, struct latex_token *token)
{
    size_t n = 0, n_group = 0;

    token->kind = TOKEN_NUMBER;
    while (isdigit((unsigned char)*p)) {
        if (!put(token, &n, *p++))
            return false;
        n_group++;
        if (n_group <= 3 && !isdigit((unsigned char)*p)) {
            const char *q = skip_grouping(p, grouped && token->text[0] != '0');
            if (q != p)
                n_group = 0;
            p = q;
        }
    }
    if (*p == '.' && isdigit((unsigned char)p[1])) {
        if (!put(token, &n, *p++))
            return false;
        while (isdigit((unsigned char)*p))
            if (!put(token, &n, *p++))
                return false;
    } else if (*p == '.' && n && !isalpha((unsigned char)p[1]) &&
               strncmp(p + 1, "\\overline", 9) != 0) {
        p++; /* "5." */
    }
    token->end = p;
    return true;
}

/* A word's letters without blanks and signs, in lower case; "C" stays "C". "and" is a comma. */
static bool take_word(struct latex_token *token, const char *word, size_t length)
{
    size_t n = 0;

    token->kind = TOKEN_WORD;
    token->text[0] = '\0';
    for (size_t i = 0; i < length; i++)
        if ((isalpha((unsigned char)word[i]) || (unsigned char)word[i] >= 0x80) &&
            !put(token, &n, word[i]))
            return false;
    if (n > 1)
        for (size_t i = 0; i < n; i++)
            token->text[i] = (char)tolower((unsigned char)token->text[i]);
    if (strcmp(token->text, "and") == 0 || strcmp(token->text, "or") == 0) {
        token->kind = TOKEN_CHAR;
        token->c = ',';
    }
    return true;
}

static bool lex_letters(const char *p, struct latex_token *token)
{
    static const char *const commands[] = {
        "sin", "cos", "tan", "cot",    "sec",   "csc",      "log",    "ln",     "exp", "sqrt",
        "pi",  "inf", "oo",  "arcsin", "infty", "infinity", "arccos", "arctan", NULL};
    static const char *const words[] = {"and", "or", "cm",  "km", "mm",  "kg", "ft",  "mph",
                                        "yes", "no", "odd", "gm", "Yes", "No", "Odd", NULL};
    size_t n = 0;

    while (isalpha((unsigned char)p[n]))
        n++;
    token->end = p + n;
    if (is_one_of(p, n, commands)) {
        token->kind = TOKEN_COMMAND;
        memcpy(token->text, p, n);
        token->text[n] = '\0';
        if (strncmp(token->text, "inf", 3) == 0 || strcmp(token->text, "oo") == 0)
            strcpy(token->text, "infty");
        return true;
    }
    if (n >= 4 || is_one_of(p, n, words))
        return take_word(token, p, n);
    token->kind = TOKEN_LETTER;
    token->text[0] = *p;
    token->text[1] = '\0';
    token->end = p + 1;
    return true;
}

static bool lex_command(const char *p, bool grouped, struct latex_token *token)
{
    static const char *const wrappers[] = {"text",   "mbox",   "textbf",       "textit", "mathrm",
                                           "textrm", "textsf", "operatorname", "hbox",   NULL};
    const size_t n = command_length(p);

    if (n == 0 || n >= sizeof token->text)
        return false;
    token->end = p + 1 + n;
    if (p[1] == '\\') {
        token->kind = TOKEN_CHAR;
        token->c = '\\';
        return true;
    }
    if (is_one_of(p + 1, n, wrappers)) {
        const char *open = token->end + (*token->end == '*');
        open += strspn(open, " ");
        const size_t length = *open == '{' ? strcspn(open + 1, "{}") : 0;
        const char *special = *open == '{' ? strpbrk(open, "0123456789\\^$") : NULL;
        if (*open != '{' || open[1 + length] != '}' || (special && special < open + 1 + length))
            return latex_lex(token->end, grouped, token); /* what it holds, as if unwrapped */
        token->end = open + length + 2;
        if (!take_word(token, open + 1, length))
            return false;
        if (token->kind == TOKEN_WORD && !*token->text) {
            if (length && strspn(open + 1, " ,;") >= length && memchr(open + 1, ',', length)) {
                token->kind = TOKEN_CHAR;
                token->c = ',';
                return true;
            }
            return latex_lex(token->end, grouped, token);
        }
        if (token->kind == TOKEN_WORD && !token->text[1] && strncmp(p + 1, "math", 4) == 0)
            token->kind = TOKEN_LETTER;
        /* \operatorname{sin}, \mathrm{ln} */
        if (token->kind == TOKEN_WORD) {
            struct latex_token inner;
            if (isalpha((unsigned char)open[1]) && lex_letters(open + 1, &inner) &&
                inner.kind == TOKEN_COMMAND && inner.end == open + 1 + length) {
                inner.start = token->start;
                inner.end = token->end;
                *token = inner;
            }
        }
        return true;
    }
    token->kind = TOKEN_COMMAND;
    memcpy(token->text, p + 1, n);
    token->text[n] = '\0';
    return true;
}

bool latex_lex(const char *p, bool grouped, struct latex_token *token)
{
    p = skip_looks(p);
    token->start = p;
    token->c = 0;
    token->text[0] = '\0';
    if (isdigit((unsigned char)*p) || (*p == '.' && isdigit((unsigned char)p[1])))
        return lex_number(p, grouped, token);
    if (isalpha((unsigned char)*p))
        return lex_letters(p, token);
    if (*p == '\\')
        return lex_command(p, grouped, token);
    token->kind = *p ? TOKEN_CHAR : TOKEN_END;
    token->c = *p;
    token->end = p + (*p != '\0');
    return !*p || ((unsigned char)*p > ' ' && (unsigned char)*p < 0x7f);
}

/* ---- before the tokens --------------------------------------------------------------------------
 */

static const struct {
    const char *from, *to;
} rewrites[] = {
    {"\xe2\x88\x92", "-"},       {"\xcf\x80", "\\pi "},     {"\xe2\x88\x9e", "\\infty "},
    {"\xc2\xb0", "^\\circ "},    {"\xc3\x97", "\\times "},  {"\xc2\xb7", "\\cdot "},
    {"\xe2\x88\x9a", "\\sqrt "}, {"\xe2\x89\xa4", "\\le "}, {"\xe2\x89\xa5", "\\ge "},
    {"\xe2\x88\xaa", "\\cup "},  {"\xe2\x88\x88", "\\in "}, {"\xe2\x89\xa0", "\\ne "},
    {"\xc2\xb1", "\\pm "},       {"\xc3\xb7", "\\div "},    {"\xce\xb8", "\\theta "},
    {"\xe2\x82\xac", ""},        {"\xc2\xa3", ""},          {"\xc2\xa0", " "},
    {"\xe2\x80\x93", "-"},       {"\xc2\xb2", "^2"},        {"\xc2\xb3", "^3"},
};

char *latex_tidy(const char *text)
{
    const size_t length = strlen(text);
    char *out = malloc(4 * length + 1); /* two bytes become eight at most */
    size_t n = 0;

    if (!out)
        return NULL;
    for (const char *p = text; *p;) {
        const size_t n_rewrites = sizeof rewrites / sizeof *rewrites;
        size_t r = n_rewrites;
        if ((unsigned char)*p >= 0x80)
            for (r = 0; r < n_rewrites; r++)
                if (strncmp(p, rewrites[r].from, strlen(rewrites[r].from)) == 0)
                    break;
        if (r < n_rewrites) {
            memcpy(out + n, rewrites[r].to, strlen(rewrites[r].to));
            n += strlen(rewrites[r].to);
            p += strlen(rewrites[r].from);
        } else {
            out[n++] = *p++;
        }
    }
    size_t start = 0;
    for (bool again = true; again;) {
        again = false;
        while (start < n && (isspace((unsigned char)out[start]) || out[start] == '$' ||
                             out[start] == '*' || out[start] == ':'))
            start++, again = true;
        while (n > start && (isspace((unsigned char)out[n - 1]) ||
                             (strchr("$.,;*", out[n - 1]) && (n < 2 || out[n - 2] != '\\'))))
            n--, again = true;
        if (n - start >= 4 && out[start] == '\\' && out[n - 2] == '\\' &&
            ((out[start + 1] == '(' && out[n - 1] == ')') ||
             (out[start + 1] == '[' && out[n - 1] == ']'))) {
            start += 2;
            n -= 2;
            again = true;
        }
    }
    memmove(out, out + start, n - start);
    out[n - start] = '\0';
    return out;
}
