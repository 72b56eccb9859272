#include "train/state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"
#include "train/state_text.h"

static const char file_kind[] = "t2 training state";
_Static_assert(sizeof(struct train_point) % sizeof(double) == 0, "a point is a row of doubles");
enum { VALIDATION_COLUMNS = 5 };

const char *const train_point_names[TRAIN_POINT_COLUMNS] = {"reward",
                                                            "accuracy",
                                                            "kl",
                                                            "loss",
                                                            "gradient_norm",
                                                            "entropy",
                                                            "length",
                                                            "rate",
                                                            "one_answer_share",
                                                            "tokens_per_second",
                                                            "seconds_rollout",
                                                            "seconds_gradient",
                                                            "seconds_reduce",
                                                            "seconds_other"};

int train_state_create(struct train_state *state, size_t n_parameters, size_t n_statistics)
{
    *state = (struct train_state){
        .n = n_parameters, .n_statistics = n_statistics, .best_score = -INFINITY, .rate_scale = 1};
    state->parameters = calloc(n_parameters + 1, sizeof *state->parameters);
    if (!state->parameters) {
        train_state_free(state);
        return error_set("no memory for %zu parameters", n_parameters);
    }
    if (adam_create(&state->adam, n_parameters) != 0) {
        train_state_free(state);
        return -1;
    }
    return 0;
}

void train_state_free(struct train_state *state)
{
    if (!state)
        return;
    free(state->parameters);
    free(state->best_parameters);
    free(state->curve);
    free(state->statistics);
    free(state->validations);
    adam_free(&state->adam);
    memset(state, 0, sizeof *state);
}

int train_state_reserve_point(struct train_state *state)
{
    struct train_point *curve = realloc(state->curve, (state->step + 1) * sizeof *curve);

    if (!curve)
        return error_set("no memory for the training curve");
    state->curve = curve;
    if (state->n_statistics > 0) {
        double *all =
            realloc(state->statistics, (state->step + 1) * state->n_statistics * sizeof *all);
        if (!all)
            return error_set("no memory for the training curve");
        state->statistics = all;
    }
    return 0;
}

int train_state_add_point(struct train_state *state, const struct train_point *point,
                          const double *statistics)
{
    if (train_state_reserve_point(state) != 0)
        return -1;
    if (state->n_statistics > 0)
        memcpy(state->statistics + state->step * state->n_statistics, statistics,
               state->n_statistics * sizeof *statistics);
    state->curve[state->step++] = *point;
    return 0;
}

int train_state_add_validation(struct train_state *state, const struct train_validation *validation)
{
    struct train_validation *all =
        realloc(state->validations, (state->n_validations + 1) * sizeof *all);

    if (!all)
        return error_set("no memory for the validation curve");
    state->validations = all;
    all[state->n_validations++] = *validation;
    return 0;
}

int train_state_write(const struct train_state *state, const char *settings, const char *path)
{
    const size_t n = state->n;
    double *validations =
        malloc((VALIDATION_COLUMNS * state->n_validations + 1) * sizeof *validations);
    hid_t file = validations ? h5_create(path) : -1;
    int status = -1;

    if (!validations)
        error_set("no memory for the training state");
    if (file < 0)
        goto done;
    for (size_t i = 0; i < state->n_validations; i++) {
        double *row = validations + VALIDATION_COLUMNS * i;
        row[0] = (double)state->validations[i].step;
        row[1] = (double)state->validations[i].n_items;
        row[2] = state->validations[i].score;
        row[3] = state->validations[i].gold_probability;
        row[4] = state->validations[i].one_answer_share;
    }
    if (h5_put_text(file, "kind", file_kind) ||
        h5_put_int(file, "format_version", TRAIN_STATE_VERSION) ||
        h5_put_text(file, "settings", settings) || h5_put_int(file, "step", (int64_t)state->step) ||
        h5_put_int(file, "optimizer_step", (int64_t)state->adam.step) ||
        h5_put_int(file, "best_step", (int64_t)state->best_step) ||
        h5_put_real(file, "best_score", state->best_score) ||
        h5_put_real(file, "rate_scale", state->rate_scale) ||
        h5_put_int(file, "n_rollbacks", (int64_t)state->n_rollbacks) ||
        h5_put_int(file, "last_alarm", (int64_t)state->last_alarm) ||
        h5_put_floats(file, "parameters", state->parameters, n, 0) ||
        h5_put_floats(file, "moment1", state->adam.m, n, 0) ||
        h5_put_floats(file, "moment2", state->adam.v, n, 0) ||
        (state->best_parameters &&
         h5_put_floats(file, "best_parameters", state->best_parameters, n, 0)) ||
        h5_put_doubles(file, "curve", (const double *)state->curve, state->step,
                       TRAIN_POINT_COLUMNS) ||
        (state->n_statistics > 0 &&
         h5_put_doubles(file, "statistics", state->statistics, state->step, state->n_statistics)) ||
        h5_put_doubles(file, "validations", validations, state->n_validations,
                       VALIDATION_COLUMNS) ||
        h5_write(file, path))
        goto done;
    status = 0;
done:
    h5_close(file);
    free(validations);
    return status;
}

int state_text_differ(const char *path, const char *what, const char *theirs, const char *ours)
{
    while (*theirs && *ours) {
        const size_t a = strcspn(theirs, "\n"), b = strcspn(ours, "\n");
        if (a != b || memcmp(theirs, ours, a) != 0)
            return error_set("%s is %s of another run: it has '%.*s', this run has '%.*s'; "
                             "use the settings it was started with, or another --out",
                             path, what, (int)a, theirs, (int)b, ours);
        theirs += a + (theirs[a] == '\n');
        ours += b + (ours[b] == '\n');
    }
    return error_set("%s is %s of another run: it has %s settings than this one; use the "
                     "settings it was started with, or another --out",
                     path, what, *ours ? "fewer" : "more");
}

static int all_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return error_set("a value is not finite");
    return 0;
}

static int read_arrays(struct train_state *state, hid_t file, int64_t n_points,
                       size_t n_validations)
{
    const size_t n = state->n;
    double *validations = NULL;
    size_t rows, columns;
    int status = -1;

    if (h5_get_floats(file, "parameters", state->parameters, n, 0) ||
        h5_get_floats(file, "moment1", state->adam.m, n, 0) ||
        h5_get_floats(file, "moment2", state->adam.v, n, 0) || all_finite(state->parameters, n) ||
        all_finite(state->adam.m, n) || all_finite(state->adam.v, n))
        return -1;
    if (h5_shape(file, "best_parameters", &rows, &columns)) {
        state->best_parameters = malloc((n + 1) * sizeof *state->best_parameters);
        if (!state->best_parameters)
            return error_set("out of memory");
        if (h5_get_floats(file, "best_parameters", state->best_parameters, n, 0))
            return -1;
    }
    state->curve = malloc(((size_t)n_points + 1) * sizeof *state->curve);
    state->statistics =
        calloc(((size_t)n_points + 1) * (state->n_statistics + 1), sizeof *state->statistics);
    state->validations = malloc((n_validations + 1) * sizeof *state->validations);
    validations = malloc((VALIDATION_COLUMNS * n_validations + 1) * sizeof *validations);
    if (!state->curve || !state->statistics || !state->validations || !validations)
        error_set("out of memory");
    else if (state->n_statistics > 0 && h5_get_doubles(file, "statistics", state->statistics,
                                                       (size_t)n_points, state->n_statistics) != 0)
        ;
    else if (h5_get_doubles(file, "curve", (double *)state->curve, (size_t)n_points,
                            TRAIN_POINT_COLUMNS) == 0 &&
             h5_get_doubles(file, "validations", validations, n_validations, VALIDATION_COLUMNS) ==
                 0)
        status = 0;
    for (size_t i = 0; status == 0 && i < n_validations; i++) {
        const double *row = validations + VALIDATION_COLUMNS * i;
        if (!(row[0] >= 0 && row[0] < 0x1p53 && row[1] >= 0 && row[1] < 0x1p53))
            status = error_set("a validation's step is no number of steps");
        else
            state->validations[i] = (struct train_validation){(uint64_t)row[0], (uint64_t)row[1],
                                                              row[2], row[3], row[4]};
    }
    free(validations);
    return status;
}

bool train_state_is_file(const char *path)
{
    return h5_is_kind(path, file_kind);
}

int train_state_read(struct train_state *state, const char *settings, const char *path)
{
    struct train_state read = {0};
    hid_t file = h5_open(path);
    int64_t version = 0, step = 0, adam_step = 0, best_step = 0, n_rollbacks = 0, last_alarm = 0;
    size_t n_points = 0, columns = 0, n_validations = 0;
    char *stored = NULL;
    int status = -1;

    if (file < 0)
        return -1;
    if (train_state_create(&read, state->n, state->n_statistics) != 0)
        goto done;
    if (!h5_has_kind(file, file_kind)) {
        error_set("%s is not the state of a training run", path);
        goto done;
    }
    if (!h5_get_int(file, "format_version", &version) || version != TRAIN_STATE_VERSION) {
        error_set("%s has the format version %lld; this t2 reads %d", path, (long long)version,
                  TRAIN_STATE_VERSION);
        goto done;
    }
    if (!h5_get_text(file, "settings", &stored)) {
        error_set("%s does not say which run it belongs to: the file is damaged", path);
        goto done;
    }
    if (strcmp(stored, settings) != 0) {
        state_text_differ(path, "the state", stored, settings);
        goto done;
    }
    if (!h5_get_int(file, "step", &step) || !h5_get_int(file, "optimizer_step", &adam_step) ||
        !h5_get_int(file, "best_step", &best_step) ||
        !h5_get_real(file, "best_score", &read.best_score) ||
        !h5_get_real(file, "rate_scale", &read.rate_scale) ||
        !h5_get_int(file, "n_rollbacks", &n_rollbacks) ||
        !h5_get_int(file, "last_alarm", &last_alarm) ||
        !h5_shape(file, "curve", &n_points, &columns) ||
        !h5_shape(file, "validations", &n_validations, &columns) || step < 0 ||
        (uint64_t)step != n_points || adam_step < 0 || best_step < 0 || n_rollbacks < 0 ||
        last_alarm < 0) {
        error_set("%s lacks a part of the training state: the file is damaged", path);
        goto done;
    }
    if (read_arrays(&read, file, step, n_validations) != 0) {
        error_prefix("%s", path);
        goto done;
    }
    read.step = (uint64_t)step;
    read.adam.step = (uint64_t)adam_step;
    read.best_step = (uint64_t)best_step;
    read.n_rollbacks = (uint64_t)n_rollbacks;
    read.last_alarm = (uint64_t)last_alarm;
    read.n_validations = n_validations;
    train_state_free(state);
    *state = read;
    memset(&read, 0, sizeof read);
    status = 0;
done:
    h5_close(file);
    train_state_free(&read);
    free(stored);
    return status;
}
