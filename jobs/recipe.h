#ifndef T2_JOBS_RECIPE_H
#define T2_JOBS_RECIPE_H
/* Recipes: INI files whose keys are the names of a command's options, outside sections or under
 * [command-name]; sections of other commands are passed over. As in task files, a value may stand
 * in double quotes, which keep blanks, with the escapes \n \t \" \\ \;. A line that starts with a
 * space goes on with the value before it (quoted pieces are put together as they are, others with a
 * space); a list's key may stand several times. Stands on inih. */
#include "jobs/options.h"

/* Reads the file on rank 0 and sets the options it names, on every rank. Collective. 0, or -1 with
 * the same sentence (FILE:LINE: ...) on every rank. */
int recipe_apply(const char *path, const struct command *command, struct option_spec *table,
                 const struct comm *comm);

/* The same from text (a NUL-terminated string); local. */
int recipe_apply_text(const char *text, const char *path, const struct command *command,
                      struct option_spec *table);

/* Writes "name = value" so that the above reads the same text back. */
void recipe_write(FILE *file, const char *name, const char *text);

#endif
