#ifndef T2_EVAL_LATEX_H
#define T2_EVAL_LATEX_H
/* Are two final answers written in LaTeX the same answer? As the field grades MATH (Hendrycks et
 * al. 2021, Lewkowycz et al. 2022): the last \boxed{...} of a solution against the gold answer.
 *
 * Both are parsed to trees (latex_tree.h). Trees are equal when their canonical hashes are, or when
 * they have the same values: rational expressions modulo two 61-bit primes with variables at random
 * residues (exact but for a chance of about 1e-17, however large the numbers), all others in
 * complex doubles at six points, within 1e-10. What cannot be parsed is compared as text without
 * blanks and sizes of brackets.
 *
 * The rules where mathematics leaves a choice:
 *   lists, sets      unordered, "1 \pm 2" is a list of two; "a, b" may stand for {a, b} and (a, b)
 *   tuples, intervals, matrices   ordered, the kinds of brackets count; "x > 2" is (2, \infty)
 *   equations        "x = 5" may stand for 5; two equations are equal up to a constant factor
 *   units            may be missing on one side; where both name one, they must agree
 *   percent          "50\%" is 50 and is 0.5 where the other answer has no percent sign
 *   degrees, dollars ignored; degrees count inside \sin and the like
 *   words            without case
 * Every answer costs bounded time and memory, whatever it holds. Pure functions. */
#include <stdbool.h>

/* Answers longer than this many bytes are only compared as text. */
enum { LATEX_MAX_BYTES = 4096 };

/* The final answer of a solution: the last \boxed{...} (or \fbox), else what follows the last
 * "final answer is", "answer is" or "answer:" in its line, else the last $...$, else a short text
 * as a whole. Malloc'ed; NULL if there is none (or no memory). */
char *latex_extract(const char *text);

/* Of two answers (not whole solutions). */
bool latex_equal(const char *answer, const char *gold);

#endif
