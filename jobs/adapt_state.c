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
enum { POINT_COLUMNS = sizeof(struct fewshot_point) / sizeof(double) };
_Static_assert(sizeof(struct fewshot_point) % sizeof(double) == 0, "a point is a row of doubles");

int adapt_put_curves(hid_t group, const struct fewshot *f)
{
    const size_t n = f->search.iteration;

    return h5_put_doubles(group, "curve", (const double *)f->curve, n, POINT_COLUMNS) ||
                   h5_put_doubles(group, "means", f->means, n, f->n) ||
                   h5_put_doubles(group, "deviations", f->deviations, n, f->n) ||
                   h5_put_doubles(group, "bests", f->bests, n, f->n)
               ? -1
               : 0;
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
    char *kind = NULL, *stored = NULL;
    int64_t version = 0;
    int status = -1;

    if (!h5_get_text(file, "kind", &kind) || strcmp(kind, file_kind) != 0)
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
    free(kind);
    free(stored);
    return status;
}

static int read_curves(struct fewshot *f, hid_t file, size_t n)
{
    size_t rows = 0, columns = 0;

    /* What the file holds bounds what is allocated for it. */
    if (!h5_shape(file, "bests", &rows, &columns) || rows != n || columns != f->n)
        return error_set("the curves do not have %zu rows: the file is damaged", n);
    if (fewshot_reserve(f, n) != 0 ||
        h5_get_doubles(file, "curve", (double *)f->curve, n, POINT_COLUMNS) != 0 ||
        h5_get_doubles(file, "means", f->means, n, f->n) != 0 ||
        h5_get_doubles(file, "deviations", f->deviations, n, f->n) != 0 ||
        h5_get_doubles(file, "bests", f->bests, n, f->n) != 0)
        return -1;
    for (size_t i = 0; i < n * POINT_COLUMNS; i++)
        if (!isfinite(((const double *)f->curve)[i]))
            return error_set("a number of the curve is not finite");
    for (size_t i = 0; i < n * f->n; i++)
        if (!isfinite(f->means[i]) || !isfinite(f->deviations[i]) || !isfinite(f->bests[i]))
            return error_set("a coefficient of the curve is not finite");
    return 0;
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
    if (!(numbers[0] >= 0 && numbers[0] <= (double)f->options.search.iterations)) {
        error_set("%s: the search has gone on for longer than it may: the file is damaged", path);
        goto done;
    }
    if (read_curves(f, file, (size_t)numbers[0]) != 0 || search_unpack(&f->search, numbers) != 0) {
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
    struct h5_quiet quiet;
    char *kind = NULL;

    h5_quiet_begin(&quiet);
    hid_t file = h5_open(path);
    const bool is = file >= 0 && h5_get_text(file, "kind", &kind) && strcmp(kind, file_kind) == 0;
    h5_close(file);
    h5_quiet_end(&quiet);
    free(kind);
    return is;
}

int adapt_state_describe(const char *path, FILE *out)
{
    hid_t file = h5_open(path);
    int64_t version = 0, iteration = 0;
    double best = 0;
    char *settings = NULL, *method = NULL;
    int status = -1;

    if (file < 0)
        return -1;
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
    return status;
}
