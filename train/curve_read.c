#include "train/curve_read.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"

/* A column [n] of a group, malloc'ed; NULL where there is none. */
static double *read_column(hid_t file, const char *group, const char *name, size_t *n)
{
    struct h5_quiet quiet;
    size_t n_columns = 0;
    double *values = NULL;

    h5_quiet_begin(&quiet);
    hid_t parent =
        H5Lexists(file, group, H5P_DEFAULT) > 0 ? H5Gopen2(file, group, H5P_DEFAULT) : (hid_t)-1;
    if (parent >= 0) {
        values = h5_numbers(parent, name, n, &n_columns);
        H5Gclose(parent);
    }
    h5_quiet_end(&quiet);
    if (values && n_columns == 0)
        return values;
    free(values);
    return NULL;
}

static void read_columns(struct curve_file *c, hid_t file)
{
    c->n = SIZE_MAX;
    for (size_t i = 0; i < TRAIN_POINT_COLUMNS; i++) {
        size_t n = 0;
        c->columns[i] = read_column(file, "curve", train_point_names[i], &n);
        if (c->columns[i] && n < c->n)
            c->n = n;
    }
    if (c->n == SIZE_MAX)
        c->n = 0;
    size_t n_steps = 0, n_scores = 0;
    c->validation_steps = read_column(file, "validation", "step", &n_steps);
    c->validation_scores = read_column(file, "validation", "score", &n_scores);
    if (c->validation_steps && c->validation_scores)
        c->n_validations = n_steps < n_scores ? n_steps : n_scores;
}

/* The value of "steps = 150" among the settings of a state or an expert, malloc'ed; else NULL. */
static char *setting(hid_t file, const char *name)
{
    char *settings = NULL, *value = NULL;
    const size_t n = strlen(name);

    if (!h5_get_text(file, "settings", &settings))
        return NULL;
    for (const char *line = settings; *line && !value;) {
        const size_t length = strcspn(line, "\n");
        if (length > n + 3 && strncmp(line, name, n) == 0 && strncmp(line + n, " = ", 3) == 0)
            value = strndup(line + n + 3, length - n - 3);
        line += length + (line[length] == '\n');
    }
    free(settings);
    return value;
}

static uint64_t planned_steps(hid_t file)
{
    char *text = setting(file, "steps");
    const uint64_t n = text ? strtoull(text, NULL, 10) : 0;

    free(text);
    return n;
}

/* ---- kinds of files ----------------------------------------------------------------------------
 */

static int read_live(struct curve_file *c, hid_t file, const char *path)
{
    struct h5_quiet quiet;
    int64_t version = 0, planned = 0, began_step = 0;
    char text[LIVE_STATE_BYTES] = "";
    size_t n = 0, columns = 0;

    if (!h5_get_int(file, "format_version", &version) || version != 1)
        return error_set("%s has the format version %lld; this t2 reads 1", path,
                         (long long)version);
    h5_get_int(file, "planned_steps", &planned);
    h5_get_int(file, "began_step", &began_step);
    h5_get_int(file, "pid", &c->pid);
    h5_get_int(file, "ranks", &c->n_ranks);
    h5_get_real(file, "began", &c->began);
    h5_get_text(file, "host", &c->host);
    h5_get_text(file, "pid_namespace", &c->pid_namespace);
    h5_get_text(file, "started", &c->started);
    c->n_planned = planned > 0 ? (uint64_t)planned : 0;
    c->began_step = began_step > 0 ? (uint64_t)began_step : 0;

    double *updated = h5_numbers(file, "updated", &n, &columns);
    if (updated && n > 0)
        c->updated = updated[0];
    free(updated);
    h5_quiet_begin(&quiet);
    hid_t state = H5Lexists(file, "state", H5P_DEFAULT) > 0 ? H5Dopen2(file, "state", H5P_DEFAULT)
                                                            : (hid_t)-1;
    hid_t type = state >= 0 ? H5Dget_type(state) : -1;
    hid_t space = state >= 0 ? H5Dget_space(state) : -1;
    const bool read = type >= 0 && H5Tget_class(type) == H5T_STRING &&
                      H5Tis_variable_str(type) == 0 && H5Tget_size(type) == sizeof text &&
                      H5Sget_simple_extent_npoints(space) == 1 &&
                      H5Dread(state, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) >= 0;
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    if (state >= 0)
        H5Dclose(state);
    h5_quiet_end(&quiet);
    text[sizeof text - 1] = '\0';
    memcpy(c->state, text, sizeof text);
    if (!read || !updated)
        return error_set("%s lacks a part of a live curve: the file is damaged", path);
    read_columns(c, file);
    return 0;
}

static int read_state(struct curve_file *c, hid_t file, const char *path)
{
    size_t n_columns = 0, n = 0;
    double *rows = h5_numbers(file, "curve", &c->n, &n_columns);
    double *validations = NULL;

    if (!rows || (c->n > 0 && n_columns != TRAIN_POINT_COLUMNS)) {
        free(rows);
        return error_set("%s lacks a part of the training state: the file is damaged", path);
    }
    for (size_t k = 0; k < TRAIN_POINT_COLUMNS; k++) {
        if (!(c->columns[k] = malloc((c->n + 1) * sizeof *rows))) {
            free(rows);
            return error_set("out of memory");
        }
        for (size_t i = 0; i < c->n; i++)
            c->columns[k][i] = rows[i * TRAIN_POINT_COLUMNS + k];
    }
    free(rows);
    /* Rows of step, items, score, probability. */
    if ((validations = h5_numbers(file, "validations", &n, &n_columns)) && n_columns == 4) {
        c->validation_steps = malloc((n + 1) * sizeof *validations);
        c->validation_scores = malloc((n + 1) * sizeof *validations);
        for (size_t i = 0; c->validation_steps && c->validation_scores && i < n; i++) {
            c->validation_steps[i] = validations[4 * i];
            c->validation_scores[i] = validations[4 * i + 2];
            c->n_validations = i + 1;
        }
    }
    free(validations);
    c->n_planned = planned_steps(file);
    c->task = setting(file, "task");
    c->adapter = setting(file, "adapter");
    return 0;
}

static int read_expert(struct curve_file *c, hid_t file, const char *path)
{
    read_columns(c, file);
    if (c->n == 0)
        return error_set("%s has no curve: t2 adapt or t2 transfer made it, not t2 train", path);
    c->n_planned = planned_steps(file);
    h5_get_int(file, "ranks", &c->n_ranks);
    h5_get_text(file, "started", &c->started);
    return 0;
}

bool live_curve_is_file(const char *path)
{
    struct stat info;

    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode))
        return false;
    hid_t file = h5_live_read(path);
    const bool is = file >= 0 && h5_has_kind(file, LIVE_CURVE_KIND);
    h5_close(file);
    return is;
}

int curve_read(struct curve_file *c, const char *path)
{
    int status;

    *c = (struct curve_file){0};
    hid_t file = h5_live_read(path);
    if (file < 0)
        return -1;
    if (h5_has_kind(file, LIVE_CURVE_KIND)) {
        c->source = CURVE_LIVE;
        status = read_live(c, file, path);
    } else if (h5_has_kind(file, "t2 training state")) {
        c->source = CURVE_STATE;
        status = read_state(c, file, path);
    } else if (h5_has_kind(file, "t2 expert")) {
        c->source = CURVE_EXPERT;
        status = read_expert(c, file, path);
    } else {
        status = error_set("%s is neither a live curve of t2 train nor its state or expert", path);
    }
    if (c->source != CURVE_STATE) {
        h5_get_text(file, "task", &c->task);
        h5_get_text(file, "adapter", &c->adapter);
        h5_get_text(file, "command_line", &c->command_line);
    }
    h5_close(file);
    if (status)
        curve_free(c);
    return status;
}

void curve_free(struct curve_file *c)
{
    if (!c)
        return;
    free(c->task);
    free(c->adapter);
    free(c->command_line);
    free(c->started);
    free(c->host);
    free(c->pid_namespace);
    for (size_t i = 0; i < TRAIN_POINT_COLUMNS; i++)
        free(c->columns[i]);
    free(c->validation_steps);
    free(c->validation_scores);
    *c = (struct curve_file){0};
}

const double *curve_column(const struct curve_file *c, const char *name)
{
    for (size_t i = 0; i < TRAIN_POINT_COLUMNS; i++)
        if (strcmp(train_point_names[i], name) == 0)
            return c->columns[i];
    return NULL;
}
