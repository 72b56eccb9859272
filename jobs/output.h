#ifndef T2_JOBS_OUTPUT_H
#define T2_JOBS_OUTPUT_H
/* What commands that leave a file have in common. */
#include <stdbool.h>

/* The words of a command line as a shell takes them, "t2" first; malloc'ed, NULL when out of
 * memory. */
char *output_command_line(int argc, char **argv);

/* Before hours of work: can a file be written there? 0, or -1 with error_set naming --out. */
int output_check(const char *path);

/* "dir/e.h5" with `suffix` in place of ".h5" -> "dir/e.factors.h5"; malloc'ed, NULL when out of
 * memory. */
char *output_beside(const char *path, const char *suffix);

/* Is there something of this name? */
bool output_is_there(const char *path);

/* Now, as files record it: "2026-11-22T22:00:00Z". */
void output_time(char text[32]);

#endif
