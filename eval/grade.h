#ifndef T2_EVAL_GRADE_H
#define T2_EVAL_GRADE_H
/* Decides whether a generated answer is right. Pure functions on text: no model, no files. */
#include <stdbool.h>
#include <stddef.h>

enum grader {
    GRADE_NONE,
    GRADE_LAST_NUMBER,  /* the number after the last "####", else the last number in the text */
    GRADE_LABEL,        /* the first word is one of the labels, without case */
    GRADE_LETTER,       /* the answer letter: "B", "(B)", "B.", "the answer is B", ... */
    GRADE_EXACT,        /* the whole text, blanks around it trimmed */
    GRADE_MATH,         /* the last \boxed{...}, equal as latex.h has it */
    GRADE_SQL,          /* a WikiSQL query with the gold query's result (sql.h) */
    GRADE_PYTHON_TESTS, /* its code passes the task's tests (code.h, sandbox.h) */
    GRADER_COUNT
};
const char *grader_name(enum grader grader); /* "last_number", ... */

/* One number written as people do: "1,234.50", "$5", "-3", "12%", "3/4", "1 1/2", "#### 72",
 * "18.", ".5", "1e3", "5,000 dollars". A percent sign or unit after it is ignored. Reads the number
 * that starts at `text` (after blanks, currency signs and a sign); *end is what follows. False if
 * there is none. */
bool grade_read_number(const char *text, double *value, const char **end);

/* The number that a text gives as its answer. False if it holds none. */
bool grade_last_number(const char *text, double *value);

/* Equal within 1e-6 of the gold value (absolute where gold is 0). */
bool grade_numbers_equal(double answer, double gold);

/* Index of the label that the first word is, or -1. Blanks, quotes, asterisks and brackets before
 * it and anything after its letters are ignored; a label of several words is compared as such. */
int grade_first_label(const char *text, const char *const *labels, size_t n_labels);

/* Index of the choice label ("A", "1") that the text answers with, or -1. "the answer is B" counts
 * before a letter at the start, that before the last one standing alone. */
int grade_letter(const char *text, const char *const *labels, size_t n_labels);

/* True if both are the same, blanks at both ends aside. */
bool grade_exact(const char *text, const char *gold);

/* Whether a solution's final answer (latex_extract) is the gold answer: a formula, or a solution
 * with a \boxed of its own. */
bool grade_math(const char *text, const char *gold);

#endif
