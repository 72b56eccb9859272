#ifndef T2_TRAIN_CURVE_READ_H
#define T2_TRAIN_CURVE_READ_H
/* A training's curve out of any of its files, for t2 watch and t2 inspect: the live one while it
 * runs (live_curve.h), the state that it was stopped with, or the expert that it left. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "train/live_curve.h"
#include "train/state.h"

enum curve_source { CURVE_LIVE, CURVE_STATE, CURVE_EXPERT };

struct curve_file {
    enum curve_source source;
    char *task, *adapter, *command_line, *started, *host, *pid_namespace; /* NULL: not said */
    char state[LIVE_STATE_BYTES]; /* live: "running" or how it ended; else "" */
    int64_t pid, n_ranks;
    uint64_t n_planned, began_step;       /* 0: not said; live: the step that this run began at */
    double began, updated;                /* live: seconds since 1970 */
    size_t n;                             /* finished steps */
    double *columns[TRAIN_POINT_COLUMNS]; /* [n] each, as train_point_names; NULL: not there */
    size_t n_validations;
    double *validation_steps, *validation_scores; /* [n_validations] */
};

/* Is it a live curve? */
bool live_curve_is_file(const char *path);

/* 0, or -1 with error_set. While a writer appends, the rows that all columns have. */
int curve_read(struct curve_file *curve, const char *path);
void curve_free(struct curve_file *curve);

/* The column of this name; NULL if it is not there. */
const double *curve_column(const struct curve_file *curve, const char *name);

#endif
