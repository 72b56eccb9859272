#ifndef T2_EVAL_LATEX_PARSER_H
#define T2_EVAL_LATEX_PARSER_H
/* The recursive descent of latex_parse.c, which has the grammar, over its three parts: operators
 * and lists (latex_parse.c), atoms (latex_atom.c), and those that begin with a backslash
 * (latex_command.c). They stand on latex_parser.c: the token, brackets, and the tree that grows.
 * Internal to these.
 *
 * What parses returns a node. After a failure, a parser's token is the end, so that every loop
 * comes to its own, and nodes mean nothing. */
#include <stdbool.h>
#include <stddef.h>

#include "eval/latex_lex.h"
#include "eval/latex_tree.h"

struct latex_parser {
    struct latex_tree *tree;
    struct latex_token token;
    bool failed;
    int depth, brackets, bars;
    bool angle;         /* inside the argument of \sin: degrees count */
    bool bare_argument; /* "\sin x": the next function ends it */
};

/* ---- latex_parser.c: tokens ---------------------------------------------------------------------
 */

/* 0, for a node. */
int latex_fail(struct latex_parser *p);
/* To the token at a place of the text; to the next one. */
void latex_move_to(struct latex_parser *p, const char *place);
void latex_advance(struct latex_parser *p);
bool latex_at_char(const struct latex_parser *p, char c);
bool latex_at_command(const struct latex_parser *p, const char *name);
bool latex_at_any(const struct latex_parser *p, const char *const *names); /* NULL ends them */
/* Takes the character, or fails. */
void latex_expect(struct latex_parser *p, char c);

/* What is inside brackets starts afresh. */
struct latex_outside {
    int bars;
    bool bare_argument;
};
struct latex_outside latex_enter(struct latex_parser *p);
void latex_leave(struct latex_parser *p, struct latex_outside o);

/* ---- latex_parser.c: nodes ----------------------------------------------------------------------
 */

int latex_make(struct latex_parser *p, enum latex_kind kind, int op);
/* With one child or, where second is not LATEX_NONE, two. */
int latex_make_with(struct latex_parser *p, enum latex_kind kind, int op, int first, int second);
int latex_make_text(struct latex_parser *p, enum latex_kind kind, const char *text, size_t length);
int latex_make_number(struct latex_parser *p, const char *digits);
void latex_add(struct latex_parser *p, int parent, int child);

/* ---- the grammar --------------------------------------------------------------------------------
 */

int latex_parse_list(struct latex_parser *p);
int latex_parse_factor(struct latex_parser *p);

/* latex_atom.c */
int latex_parse_atom(struct latex_parser *p);
/* A group, an atom or, with one_digit, a digit: what \frac, \sqrt and ^ take. */
int latex_parse_argument(struct latex_parser *p, bool one_digit);
/* ( [ \{ \langle up to what closes it. */
int latex_parse_brackets(struct latex_parser *p);
/* A letter or Greek command with its subscript and primes. */
int latex_parse_symbol(struct latex_parser *p);

/* latex_command.c */
int latex_parse_command(struct latex_parser *p);
/* Is the token the name of a function, such as \sin? */
bool latex_at_function(const struct latex_parser *p);

#endif
