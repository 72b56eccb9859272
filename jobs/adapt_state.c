#include "jobs/adapt_state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"
#include "train/state_text.h"

static const char file_kind[] = "t2 adaptation state";
enum { STATE_VERSION = 1 };
/* The columns of the curve. */
#define COLUMN(member)                                                                             \
    {                                                                                              \
#member, offsetof(struct fewshot_point, member)                                            \
    }
static const struct {
    const char *name;
    size_t offset;
} columns[] = {COLUMN(best),        COLUMN(best_tie),    COLUMN(mean),
               COLUMN(least),       COLUMN(most),        COLUMN(n_candidates),
               COLUMN(n_abandoned), COLUMN(n_evaluated), COLUMN(seconds)};
#undef COLUMN
enum { N_COLUMNS = sizeof columns / sizeof *columns };
_Static_assert(N_COLUMNS == sizeof(struct fewshot_point) / sizeof(double),
               "every member of a point is a column");

static double *cell(struct fewshot_point *point, size_t column)
{
    return (double *)(void *)((char *)point + columns[column].offset);
}

static int put_columns(hid_t group, const struct fewshot *f)
{
    const size_t n = f->search.iteration;
    double *values = malloc((n + 1) * sizeof *values);
    int status = values ? 0 : error_set("no memory for the curve of %zu iterations", n);

    for (size_t c = 0; status == 0 && c < N_COLUMNS; c++) {
        for (size_t i = 0; i < n; i++)
            values[i] = *cell(&f->curve[i], c);
        status = h5_put_doubles(group, columns[c].name, values, n, 0);
    }
    free(values);
    return status || h5_put_doubles(group, "means", f->means, n, f->n) ||
                   h5_put_doubles(group, "deviations", f->deviations, n, f->n) ||
                   h5_put_doubles(group, "bests", f->bests, n, f->n)
               ? -1
               : 0;
}

int adapt_put_curves(hid_t file, const struct fewshot *f)
{
    hid_t group = h5_group_create(file, "curve");
    const int status = group < 0 ? -1 : put_columns(group, f);

    if (group >= 0)
        H5Gclose(group);
    return status;
}

int adapt_state_write(const struct fewshot *f, const char *settings, const char *path)
{
    double *numbers = malloc(f->search.n_state * sizeof *numbers);
    hid_t file = -1;
    int status = -1;

    if (!numbers) {
        error_set("no memory for the state of the search");
        goto done;
    }
    search_pack(&f->search, numbers);
    if ((file = h5_create(path)) < 0 || h5_put_text(file, "kind", file_kind) ||
        h5_put_int(file, "format_version", STATE_VERSION) ||
        h5_put_text(file, "settings", settings) ||
        h5_put_text(file, "method", search_method_name(f->options.search.method)) ||
        h5_put_int(file, "iteration", (int64_t)f->search.iteration) ||
        h5_put_real(file, "best", f->search.best_score.value) ||
        h5_put_doubles(file, "search", numbers, f->search.n_state, 0) ||
        adapt_put_curves(file, f) || h5_write(file, path))
        goto done;
    status = 0;
done:
    h5_close(file);
    free(numbers);
    return status;
}

static int check_head(hid_t file, const char *settings, const char *path)
{
    char *stored = NULL;
    int64_t version = 0;
    int status = -1;

    if (!h5_has_kind(file, file_kind))
        error_set("%s is not the state of an adaptation", path);
    else if (!h5_get_int(file, "format_version", &version) || version != STATE_VERSION)
        error_set("%s has the format version %lld; this t2 reads %d", path, (long long)version,
                  STATE_VERSION);
    else if (!h5_get_text(file, "settings", &stored))
        error_set("%s does not say which run it belongs to: the file is damaged", path);
    else if (strcmp(stored, settings) != 0)
        state_text_differ(path, "the state", stored, settings);
    else
        status = 0;
    free(stored);
    return status;
}

static int read_curves(struct fewshot *f, hid_t group, size_t n, double *values)
{
    for (size_t c = 0; c < N_COLUMNS; c++) {
        if (h5_get_doubles(group, columns[c].name, values, n, 0) != 0)
            return -1;
        for (size_t i = 0; i < n; i++) {
            if (!isfinite(values[i]))
                return error_set("a number of the curve is not finite");
            *cell(&f->curve[i], c) = values[i];
        }
    }
    if (h5_get_doubles(group, "means", f->means, n, f->n) != 0 ||
        h5_get_doubles(group, "deviations", f->deviations, n, f->n) != 0 ||
        h5_get_doubles(group, "bests", f->bests, n, f->n) != 0)
        return -1;
    for (size_t i = 0; i < n * f->n; i++)
        if (!isfinite(f->means[i]) || !isfinite(f->deviations[i]) || !isfinite(f->bests[i]))
            return error_set("a coefficient of the curve is not finite");
    return 0;
}

/* The group `curve`, of n iterations. */
static int open_curves(struct fewshot *f, hid_t file, size_t n)
{
    hid_t group =
        H5Lexists(file, "curve", H5P_DEFAULT) > 0 ? H5Gopen2(file, "curve", H5P_DEFAULT) : -1;
    size_t rows = 0, width = 0;
    double *values = NULL;
    int status = -1;

    /* What the file holds bounds what is allocated for it. */
    if (group < 0 || !h5_shape(group, "bests", &rows, &width) || rows != n || width != f->n)
        error_set("the curves do not have %zu rows: the file is damaged", n);
    else if (!(values = malloc((n + 1) * sizeof *values)))
        error_set("out of memory");
    else if (fewshot_reserve(f, n) == 0)
        status = read_curves(f, group, n, values);
    free(values);
    if (group >= 0)
        H5Gclose(group);
    return status;
}

int adapt_state_read(struct fewshot *f, const char *settings, const char *path)
{
    const size_t n_state = f->search.n_state;
    double *numbers = malloc(n_state * sizeof *numbers);
    struct h5_quiet quiet;
    hid_t file = h5_open(path);
    int status = -1;

    h5_quiet_begin(&quiet);
    if (file < 0)
        goto done;
    if (!numbers) {
        error_set("out of memory");
        goto done;
    }
    if (check_head(file, settings, path) != 0)
        goto done;
    /* The count comes first: it bounds what the curves are allowed to be. */
    if (h5_get_doubles(file, "search", numbers, n_state, 0) != 0) {
        error_prefix("%s", path);
        goto done;
    }
    if (!(numbers[0] >= 0 && numbers[0] <= (double)search_most(&f->search))) {
        error_set("%s: the search has gone on for longer than it may: the file is damaged", path);
        goto done;
    }
    if (open_curves(f, file, (size_t)numbers[0]) != 0 || search_unpack(&f->search, numbers) != 0) {
        error_prefix("%s", path);
        goto done;
    }
    status = 0;
done:
    h5_close(file);
    h5_quiet_end(&quiet);
    free(numbers);
    return status;
}

/* ---- for people --------------------------------------------------------------------------------
 */

bool adapt_state_is_file(const char *path)
{
    return h5_is_kind(path, file_kind);
}

int adapt_state_describe(const char *path, FILE *out)
{
    struct h5_quiet quiet;
    hid_t file = h5_open(path);
    int64_t version = 0, iteration = 0;
    double best = 0;
    char *settings = NULL, *method = NULL;
    int status = -1;

    h5_quiet_begin(&quiet);
    if (file < 0)
        goto done;
    if (!h5_get_int(file, "format_version", &version) || version != STATE_VERSION) {
        error_set("%s has the format version %lld; this t2 reads %d", path, (long long)version,
                  STATE_VERSION);
        goto done;
    }
    if (!h5_get_text(file, "settings", &settings) || !h5_get_text(file, "method", &method) ||
        !h5_get_int(file, "iteration", &iteration) || !h5_get_real(file, "best", &best)) {
        error_set("%s lacks a part of the search's state: the file is damaged", path);
        goto done;
    }
    fprintf(out, "%s: state of an adaptation that is not finished (t2 adapt --resume goes on)\n\n",
            path);
    fprintf(out, "  iterations   %lld\n  best         %.4f\n", (long long)iteration, best);
    state_text_print(settings, out);
    status = 0;
done:
    free(settings);
    free(method);
    h5_close(file);
    h5_quiet_end(&quiet);
    return status;
}
