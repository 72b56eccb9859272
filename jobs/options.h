#ifndef T2_JOBS_OPTIONS_H
#define T2_JOBS_OPTIONS_H
/* One option table per command: it makes the parser, --help, the recipe keys (--recipe FILE.ini)
 * and the recorded provenance. Precedence: command line over recipe over default. Names with
 * letter 'h', "help" and "recipe" belong to the parser.
 *
 * A command's life:
 *
 *     struct option_spec table[] = {
 *         {"max-new", 'n', OPTION_INT, &max_new, "N", .min = 0, .max = 1e6, .help = "..."},
 *         {"chat", 0, OPTION_FLAG, &chat, .help = "..."},
 *         {0}};
 *     if (options_parse(&command_x, table, comm, argc, argv, args, 2, &n_args, &done) != 0)
 *         code = command_fail(&command_x, comm, COMMAND_USAGE);
 *     ...
 *     options_free(table);
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "mpi/comm.h"

enum option_type {
    OPTION_FLAG,   /* bool;  --name or --no-name */
    OPTION_INT,    /* int64_t */
    OPTION_DOUBLE, /* double */
    OPTION_STRING, /* const char * */
    OPTION_CHOICE, /* const char *, one of `choices` */
    OPTION_LIST,   /* struct option_list: the option may be given several times */
};

struct option_list {
    const char **items; /* owned by the table, see options_free */
    size_t n;
};

struct option_spec {
    const char *name; /* "max-new"; also the recipe key */
    char letter;      /* 'n', or 0 */
    enum option_type type;
    void *value;          /* holds the default before parsing */
    const char *argument; /* "FILE" in the help */
    const char *choices;  /* "f32|bf16" */
    double min, max;      /* for numbers; both 0: unchecked; a limit may be infinite */
    const char *help;     /* the default is added, unless the text has the word "default" */
    /* Set by options_parse, zero before. */
    char *source;           /* "recipe FILE:12", "command line"; NULL: the default */
    char *owned;            /* a recipe's string */
    struct option_list own; /* a list's items */
};

/* Exit codes. COMMAND_INTERRUPTED: asked to stop, --resume goes on (sysexits' "try again later").
 */
enum { COMMAND_OK = 0, COMMAND_FAILED = 1, COMMAND_USAGE = 2, COMMAND_INTERRUPTED = 75 };

struct command {
    const char *name;      /* "generate" */
    const char *summary;   /* one line */
    const char *arguments; /* "MODEL [PROMPT]" */
    const char *details;   /* paragraphs under the table; may be NULL */
    /* argv[0] is the command's name. Returns the exit code. Called on every rank. For --help alone
     * it is called without MPI (handle MPI_COMM_NULL, size 1): call options_parse first. */
    int (*run)(const struct comm *comm, int argc, char **argv);
};

/* NULL-terminated table in commands.c. */
extern const struct command *const commands[];

/* Parses argv against a table ending in {0}. Options and positional arguments may be mixed; "--"
 * ends options; the last of several values counts (lists keep all). --help prints the command's
 * help on rank 0 and sets *done. --recipe FILE.ini is understood by every command: keys outside
 * sections or under [command-name], read on rank 0 alone. Positional arguments are returned in
 * order (*n_positional of them, at most max_positional); the words of command->arguments that do
 * not start with '[' must be there.
 * Collective. 0, or -1 with the same error_set on every rank (unknown options name the nearest).
 * Strings point into argv, the defaults, or memory of the table: options_free when done. */
int options_parse(const struct command *command, struct option_spec *table, const struct comm *comm,
                  int argc, char **argv, const char **positional, size_t max_positional,
                  size_t *n_positional, bool *done);

/* Sets one option from text. label names it in the error ("--max-new"), source is kept for the
 * record. The items of a list add up as long as the source stays the same. 0, or -1. */
int option_set(struct option_spec *option, const char *text, const char *label, const char *source);

/* Adds `gap` and `text` to the end of a string, or of a list's last item. */
int option_extend(struct option_spec *option, const char *gap, const char *text, const char *label);

/* The table's option of this name; NULL if there is none. */
struct option_spec *option_find(struct option_spec *table, const char *name);
/* The name nearest to `word`, or NULL. */
const char *option_nearest(const struct option_spec *table, const char *word);

/* All options with their final values, and where each came from, as a malloc'ed INI text: what
 * a run records, and a recipe that repeats it. NULL when out of memory. */
char *options_record(const struct command *command, const struct option_spec *table);

/* One "name = value" line for each option that is not among `without` (NULL-terminated names): the
 * text by which a run knows its own state and result again. Malloc'ed; NULL when out of memory. */
char *options_settings(const struct option_spec *table, const char *const *without);

/* Gives back what parsing made (strings of a recipe, sources, lists). Also after a failure. */
void options_free(struct option_spec *table);

/* The help text, as --help prints it. width: columns of the terminal. */
void options_help(const struct command *command, const struct option_spec *table, FILE *file,
                  size_t width);

/* Prints "t2 COMMAND: error_message()" on rank 0 and returns code. The failure has been agreed on
 * by all ranks before. With COMMAND_USAGE a second line names --help. */
int command_fail(const struct command *command, const struct comm *comm, int code);

#endif
