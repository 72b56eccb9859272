#include "jobs/adapt_result.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/mixture_file.h"
#include "jobs/adapt_state.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"
#include "mpi/text.h"

static int put_attributes(hid_t file, const struct adapt_result *r)
{
    const struct fewshot *f = r->f;
    const struct {
        const char *name, *text;
    } texts[] = {{"settings", r->settings},
                 {"options", r->options},
                 {"command_line", r->command_line},
                 {"t2_version", T2_VERSION},
                 {"cpu", r->cpu},
                 {"device", r->device},
                 {"isa", r->isa},
                 {"kernel_order", r->kernel_order},
                 {"dtype", r->dtype},
                 {"started", r->started},
                 {"task_text", r->task_text},
                 {"adaptation", search_method_name(f->options.search.method)},
                 {"per", r->per},
                 {"mix", r->mix},
                 {"objective", r->objective},
                 {"weights", r->weights},
                 {"shot_split", r->shots->items.task.split},
                 {"test_split", r->test_split}};

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].text && h5_put_text(file, texts[i].name, texts[i].text))
            return -1;
    return h5_put_int(file, "normalised", f->options.normalise) ||
                   h5_put_int(file, "iterations", (int64_t)f->search.iteration) ||
                   h5_put_real(file, "best", f->search.best_score.value) ||
                   h5_put_real(file, "best_tie", f->search.best_score.tie) ||
                   h5_put_int(file, "seed", r->seed) ||
                   h5_put_int(file, "shots", (int64_t)r->shots->n) ||
                   h5_put_int(file, "test_items", (int64_t)r->n_test) ||
                   h5_put_int(file, "ranks", r->n_ranks) ||
                   h5_put_int(file, "threads", r->n_threads) ||
                   h5_put_real(file, "seconds", r->seconds)
               ? -1
               : 0;
}

/* The experts' names and files, the coefficients as used. */
static int put_mixture(hid_t file, const struct adapt_result *r)
{
    const struct fewshot *f = r->f;
    const struct expert_set *set = f->set;
    struct mixture m = {
        .n_experts = set->n, .n_groups = f->n_groups, .experts = (char **)set->names};
    char(*names)[96] = malloc((m.n_groups + 1) * sizeof *names);
    int status = -1;

    m.alpha = malloc((f->n + 1) * sizeof *m.alpha);
    m.files = calloc(set->n + 1, sizeof *m.files);
    m.groups = calloc(m.n_groups + 1, sizeof *m.groups);
    if (!names || !m.alpha || !m.files || !m.groups) {
        error_set("out of memory");
        goto done;
    }
    fewshot_coefficients(f, f->search.best, m.alpha);
    for (size_t k = 0; k < set->n; k++)
        m.files[k] = set->experts[k].path;
    for (size_t g = 0; g < m.n_groups; g++)
        m.groups[g] = expert_set_group_name(set, f->options.per, g, names[g], sizeof names[g]);
    status = mixture_put(file, &m);
done:
    free(names);
    free(m.alpha);
    free(m.files);
    free(m.groups);
    return status;
}

static int put_shots(hid_t file, const struct adapt_result *r)
{
    const size_t n = r->shots->n;
    const char **ids = malloc((n + 1) * sizeof *ids);
    int64_t *rows = malloc((n + 1) * sizeof *rows);
    hid_t group = -1;
    int status = -1;

    if (!ids || !rows) {
        error_set("out of memory");
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        ids[i] = r->shots->all[i].item.id;
        rows[i] = (int64_t)r->shots->all[i].item.index;
    }
    if ((group = h5_group_create(file, "shots")) < 0 || h5_column_texts(group, "id", ids, n) ||
        h5_column_ints(group, "row", rows, n, 0))
        goto done;
    status = 0;
done:
    if (group >= 0)
        H5Gclose(group);
    free(ids);
    free(rows);
    return status;
}

static int put_scores(hid_t file, const struct adapt_result *r)
{
    const size_t n = r->n_scores;
    const char **names = malloc((n + 1) * sizeof *names);
    double *columns = malloc((5 * n + 1) * sizeof *columns);
    static const char *const heads[] = {"shots", "shots_error", "test", "test_error", "gap"};
    hid_t group = -1;
    int status = -1;

    if (!names || !columns) {
        error_set("out of memory");
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        const struct adapt_score *s = &r->scores[i];
        names[i] = s->name;
        columns[i] = s->shots;
        columns[n + i] = s->shots_error;
        columns[2 * n + i] = s->test;
        columns[3 * n + i] = s->test_error;
        columns[4 * n + i] = s->shots - s->test;
    }
    if ((group = h5_group_create(file, "scores")) < 0 || h5_column_texts(group, "name", names, n))
        goto done;
    for (size_t c = 0; c < 5; c++)
        if (h5_put_doubles(group, heads[c], columns + c * n, n, 0))
            goto done;
    status = 0;
done:
    if (group >= 0)
        H5Gclose(group);
    free(names);
    free(columns);
    return status;
}

int adapt_result_write(const struct adapt_result *r, const char *path)
{
    const struct expert_set *set = r->f->set;
    struct expert expert = {0};
    float *z = malloc((set->n_parameters + 1) * sizeof *z);
    hid_t file = -1;
    int status = -1;

    if (!z) {
        error_set("out of memory");
        goto done;
    }
    if (fewshot_mixture(r->f, r->f->search.best, z) != 0 ||
        expert_set_make_expert(set, z, &expert) != 0)
        goto done;
    if (!(expert.task = strdup(r->task))) {
        error_set("out of memory");
        goto done;
    }
    if ((file = h5_create(path)) < 0 || expert_put(file, &expert) || put_attributes(file, r) ||
        put_mixture(file, r) || adapt_put_curves(file, r->f) || put_shots(file, r) ||
        put_scores(file, r) || h5_write(file, path))
        goto done;
    status = 0;
done:
    h5_close(file);
    expert_free(&expert);
    free(z);
    return status;
}

/* ---- for people --------------------------------------------------------------------------------
 */

/* A name out of the file. */
static void name_cell(struct text_table *table, hid_t group, const char *column, size_t row)
{
    char *name = h5_text_at(group, column, row);

    for (char *c = name; c && *c; c++)
        *c = text_printable(*c, '?');
    text_table_cell(table, "%.60s", name ? name : "?");
    free(name);
}

static void show_scores(hid_t group, FILE *out)
{
    static const char *const heads[] = {"shots", "shots_error", "test", "test_error", "gap"};
    double columns[5][EXPERT_SET_MAX + 3];
    size_t n = 0, width = 0;
    struct text_table table;

    if (!h5_shape(group, "shots", &n, &width) || width != 0 || n > EXPERT_SET_MAX + 3)
        return;
    for (size_t c = 0; c < 5; c++)
        if (h5_get_doubles(group, heads[c], columns[c], n, 0) != 0)
            return;
    text_table_begin(&table, "lrrrrr");
    text_table_cell(&table, "accuracy");
    for (size_t c = 0; c < 5; c++)
        text_table_cell(&table, "%s", c % 2 && c < 4 ? "+-" : heads[c]);
    for (size_t i = 0; i < n; i++) {
        name_cell(&table, group, "name", i);
        for (size_t c = 0; c < 5; c++)
            text_table_cell(&table, isnan(columns[c][i]) ? "-" : "%.4f", columns[c][i]);
    }
    fputc('\n', out);
    text_table_print(&table, out, 2);
}

int adapt_result_describe(const char *path, FILE *out)
{
    static const char *const names[] = {"adaptation", "per",        "mix",       "objective",
                                        "weights",    "shot_split", "test_split"};
    hid_t file = h5_open(path), group;
    int64_t shots = 0, iterations = 0, test = 0;
    double best = 0;
    char *method = NULL;

    if (file < 0)
        return -1;
    if (!h5_get_text(file, names[0], &method))
        goto done;
    fputc('\n', out);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *text = NULL;
        if (h5_get_text(file, names[i], &text)) {
            fprintf(out, "%-13s ", names[i]);
            for (const char *c = text; *c; c++)
                putc(text_printable(*c, '?'), out);
            putc('\n', out);
        }
        free(text);
    }
    if (h5_get_int(file, "shots", &shots) && h5_get_int(file, "iterations", &iterations) &&
        h5_get_int(file, "test_items", &test) && h5_get_real(file, "best", &best))
        fprintf(out, "%-13s %.4f on %lld shots after %lld iterations; %lld test items\n", "best",
                best, (long long)shots, (long long)iterations, (long long)test);
    mixture_describe(file, out);
    if (H5Lexists(file, "scores", H5P_DEFAULT) > 0 &&
        (group = H5Gopen2(file, "scores", H5P_DEFAULT)) >= 0) {
        show_scores(group, out);
        H5Gclose(group);
    }
done:
    free(method);
    h5_close(file);
    return 0;
}
