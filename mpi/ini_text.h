#ifndef T2_MPI_INI_TEXT_H
#define T2_MPI_INI_TEXT_H
/* INI text as all our files have it (tasks, recipes, domains): lines through inih, a value that
 * goes on where a line starts with a blank, quotes and escapes. What the sections and keys mean is
 * the readers' own business. Reads no files. Stands on inih. */
#include <stdbool.h>
#include <stddef.h>

struct ini_line {
    const char *path;
    int number;
    bool indented; /* starts with a blank: may go on with the value before */
    const char *section, *name, *value;
};

/* Calls take(context, line) for every key; it returns 0, or -1 with error_set, which ends the
 * reading. expected: what a line must be, for the sentence about one that is none. 0, or -1 with
 * error_set ("PATH:LINE: ..."). A line that inih would cut in two is an error. */
int ini_read(const char *text, const char *path, const char *expected,
             int (*take)(void *context, const struct ini_line *line), void *context);

/* error_set("PATH:LINE: ..."); returns -1. */
int ini_fail(const char *path, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A key's value as the lines had it. */
struct ini_value {
    char *raw; /* lines joined by '\n'; NULL: not set. To be freed */
    int line;  /* the first one's number */
};
/* Takes the line's value: as a new one, or, with goes_on, as the next line of it. A second value is
 * an error. 0, or -1 with error_set. */
int ini_value_take(struct ini_value *value, const struct ini_line *line, bool goes_on);

/* The value as text: quoted pieces are put together as they are, others with a space; \n \t \" \\
 * \; \| are escapes inside and outside of quotes. Malloc'ed; NULL with error_set. */
char *ini_value_text(const struct ini_value *value, const char *path);

/* The value as a list, parted by '|' or lines. items [max] get malloc'ed texts, *n counts them also
 * after a failure. *quoted: the last piece stood in quotes. 0, or -1 with error_set. */
int ini_value_list(const struct ini_value *value, const char *path, char **items, size_t max,
                   size_t *n, bool *quoted);

#endif
