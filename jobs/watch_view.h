#ifndef T2_JOBS_WATCH_VIEW_H
#define T2_JOBS_WATCH_VIEW_H
/* A training's curve as t2 watch shows it: how it is doing, its curves in a row of blocks each, and
 * how long it will still take. Stands on train/curve_read.h; reads no files, keeps nothing. */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "train/curve_read.h"

enum watch_life {
    WATCH_RUNNING,
    WATCH_SILENT,   /* for longer than its steps take */
    WATCH_GONE,     /* its process has ended without a word, or nothing was heard for very long */
    WATCH_STOPPED,  /* asked to; --resume goes on */
    WATCH_FAILED,   /* with an error */
    WATCH_FINISHED, /* also an expert */
    WATCH_SAVED     /* a training state */
};

struct watch_place {
    char host[256], pid_namespace[256];
};
/* Where this process runs. */
struct watch_place watch_place_here(void);

/* now: seconds since 1970. A process can be looked for where it lives alone. */
enum watch_life watch_life(const struct curve_file *curve, const struct watch_place *here,
                           double now);
/* Will nothing more come? */
bool watch_is_over(enum watch_life life);

/* A step's seconds, those of validations shared among them; 0: not known. */
double watch_step_seconds(const struct curve_file *curve);

/* Several lines of at most `width` columns. */
void watch_print(FILE *out, const struct curve_file *curve, enum watch_life life, double now,
                 size_t width, bool blocks);
/* One line, for logs. */
void watch_print_line(FILE *out, const struct curve_file *curve, enum watch_life life, double now);

#endif
