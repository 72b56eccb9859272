#include "eval/results.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/adapt_file.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/text.h"

static const char file_kind[] = "t2 results";

static int put_run(hid_t file, const struct run_info *info)
{
    return h5_put_text(file, "kind", file_kind) ||
                   h5_put_int(file, "format_version", RESULTS_FORMAT_VERSION) ||
                   h5_put_text(file, "t2_version", info->version) ||
                   h5_put_text(file, "command_line", info->command_line) ||
                   h5_put_text(file, "options", info->options) ||
                   h5_put_text(file, "model", info->model_path) ||
                   h5_put_text(file, "architecture", info->architecture) ||
                   h5_put_int(file, "n_parameters", info->n_parameters) ||
                   h5_put_text(file, "model_sha256", info->model_sha256) ||
                   h5_put_text(file, "dtype", info->dtype) ||
                   h5_put_text(file, "device", info->device) ||
                   h5_put_text(file, "isa", info->isa) ||
                   h5_put_text(file, "kernel_order", info->kernel_order) ||
                   h5_put_text(file, "cpu", info->cpu) ||
                   h5_put_text(file, "chat_format", info->chat_format) ||
                   h5_put_int(file, "ranks", info->ranks) ||
                   h5_put_int(file, "threads", info->threads) ||
                   h5_put_int(file, "seed", (int64_t)info->seed) ||
                   h5_put_text(file, "started", info->started) ||
                   h5_put_real(file, "seconds", info->seconds)
               ? -1
               : 0;
}

/* Metrics that do not apply are left out. */
static int put_metric(hid_t group, const char *name, double value)
{
    return isnan(value) ? 0 : h5_put_real(group, name, value);
}

static int put_task(hid_t group, const struct task_result *r)
{
    return h5_put_text(group, "dataset", r->dataset) || h5_put_text(group, "split", r->split) ||
                   h5_put_text(group, "scoring", r->scoring) ||
                   h5_put_text(group, "settings", r->task_text) ||
                   h5_put_int(group, "n_items", (int64_t)r->n_items) ||
                   put_metric(group, "accuracy", r->accuracy) ||
                   put_metric(group, "accuracy_error", r->accuracy_error) ||
                   put_metric(group, "accuracy_normalised", r->accuracy_normalised) ||
                   put_metric(group, "accuracy_normalised_error", r->accuracy_normalised_error) ||
                   put_metric(group, "auc", r->auc) ||
                   put_metric(group, "gold_probability", r->gold_probability) ||
                   h5_put_int(group, "samples", r->samples ? (int64_t)r->samples : 1) ||
                   (r->pass_at && h5_put_int(group, "k", (int64_t)r->pass_at)) ||
                   (r->pass_at && put_metric(group, "pass_at_k", r->pass_at_k)) ||
                   (r->pass_at && put_metric(group, "pass_at_k_error", r->pass_at_k_error)) ||
                   h5_put_int(group, "prompt_tokens", (int64_t)r->prompt_tokens) ||
                   h5_put_int(group, "computed_tokens", (int64_t)r->computed_tokens) ||
                   h5_put_int(group, "generated_tokens", (int64_t)r->generated_tokens) ||
                   h5_put_real(group, "seconds", r->seconds) ||
                   h5_put_real(group, "tokens_per_second", r->tokens_per_second)
               ? -1
               : 0;
}

/* ---- columns: one pass over the items each, through one scratch buffer --------------------------
 */

#define COLUMN_TEXT(member)                                                                        \
    static int put_##member(hid_t group, const struct task_result *r, void *scratch)               \
    {                                                                                              \
        const char **values = scratch;                                                             \
        for (size_t i = 0; i < r->n_items; i++)                                                    \
            values[i] = r->items[i].member;                                                        \
        return h5_column_texts(group, #member, values, r->n_items);                                \
    }
#define COLUMN_INT(member)                                                                         \
    static int put_##member(hid_t group, const struct task_result *r, void *scratch)               \
    {                                                                                              \
        int64_t *values = scratch;                                                                 \
        for (size_t i = 0; i < r->n_items; i++)                                                    \
            values[i] = (int64_t)r->items[i].member;                                               \
        return h5_column_ints(group, #member, values, r->n_items, 0);                              \
    }
#define COLUMN_BOOL(member)                                                                        \
    static int put_##member(hid_t group, const struct task_result *r, void *scratch)               \
    {                                                                                              \
        bool *values = scratch;                                                                    \
        for (size_t i = 0; i < r->n_items; i++)                                                    \
            values[i] = r->items[i].member;                                                        \
        return h5_column_bools(group, #member, values, r->n_items, 0);                             \
    }
COLUMN_INT(index)
COLUMN_TEXT(id)
COLUMN_TEXT(prompt)
COLUMN_TEXT(answer)
COLUMN_TEXT(gold)
COLUMN_BOOL(correct)
COLUMN_BOOL(correct_normalised)
COLUMN_INT(n_samples)
COLUMN_INT(n_right)
COLUMN_INT(predicted)
COLUMN_INT(gold_index)
COLUMN_INT(n_choices)
COLUMN_INT(n_prompt_tokens)
COLUMN_INT(n_generated)
COLUMN_INT(finish)

static int put_choices(hid_t group, const struct task_result *r, size_t n_choices, void *scratch)
{
    size_t n = r->n_items;
    double *logprobs = scratch;
    int64_t *tokens = scratch;
    bool *greedy = scratch;

    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n_choices; j++)
            logprobs[i * n_choices + j] =
                j < r->items[i].n_choices ? r->items[i].logprobs[j] : (double)NAN;
    if (h5_column_reals(group, "logprobs", logprobs, n, n_choices))
        return -1;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n_choices; j++)
            tokens[i * n_choices + j] =
                j < r->items[i].n_choices ? r->items[i].choice_tokens[j] : 0;
    if (h5_column_ints(group, "choice_tokens", tokens, n, n_choices))
        return -1;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n_choices; j++)
            greedy[i * n_choices + j] = j < r->items[i].n_choices && r->items[i].greedy[j];
    return h5_column_bools(group, "greedy", greedy, n, n_choices);
}

static int put_items(hid_t group, const struct task_result *r)
{
    size_t n_choices = 0;

    for (size_t i = 0; i < r->n_items; i++)
        if (r->items[i].n_choices > n_choices)
            n_choices = r->items[i].n_choices;
    size_t cells = n_choices ? n_choices : 1, bytes;
    if (__builtin_mul_overflow(cells * 8, r->n_items + 1, &bytes))
        return error_set("out of memory");
    void *scratch = malloc(bytes);
    if (!scratch)
        return error_set("out of memory");
    int status = put_index(group, r, scratch) || put_id(group, r, scratch) ||
                         put_prompt(group, r, scratch) || put_answer(group, r, scratch) ||
                         put_gold(group, r, scratch) || put_correct(group, r, scratch) ||
                         put_correct_normalised(group, r, scratch) ||
                         put_n_samples(group, r, scratch) || put_n_right(group, r, scratch) ||
                         put_predicted(group, r, scratch) || put_gold_index(group, r, scratch) ||
                         put_n_choices(group, r, scratch) ||
                         put_n_prompt_tokens(group, r, scratch) ||
                         put_n_generated(group, r, scratch) || put_finish(group, r, scratch) ||
                         (n_choices && put_choices(group, r, n_choices, scratch))
                     ? -1
                     : 0;
    free(scratch);
    return status;
}

static int put_result(hid_t tasks, const struct task_result *r)
{
    hid_t group = h5_group_create(tasks, r->name), items = -1;
    int status = -1;

    if (group >= 0 && put_task(group, r) == 0) {
        items = h5_group_create(group, "items");
        if (items >= 0)
            status = put_items(items, r);
        if (status == 0 && r->adapt)
            status = adapt_file_put(group, items, r);
    }
    if (items >= 0)
        H5Gclose(items);
    if (group >= 0)
        H5Gclose(group);
    return status;
}

int results_write(const char *path, const struct run_info *info, const struct task_result *results,
                  size_t n_results)
{
    hid_t file = h5_create(path), tasks = -1;
    int status = -1;

    if (file < 0)
        return -1;
    if (put_run(file, info))
        goto done;
    tasks = h5_group_create(file, "tasks");
    if (tasks < 0)
        goto done;
    for (size_t i = 0; i < n_results; i++)
        if (put_result(tasks, &results[i]))
            goto done;
    if (info->mixture && info->mixture->n_experts > 0 && mixture_put(file, info->mixture))
        goto done;
    status = adapt_file_put_confusion(file, results, n_results);
done:
    if (status)
        error_prefix("%s", path);
    if (tasks >= 0)
        H5Gclose(tasks);
    if (status == 0)
        status = h5_write(file, path);
    h5_close(file);
    return status;
}

/* ---- reading for people ------------------------------------------------------------------------
 */

int results_is_hdf5(const char *path)
{
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    unsigned char bytes[8];
    FILE *file = fopen(path, "rb");
    int is = file && fread(bytes, 1, 8, file) == 8 && memcmp(bytes, signature, 8) == 0;

    if (file)
        fclose(file);
    return is;
}

static void print_text(hid_t object, const char *name, const char *label, FILE *out)
{
    char *text;

    if (h5_get_text(object, name, &text)) {
        if (*text)
            fprintf(out, "%-14s %s\n", label, text);
        free(text);
    }
}

static void print_run(hid_t file, FILE *out)
{
    int64_t n, ranks = 1, threads = 1;
    double seconds;
    char buffer[64];

    print_text(file, "command_line", "command", out);
    print_text(file, "model", "model", out);
    print_text(file, "architecture", "architecture", out);
    if (h5_get_int(file, "n_parameters", &n))
        fprintf(out, "%-14s %s\n", "parameters", text_count(buffer, sizeof buffer, (double)n));
    print_text(file, "model_sha256", "SHA-256", out);
    print_text(file, "dtype", "dtype", out);
    print_text(file, "device", "device", out);
    print_text(file, "isa", "instructions", out);
    print_text(file, "chat_format", "chat format", out);
    h5_get_int(file, "ranks", &ranks);
    h5_get_int(file, "threads", &threads);
    fprintf(out, "%-14s %lld rank%s, %lld thread%s%s\n", "ran on", (long long)ranks,
            ranks == 1 ? "" : "s", (long long)threads, threads == 1 ? "" : "s",
            ranks == 1 ? "" : " each");
    print_text(file, "cpu", "processor", out);
    if (h5_get_int(file, "seed", &n))
        fprintf(out, "%-14s %llu\n", "seed", (unsigned long long)n);
    print_text(file, "started", "started", out);
    if (h5_get_real(file, "seconds", &seconds))
        fprintf(out, "%-14s %s\n", "took", text_duration(buffer, sizeof buffer, seconds));
    print_text(file, "t2_version", "t2 version", out);
}

static double metric(hid_t group, const char *name)
{
    double value;
    return h5_get_real(group, name, &value) ? value : (double)NAN;
}

/* "-" where it does not apply. */
static void cell_metric(struct text_table *table, double value, int digits)
{
    if (isnan(value))
        text_table_cell(table, "-");
    else
        text_table_cell(table, "%.*f", digits, value);
}

struct listing {
    struct text_table table;
    FILE *out;
};

static herr_t list_task(hid_t tasks, const char *name, const H5L_info_t *link, void *context)
{
    struct listing *listing = context;
    int64_t n = 0;
    (void)link;
    hid_t group = H5Gopen2(tasks, name, H5P_DEFAULT);

    if (group < 0)
        return 0;
    h5_get_int(group, "n_items", &n);
    text_table_cell(&listing->table, "%s", name);
    cell_metric(&listing->table, metric(group, "accuracy"), 4);
    cell_metric(&listing->table, metric(group, "accuracy_error"), 4);
    cell_metric(&listing->table, metric(group, "accuracy_normalised"), 4);
    cell_metric(&listing->table, metric(group, "auc"), 4);
    cell_metric(&listing->table, metric(group, "gold_probability"), 4);
    text_table_cell(&listing->table, "%lld", (long long)n);
    cell_metric(&listing->table, metric(group, "tokens_per_second"), 0);
    H5Gclose(group);
    return 0;
}

/* One line of at most `width` bytes, cut between characters. */
static void print_line(FILE *out, const char *label, const char *text, size_t width)
{
    size_t n = strlen(text);
    bool cut = n > width;

    if (cut)
        for (n = width; n && ((unsigned char)text[n] & 0xc0) == 0x80;)
            n--;
    fprintf(out, "    %-7s ", label);
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\n')
            fputs("\\n", out);
        else
            fputc(text_printable(text[i], '?'), out);
    }
    fputs(cut ? "...\n" : "\n", out);
}

static herr_t list_first_item(hid_t tasks, const char *name, const H5L_info_t *link, void *context)
{
    static const char *const columns[] = {"prompt", "answer", "gold"};
    FILE *out = context;
    (void)link;
    hid_t group = H5Gopen2(tasks, name, H5P_DEFAULT);
    hid_t items = group >= 0 && H5Lexists(group, "items", H5P_DEFAULT) > 0
                      ? H5Gopen2(group, "items", H5P_DEFAULT)
                      : (hid_t)-1;

    if (items >= 0) {
        fprintf(out, "  %s, first item\n", name);
        for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
            char *text = h5_text_at(items, columns[i], 0);
            if (text)
                print_line(out, columns[i], text, 300);
            free(text);
        }
        H5Gclose(items);
    }
    if (group >= 0)
        H5Gclose(group);
    return 0;
}

int results_describe(const char *path, FILE *out)
{
    hid_t file = h5_open(path), tasks = -1;
    int64_t version = 0;
    int status = -1;

    if (file < 0)
        return -1;
    if (!h5_has_kind(file, file_kind) || !h5_get_int(file, "format_version", &version)) {
        error_set("%s: an HDF5 file, but not a results file of t2", path);
        goto done;
    }
    if (version > RESULTS_FORMAT_VERSION || version < 1) {
        error_set("%s: results format %lld, but this t2 reads up to %d; use a newer t2", path,
                  (long long)version, RESULTS_FORMAT_VERSION);
        goto done;
    }
    tasks = H5Lexists(file, "tasks", H5P_DEFAULT) > 0 ? H5Gopen2(file, "tasks", H5P_DEFAULT)
                                                      : (hid_t)-1;
    if (tasks < 0) {
        error_set("%s: the group /tasks is missing", path);
        goto done;
    }
    fprintf(out, "%s: results of t2 eval\n\n", path);
    print_run(file, out);
    fputc('\n', out);
    struct listing listing = {.out = out};
    text_table_begin(&listing.table, "lrrrrrrr");
    static const char *const heads[] = {"task", "score",   "error", "normalised",
                                        "AUC",  "p(gold)", "items", "tokens/s"};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        text_table_cell(&listing.table, "%s", heads[i]);
    H5Literate(tasks, H5_INDEX_NAME, H5_ITER_INC, NULL, list_task, &listing);
    text_table_print(&listing.table, out, 2);
    mixture_describe(file, out);
    fputc('\n', out);
    adapt_file_describe(file, out);
    H5Literate(tasks, H5_INDEX_NAME, H5_ITER_INC, NULL, list_first_item, out);
    status = 0;
done:
    if (tasks >= 0)
        H5Gclose(tasks);
    h5_close(file);
    return status;
}
