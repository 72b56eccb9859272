#ifndef T2_MODEL_EXPERT_CURVE_H
#define T2_MODEL_EXPERT_CURVE_H
/* A training's curve drawn in text, for t2 inspect and README. Stands on stdio alone. */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Does this terminal's locale take UTF-8 (LC_ALL, LC_CTYPE, LANG)? */
bool expert_curve_utf8(void);

/* values [n], in at most 60 columns of equal width in steps, each the mean of its steps; steps
 * [n] number them (NULL: 1 .. n). blocks: eighths of a block character, otherwise ASCII. Values
 * that are not finite, or none, draw nothing. */
void expert_curve_draw(FILE *out, const char *title, const double *values, const double *steps,
                       size_t n, bool blocks);

/* The same in one row of at most `columns` characters, each the mean of its steps; without the
 * line's end. What is not finite leaves a blank. */
void expert_curve_row(FILE *out, const double *values, size_t n, size_t columns, bool blocks);

#endif
