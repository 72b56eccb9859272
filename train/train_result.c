#include "train/train_result.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "model/expert.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"
#include "train/state_text.h"

const float *train_result_parameters(const struct train_state *state)
{
    return state->best_parameters ? state->best_parameters : state->parameters;
}

/* ---- the matrices' vectors ---------------------------------------------------------------------
 */

static int fill_matrix(const struct train_result *r, size_t site, struct expert_matrix *m)
{
    const struct adapter *adapter = r->trainer->adapter;
    const struct adapter_kind *kind = r->origin->kind;

    m->module = adapter->sites[site].module;
    if (adapter_fill(kind, adapter, site, train_result_parameters(r->state), "", m) != 0)
        return -1;
    return r->state->best_parameters
               ? adapter_fill(kind, adapter, site, r->state->parameters, "_last", m)
               : 0;
}

static int fill_expert(const struct train_result *r, struct expert *e)
{
    const struct adapter *adapter = r->trainer->adapter;
    const struct train_origin *o = r->origin;

    *e = (struct expert){.kind = strdup(adapter->ops->kind),
                         .model = strdup(o->model ? o->model : ""),
                         .task = strdup(r->trainer->task->name)};
    if (o->parametrisation)
        e->parametrisation = strdup(o->parametrisation);
    if (o->adapter_settings)
        e->settings = strdup(o->adapter_settings);
    if (o->factors)
        e->factors = strdup(o->factors);
    if (o->factors_identity)
        e->factors_identity = strdup(o->factors_identity);
    snprintf(e->identity, sizeof e->identity, "%s", o->identity);
    e->matrices = calloc(adapter->n_sites, sizeof *e->matrices);
    if (!e->kind || !e->model || !e->task || !e->matrices)
        return error_set("out of memory");
    for (size_t i = 0; i < adapter->n_sites; i++) {
        e->n_matrices = i + 1;
        if (fill_matrix(r, i, &e->matrices[i]) != 0)
            return -1;
    }
    return 0;
}

/* ---- curves -------------------------------------------------------------------------------------
 */

static int put_column(hid_t group, const char *name, const void *rows, size_t n, size_t stride,
                      size_t offset)
{
    double *values = malloc((n + 1) * sizeof *values);

    if (!values)
        return error_set("out of memory");
    for (size_t i = 0; i < n; i++)
        memcpy(&values[i], (const char *)rows + i * stride + offset, sizeof *values);
    const int status = h5_put_doubles(group, name, values, n, 0);
    free(values);
    return status;
}

static int put_curve(hid_t file, const struct train_state *s, const struct adapter *adapter)
{
    hid_t group = h5_group_create(file, "curve");
    int status = group < 0 ? -1 : 0;

    for (size_t i = 0; status == 0 && i < TRAIN_POINT_COLUMNS; i++)
        status = put_column(group, train_point_names[i], s->curve, s->step, sizeof *s->curve,
                            i * sizeof(double));
    for (size_t i = 0; status == 0 && i < adapter->n_statistics; i++)
        status =
            put_column(group, adapter->statistic_names[i], s->statistics, s->step,
                       adapter->n_statistics * sizeof *s->statistics, i * sizeof *s->statistics);
    if (group >= 0)
        H5Gclose(group);
    return status;
}

static int put_validations(hid_t file, const struct train_state *s)
{
    const size_t n = s->n_validations, stride = sizeof *s->validations;
    int64_t *counts = malloc((n + 1) * sizeof *counts);
    hid_t group = -1;
    int status = -1;

    if (n == 0) {
        free(counts);
        return 0;
    }
    if (!counts) {
        error_set("out of memory");
        goto done;
    }
    if ((group = h5_group_create(file, "validation")) < 0)
        goto done;
    for (size_t i = 0; i < n; i++)
        counts[i] = (int64_t)s->validations[i].step;
    if (h5_column_ints(group, "step", counts, n, 0))
        goto done;
    for (size_t i = 0; i < n; i++)
        counts[i] = (int64_t)s->validations[i].n_items;
    if (h5_column_ints(group, "n_items", counts, n, 0) ||
        put_column(group, "score", s->validations, n, stride,
                   offsetof(struct train_validation, score)) ||
        put_column(group, "gold_probability", s->validations, n, stride,
                   offsetof(struct train_validation, gold_probability)) ||
        put_column(group, "one_answer_share", s->validations, n, stride,
                   offsetof(struct train_validation, one_answer_share)))
        goto done;
    status = 0;
done:
    free(counts);
    if (group >= 0)
        H5Gclose(group);
    return status;
}

/* ---- attributes ---------------------------------------------------------------------------------
 */

static int put_texts(hid_t file, const struct train_result *r)
{
    const struct train_origin *o = r->origin;
    const struct {
        const char *name, *text;
    } texts[] = {
        {"settings", r->trainer->settings},
        {"ended", r->end == TRAIN_STOPPED_EARLY ? "stopped early" : "finished"},
        {"architecture", o->architecture},
        {"options", o->options},
        {"command_line", o->command_line},
        {"t2_version", o->version},
        {"cpu", o->cpu},
        {"device", o->device},
        {"isa", o->isa},
        {"kernel_order", o->kernel_order},
        {"dtype", o->dtype},
        {"chat_format", o->chat_format},
        {"started", o->started},
        {"task_text", r->trainer->task->text},
        {"train_split", r->trainer->options.train_split},
    };

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].text && h5_put_text(file, texts[i].name, texts[i].text))
            return -1;
    return 0;
}

static int put_scores(hid_t file, const struct train_result *r)
{
    const struct train_state *s = r->state;

    if (s->n_validations > 0 &&
        (h5_put_text(file, "valid_split", r->trainer->options.valid_split) ||
         h5_put_real(file, "valid_before", s->validations[0].score) ||
         h5_put_real(file, "valid_best", s->best_score) ||
         h5_put_int(file, "best_step", (int64_t)s->best_step) ||
         h5_put_int(file, "valid_items", (int64_t)s->validations[0].n_items)))
        return -1;
    if (r->test.n > 0 && (h5_put_text(file, "test_split", r->test_split) ||
                          h5_put_real(file, "test_before", r->test.before) ||
                          h5_put_real(file, "test_after", r->test.after) ||
                          h5_put_real(file, "test_error", r->test.error_after) ||
                          h5_put_int(file, "test_items", (int64_t)r->test.n)))
        return -1;
    return 0;
}

static int put_numbers(hid_t file, const struct train_result *r)
{
    const struct train_origin *o = r->origin;
    const struct train_state *s = r->state;

    return h5_put_int(file, "steps", (int64_t)s->step) ||
                   h5_put_int(file, "seed", (int64_t)r->trainer->options.seed) ||
                   h5_put_int(file, "n_parameters", (int64_t)s->n) ||
                   h5_put_int(file, "rollbacks", (int64_t)s->n_rollbacks) ||
                   h5_put_int(file, "last_alarm", (int64_t)s->last_alarm) ||
                   h5_put_int(file, "ranks", o->n_ranks) ||
                   h5_put_int(file, "threads", o->n_threads) ||
                   h5_put_real(file, "seconds", o->seconds)
               ? -1
               : 0;
}

int train_result_write(const struct train_result *result, const char *path)
{
    struct expert expert = {0};
    hid_t file = -1;
    int status = -1;

    if (fill_expert(result, &expert) != 0)
        goto done;
    if ((file = h5_create(path)) < 0 || expert_put(file, &expert) || put_texts(file, result) ||
        put_numbers(file, result) || put_scores(file, result) ||
        put_curve(file, result->state, result->trainer->adapter) ||
        put_validations(file, result->state) || h5_write(file, path))
        goto done;
    status = 0;
done:
    h5_close(file);
    expert_free(&expert);
    return status;
}

int train_result_is_there(const char *path, const char *settings)
{
    struct stat info;
    char *stored = NULL;
    int status = -1;

    if (stat(path, &info) != 0)
        return errno == ENOENT ? 0 : error_set("%s: %s", path, strerror(errno));
    if (!expert_is_file(path))
        return error_set("%s is there, and not an expert file: remove it, or choose another --out",
                         path);
    hid_t file = h5_open(path);
    if (file < 0)
        return -1;
    if (!h5_get_text(file, "settings", &stored))
        error_set("%s does not say which training made it: remove it, or choose another --out",
                  path);
    else if (strcmp(stored, settings) != 0)
        state_text_differ(path, "the expert", stored, settings);
    else
        status = 1;
    free(stored);
    h5_close(file);
    return status;
}
