/* Recursive descent over the tokens of latex_lex.h:
 *
 *   list     = relation {("," | ";" | "and" | "or") relation}
 *   relation = union {("=" | "<" | ...) union}
 *   union    = sum {("\cup" | "\cap" | "\setminus") sum}
 *   sum      = ["-"] product {("+" | "-" | "\pm" | "\mp") product}
 *   product  = factor {("\cdot" | "\times" | "/" | ":") factor}
 *   factor   = {"-"} power {power}          side by side
 *   power    = atom {"!" | "^" argument | "%" | degrees}
 *
 * After a failure the token is the end, so that every loop comes to its own. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "eval/latex_lex.h"
#include "eval/latex_tree.h"

struct parser {
    struct latex_tree *tree;
    struct latex_token token;
    bool failed;
    int depth, brackets, bars;
    bool angle;         /* inside the argument of \sin: degrees count */
    bool bare_argument; /* "\sin x": the next function ends it */
};

static int parse_list(struct parser *p);
static int parse_factor(struct parser *p);
static int parse_power(struct parser *p);
static int parse_atom(struct parser *p);

/* ---- nodes and tokens ---------------------------------------------------------------------------
 */

static int fail(struct parser *p)
{
    p->failed = true;
    p->token.kind = TOKEN_END;
    p->token.c = 0;
    p->token.text[0] = '\0';
    return 0;
}

static void move_to(struct parser *p, const char *place)
{
    if (!p->failed && !latex_lex(place, p->brackets == 0, &p->token))
        fail(p);
}

static void advance(struct parser *p)
{
    if (p->token.kind != TOKEN_END)
        move_to(p, p->token.end);
}

static bool at_char(const struct parser *p, char c)
{
    return p->token.kind == TOKEN_CHAR && p->token.c == c;
}

static bool at_command(const struct parser *p, const char *name)
{
    return p->token.kind == TOKEN_COMMAND && strcmp(p->token.text, name) == 0;
}

static bool at_any(const struct parser *p, const char *const *names)
{
    for (; *names; names++)
        if (at_command(p, *names))
            return true;
    return false;
}

static void expect(struct parser *p, char c)
{
    if (at_char(p, c))
        advance(p);
    else
        fail(p);
}

static int make(struct parser *p, enum latex_kind kind, int op)
{
    struct latex_tree *tree = p->tree;

    if (tree->n == LATEX_MAX_NODES)
        return fail(p);
    tree->nodes[tree->n] = (struct latex_node){.kind = kind,
                                               .op = op,
                                               .first = LATEX_NONE,
                                               .next = LATEX_NONE,
                                               .last = LATEX_NONE,
                                               .text = ""};
    return tree->n++;
}

static void add(struct parser *p, int parent, int child)
{
    struct latex_node *nodes = p->tree->nodes;

    if (p->failed)
        return;
    if (nodes[parent].n == LATEX_MAX_ITEMS) {
        fail(p);
        return;
    }
    if (nodes[parent].last == LATEX_NONE)
        nodes[parent].first = child;
    else
        nodes[nodes[parent].last].next = child;
    nodes[parent].last = child;
    nodes[parent].n++;
}

static int make_with(struct parser *p, enum latex_kind kind, int op, int first, int second)
{
    int node = make(p, kind, op);

    add(p, node, first);
    if (second != LATEX_NONE)
        add(p, node, second);
    return node;
}

static int make_text(struct parser *p, enum latex_kind kind, const char *text, size_t length)
{
    struct latex_tree *tree = p->tree;
    int node = make(p, kind, 0);

    if (p->failed || tree->n_text + length + 1 > tree->text_size)
        return fail(p);
    memcpy(tree->text + tree->n_text, text, length);
    tree->text[tree->n_text + length] = '\0';
    tree->nodes[node].text = tree->text + tree->n_text;
    tree->n_text += length + 1;
    return node;
}

static int make_number(struct parser *p, const char *digits)
{
    return make_text(p, LATEX_NUMBER, digits, strlen(digits));
}

/* Appends one to a sum, product or list, which it makes of the first where needed. */
static int join(struct parser *p, enum latex_kind kind, int so_far, int more, bool *made)
{
    if (!*made)
        so_far = make_with(p, kind, 0, so_far, LATEX_NONE);
    *made = true;
    add(p, so_far, more);
    return so_far;
}

/* What is inside brackets starts afresh. */
struct outside {
    int bars;
    bool bare_argument;
};

static struct outside enter(struct parser *p)
{
    struct outside o = {p->bars, p->bare_argument};

    p->bars = 0;
    p->bare_argument = false;
    p->brackets++;
    return o;
}

static void leave(struct parser *p, struct outside o)
{
    p->bars = o.bars;
    p->bare_argument = o.bare_argument;
    p->brackets--;
}

/* ---- units --------------------------------------------------------------------------------------
 */

/* A word after a value: a unit, but for words that only say what is counted. */
static void take_unit(struct parser *p)
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
        advance(p);
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
    advance(p);
    if (at_char(p, '^')) { /* "cm^2" */
        advance(p);
        bool braces = at_char(p, '{');
        if (braces)
            advance(p);
        n = strlen(unit);
        if (p->token.kind == TOKEN_NUMBER && !p->token.text[1] && n)
            memcpy(unit + n, p->token.text, 2);
        else if (p->token.kind != TOKEN_NUMBER)
            fail(p);
        advance(p);
        if (braces)
            expect(p, '}');
    }
    if (!p->failed && unit[0])
        strcpy(p->tree->unit, unit);
}

/* ---- atoms --------------------------------------------------------------------------------------
 */

/* One digit, a group or an atom: what \frac, \sqrt and ^ take. */
static int parse_argument(struct parser *p, bool one_digit)
{
    if (one_digit && p->token.kind == TOKEN_NUMBER && isdigit((unsigned char)*p->token.start)) {
        const char digit[2] = {*p->token.start, '\0'};
        int node = make_number(p, digit);
        move_to(p, p->token.start + 1);
        return node;
    }
    if (at_char(p, '-') || at_char(p, '+')) {
        bool negative = at_char(p, '-');
        if (++p->depth > LATEX_MAX_DEPTH)
            return fail(p);
        advance(p);
        int node = parse_argument(p, one_digit);
        p->depth--;
        return negative ? make_with(p, LATEX_NEGATE, 0, node, LATEX_NONE) : node;
    }
    return parse_atom(p);
}

static int parse_group(struct parser *p)
{
    struct outside o = enter(p);

    advance(p);
    int node = parse_list(p);
    if (at_command(p, "choose") || at_command(p, "over")) {
        bool choose = at_command(p, "choose");
        advance(p);
        node = make_with(p, choose ? LATEX_BINOMIAL : LATEX_DIVIDE, 0, node, parse_list(p));
    }
    leave(p, o);
    expect(p, '}');
    return node;
}

/* ( [ \{ \langle up to what closes it. */
static int parse_brackets(struct parser *p)
{
    char open = at_char(p, '(') ? '(' : at_char(p, '[') ? '[' : at_command(p, "{") ? '{' : '<';
    struct outside o = enter(p);

    advance(p);
    bool empty = open == '{' && at_command(p, "}");
    int inner = empty ? make(p, LATEX_SET, 0) : parse_list(p);
    char close = at_char(p, ')')           ? ')'
                 : at_char(p, ']')         ? ']'
                 : at_command(p, "}")      ? '}'
                 : at_command(p, "rangle") ? '>'
                                           : 0;
    leave(p, o);
    if (!close || (open == '{') != (close == '}') || (open == '<') != (close == '>'))
        return fail(p);
    advance(p);
    if (p->failed || empty)
        return inner;
    struct latex_node *node = &p->tree->nodes[inner];
    bool list = node->kind == LATEX_LIST;
    if (open == '{') {
        if (!list)
            return make_with(p, LATEX_SET, 0, inner, LATEX_NONE);
        node->kind = LATEX_SET;
        return inner;
    }
    if (!list) /* grouping */
        return inner;
    const char brackets[2] = {open, close};
    int tuple = make_text(p, LATEX_TUPLE, brackets, 2);
    if (p->failed)
        return 0;
    p->tree->nodes[tuple].first = node->first;
    p->tree->nodes[tuple].last = node->last;
    p->tree->nodes[tuple].n = node->n;
    return tuple;
}

static int parse_between(struct parser *p, enum latex_function function, const char *close)
{
    struct outside o = enter(p);

    advance(p);
    int node = parse_list(p);
    leave(p, o);
    if (!at_command(p, close))
        return fail(p);
    advance(p);
    return make_with(p, LATEX_FUNCTION, function, node, LATEX_NONE);
}

static int parse_bars(struct parser *p)
{
    struct outside o = enter(p);

    p->bars = 1;
    advance(p);
    int node = parse_list(p);
    leave(p, o);
    expect(p, '|');
    return make_with(p, LATEX_FUNCTION, LATEX_ABS, node, LATEX_NONE);
}

/* The raw name in {...} after \begin and \end. */
static void take_name(struct parser *p, char *name, size_t size)
{
    const char *start = p->token.end + strspn(p->token.end, " ");
    const size_t n = *start == '{' ? strcspn(start, "}") : 0;

    name[0] = '\0';
    if (n < 2 || n > size || start[n] != '}') {
        fail(p);
        return;
    }
    memcpy(name, start + 1, n - 1);
    name[n - 1] = '\0';
    const char *next = start + n + 1;
    if (strcmp(name, "array") == 0 && *next == '{')
        next += strcspn(next, "}") + (next[strcspn(next, "}")] == '}');
    move_to(p, next);
}

static int parse_matrix(struct parser *p)
{
    char name[16], end[16];

    take_name(p, name, sizeof name);
    const size_t n = strlen(name);
    if (strcmp(name, "array") != 0 && strcmp(name, "smallmatrix") != 0 &&
        (n < 6 || n > 7 || strcmp(name + n - 6, "matrix") != 0))
        return fail(p);
    struct outside o = enter(p);
    int matrix = make(p, LATEX_MATRIX, name[0] == 'v' ? 'v' : 'm');
    while (!p->failed) {
        int row = make(p, LATEX_ROW, 0);
        for (;;) {
            add(p, row, parse_list(p));
            if (!at_char(p, '&'))
                break;
            advance(p);
        }
        add(p, matrix, row);
        if (!at_char(p, '\\'))
            break;
        advance(p);
        if (at_command(p, "end"))
            break;
    }
    leave(p, o);
    if (!at_command(p, "end"))
        return fail(p);
    take_name(p, end, sizeof end);
    return strcmp(name, end) == 0 ? matrix : fail(p);
}

/* A letter or Greek command with its subscript and primes. */
static int parse_symbol(struct parser *p)
{
    char name[128];
    size_t n = strlen(p->token.text);

    memcpy(name, p->token.text, n + 1);
    advance(p);
    if (at_char(p, '_')) {
        const char *s = p->token.end + strspn(p->token.end, " ");
        size_t length = 1;
        if (*s == '{') {
            length = strcspn(s, "}") + 1;
            if (!s[length - 1])
                return fail(p);
        } else if (*s == '\\') {
            while (isalpha((unsigned char)s[length]))
                length++;
        } else if (!*s) {
            return fail(p);
        }
        name[n++] = '_';
        for (size_t i = 0; i < length; i++)
            if (!strchr("{} ", s[i])) {
                if (n + 2 >= sizeof name)
                    return fail(p);
                name[n++] = s[i];
            }
        move_to(p, s + length);
    }
    while (at_char(p, '\'') && n + 2 < sizeof name) {
        name[n++] = '\'';
        advance(p);
    }
    name[n] = '\0';
    if (strcmp(name, "e") == 0)
        return make(p, LATEX_E, 0);
    if (strcmp(name, "i") == 0)
        return make(p, LATEX_I, 0);
    return make_text(p, LATEX_SYMBOL, name, n);
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
static int parse_mixed_part(struct parser *p)
{
    static const char *const fractions[] = {"frac", "dfrac", "tfrac", NULL};
    const struct parser before = *p;
    const struct latex_tree tree = *p->tree;
    int fraction = LATEX_NONE;

    if (at_any(p, fractions)) {
        if (!two_numbers_at(p->token.end))
            return LATEX_NONE;
        advance(p);
        int top = parse_argument(p, true), bottom = parse_argument(p, true);
        return make_with(p, LATEX_DIVIDE, 0, top, bottom);
    }
    if (p->token.kind == TOKEN_NUMBER) {
        int top = make_number(p, p->token.text);
        advance(p);
        if (at_char(p, '/')) {
            advance(p);
            if (p->token.kind == TOKEN_NUMBER) {
                fraction = make_with(p, LATEX_DIVIDE, 0, top, make_number(p, p->token.text));
                advance(p);
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
static int parse_repeating(struct parser *p, int number, size_t n_decimals)
{
    char nines[160];
    size_t n = 0;

    advance(p);
    bool braces = at_char(p, '{');
    if (braces)
        advance(p);
    if (p->token.kind != TOKEN_NUMBER || strchr(p->token.text, '.'))
        return fail(p);
    int digits = make_number(p, p->token.text);
    memset(nines, '9', n = strlen(p->token.text));
    while (n_decimals-- && n + 1 < sizeof nines)
        nines[n++] = '0';
    nines[n] = '\0';
    advance(p);
    if (braces)
        expect(p, '}');
    return make_with(p, LATEX_ADD, 0, number,
                     make_with(p, LATEX_DIVIDE, 0, digits, make_number(p, nines)));
}

static int parse_number(struct parser *p)
{
    char text[sizeof p->token.text + 1];
    strcpy(text, p->token.text);
    const char *point = strchr(text, '.');
    int node = make_number(p, text);

    if (strncmp(p->token.end, ".\\overline", 10) == 0) { /* 0.\overline{3} */
        move_to(p, p->token.end + 1);
        return parse_repeating(p, node, 0);
    }
    advance(p);
    if (point && at_command(p, "overline"))
        return parse_repeating(p, node, strlen(point + 1));
    if (at_char(p, '_')) {
        advance(p);
        int based = make_text(p, LATEX_BASED, text, strlen(text));
        int base = parse_argument(p, false);
        add(p, based, base);
        return based;
    }
    if (!point) {
        int part = parse_mixed_part(p);
        if (part != LATEX_NONE)
            return make_with(p, LATEX_ADD, 0, node, part);
    }
    return node;
}

static const struct {
    const char *name;
    enum latex_function function;
} functions[] = {
    {"sin", LATEX_SIN},       {"cos", LATEX_COS},       {"tan", LATEX_TAN},
    {"cot", LATEX_COT},       {"sec", LATEX_SEC},       {"csc", LATEX_CSC},
    {"arcsin", LATEX_ARCSIN}, {"arccos", LATEX_ARCCOS}, {"arctan", LATEX_ARCTAN},
    {"sinh", LATEX_SINH},     {"cosh", LATEX_COSH},     {"tanh", LATEX_TANH},
    {"ln", LATEX_LN},         {"log", LATEX_LOG},       {"lg", LATEX_LOG},
    {"exp", LATEX_EXP},       {"gcd", LATEX_OPAQUE},    {"det", LATEX_OPAQUE},
    {"max", LATEX_OPAQUE},    {"min", LATEX_OPAQUE},    {"deg", LATEX_OPAQUE},
    {"arg", LATEX_OPAQUE},    {"dim", LATEX_OPAQUE},    {"lcm", LATEX_OPAQUE},
};
enum { N_FUNCTIONS = sizeof functions / sizeof *functions };

static int function_at(const struct parser *p)
{
    for (int i = 0; i < N_FUNCTIONS; i++)
        if (at_command(p, functions[i].name))
            return i;
    return LATEX_NONE;
}

static int parse_function(struct parser *p, int which)
{
    enum latex_function function = functions[which].function;
    const bool angle = p->angle, bare = p->bare_argument;
    int power = LATEX_NONE, base = LATEX_NONE;

    advance(p);
    for (;;) {
        if (at_char(p, '^') && power == LATEX_NONE) {
            advance(p);
            power = parse_argument(p, false);
        } else if (at_char(p, '_') && base == LATEX_NONE) {
            advance(p);
            base = parse_argument(p, true);
        } else {
            break;
        }
    }
    p->angle = function <= LATEX_CSC;
    p->bare_argument = true;
    int argument = at_char(p, '(') || at_char(p, '{') ? parse_atom(p) : parse_factor(p);
    p->angle = angle;
    p->bare_argument = bare;
    if (p->failed)
        return 0;
    if (power != LATEX_NONE && function <= LATEX_TAN) { /* \sin^{-1} x */
        const struct latex_node *n = &p->tree->nodes[power];
        if (n->kind == LATEX_NEGATE && strcmp(p->tree->nodes[n->first].text, "1") == 0) {
            function = (enum latex_function)(LATEX_ARCSIN + (function - LATEX_SIN));
            power = LATEX_NONE;
        }
    }
    int node = make_with(p, LATEX_FUNCTION, (int)function, argument, base);
    if (!p->failed && function == LATEX_OPAQUE)
        p->tree->nodes[node].text = functions[which].name;
    return power == LATEX_NONE ? node : make_with(p, LATEX_POWER, 0, node, power);
}

static bool is_greek(const char *name)
{
    static const char all[] =
        " alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu "
        "nu xi rho varrho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi "
        "Pi Sigma Upsilon Phi Psi Omega ell ";
    const char *found = strstr(all, name);

    return found && strlen(name) > 1 && found[-1] == ' ' && found[strlen(name)] == ' ';
}

static int parse_command(struct parser *p)
{
    static const char *const fractions[] = {"frac", "dfrac", "tfrac", "cfrac", NULL};
    static const char *const binomials[] = {"binom", "dbinom", "tbinom", NULL};
    static const char *const transparent[] = {"overline", "overrightarrow", "widehat", "tilde",
                                              NULL};
    int which = function_at(p);

    if (which != LATEX_NONE)
        return parse_function(p, which);
    if (at_any(p, fractions) || at_any(p, binomials)) {
        bool fraction = at_any(p, fractions);
        advance(p);
        int top = parse_argument(p, true), bottom = parse_argument(p, true);
        return make_with(p, fraction ? LATEX_DIVIDE : LATEX_BINOMIAL, 0, top, bottom);
    }
    if (at_command(p, "sqrt")) {
        int index = LATEX_NONE;
        advance(p);
        if (at_char(p, '[')) {
            struct outside o = enter(p);
            advance(p);
            index = parse_list(p);
            leave(p, o);
            expect(p, ']');
        }
        int radicand = parse_argument(p, true);
        return make_with(p, LATEX_ROOT, 0, radicand, index);
    }
    if (at_command(p, "{") || at_command(p, "langle"))
        return parse_brackets(p);
    if (at_command(p, "lbrace"))
        return fail(p);
    if (at_command(p, "begin"))
        return parse_matrix(p);
    if (at_command(p, "lfloor"))
        return parse_between(p, LATEX_FLOOR, "rfloor");
    if (at_command(p, "lceil"))
        return parse_between(p, LATEX_CEIL, "rceil");
    if (at_command(p, "lvert"))
        return parse_between(p, LATEX_ABS, "rvert");
    if (at_any(p, transparent)) {
        advance(p);
        return parse_argument(p, false);
    }
    if (at_command(p, "mathbb")) {
        advance(p);
        bool braces = at_char(p, '{');
        if (braces)
            advance(p);
        if (p->token.kind != TOKEN_LETTER)
            return fail(p);
        const char name[2] = {p->token.text[0], '#'}; /* R# is the set, R a letter */
        int node = make_text(p, LATEX_SYMBOL, name, 2);
        advance(p);
        if (braces)
            expect(p, '}');
        return node;
    }
    enum latex_kind constant = at_command(p, "pi")      ? LATEX_PI
                               : at_command(p, "infty") ? LATEX_INFINITY
                               : at_command(p, "emptyset") || at_command(p, "varnothing")
                                   ? LATEX_SET
                                   : LATEX_SYMBOL;
    if (constant != LATEX_SYMBOL) {
        advance(p);
        return make(p, constant, 0);
    }
    return is_greek(p->token.text) ? parse_symbol(p) : fail(p);
}

static int parse_atom(struct parser *p)
{
    int node = 0;

    if (p->failed || ++p->depth > LATEX_MAX_DEPTH)
        return fail(p);
    switch (p->token.kind) {
    case TOKEN_NUMBER:
        node = parse_number(p);
        break;
    case TOKEN_LETTER:
        node = parse_symbol(p);
        break;
    case TOKEN_WORD:
        node = make_text(p, LATEX_SYMBOL, p->token.text, strlen(p->token.text));
        advance(p);
        break;
    case TOKEN_COMMAND:
        node = parse_command(p);
        break;
    case TOKEN_CHAR:
        node = at_char(p, '(') || at_char(p, '[') ? parse_brackets(p)
               : at_char(p, '{')                  ? parse_group(p)
               : at_char(p, '|') && !p->bars      ? parse_bars(p)
                                                  : fail(p);
        break;
    case TOKEN_END:
        fail(p);
    }
    p->depth--;
    return node;
}

/* ---- operators ----------------------------------------------------------------------------------
 */

/* After a ^: is it that of degrees? Takes it if so. */
static bool take_circle(struct parser *p)
{
    const struct parser before = *p;

    bool braces = at_char(p, '{');
    if (braces)
        advance(p);
    if (at_command(p, "circ") || at_command(p, "degree")) {
        advance(p);
        if (!braces || at_char(p, '}')) {
            if (braces)
                advance(p);
            return !p->failed;
        }
    }
    *p = before;
    return false;
}

static int apply_degrees(struct parser *p, int node)
{
    if (!p->angle)
        return node;
    return make_with(p, LATEX_DIVIDE, 0,
                     make_with(p, LATEX_MULTIPLY, 0, node, make(p, LATEX_PI, 0)),
                     make_number(p, "180"));
}

static int parse_power(struct parser *p)
{
    int node = parse_atom(p);

    for (;;) {
        if (at_char(p, '!')) {
            advance(p);
            node = make_with(p, LATEX_FACTORIAL, 0, node, LATEX_NONE);
        } else if (at_char(p, '^')) {
            advance(p);
            if (take_circle(p))
                node = apply_degrees(p, node);
            else
                node = make_with(p, LATEX_POWER, 0, node, parse_argument(p, false));
        } else if (at_command(p, "degree") || at_command(p, "circ")) {
            advance(p);
            node = apply_degrees(p, node);
        } else if (at_command(p, "%") || at_char(p, '%')) {
            advance(p);
            if (p->brackets)
                node = make_with(p, LATEX_DIVIDE, 0, node, make_number(p, "100"));
            else
                p->tree->percent = true;
        } else {
            return node;
        }
    }
}

static bool starts_power(const struct parser *p)
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
        return !at_any(p, operators) && !(p->bare_argument && function_at(p) != LATEX_NONE);
    case TOKEN_CHAR:
        return at_char(p, '(') || at_char(p, '[') || at_char(p, '{') ||
               (at_char(p, '|') && !p->bars);
    default:
        return false;
    }
}

static int parse_factor(struct parser *p)
{
    bool made = false;

    if (at_char(p, '-') || at_char(p, '+')) {
        bool negative = at_char(p, '-');
        if (++p->depth > LATEX_MAX_DEPTH)
            return fail(p);
        advance(p);
        int inner = parse_factor(p);
        p->depth--;
        return negative ? make_with(p, LATEX_NEGATE, 0, inner, LATEX_NONE) : inner;
    }
    int node = parse_power(p);
    for (;;) {
        if (p->token.kind == TOKEN_WORD) {
            take_unit(p);
        } else if (starts_power(p)) {
            if (p->token.kind == TOKEN_NUMBER && !made && !p->failed &&
                p->tree->nodes[node].kind == LATEX_NUMBER)
                return fail(p); /* "3 4" */
            node = join(p, LATEX_MULTIPLY, node, parse_power(p), &made);
        } else {
            return node;
        }
    }
}

static int parse_product(struct parser *p)
{
    static const char *const times[] = {"cdot", "times", "ast", NULL};
    int node = parse_factor(p);

    for (;;) {
        bool multiply = at_any(p, times) || at_char(p, '*');
        if (!multiply && !at_char(p, '/') && !at_char(p, ':') && !at_command(p, "div"))
            return node;
        advance(p);
        node = make_with(p, multiply ? LATEX_MULTIPLY : LATEX_DIVIDE, 0, node, parse_factor(p));
    }
}

static int parse_sum(struct parser *p)
{
    int node = LATEX_NONE;
    bool made = false;

    for (;;) {
        int sign = at_char(p, '+')       ? '+'
                   : at_char(p, '-')     ? '-'
                   : at_command(p, "pm") ? 'p'
                   : at_command(p, "mp") ? 'm'
                   : node == LATEX_NONE  ? ' '
                                         : 0;
        if (!sign)
            return node;
        if (sign != ' ')
            advance(p);
        int term = parse_product(p);
        if (sign == '-')
            term = make_with(p, LATEX_NEGATE, 0, term, LATEX_NONE);
        else if (sign == 'p' || sign == 'm')
            term = make_with(p, LATEX_PLUS_MINUS, sign == 'p' ? 1 : -1, term, LATEX_NONE);
        node = node == LATEX_NONE ? term : join(p, LATEX_ADD, node, term, &made);
    }
}

static int parse_union(struct parser *p)
{
    int node = parse_sum(p);

    for (;;) {
        int op = at_command(p, "cup")        ? 'U'
                 : at_command(p, "cap")      ? 'I'
                 : at_command(p, "setminus") ? '\\'
                                             : 0;
        if (!op)
            return node;
        advance(p);
        int right = parse_sum(p);
        const struct latex_node *left = &p->tree->nodes[node];
        if (!p->failed && left->kind == LATEX_UNION && left->op == op && op != '\\')
            add(p, node, right);
        else
            node = make_with(p, LATEX_UNION, op, node, right);
    }
}

static char relation_at(const struct parser *p)
{
    static const struct {
        const char *name;
        char op;
    } commands[] = {{"le", 'l'},   {"leq", 'l'},      {"leqslant", 'l'}, {"ge", 'g'},
                    {"geq", 'g'},  {"geqslant", 'g'}, {"lt", '<'},       {"gt", '>'},
                    {"ne", '!'},   {"neq", '!'},      {"in", 'e'},       {"approx", '='},
                    {"equiv", '='}};

    if (at_char(p, '=') || at_char(p, '<') || at_char(p, '>'))
        return p->token.c;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (at_command(p, commands[i].name))
            return commands[i].op;
    return 0;
}

static int parse_relation(struct parser *p)
{
    char ops[LATEX_MAX_ITEMS + 1], op;
    size_t n = 0;
    int node = parse_union(p), relation = LATEX_NONE;

    while ((op = relation_at(p))) {
        advance(p);
        if ((op == '<' || op == '>') && at_char(p, '=')) {
            advance(p);
            op = op == '<' ? 'l' : 'g';
        }
        if (relation == LATEX_NONE)
            relation = make_with(p, LATEX_RELATION, op, node, LATEX_NONE);
        add(p, relation, parse_union(p));
        if (p->failed)
            return 0;
        ops[n++] = op; /* add() has bounded n */
    }
    if (relation == LATEX_NONE)
        return node;
    int text = make_text(p, LATEX_SYMBOL, ops, n);
    if (!p->failed)
        p->tree->nodes[relation].text = p->tree->nodes[text].text;
    return relation;
}

static int parse_list(struct parser *p)
{
    bool made = false;

    if (++p->depth > LATEX_MAX_DEPTH)
        return fail(p);
    int node = parse_relation(p);
    while (at_char(p, ',') || at_char(p, ';')) {
        advance(p);
        while (at_char(p, ',')) /* "1, 2, and 3" */
            advance(p);
        node = join(p, LATEX_LIST, node, parse_relation(p), &made);
    }
    p->depth--;
    return node;
}

int latex_parse(struct latex_tree *tree, const char *text)
{
    struct parser p = {.tree = tree};

    memset(tree, 0, sizeof *tree);
    tree->text_size = 4 * strlen(text) + 512;
    tree->nodes = calloc(LATEX_MAX_NODES, sizeof *tree->nodes);
    tree->text = malloc(tree->text_size);
    if (!tree->nodes || !tree->text)
        return -1;
    p.token.kind = TOKEN_CHAR;
    move_to(&p, text);
    tree->root = parse_list(&p);
    return p.failed || p.token.kind != TOKEN_END ? -1 : 0;
}

void latex_tree_free(struct latex_tree *tree)
{
    free(tree->nodes);
    free(tree->text);
    memset(tree, 0, sizeof *tree);
}
