/* Equality of the answers that latex_parse.c reads; the rules are in latex.h. */
#include "eval/latex.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "eval/latex_lex.h"
#include "eval/latex_tree.h"

/* A node with the sign its \pm stand for; 0: both, it is a list of two. */
struct side {
    const struct latex_tree *tree;
    int node, sign;
};

/* What a comparison may compute in all: nodes visited. */
enum { BUDGET = 3000000, MAX_SIDES = 2 * LATEX_MAX_ITEMS };

static bool equal(struct side a, struct side b, long *budget);

static const struct latex_node *node_of(struct side a)
{
    return &a.tree->nodes[a.node];
}

static struct side child_of(struct side a, int node)
{
    return (struct side){a.tree, node, a.sign};
}

/* ---- values -------------------------------------------------------------------------------------
 */

static bool close_to(double complex a, double complex b, double tolerance)
{
    const double size = fmax(cabs(a), cabs(b));
    return cabs(a - b) <= tolerance * size || size < 1e-12;
}

static bool values_equal(struct side a, struct side b, long *budget)
{
    int n_residues = 0, n_values = 0;

    for (int i = 0; i < 2 * LATEX_PRIMES; i++) {
        const struct latex_point pa = {i / LATEX_PRIMES, a.sign, budget},
                                 pb = {i / LATEX_PRIMES, b.sign, budget};
        uint64_t x, y;
        if (!latex_residue(a.tree, a.node, &pa, i % LATEX_PRIMES, &x) ||
            !latex_residue(b.tree, b.node, &pb, i % LATEX_PRIMES, &y))
            break;
        if (x != y)
            return false;
        n_residues++;
    }
    if (n_residues == 2 * LATEX_PRIMES)
        return true;
    for (int i = 0; i < LATEX_TRIALS; i++) {
        const struct latex_point pa = {i, a.sign, budget}, pb = {i, b.sign, budget};
        double complex x, y;
        if (!latex_value(a.tree, a.node, &pa, &x) || !latex_value(b.tree, b.node, &pb, &y))
            continue;
        if (!close_to(x, y, 1e-10))
            return false;
        n_values++;
    }
    return n_values >= LATEX_TRIALS / 2;
}

/* Left minus right side of a relation of two at one point. */
static bool difference(struct side a, int trial, long *budget, double complex *value)
{
    const struct latex_point point = {trial, a.sign, budget};
    double complex left, right;

    if (!latex_value(a.tree, node_of(a)->first, &point, &left) ||
        !latex_value(a.tree, node_of(a)->last, &point, &right))
        return false;
    *value = left - right;
    return true;
}

/* Are two equations the same up to a constant factor? Of inequalities the factor is positive where
 * they point the same way. */
static bool relations_proportional(struct side a, struct side b, int direction, long *budget)
{
    double complex first = 0;
    int n = 0;

    for (int i = 0; i < LATEX_TRIALS; i++) {
        double complex x, y;
        if (!difference(a, i, budget, &x) || !difference(b, i, budget, &y))
            continue;
        if (cabs(x) < 1e-12 || cabs(y) < 1e-12)
            return false;
        const double complex ratio = x / y;
        if (n == 0)
            first = ratio;
        else if (!close_to(ratio, first, 1e-9))
            return false;
        n++;
    }
    if (n < LATEX_TRIALS / 2)
        return false;
    return direction == 0 || (fabs(cimag(first)) < 1e-9 && creal(first) * direction > 0);
}

/* ---- relations ----------------------------------------------------------------------------------
 */

static bool is_variable(struct side a)
{
    const struct latex_node *n = node_of(a);

    if (n->kind == LATEX_SYMBOL)
        return true;
    /* f(x), y' and \vec{v} as names of what the answer is */
    return n->kind == LATEX_MULTIPLY && n->n == 2 && a.tree->nodes[n->first].kind == LATEX_SYMBOL &&
           a.tree->nodes[n->last].kind == LATEX_SYMBOL;
}

/* The ends of "a < x <= b", "x > a" or of (a, b]. */
struct interval {
    struct side low, high;
    bool has_low, has_high, low_closed, high_closed;
};

static int infinity_sign(struct side a)
{
    const struct latex_node *n = node_of(a);

    if (n->kind == LATEX_INFINITY)
        return 1;
    return n->kind == LATEX_NEGATE && a.tree->nodes[n->first].kind == LATEX_INFINITY ? -1 : 0;
}

/* One of the ends by "variable op end" ('<' or 'l': it is the high one). */
static bool put_end(struct interval *interval, char op, struct side end)
{
    const bool high = op == '<' || op == 'l', closed = op == 'l' || op == 'g';

    if (!strchr("<>lg", op) || (high ? interval->has_high : interval->has_low))
        return false;
    if (high) {
        interval->high = end;
        interval->has_high = true;
        interval->high_closed = closed;
    } else {
        interval->low = end;
        interval->has_low = true;
        interval->low_closed = closed;
    }
    return true;
}

static char reversed(char op)
{
    return op == '<' ? '>' : op == '>' ? '<' : op == 'l' ? 'g' : op == 'g' ? 'l' : op;
}

static bool as_interval(struct side a, struct interval *interval)
{
    const struct latex_node *n = node_of(a);

    memset(interval, 0, sizeof *interval);
    if (n->kind == LATEX_TUPLE && n->n == 2) {
        const struct side low = child_of(a, n->first), high = child_of(a, n->last);
        if (infinity_sign(low) != -1)
            put_end(interval, n->text[0] == '[' ? 'g' : '>', low);
        if (infinity_sign(high) != 1)
            put_end(interval, n->text[1] == ']' ? 'l' : '<', high);
        return true;
    }
    if (n->kind != LATEX_RELATION || n->n > 3)
        return false;
    const struct side left = child_of(a, n->first),
                      second = child_of(a, a.tree->nodes[n->first].next);
    if (n->n == 2)
        return is_variable(left)     ? put_end(interval, n->text[0], second)
               : is_variable(second) ? put_end(interval, reversed(n->text[0]), left)
                                     : false;
    return is_variable(second) && put_end(interval, reversed(n->text[0]), left) &&
           put_end(interval, n->text[1], child_of(a, n->last));
}

static bool intervals_equal(const struct interval *a, const struct interval *b, long *budget)
{
    return a->has_low == b->has_low && a->has_high == b->has_high &&
           a->low_closed == b->low_closed && a->high_closed == b->high_closed &&
           (!a->has_low || equal(a->low, b->low, budget)) &&
           (!a->has_high || equal(a->high, b->high, budget));
}

/* "x = 5", "x \in [1, 2]", "a = b = 5": what the variable is. Else as it is. */
static struct side without_variable(struct side a)
{
    const struct latex_node *n = node_of(a);

    if (n->kind != LATEX_RELATION || strspn(n->text, "=e") != strlen(n->text))
        return a;
    return n->n > 2 || is_variable(child_of(a, n->first)) ? child_of(a, n->last) : a;
}

static bool relations_equal(struct side a, struct side b, long *budget)
{
    const struct latex_node *x = node_of(a), *y = node_of(b);
    struct interval p, q;

    if (as_interval(a, &p) && as_interval(b, &q))
        return intervals_equal(&p, &q, budget);
    if (x->kind != LATEX_RELATION || y->kind != LATEX_RELATION || x->n != 2 || y->n != 2)
        return false;
    if (x->op == '=' && y->op == '=') {
        const struct side u = without_variable(a), v = without_variable(b);
        if (u.node != a.node && v.node != b.node && equal(u, v, budget))
            return true;
    }
    if (x->op == y->op)
        return relations_proportional(a, b, strchr("=!e", x->op) ? 0 : 1, budget);
    return x->op == reversed((char)y->op) && relations_proportional(a, b, -1, budget);
}

/* ---- lists --------------------------------------------------------------------------------------
 */

static size_t put_sides(struct side a, struct side *sides, size_t n)
{
    if (a.sign == 0 && latex_has(a.tree, a.node, LATEX_PLUS_MINUS)) {
        for (int sign = 1; sign >= -1; sign -= 2)
            if (n < MAX_SIDES)
                sides[n++] = (struct side){a.tree, a.node, sign};
    } else if (n < MAX_SIDES) {
        sides[n++] = a;
    }
    return n;
}

static bool is_list(struct side a)
{
    const struct latex_node *n = node_of(a);
    return n->kind == LATEX_LIST || n->kind == LATEX_SET ||
           (n->kind == LATEX_UNION && n->op == 'U');
}

/* The elements, with two for one that holds a \pm. sides has room for MAX_SIDES. */
static size_t elements(struct side a, struct side *sides)
{
    size_t n = 0;

    if (!is_list(a))
        return put_sides(a, sides, 0);
    for (int c = node_of(a)->first; c != LATEX_NONE; c = a.tree->nodes[c].next)
        n = put_sides(child_of(a, c), sides, n);
    return n;
}

static bool sets_equal(struct side a, struct side b, long *budget)
{
    struct side *x = calloc(2 * MAX_SIDES, sizeof *x), *y = x + MAX_SIDES;
    bool same = false;

    if (!x)
        return false;
    const size_t n = elements(a, x);
    if (elements(b, y) != n)
        goto done;
    for (size_t i = 0; i < n; i++) {
        size_t j = i; /* y[0 .. i) are taken */
        while (j < n && !equal(x[i], y[j], budget))
            j++;
        if (j == n)
            goto done;
        struct side found = y[j];
        y[j] = y[i];
        y[i] = found;
    }
    same = true;
done:
    free(x);
    return same;
}

static bool all_equal(struct side a, struct side b, long *budget)
{
    int c = node_of(a)->first, d = node_of(b)->first;

    if (node_of(a)->n != node_of(b)->n)
        return false;
    for (; c != LATEX_NONE; c = a.tree->nodes[c].next, d = b.tree->nodes[d].next)
        if (!equal(child_of(a, c), child_of(b, d), budget))
            return false;
    return true;
}

static bool holds_relations(struct side a)
{
    return a.tree->nodes[node_of(a)->first].kind == LATEX_RELATION;
}

static bool lists_equal(struct side a, struct side b, long *budget)
{
    const enum latex_kind x = node_of(a)->kind, y = node_of(b)->kind;

    if ((x == LATEX_TUPLE && y == LATEX_LIST) || (x == LATEX_LIST && y == LATEX_TUPLE))
        return all_equal(a, b, budget);
    /* "x < 1 or x > 2" is a union, "(0, 1), (2, 3)" is none. */
    if (x == LATEX_UNION && y == LATEX_LIST && !holds_relations(b))
        return false;
    if (y == LATEX_UNION && x == LATEX_LIST && !holds_relations(a))
        return false;
    if ((x == LATEX_SET && y == LATEX_UNION) || (x == LATEX_UNION && y == LATEX_SET))
        return false;
    return sets_equal(a, b, budget);
}

/* ---- all kinds ----------------------------------------------------------------------------------
 */

static bool based_equal(struct side a, struct side b, long *budget)
{
    const char *x = node_of(a)->text, *y = node_of(b)->text;

    return strcmp(x + strspn(x, "0"), y + strspn(y, "0")) == 0 && all_equal(a, b, budget);
}

static bool equal(struct side a, struct side b, long *budget)
{
    if (--*budget < 0)
        return false;
    if (node_of(a)->op == 'e' ||
        (node_of(a)->kind == LATEX_RELATION && node_of(b)->kind != LATEX_RELATION))
        a = without_variable(a);
    if (node_of(b)->op == 'e' ||
        (node_of(b)->kind == LATEX_RELATION && node_of(a)->kind != LATEX_RELATION))
        b = without_variable(b);
    const struct latex_node *x = node_of(a), *y = node_of(b);
    *budget -= x->n + y->n;
    if (a.sign == b.sign && latex_hash(a.tree, a.node) == latex_hash(b.tree, b.node))
        return true;
    const bool both = x->kind == LATEX_TUPLE || y->kind == LATEX_TUPLE;
    if (is_list(a) || is_list(b) ||
        (!both && ((a.sign == 0 && latex_has(a.tree, a.node, LATEX_PLUS_MINUS)) ||
                   (b.sign == 0 && latex_has(b.tree, b.node, LATEX_PLUS_MINUS)))))
        return lists_equal(a, b, budget);
    if (x->kind == LATEX_RELATION || y->kind == LATEX_RELATION)
        return relations_equal(a, b, budget);
    if (x->kind != y->kind &&
        (x->kind == LATEX_TUPLE || y->kind == LATEX_TUPLE || x->kind == LATEX_MATRIX ||
         y->kind == LATEX_MATRIX || x->kind == LATEX_BASED || y->kind == LATEX_BASED))
        return false;
    switch (x->kind) {
    case LATEX_TUPLE:
        return strcmp(x->text, y->text) == 0 && all_equal(a, b, budget);
    case LATEX_MATRIX:
        return x->op == y->op && all_equal(a, b, budget);
    case LATEX_ROW:
        return y->kind == LATEX_ROW && all_equal(a, b, budget);
    case LATEX_UNION:
        return y->kind == LATEX_UNION && x->op == y->op && all_equal(a, b, budget);
    case LATEX_BASED:
        return based_equal(a, b, budget);
    default:
        return values_equal(a, b, budget);
    }
}

/* The tree with its value divided by 100. */
static bool make_percent(struct latex_tree *tree)
{
    if (tree->n + 2 > LATEX_MAX_NODES)
        return false;
    const int hundred = tree->n++, quotient = tree->n++;
    tree->nodes[hundred] =
        (struct latex_node){LATEX_NUMBER, 0, LATEX_NONE, LATEX_NONE, LATEX_NONE, 0, "100"};
    tree->nodes[tree->root].next = hundred;
    tree->nodes[quotient] =
        (struct latex_node){LATEX_DIVIDE, 0, tree->root, LATEX_NONE, hundred, 2, ""};
    tree->root = quotient;
    return true;
}

static bool trees_equal(struct latex_tree *a, struct latex_tree *b)
{
    long budget = BUDGET;
    const struct side x = {a, a->root, 0}, y = {b, b->root, 0};

    if (*a->unit && *b->unit && strcmp(a->unit, b->unit) != 0)
        return false;
    if (equal(x, y, &budget))
        return true;
    if (a->percent == b->percent || !make_percent(a->percent ? a : b))
        return false;
    return equal((struct side){a, a->root, 0}, (struct side){b, b->root, 0}, &budget);
}

/* ---- as text ------------------------------------------------------------------------------------
 */

/* Drops what does not count for the eye, in place: blanks, \left and \right, \text{...} around its
 * content; \dfrac and \tfrac are \frac. */
static void make_plain(char *text)
{
    static const char *const dropped[] = {"\\left", "\\right", "\\,", "\\!", "\\;", "\\ ", NULL};
    static const char *const wrappers[] = {"\\text{", "\\mbox{", "\\mathrm{", "\\textbf{", NULL};
    size_t n = 0, depth = 0, wrapped = 0; /* wrapped: depth of the innermost wrapper's brace */

    for (const char *p = text; *p;) {
        size_t skip = isspace((unsigned char)*p) || *p == '$' ? 1 : 0;
        for (size_t i = 0; dropped[i] && !skip; i++) {
            const size_t length = strlen(dropped[i]);
            if (strncmp(p, dropped[i], length) == 0 && !isalpha((unsigned char)p[length]))
                skip = length;
        }
        for (size_t i = 0; wrappers[i] && !skip && !wrapped; i++)
            if (strncmp(p, wrappers[i], strlen(wrappers[i])) == 0) {
                skip = strlen(wrappers[i]);
                wrapped = ++depth;
            }
        if (skip) {
            p += skip;
            continue;
        }
        if (*p == '\\' && (p[1] == '{' || p[1] == '}')) {
            text[n++] = *p++;
        } else if (strncmp(p, "\\dfrac", 6) == 0 || strncmp(p, "\\tfrac", 6) == 0) {
            text[n++] = '\\';
            p += 2;
            continue;
        } else if (*p == '{') {
            depth++;
        } else if (*p == '}' && depth) {
            if (depth-- == wrapped) {
                wrapped = 0;
                p++;
                continue;
            }
        }
        text[n++] = *p++;
    }
    text[n] = '\0';
}

static bool is_words(const char *text)
{
    size_t n = 0;

    while (isalpha((unsigned char)text[n]) || (unsigned char)text[n] >= 0x80)
        n++;
    return n > 1 && !text[n];
}

static bool texts_equal(const char *a, const char *b)
{
    char *x = strdup(a), *y = strdup(b);
    bool same = false;

    if (x && y) {
        make_plain(x);
        make_plain(y);
        same = *x && (strcmp(x, y) == 0 || (is_words(x) && strcasecmp(x, y) == 0));
    }
    free(x);
    free(y);
    return same;
}

bool latex_equal(const char *answer, const char *gold)
{
    char *a = latex_tidy(answer), *b = latex_tidy(gold);
    struct latex_tree x = {0}, y = {0};
    bool same = false;

    if (!a || !b)
        goto done;
    same = texts_equal(a, b);
    if (same || strlen(a) > LATEX_MAX_BYTES || strlen(b) > LATEX_MAX_BYTES)
        goto done;
    if (latex_parse(&y, b) == 0 && latex_parse(&x, a) == 0)
        same = trees_equal(&x, &y);
done:
    latex_tree_free(&x);
    latex_tree_free(&y);
    free(a);
    free(b);
    return same;
}
