#ifndef T2_EVAL_LATEX_TREE_H
#define T2_EVAL_LATEX_TREE_H
/* Expression trees of latex.h: latex_parser.h makes them, latex_value.c computes with them, latex.c
 * compares them. Internal to these. */
#include <complex.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum latex_kind {
    LATEX_NUMBER, /* text: digits with at most one point */
    LATEX_SYMBOL, /* text: name with subscript, or a word */
    LATEX_PI,
    LATEX_E,
    LATEX_I,
    LATEX_INFINITY,
    LATEX_ADD,
    LATEX_MULTIPLY,
    LATEX_DIVIDE,
    LATEX_NEGATE,
    LATEX_PLUS_MINUS, /* one child; op: 1 for \pm, -1 for \mp */
    LATEX_POWER,
    LATEX_ROOT, /* radicand, index */
    LATEX_FACTORIAL,
    LATEX_BINOMIAL,
    LATEX_FUNCTION, /* op: enum latex_function; argument, base of a logarithm */
    LATEX_BASED,    /* digits in a base: text, base in the child */
    LATEX_LIST,     /* a, b, c without brackets */
    LATEX_SET,      /* {a, b, c} */
    LATEX_TUPLE,    /* text: its two brackets */
    LATEX_MATRIX,   /* rows; op: 'm', 'v' for a determinant */
    LATEX_ROW,
    LATEX_UNION,    /* op: 'U', 'I', '\\' */
    LATEX_RELATION, /* op: '=', '<', '>', 'l' (<=), 'g' (>=), '!', 'e' (element of) */
};

enum latex_function {
    LATEX_SIN,
    LATEX_COS,
    LATEX_TAN,
    LATEX_COT,
    LATEX_SEC,
    LATEX_CSC,
    LATEX_ARCSIN,
    LATEX_ARCCOS,
    LATEX_ARCTAN,
    LATEX_SINH,
    LATEX_COSH,
    LATEX_TANH,
    LATEX_LN,
    LATEX_LOG, /* base 10 where none is given */
    LATEX_EXP,
    LATEX_ABS,
    LATEX_FLOOR,
    LATEX_CEIL,
    LATEX_OPAQUE, /* gcd, det, ...: compared by its text and arguments */
};

enum {
    LATEX_MAX_NODES = 2048,
    LATEX_MAX_DEPTH = 60,
    LATEX_MAX_ITEMS = 200, /* in a list, row, sum or product */
    LATEX_NONE = -1
};

struct latex_node {
    enum latex_kind kind;
    int op;
    int first, next, last; /* children, the next sibling; LATEX_NONE */
    int n;                 /* children */
    const char *text;      /* in the tree's own buffer */
};

struct latex_tree {
    struct latex_node *nodes; /* [LATEX_MAX_NODES] */
    int n, root;
    char *text; /* what nodes' text points into */
    size_t n_text, text_size;
    char unit[48]; /* canonical, "" if none */
    bool percent;
};

/* 0, or -1 for what this grammar does not know (no error_set: that is no failure). The tree is to
 * be freed in any case. */
int latex_parse(struct latex_tree *tree, const char *text);
void latex_tree_free(struct latex_tree *tree);

/* The same for expressions that differ in the order of sums and products alone. */
uint64_t latex_hash(const struct latex_tree *tree, int node);

/* What a computation may still cost, over all of a comparison, and the point it is made at. */
struct latex_point {
    int trial; /* chooses the variables' values */
    int sign;  /* of \pm */
    long *budget;
};
enum { LATEX_TRIALS = 6, LATEX_PRIMES = 2 };

/* False where the value is not a finite number that can be had this way. */
bool latex_value(const struct latex_tree *tree, int node, const struct latex_point *point,
                 double complex *value);
/* Modulo prime 0 or 1; sums, products, quotients, whole powers, factorials and binomials only. */
bool latex_residue(const struct latex_tree *tree, int node, const struct latex_point *point,
                   int prime, uint64_t *value);
uint64_t latex_residue_product(uint64_t a, uint64_t b, int prime);
/* Has it a variable? a \pm? */
bool latex_has(const struct latex_tree *tree, int node, enum latex_kind kind);

#endif
