#include <string.h>

#include "eval/latex_parser.h"

static int parse_between(struct latex_parser *p, enum latex_function function, const char *close)
{
    struct latex_outside o = latex_enter(p);

    latex_advance(p);
    int node = latex_parse_list(p);
    latex_leave(p, o);
    if (!latex_at_command(p, close))
        return latex_fail(p);
    latex_advance(p);
    return latex_make_with(p, LATEX_FUNCTION, function, node, LATEX_NONE);
}

/* The raw name in {...} after \begin and \end. */
static void take_name(struct latex_parser *p, char *name, size_t size)
{
    const char *start = p->token.end + strspn(p->token.end, " ");
    const size_t n = *start == '{' ? strcspn(start, "}") : 0;

    name[0] = '\0';
    if (n < 2 || n > size || start[n] != '}') {
        latex_fail(p);
        return;
    }
    memcpy(name, start + 1, n - 1);
    name[n - 1] = '\0';
    const char *next = start + n + 1;
    if (strcmp(name, "array") == 0 && *next == '{')
        next += strcspn(next, "}") + (next[strcspn(next, "}")] == '}');
    latex_move_to(p, next);
}

static int parse_matrix(struct latex_parser *p)
{
    char name[16], end[16];

    take_name(p, name, sizeof name);
    const size_t n = strlen(name);
    if (strcmp(name, "array") != 0 && strcmp(name, "smallmatrix") != 0 &&
        (n < 6 || n > 7 || strcmp(name + n - 6, "matrix") != 0))
        return latex_fail(p);
    struct latex_outside o = latex_enter(p);
    int matrix = latex_make(p, LATEX_MATRIX, name[0] == 'v' ? 'v' : 'm');
    while (!p->failed) {
        int row = latex_make(p, LATEX_ROW, 0);
        for (;;) {
            latex_add(p, row, latex_parse_list(p));
            if (!latex_at_char(p, '&'))
                break;
            latex_advance(p);
        }
        latex_add(p, matrix, row);
        if (!latex_at_char(p, '\\'))
            break;
        latex_advance(p);
        if (latex_at_command(p, "end"))
            break;
    }
    latex_leave(p, o);
    if (!latex_at_command(p, "end"))
        return latex_fail(p);
    take_name(p, end, sizeof end);
    return strcmp(name, end) == 0 ? matrix : latex_fail(p);
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

static int function_at(const struct latex_parser *p)
{
    for (int i = 0; i < N_FUNCTIONS; i++)
        if (latex_at_command(p, functions[i].name))
            return i;
    return LATEX_NONE;
}

bool latex_at_function(const struct latex_parser *p)
{
    return function_at(p) != LATEX_NONE;
}

static int parse_function(struct latex_parser *p, int which)
{
    enum latex_function function = functions[which].function;
    const bool angle = p->angle, bare = p->bare_argument;
    int power = LATEX_NONE, base = LATEX_NONE;

    latex_advance(p);
    for (;;) {
        if (latex_at_char(p, '^') && power == LATEX_NONE) {
            latex_advance(p);
            power = latex_parse_argument(p, false);
        } else if (latex_at_char(p, '_') && base == LATEX_NONE) {
            latex_advance(p);
            base = latex_parse_argument(p, true);
        } else {
            break;
        }
    }
    p->angle = function <= LATEX_CSC;
    p->bare_argument = true;
    int argument = latex_at_char(p, '(') || latex_at_char(p, '{') ? latex_parse_atom(p)
                                                                  : latex_parse_factor(p);
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
    int node = latex_make_with(p, LATEX_FUNCTION, (int)function, argument, base);
    if (!p->failed && function == LATEX_OPAQUE)
        p->tree->nodes[node].text = functions[which].name;
    return power == LATEX_NONE ? node : latex_make_with(p, LATEX_POWER, 0, node, power);
}

static int parse_root(struct latex_parser *p)
{
    int index = LATEX_NONE;

    latex_advance(p);
    if (latex_at_char(p, '[')) {
        struct latex_outside o = latex_enter(p);
        latex_advance(p);
        index = latex_parse_list(p);
        latex_leave(p, o);
        latex_expect(p, ']');
    }
    int radicand = latex_parse_argument(p, true);
    return latex_make_with(p, LATEX_ROOT, 0, radicand, index);
}

/* \mathbb{R}: the symbol R#, where R is a letter. */
static int parse_number_set(struct latex_parser *p)
{
    latex_advance(p);
    bool braces = latex_at_char(p, '{');
    if (braces)
        latex_advance(p);
    if (p->token.kind != TOKEN_LETTER)
        return latex_fail(p);
    const char name[2] = {p->token.text[0], '#'};
    int node = latex_make_text(p, LATEX_SYMBOL, name, 2);
    latex_advance(p);
    if (braces)
        latex_expect(p, '}');
    return node;
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

int latex_parse_command(struct latex_parser *p)
{
    static const char *const fractions[] = {"frac", "dfrac", "tfrac", "cfrac", NULL};
    static const char *const binomials[] = {"binom", "dbinom", "tbinom", NULL};
    static const char *const transparent[] = {"overline", "overrightarrow", "widehat", "tilde",
                                              NULL};
    int which = function_at(p);

    if (which != LATEX_NONE)
        return parse_function(p, which);
    if (latex_at_any(p, fractions) || latex_at_any(p, binomials)) {
        bool fraction = latex_at_any(p, fractions);
        latex_advance(p);
        int top = latex_parse_argument(p, true), bottom = latex_parse_argument(p, true);
        return latex_make_with(p, fraction ? LATEX_DIVIDE : LATEX_BINOMIAL, 0, top, bottom);
    }
    if (latex_at_command(p, "sqrt"))
        return parse_root(p);
    if (latex_at_command(p, "{") || latex_at_command(p, "langle"))
        return latex_parse_brackets(p);
    if (latex_at_command(p, "lbrace"))
        return latex_fail(p);
    if (latex_at_command(p, "begin"))
        return parse_matrix(p);
    if (latex_at_command(p, "lfloor"))
        return parse_between(p, LATEX_FLOOR, "rfloor");
    if (latex_at_command(p, "lceil"))
        return parse_between(p, LATEX_CEIL, "rceil");
    if (latex_at_command(p, "lvert"))
        return parse_between(p, LATEX_ABS, "rvert");
    if (latex_at_any(p, transparent)) {
        latex_advance(p);
        return latex_parse_argument(p, false);
    }
    if (latex_at_command(p, "mathbb"))
        return parse_number_set(p);
    enum latex_kind constant =
        latex_at_command(p, "pi")                                              ? LATEX_PI
        : latex_at_command(p, "infty")                                         ? LATEX_INFINITY
        : latex_at_command(p, "emptyset") || latex_at_command(p, "varnothing") ? LATEX_SET
                                                                               : LATEX_SYMBOL;
    if (constant != LATEX_SYMBOL) {
        latex_advance(p);
        return latex_make(p, constant, 0);
    }
    return is_greek(p->token.text) ? latex_parse_symbol(p) : latex_fail(p);
}
