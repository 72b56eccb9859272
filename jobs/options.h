#ifndef T2_JOBS_OPTIONS_H
#define T2_JOBS_OPTIONS_H
/* One option table per command: it makes the parser, --help, the recipe keys (--recipe FILE.ini)
 * and the recorded provenance. Precedence: command line over recipe over default. */
#include <stdbool.h>
#include <stddef.h>

#include "mpi/comm.h"

enum option_type {
    OPTION_FLAG,   /* bool;  --name or --no-name */
    OPTION_INT,    /* int64_t */
    OPTION_DOUBLE, /* double */
    OPTION_STRING, /* const char * */
    OPTION_CHOICE, /* const char *, one of `choices` */
};

struct option_spec {
    const char *name; /* "max-new"; also the recipe key */
    char letter;      /* 'n', or 0 */
    enum option_type type;
    void *value;          /* holds the default before parsing */
    const char *argument; /* "FILE" in the help */
    const char *choices;  /* "f32|bf16" */
    double min, max;      /* for numbers; both 0: unchecked */
    const char *help;
};

struct command {
    const char *name;      /* "generate" */
    const char *summary;   /* one line */
    const char *arguments; /* "MODEL [PROMPT]" */
    const char *details;   /* paragraphs under the table; may be NULL */
    /* argv[0] is the command's name. Returns the exit code. Called on every rank. */
    int (*run)(const struct comm *comm, int argc, char **argv);
};

/* NULL-terminated table in commands.c. */
extern const struct command *const commands[];

/* Parses argv against a table ending in {0}. Options and positional arguments may be mixed; "--"
 * ends options. --help prints the command's help on rank 0 and sets *done. --recipe FILE.ini is
 * understood by every command: keys outside sections or under [command-name]. Positional arguments
 * are returned in order
 * (*n_positional of them, at most max_positional). 0, or -1 with error_set (unknown options name
 * the nearest). */
int options_parse(const struct command *command, const struct option_spec *table,
                  const struct comm *comm, int argc, char **argv, const char **positional,
                  size_t max_positional, size_t *n_positional, bool *done);

/* All options with their final values, and where each came from, as a malloc'ed INI text: what
 * a run records. */
char *options_record(const struct command *command, const struct option_spec *table);

#endif
