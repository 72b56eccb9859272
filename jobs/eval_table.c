#include "jobs/eval_table.h"

#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
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

int eval_table_add(struct eval_table *table, size_t i, size_t n_parameters,
                   const struct task_result *results, size_t n_results)
{
    struct eval_table_row *row = &table->rows[table->n_rows];
    double tokens = 0, seconds = 0;

    *row = (struct eval_table_row){.name = table->names[i], .n_parameters = n_parameters};
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
    for (size_t k = 0; k < n_results; k++) {
        row->scores[k] = results[k].accuracy;
        tokens += (double)(results[k].prompt_tokens + results[k].generated_tokens);
        seconds += results[k].seconds;
    }
    row->tokens_per_second = seconds > 0 ? tokens / seconds : 0;
    return 0;
}

void eval_table_print(const struct eval_table *table, FILE *file)
{
    char columns[EVAL_TABLE_MOST + 8] = "lrr";
    struct text_table text;

    if (table->n_tasks > EVAL_TABLE_MOST)
        return;
    memset(columns + 3, 'r', table->n_tasks + 1);
    text_table_begin(&text, columns);
    text_table_cell(&text, "adapter");
    text_table_cell(&text, "parameters");
    text_table_cell(&text, "MB");
    for (size_t k = 0; k < table->n_tasks; k++)
        text_table_cell(&text, "%s", table->tasks[k]);
    text_table_cell(&text, "tokens/s");
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct eval_table_row *row = &table->rows[i];
        text_table_cell(&text, "%s", row->name);
        text_table_cell(&text, "%zu", row->n_parameters);
        text_table_cell(&text, "%.3f", (double)row->n_parameters * sizeof(float) / 1e6);
        for (size_t k = 0; k < table->n_tasks; k++)
            text_table_cell(&text, "%.4f", row->scores[k]);
        text_table_cell(&text, "%.1f", row->tokens_per_second);
    }
    text_table_print(&text, file, 0);
}
