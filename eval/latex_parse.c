/* Recursive descent over the tokens of latex_lex.h:
 *
 *   list     = relation {("," | ";" | "and" | "or") relation}
 *   relation = union {("=" | "<" | ...) union}
 *   union    = sum {("\cup" | "\cap" | "\setminus") sum}
 *   sum      = ["-"] product {("+" | "-" | "\pm" | "\mp") product}
 *   product  = factor {("\cdot" | "\times" | "/" | ":") factor}
 *   factor   = {"-"} power {power}          side by side
 *   power    = atom {"!" | "^" argument | "%" | degrees} */
#include <stdlib.h>
#include <string.h>

#include "eval/latex_parser.h"

/* Appends one to a sum, product or list, which it makes of the first where needed. */
static int join(struct latex_parser *p, enum latex_kind kind, int so_far, int more, bool *made)
{
    if (!*made)
        so_far = latex_make_with(p, kind, 0, so_far, LATEX_NONE);
    *made = true;
    latex_add(p, so_far, more);
    return so_far;
}

/* ---- units --------------------------------------------------------------------------------------
 */

/* A word after a value: a unit, but for words that only say what is counted. */
static void take_unit(struct latex_parser *p)
{
    static const char *const same[][2] = {
        {"degree", ""},
        {"dollar", ""},
        {"unit", ""},
        {"squareunit", ""},
        {"way", ""},
        {"cubicunit", ""},
        {"sq", ""},
        {"radian", ""},
        {"inche", "inch"},
        {"in", "inch"},
        {"foot", "ft"},
        {"feet", "ft"},
        {"centimeter", "cm"},
        {"kilometer", "km"},
        {"meter", "m"},
        {"minute", "min"},
        {"hour", "h"},
        {"hr", "h"},
        {"second", "s"},
        {"sec", "s"},
        {"mileperhour", "mph"},
        {"milesperhour", "mph"},
        {"squareinche", "inch2"},
        {"squarecm", "cm2"},
        {"sqcm", "cm2"},
        {"squarefeet", "ft2"},
        {"percent", "%"},
        {"gm", "g"},
        {"gram", "g"},
        {"kilogram", "kg"},
    };
    char unit[sizeof p->tree->unit];
    size_t n = strlen(p->token.text);

    if (n >= sizeof unit - 2) {
        latex_advance(p);
        return;
    }
    memcpy(unit, p->token.text, n + 1);
    if (n > 2 && unit[n - 1] == 's' && unit[n - 2] != 's')
        unit[--n] = '\0';
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (strcmp(unit, same[i][0]) == 0) {
            strcpy(unit, same[i][1]);
            break;
        }
    if (strcmp(unit, "%") == 0) {
        p->tree->percent = true;
        unit[0] = '\0';
    }
    latex_advance(p);
    if (latex_at_char(p, '^')) { /* "cm^2" */
        latex_advance(p);
        bool braces = latex_at_char(p, '{');
        if (braces)
            latex_advance(p);
        n = strlen(unit);
        if (p->token.kind == TOKEN_NUMBER && !p->token.text[1] && n)
            memcpy(unit + n, p->token.text, 2);
        else if (p->token.kind != TOKEN_NUMBER)
            latex_fail(p);
        latex_advance(p);
        if (braces)
            latex_expect(p, '}');
    }
    if (!p->failed && unit[0])
        strcpy(p->tree->unit, unit);
}

/* ---- operators ----------------------------------------------------------------------------------
 */

/* After a ^: is it that of degrees? Takes it if so. */
static bool take_circle(struct latex_parser *p)
{
    const struct latex_parser before = *p;

    bool braces = latex_at_char(p, '{');
    if (braces)
        latex_advance(p);
    if (latex_at_command(p, "circ") || latex_at_command(p, "degree")) {
        latex_advance(p);
        if (!braces || latex_at_char(p, '}')) {
            if (braces)
                latex_advance(p);
            return !p->failed;
        }
    }
    *p = before;
    return false;
}

static int apply_degrees(struct latex_parser *p, int node)
{
    if (!p->angle)
        return node;
    return latex_make_with(p, LATEX_DIVIDE, 0,
                           latex_make_with(p, LATEX_MULTIPLY, 0, node, latex_make(p, LATEX_PI, 0)),
                           latex_make_number(p, "180"));
}

static int parse_power(struct latex_parser *p)
{
    int node = latex_parse_atom(p);

    for (;;) {
        if (latex_at_char(p, '!')) {
            latex_advance(p);
            node = latex_make_with(p, LATEX_FACTORIAL, 0, node, LATEX_NONE);
        } else if (latex_at_char(p, '^')) {
            latex_advance(p);
            if (take_circle(p))
                node = apply_degrees(p, node);
            else
                node = latex_make_with(p, LATEX_POWER, 0, node, latex_parse_argument(p, false));
        } else if (latex_at_command(p, "degree") || latex_at_command(p, "circ")) {
            latex_advance(p);
            node = apply_degrees(p, node);
        } else if (latex_at_command(p, "%") || latex_at_char(p, '%')) {
            latex_advance(p);
            if (p->brackets)
                node = latex_make_with(p, LATEX_DIVIDE, 0, node, latex_make_number(p, "100"));
            else
                p->tree->percent = true;
        } else {
            return node;
        }
    }
}

static bool starts_power(const struct latex_parser *p)
{
    static const char *const operators[] = {
        "cdot",   "times", "div",   "ast",      "pm",       "mp",       "le",     "leq",
        "ge",     "geq",   "lt",    "gt",       "ne",       "neq",      "in",     "cup",
        "cap",    "end",   "}",     "rangle",   "choose",   "over",     "%",      "circ",
        "rfloor", "rceil", "rvert", "setminus", "leqslant", "geqslant", "approx", "equiv",
        "degree", "mid",   "&",     "#",        "_",        NULL};

    switch (p->token.kind) {
    case TOKEN_NUMBER:
    case TOKEN_LETTER:
        return true;
    case TOKEN_COMMAND:
        return !latex_at_any(p, operators) && !(p->bare_argument && latex_at_function(p));
    case TOKEN_CHAR:
        return latex_at_char(p, '(') || latex_at_char(p, '[') || latex_at_char(p, '{') ||
               (latex_at_char(p, '|') && !p->bars);
    default:
        return false;
    }
}

int latex_parse_factor(struct latex_parser *p)
{
    bool made = false;

    if (latex_at_char(p, '-') || latex_at_char(p, '+')) {
        bool negative = latex_at_char(p, '-');
        if (++p->depth > LATEX_MAX_DEPTH)
            return latex_fail(p);
        latex_advance(p);
        int inner = latex_parse_factor(p);
        p->depth--;
        return negative ? latex_make_with(p, LATEX_NEGATE, 0, inner, LATEX_NONE) : inner;
    }
    int node = parse_power(p);
    for (;;) {
        if (p->token.kind == TOKEN_WORD) {
            take_unit(p);
        } else if (starts_power(p)) {
            if (p->token.kind == TOKEN_NUMBER && !made && !p->failed &&
                p->tree->nodes[node].kind == LATEX_NUMBER)
                return latex_fail(p); /* "3 4" */
            node = join(p, LATEX_MULTIPLY, node, parse_power(p), &made);
        } else {
            return node;
        }
    }
}

static int parse_product(struct latex_parser *p)
{
    static const char *const times[] = {"cdot", "times", "ast", NULL};
    int node = latex_parse_factor(p);

    for (;;) {
        bool multiply = latex_at_any(p, times) || latex_at_char(p, '*');
        if (!multiply && !latex_at_char(p, '/') && !latex_at_char(p, ':') &&
            !latex_at_command(p, "div"))
            return node;
        latex_advance(p);
        node = latex_make_with(p, multiply ? LATEX_MULTIPLY : LATEX_DIVIDE, 0, node,
                               latex_parse_factor(p));
    }
}

static int parse_sum(struct latex_parser *p)
{
    int node = LATEX_NONE;
    bool made = false;

    for (;;) {
        int sign = latex_at_char(p, '+')       ? '+'
                   : latex_at_char(p, '-')     ? '-'
                   : latex_at_command(p, "pm") ? 'p'
                   : latex_at_command(p, "mp") ? 'm'
                   : node == LATEX_NONE        ? ' '
                                               : 0;
        if (!sign)
            return node;
        if (sign != ' ')
            latex_advance(p);
        int term = parse_product(p);
        if (sign == '-')
            term = latex_make_with(p, LATEX_NEGATE, 0, term, LATEX_NONE);
        else if (sign == 'p' || sign == 'm')
            term = latex_make_with(p, LATEX_PLUS_MINUS, sign == 'p' ? 1 : -1, term, LATEX_NONE);
        node = node == LATEX_NONE ? term : join(p, LATEX_ADD, node, term, &made);
    }
}

static int parse_union(struct latex_parser *p)
{
    int node = parse_sum(p);

    for (;;) {
        int op = latex_at_command(p, "cup")        ? 'U'
                 : latex_at_command(p, "cap")      ? 'I'
                 : latex_at_command(p, "setminus") ? '\\'
                                                   : 0;
        if (!op)
            return node;
        latex_advance(p);
        int right = parse_sum(p);
        const struct latex_node *left = &p->tree->nodes[node];
        if (!p->failed && left->kind == LATEX_UNION && left->op == op && op != '\\')
            latex_add(p, node, right);
        else
            node = latex_make_with(p, LATEX_UNION, op, node, right);
    }
}

static char relation_at(const struct latex_parser *p)
{
    static const struct {
        const char *name;
        char op;
    } commands[] = {{"le", 'l'},   {"leq", 'l'},      {"leqslant", 'l'}, {"ge", 'g'},
                    {"geq", 'g'},  {"geqslant", 'g'}, {"lt", '<'},       {"gt", '>'},
                    {"ne", '!'},   {"neq", '!'},      {"in", 'e'},       {"approx", '='},
                    {"equiv", '='}};

    if (latex_at_char(p, '=') || latex_at_char(p, '<') || latex_at_char(p, '>'))
        return p->token.c;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (latex_at_command(p, commands[i].name))
            return commands[i].op;
    return 0;
}

static int parse_relation(struct latex_parser *p)
{
    char ops[LATEX_MAX_ITEMS + 1], op;
    size_t n = 0;
    int node = parse_union(p), relation = LATEX_NONE;

    while ((op = relation_at(p))) {
        latex_advance(p);
        if ((op == '<' || op == '>') && latex_at_char(p, '=')) {
            latex_advance(p);
            op = op == '<' ? 'l' : 'g';
        }
        if (relation == LATEX_NONE)
            relation = latex_make_with(p, LATEX_RELATION, op, node, LATEX_NONE);
        latex_add(p, relation, parse_union(p));
        if (p->failed)
            return 0;
        ops[n++] = op; /* latex_add() has bounded n */
    }
    if (relation == LATEX_NONE)
        return node;
    int text = latex_make_text(p, LATEX_SYMBOL, ops, n);
    if (!p->failed)
        p->tree->nodes[relation].text = p->tree->nodes[text].text;
    return relation;
}

int latex_parse_list(struct latex_parser *p)
{
    bool made = false;

    if (++p->depth > LATEX_MAX_DEPTH)
        return latex_fail(p);
    int node = parse_relation(p);
    while (latex_at_char(p, ',') || latex_at_char(p, ';')) {
        latex_advance(p);
        while (latex_at_char(p, ',')) /* "1, 2, and 3" */
            latex_advance(p);
        node = join(p, LATEX_LIST, node, parse_relation(p), &made);
    }
    p->depth--;
    return node;
}

int latex_parse(struct latex_tree *tree, const char *text)
{
    struct latex_parser p = {.tree = tree};

    memset(tree, 0, sizeof *tree);
    tree->text_size = 4 * strlen(text) + 512;
    tree->nodes = calloc(LATEX_MAX_NODES, sizeof *tree->nodes);
    tree->text = malloc(tree->text_size);
    if (!tree->nodes || !tree->text)
        return -1;
    p.token.kind = TOKEN_CHAR;
    latex_move_to(&p, text);
    tree->root = latex_parse_list(&p);
    return p.failed || p.token.kind != TOKEN_END ? -1 : 0;
}

void latex_tree_free(struct latex_tree *tree)
{
    free(tree->nodes);
    free(tree->text);
    memset(tree, 0, sizeof *tree);
}
