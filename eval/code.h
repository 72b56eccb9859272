#ifndef T2_EVAL_CODE_H
#define T2_EVAL_CODE_H
/* Finds the Python code in a model's answer and makes a program of it. Text alone; nothing is run
 * here (sandbox.h does that). */
#include <stdbool.h>

/* Whether a line at the left margin defines the function or class `name` ("def name(", "async def
 * name(", "class name", "name ="). */
bool code_defines(const char *code, const char *name);

/* The code of an answer: of its blocks between lines of ``` the first that defines `entry`; else
 * the first one marked as Python or not marked; else the first. A block that the answer's end cuts
 * off counts. Without any block, all of the text. entry may be NULL or empty. Malloc'ed; NULL with
 * error_set when out of memory. *fenced (may be NULL): it was a block. */
char *code_extract(const char *answer, const char *entry, bool *fenced);

/* A whole module from an answer to "complete this": `prompt` ends in the head and documentation of
 * the function `entry`. An answer that defines the function anew follows the prompt (whose imports
 * and helpers it may need, and whose function gets the body `pass`); any other goes on where the
 * prompt ends, a block at the left margin moved right by four. prompt NULL or empty: the code
 * alone. Malloc'ed; NULL with error_set. */
char *code_complete(const char *prompt, const char *answer, const char *entry);

#endif
