#include "train/live_curve.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mpi/clock.h"
#include "mpi/error.h"
#include "mpi/h5.h"

/* Beyond it the room of all planned rows is no longer small beside an expert. */
static const double most_bytes = 256.0 * (1 << 20);

static const char *const validation_names[] = {"step", "n_items", "score", "gold_probability",
                                               "one_answer_share"};
enum { VALIDATIONS = sizeof validation_names / sizeof *validation_names };

static hid_t validation_type(size_t column)
{
    return column < 2 ? H5T_NATIVE_INT64 : H5T_NATIVE_DOUBLE;
}

void live_curve_place(char *host, char *space, size_t size)
{
    host[0] = '\0';
    if (gethostname(host, size) != 0)
        snprintf(host, size, "unknown");
    host[size - 1] = '\0';
    const ssize_t n = readlink("/proc/self/ns/pid", space, size - 1);
    space[n > 0 ? n : 0] = '\0';
}

/* ---- making ------------------------------------------------------------------------------------
 */

static int put_texts(hid_t file, const struct live_curve *live)
{
    const struct {
        const char *name, *text;
    } texts[] = {
        {"kind", LIVE_CURVE_KIND},     {"task", live->task},
        {"adapter", live->adapter},    {"model", live->model},
        {"t2_version", live->version}, {"command_line", live->command_line},
        {"started", live->started},
    };

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].text && h5_put_text(file, texts[i].name, texts[i].text))
            return -1;
    return 0;
}

static int put_numbers(hid_t file, const struct live_curve *live, const struct train_state *state)
{
    char host[256], space[256];

    live_curve_place(host, space, sizeof host);
    return h5_put_int(file, "format_version", 1) ||
                   h5_put_int(file, "planned_steps", (int64_t)live->n_steps) ||
                   h5_put_int(file, "validate_every", (int64_t)live->validate_every) ||
                   h5_put_int(file, "ranks", live->n_ranks) ||
                   h5_put_int(file, "began_step", (int64_t)state->step) ||
                   h5_put_real(file, "began", clock_wall_seconds()) ||
                   h5_put_text(file, "host", host) || h5_put_int(file, "pid", getpid()) ||
                   h5_put_text(file, "pid_namespace", space)
               ? -1
               : 0;
}

static int make_columns(hid_t file, const struct live_curve *live, const struct adapter *adapter)
{
    const size_t n_validations =
        live->validate_every > 0 ? live->n_steps / live->validate_every + 2 : 0;
    hid_t group = h5_group_create(file, "curve");
    int status = group < 0 ? -1 : 0;

    for (size_t i = 0; status == 0 && i < TRAIN_POINT_COLUMNS; i++)
        status = h5_live_column(group, train_point_names[i], H5T_NATIVE_DOUBLE, live->n_steps);
    for (size_t i = 0; status == 0 && i < adapter->n_statistics; i++)
        status =
            h5_live_column(group, adapter->statistic_names[i], H5T_NATIVE_DOUBLE, live->n_steps);
    if (group >= 0)
        H5Gclose(group);
    if (status || n_validations == 0)
        return status;
    if ((group = h5_group_create(file, "validation")) < 0)
        return -1;
    for (size_t i = 0; status == 0 && i < VALIDATIONS; i++)
        status = h5_live_column(group, validation_names[i], validation_type(i), n_validations);
    H5Gclose(group);
    return status;
}

static int make_file(const struct live_curve *live, const struct adapter *adapter,
                     const struct train_state *state)
{
    const double rows = (double)live->n_steps;
    const double columns = TRAIN_POINT_COLUMNS + (double)adapter->n_statistics;
    struct stat info;
    int status = -1;

    if (rows * columns * sizeof(double) > most_bytes)
        return error_set("%s: %zu steps are too many for a curve to watch", live->path,
                         live->n_steps);
    if (stat(live->path, &info) == 0) {
        hid_t there = h5_live_read(live->path);
        const bool ours = there >= 0 && h5_has_kind(there, LIVE_CURVE_KIND);
        h5_close(there);
        if (!ours)
            return error_set("%s is there, and is no live curve of t2 train", live->path);
    }
    hid_t file = h5_live_create(live->path);
    if (file < 0)
        return -1;
    if (put_texts(file, live) == 0 && put_numbers(file, live, state) == 0 &&
        h5_live_text(file, "state", "running", LIVE_STATE_BYTES) == 0 &&
        h5_live_column(file, "updated", H5T_NATIVE_DOUBLE, 1) == 0 &&
        make_columns(file, live, adapter) == 0)
        status = h5_live_write(file, live->path);
    h5_close(file);
    return status;
}

/* ---- growing -----------------------------------------------------------------------------------
 */

static hid_t open_dataset(const struct live_curve *live, const char *group, const char *name)
{
    struct h5_quiet quiet;
    char path[128];

    snprintf(path, sizeof path, "%s/%s", group, name);
    h5_quiet_begin(&quiet);
    hid_t dataset = H5Dopen2(live->file.file, path, H5P_DEFAULT);
    h5_quiet_end(&quiet);
    if (dataset < 0)
        error_set("%s: HDF5 cannot open %s", live->path, path);
    return dataset;
}

static int open_columns(struct live_curve *live, const struct adapter *adapter)
{
    if (!(live->statistics = calloc(adapter->n_statistics + 1, sizeof *live->statistics)))
        return error_set("out of memory");
    for (size_t i = 0; i < TRAIN_POINT_COLUMNS; i++)
        if ((live->columns[i] = open_dataset(live, "curve", train_point_names[i])) < 0)
            return -1;
    for (; live->n_statistics < adapter->n_statistics; live->n_statistics++)
        if ((live->statistics[live->n_statistics] =
                 open_dataset(live, "curve", adapter->statistic_names[live->n_statistics])) < 0)
            return -1;
    for (size_t i = 0; live->validate_every > 0 && i < VALIDATIONS; i++)
        if ((live->validations[i] = open_dataset(live, "validation", validation_names[i])) < 0)
            return -1;
    return (live->state = open_dataset(live, "", "state")) < 0 ||
                   (live->updated = open_dataset(live, "", "updated")) < 0
               ? -1
               : 0;
}

static void close_dataset(hid_t *dataset)
{
    if (*dataset > 0) /* 0: never opened */
        H5Dclose(*dataset);
    *dataset = 0;
}

static void close_file(struct live_curve *live)
{
    struct h5_quiet quiet;

    h5_quiet_begin(&quiet);
    for (size_t i = 0; i < TRAIN_POINT_COLUMNS; i++)
        close_dataset(&live->columns[i]);
    for (size_t i = 0; i < live->n_statistics; i++)
        close_dataset(&live->statistics[i]);
    for (size_t i = 0; i < VALIDATIONS; i++)
        close_dataset(&live->validations[i]);
    close_dataset(&live->state);
    close_dataset(&live->updated);
    h5_quiet_end(&quiet);
    h5_live_close(&live->file);
    free(live->statistics);
    live->statistics = NULL;
    live->n_statistics = 0;
    live->is_open = false;
}

static void give_up(struct live_curve *live)
{
    close_file(live);
    if (!live->quiet)
        fprintf(stderr, "t2 train: %s; the training goes on without a live curve\n",
                error_message());
}

static int put_point(struct live_curve *live, const struct train_state *state, size_t row)
{
    const double *values = (const double *)&state->curve[row];

    for (size_t i = 0; i < TRAIN_POINT_COLUMNS; i++)
        if (h5_live_put(live->columns[i], H5T_NATIVE_DOUBLE, row, &values[i]) != 0)
            return -1;
    values = state->statistics + row * state->n_statistics;
    for (size_t i = 0; i < live->n_statistics; i++)
        if (h5_live_put(live->statistics[i], H5T_NATIVE_DOUBLE, row, &values[i]) != 0)
            return -1;
    return 0;
}

static int put_validation(struct live_curve *live, const struct train_validation *v, size_t row)
{
    const int64_t counts[2] = {(int64_t)v->step, (int64_t)v->n_items};
    const void *const values[VALIDATIONS] = {&counts[0], &counts[1], &v->score,
                                             &v->gold_probability, &v->one_answer_share};

    for (size_t i = 0; i < VALIDATIONS; i++)
        if (h5_live_put(live->validations[i], validation_type(i), row, values[i]) != 0)
            return -1;
    return 0;
}

static int put_news(struct live_curve *live, const struct train_state *state)
{
    const double now = clock_wall_seconds();

    for (; live->n_written < state->step; live->n_written++)
        if (put_point(live, state, live->n_written) != 0)
            return -1;
    for (; live->validate_every > 0 && live->n_validations < state->n_validations;
         live->n_validations++)
        if (put_validation(live, &state->validations[live->n_validations], live->n_validations))
            return -1;
    return h5_live_put(live->updated, H5T_NATIVE_DOUBLE, 0, &now) != 0
               ? -1
               : h5_live_flush(&live->file, live->path);
}

void live_curve_begin(struct live_curve *live, const struct adapter *adapter,
                      const struct train_state *state)
{
    live->file = (struct h5_live){.file = -1, .descriptor = -1};
    if (!live->path)
        return;
    live->n_written = live->n_validations = 0;
    if (make_file(live, adapter, state) != 0) {
        give_up(live);
        return;
    }
    live->is_open = h5_live_open(&live->file, live->path) == 0 &&
                    open_columns(live, adapter) == 0 && put_news(live, state) == 0;
    if (!live->is_open) {
        give_up(live);
        unlink(live->path);
    }
}

void live_curve_update(struct live_curve *live, const struct train_state *state)
{
    if (live->is_open &&
        (live->n_written < state->step || live->n_validations < state->n_validations) &&
        put_news(live, state) != 0)
        give_up(live);
}

void live_curve_end(struct live_curve *live, const char *how)
{
    const double now = clock_wall_seconds();
    char text[LIVE_STATE_BYTES] = "";
    struct h5_quiet quiet;

    if (!live->is_open)
        return;
    snprintf(text, sizeof text, "%s", how);
    h5_quiet_begin(&quiet);
    hid_t type = H5Dget_type(live->state);
    const bool written =
        type >= 0 && H5Dwrite(live->state, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) >= 0;
    if (type >= 0)
        H5Tclose(type);
    h5_quiet_end(&quiet);
    if (!written)
        error_set("%s: HDF5 cannot write its state", live->path);
    if (!written || h5_live_put(live->updated, H5T_NATIVE_DOUBLE, 0, &now) != 0 ||
        h5_live_flush(&live->file, live->path) != 0)
        give_up(live);
    else
        close_file(live);
}
