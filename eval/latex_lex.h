#ifndef T2_EVAL_LATEX_LEX_H
#define T2_EVAL_LATEX_LEX_H
/* Tokens of a LaTeX answer: blanks, sizes of brackets, dollar signs and \text wrappers are gone,
 * the commas that group a number's digits belong to the number. Internal to latex_parser.h. */
#include <stdbool.h>
#include <stddef.h>

enum latex_token_kind {
    TOKEN_END,
    TOKEN_NUMBER,  /* text: digits, at most one point */
    TOKEN_LETTER,  /* text: one letter */
    TOKEN_WORD,    /* text: letters in lower case (one letter as it is) */
    TOKEN_COMMAND, /* text: its name without the backslash; also sin, pi, ... without one */
    TOKEN_CHAR,    /* c; '\\' is the end of a matrix's row */
};

struct latex_token {
    enum latex_token_kind kind;
    char c;
    char text[64];
    const char *start, *end;
};

/* The token at p; grouped: commas before three digits belong to a number. False for what cannot be
 * part of an answer (a word of more than 63 letters, a control character). */
bool latex_lex(const char *p, bool grouped, struct latex_token *token);

/* Copies text with the characters that Unicode has for mathematics written as LaTeX, without
 * blanks, dollar signs and full stops at the ends. Malloc'ed; NULL if out of memory. */
char *latex_tidy(const char *text);

#endif
