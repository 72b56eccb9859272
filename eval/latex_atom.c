#include <ctype.h>
#include <string.h>

#include "eval/latex_parser.h"

int latex_parse_argument(struct latex_parser *p, bool one_digit)
{
    if (one_digit && p->token.kind == TOKEN_NUMBER && isdigit((unsigned char)*p->token.start)) {
        const char digit[2] = {*p->token.start, '\0'};
        int node = latex_make_number(p, digit);
        latex_move_to(p, p->token.start + 1);
        return node;
    }
    if (latex_at_char(p, '-') || latex_at_char(p, '+')) {
        bool negative = latex_at_char(p, '-');
        if (++p->depth > LATEX_MAX_DEPTH)
            return latex_fail(p);
        latex_advance(p);
        int node = latex_parse_argument(p, one_digit);
        p->depth--;
        return negative ? latex_make_with(p, LATEX_NEGATE, 0, node, LATEX_NONE) : node;
    }
    return latex_parse_atom(p);
}

static int parse_group(struct latex_parser *p)
{
    struct latex_outside o = latex_enter(p);

    latex_advance(p);
    int node = latex_parse_list(p);
    if (latex_at_command(p, "choose") || latex_at_command(p, "over")) {
        bool choose = latex_at_command(p, "choose");
        latex_advance(p);
        node = latex_make_with(p, choose ? LATEX_BINOMIAL : LATEX_DIVIDE, 0, node,
                               latex_parse_list(p));
    }
    latex_leave(p, o);
    latex_expect(p, '}');
    return node;
}

int latex_parse_brackets(struct latex_parser *p)
{
    char open = latex_at_char(p, '(')      ? '('
                : latex_at_char(p, '[')    ? '['
                : latex_at_command(p, "{") ? '{'
                                           : '<';
    struct latex_outside o = latex_enter(p);

    latex_advance(p);
    bool empty = open == '{' && latex_at_command(p, "}");
    int inner = empty ? latex_make(p, LATEX_SET, 0) : latex_parse_list(p);
    char close = latex_at_char(p, ')')           ? ')'
                 : latex_at_char(p, ']')         ? ']'
                 : latex_at_command(p, "}")      ? '}'
                 : latex_at_command(p, "rangle") ? '>'
                                                 : 0;
    latex_leave(p, o);
    if (!close || (open == '{') != (close == '}') || (open == '<') != (close == '>'))
        return latex_fail(p);
    latex_advance(p);
    if (p->failed || empty)
        return inner;
    struct latex_node *node = &p->tree->nodes[inner];
    bool list = node->kind == LATEX_LIST;
    if (open == '{') {
        if (!list)
            return latex_make_with(p, LATEX_SET, 0, inner, LATEX_NONE);
        node->kind = LATEX_SET;
        return inner;
    }
    if (!list) /* grouping */
        return inner;
    const char brackets[2] = {open, close};
    int tuple = latex_make_text(p, LATEX_TUPLE, brackets, 2);
    if (p->failed)
        return 0;
    p->tree->nodes[tuple].first = node->first;
    p->tree->nodes[tuple].last = node->last;
    p->tree->nodes[tuple].n = node->n;
    return tuple;
}

static int parse_bars(struct latex_parser *p)
{
    struct latex_outside o = latex_enter(p);

    p->bars = 1;
    latex_advance(p);
    int node = latex_parse_list(p);
    latex_leave(p, o);
    latex_expect(p, '|');
    return latex_make_with(p, LATEX_FUNCTION, LATEX_ABS, node, LATEX_NONE);
}

int latex_parse_symbol(struct latex_parser *p)
{
    char name[128];
    size_t n = strlen(p->token.text);

    memcpy(name, p->token.text, n + 1);
    latex_advance(p);
    if (latex_at_char(p, '_')) {
        const char *s = p->token.end + strspn(p->token.end, " ");
        size_t length = 1;
        if (*s == '{') {
            length = strcspn(s, "}") + 1;
            if (!s[length - 1])
                return latex_fail(p);
        } else if (*s == '\\') {
            while (isalpha((unsigned char)s[length]))
                length++;
        } else if (!*s) {
            return latex_fail(p);
        }
        name[n++] = '_';
        for (size_t i = 0; i < length; i++)
            if (!strchr("{} ", s[i])) {
                if (n + 2 >= sizeof name)
                    return latex_fail(p);
                name[n++] = s[i];
            }
        latex_move_to(p, s + length);
    }
    while (latex_at_char(p, '\'') && n + 2 < sizeof name) {
        name[n++] = '\'';
        latex_advance(p);
    }
    name[n] = '\0';
    if (strcmp(name, "e") == 0)
        return latex_make(p, LATEX_E, 0);
    if (strcmp(name, "i") == 0)
        return latex_make(p, LATEX_I, 0);
    return latex_make_text(p, LATEX_SYMBOL, name, n);
}

/* "{4}{5}", "45", " 4 5": two whole numbers and nothing else, seen without parsing (parsing what
 * may have to be parsed again would cost time exponential in the depth). */
static bool two_numbers_at(const char *s)
{
    for (int i = 0; i < 2; i++) {
        s += strspn(s, " ");
        if (*s == '{') {
            s += 1 + strspn(s + 1, " ");
            const size_t n = strspn(s, "0123456789");
            s += n + strspn(s + n, " ");
            if (n == 0 || *s++ != '}')
                return false;
        } else if (!isdigit((unsigned char)*s++)) {
            return false;
        }
    }
    return true;
}

/* "1\frac{4}{5}", "1 4/5": the fraction, or LATEX_NONE with the parser where it was. */
static int parse_mixed_part(struct latex_parser *p)
{
    static const char *const fractions[] = {"frac", "dfrac", "tfrac", NULL};
    const struct latex_parser before = *p;
    const struct latex_tree tree = *p->tree;
    int fraction = LATEX_NONE;

    if (latex_at_any(p, fractions)) {
        if (!two_numbers_at(p->token.end))
            return LATEX_NONE;
        latex_advance(p);
        int top = latex_parse_argument(p, true), bottom = latex_parse_argument(p, true);
        return latex_make_with(p, LATEX_DIVIDE, 0, top, bottom);
    }
    if (p->token.kind == TOKEN_NUMBER) {
        int top = latex_make_number(p, p->token.text);
        latex_advance(p);
        if (latex_at_char(p, '/')) {
            latex_advance(p);
            if (p->token.kind == TOKEN_NUMBER) {
                fraction =
                    latex_make_with(p, LATEX_DIVIDE, 0, top, latex_make_number(p, p->token.text));
                latex_advance(p);
            }
        }
    }
    if (fraction != LATEX_NONE && !p->failed)
        return fraction;
    *p = before;
    *p->tree = tree;
    return LATEX_NONE;
}

/* 0.1\overline{6}: + 6/90. */
static int parse_repeating(struct latex_parser *p, int number, size_t n_decimals)
{
    char nines[160];
    size_t n = 0;

    latex_advance(p);
    bool braces = latex_at_char(p, '{');
    if (braces)
        latex_advance(p);
    if (p->token.kind != TOKEN_NUMBER || strchr(p->token.text, '.'))
        return latex_fail(p);
    int digits = latex_make_number(p, p->token.text);
    memset(nines, '9', n = strlen(p->token.text));
    while (n_decimals-- && n + 1 < sizeof nines)
        nines[n++] = '0';
    nines[n] = '\0';
    latex_advance(p);
    if (braces)
        latex_expect(p, '}');
    return latex_make_with(
        p, LATEX_ADD, 0, number,
        latex_make_with(p, LATEX_DIVIDE, 0, digits, latex_make_number(p, nines)));
}

static int parse_number(struct latex_parser *p)
{
    char text[sizeof p->token.text + 1];
    strcpy(text, p->token.text);
    const char *point = strchr(text, '.');
    int node = latex_make_number(p, text);

    if (strncmp(p->token.end, ".\\overline", 10) == 0) { /* 0.\overline{3} */
        latex_move_to(p, p->token.end + 1);
        return parse_repeating(p, node, 0);
    }
    latex_advance(p);
    if (point && latex_at_command(p, "overline"))
        return parse_repeating(p, node, strlen(point + 1));
    if (latex_at_char(p, '_')) {
        latex_advance(p);
        int based = latex_make_text(p, LATEX_BASED, text, strlen(text));
        int base = latex_parse_argument(p, false);
        latex_add(p, based, base);
        return based;
    }
    if (!point) {
        int part = parse_mixed_part(p);
        if (part != LATEX_NONE)
            return latex_make_with(p, LATEX_ADD, 0, node, part);
    }
    return node;
}

int latex_parse_atom(struct latex_parser *p)
{
    int node = 0;

    if (p->failed || ++p->depth > LATEX_MAX_DEPTH)
        return latex_fail(p);
    switch (p->token.kind) {
    case TOKEN_NUMBER:
        node = parse_number(p);
        break;
    case TOKEN_LETTER:
        node = latex_parse_symbol(p);
        break;
    case TOKEN_WORD:
        node = latex_make_text(p, LATEX_SYMBOL, p->token.text, strlen(p->token.text));
        latex_advance(p);
        break;
    case TOKEN_COMMAND:
        node = latex_parse_command(p);
        break;
    case TOKEN_CHAR:
        node = latex_at_char(p, '(') || latex_at_char(p, '[') ? latex_parse_brackets(p)
               : latex_at_char(p, '{')                        ? parse_group(p)
               : latex_at_char(p, '|') && !p->bars            ? parse_bars(p)
                                                              : latex_fail(p);
        break;
    case TOKEN_END:
        latex_fail(p);
    }
    p->depth--;
    return node;
}
