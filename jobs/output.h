#ifndef T2_JOBS_OUTPUT_H
#define T2_JOBS_OUTPUT_H
/* What commands that leave a file have in common. */

/* The words of a command line as a shell takes them, "t2" first; malloc'ed, NULL when out of
 * memory. */
char *output_command_line(int argc, char **argv);

/* Before hours of work: can a file be written there? 0, or -1 with error_set naming --out. */
int output_check(const char *path);

#endif
