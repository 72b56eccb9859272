#include "jobs/eval_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/expert.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"
#include "mpi/text.h"

/* "dir/lora.h5", "dir/lora/" -> "lora" */
static const char *stem_of(const char *name, int *length)
{
    size_t end = strlen(name), first;

    while (end > 1 && name[end - 1] == '/')
        end--;
    for (first = end; first > 0 && name[first - 1] != '/';)
        first--;
    if (end - first > 3 && strncmp(name + end - 3, ".h5", 3) == 0)
        end -= 3;
    *length = (int)(end - first);
    return name + first;
}

/* Of two adapters with one name the second's results would replace the first's. */
static int check_stems(const struct eval_table *table)
{
    for (size_t i = 0; i < table->n_names; i++) {
        int n, n_other;
        const char *stem = stem_of(table->names[i], &n);
        for (size_t k = 0; k < i; k++) {
            const char *other = stem_of(table->names[k], &n_other);
            if (n == n_other && strncmp(stem, other, (size_t)n) == 0)
                return error_set("--adapter: %s and %s would write their results into the same "
                                 "file: evaluate one of them apart, or under another name",
                                 table->names[k], table->names[i]);
        }
    }
    return 0;
}

int eval_table_begin(struct eval_table *table, const char *adapters, bool with_out)
{
    *table = (struct eval_table){0};
    if (!adapters) {
        table->n_names = 1;
        return 0;
    }
    if (!(table->text = strdup(adapters)))
        return error_set("out of memory");
    for (char *at = table->text; at;) {
        char *comma = strchr(at, ',');
        if (comma)
            *comma++ = '\0';
        if (!*at)
            return error_set("--adapter %s: an empty name between commas", adapters);
        if (table->n_names == EVAL_TABLE_MOST)
            return error_set("--adapter: more than %d adapters", EVAL_TABLE_MOST);
        table->names[table->n_names++] = at;
        at = comma;
    }
    return with_out && table->n_names > 1 ? check_stems(table) : 0;
}

void eval_table_free(struct eval_table *table)
{
    for (size_t i = 0; i < table->n_rows; i++)
        free(table->rows[i].scores);
    for (size_t i = 0; i < table->n_tasks; i++)
        free(table->tasks[i]);
    free(table->tasks);
    free(table->text);
    *table = (struct eval_table){0};
}

const char *eval_table_adapter(const struct eval_table *table, size_t i)
{
    const char *name = table->names[i];
    return name && table->n_names > 1 && strcmp(name, "base") == 0 ? NULL : name;
}

char *eval_table_out(const struct eval_table *table, size_t i, const char *out)
{
    int stem_length, length;
    const char *stem = stem_of(table->names[i], &stem_length);
    char *path = NULL;

    length = (int)strlen(out);
    if (length > 3 && strcmp(out + length - 3, ".h5") == 0)
        length -= 3;
    if (asprintf(&path, "%.*s.%.*s.h5", length, out, stem_length, stem) < 0) {
        error_set("out of memory");
        return NULL;
    }
    return path;
}

/* A training's seconds a step; NAN without its curve. */
static double step_seconds(hid_t file)
{
    static const char *const parts[] = {"curve/seconds_rollout", "curve/seconds_gradient",
                                        "curve/seconds_reduce", "curve/seconds_other"};
    double sum = 0;
    size_t n = 0, n_columns;

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        double *seconds = h5_numbers(file, parts[i], &n, &n_columns);
        for (size_t k = 0; seconds && k < n; k++)
            sum += seconds[k] / (double)n;
        if (!seconds || n == 0)
            sum = NAN;
        free(seconds);
    }
    return sum;
}

/* What the adapter's file says of its training; a directory of PEFT and the base model say nothing.
 */
static void read_costs(struct eval_table_row *row)
{
    hid_t file = expert_is_file(row->name) ? h5_open(row->name) : -1;

    row->step_seconds = row->peak_bytes = NAN;
    if (file < 0)
        return;
    row->step_seconds = H5Lexists(file, "curve", H5P_DEFAULT) > 0 ? step_seconds(file) : NAN;
    if (!h5_get_real(file, "peak_bytes", &row->peak_bytes))
        row->peak_bytes = NAN;
    h5_close(file);
}

int eval_table_add(struct eval_table *table, size_t i, size_t n_parameters,
                   const struct task_result *results, size_t n_results, bool unmerged)
{
    struct eval_table_row *row = &table->rows[table->n_rows];

    *row = (struct eval_table_row){
        .name = table->names[i], .n_parameters = n_parameters, .speeds = {NAN, NAN}};
    read_costs(row);
    if (!(row->scores = calloc(n_results + 1, sizeof *row->scores)))
        return error_set("out of memory");
    table->n_rows++;
    if (!table->tasks) {
        table->tasks = calloc(n_results + 1, sizeof *table->tasks);
        for (size_t k = 0; table->tasks && k < n_results; k++)
            table->n_tasks += (table->tasks[k] = strdup(results[k].name)) != NULL;
        if (!table->tasks || table->n_tasks < n_results)
            return error_set("out of memory");
    }
    for (size_t k = 0; k < n_results; k++)
        row->scores[k] = results[k].accuracy;
    eval_table_add_speed(table, results, unmerged);
    return 0;
}

void eval_table_add_speed(struct eval_table *table, const struct task_result *result, bool unmerged)
{
    const double tokens = (double)(result->prompt_tokens + result->generated_tokens);
    table->rows[table->n_rows - 1].speeds[unmerged] =
        result->seconds > 0 ? tokens / result->seconds : NAN;
}

static void number_cell(struct text_table *text, int decimals, double value)
{
    if (isnan(value))
        text_table_cell(text, "-");
    else
        text_table_cell(text, "%.*f", decimals, value);
}

void eval_table_print(const struct eval_table *table, FILE *file)
{
    char columns[EVAL_TABLE_MOST + 8] = "lrr"; /* then a task each, and four */
    struct text_table text;

    if (table->n_tasks > EVAL_TABLE_MOST)
        return;
    memset(columns + 3, 'r', table->n_tasks + 4);
    text_table_begin(&text, columns);
    text_table_cell(&text, "adapter");
    text_table_cell(&text, "parameters");
    text_table_cell(&text, "MB");
    for (size_t k = 0; k < table->n_tasks; k++)
        text_table_cell(&text, "%s", table->tasks[k]);
    text_table_cell(&text, "s/step");
    text_table_cell(&text, "peak_MB");
    text_table_cell(&text, "merged_tokens/s");
    text_table_cell(&text, "unmerged_tokens/s");
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct eval_table_row *row = &table->rows[i];
        text_table_cell(&text, "%s", row->name);
        text_table_cell(&text, "%zu", row->n_parameters);
        text_table_cell(&text, "%.3f", (double)row->n_parameters * sizeof(float) / 1e6);
        for (size_t k = 0; k < table->n_tasks; k++)
            text_table_cell(&text, "%.4f", row->scores[k]);
        number_cell(&text, 3, row->step_seconds);
        number_cell(&text, 0, row->peak_bytes / 1e6);
        number_cell(&text, 1, row->speeds[0]);
        number_cell(&text, 1, row->speeds[1]);
    }
    text_table_print(&text, file, 0);
}
