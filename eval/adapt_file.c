#include "eval/adapt_file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/text.h"

/* ---- a task's group ----------------------------------------------------------------------------
 */

static int put_pass(hid_t group, const char *name, const struct adapt_pass *pass)
{
    hid_t own = h5_group_create(group, name);
    int status = -1;

    if (own < 0)
        return -1;
    status = h5_put_real(own, "seconds", pass->seconds) ||
                     h5_put_int(own, "prompt_tokens", (int64_t)pass->prompt_tokens) ||
                     h5_put_int(own, "computed_tokens", (int64_t)pass->computed_tokens) ||
                     h5_put_int(own, "generated_tokens", (int64_t)pass->generated_tokens)
                 ? -1
                 : 0;
    H5Gclose(own);
    return status;
}

static int put_group(hid_t group, const struct adapt_record *r)
{
    int64_t answers[DOMAINS_MAX];

    for (size_t i = 0; i < r->n_domains; i++)
        answers[i] = r->answers[i];
    if (h5_put_text(group, "strategy", r->strategy) || put_pass(group, "pass_two", &r->second) ||
        h5_column_texts(group, "experts", (const char *const *)r->experts, r->n_experts) ||
        h5_column_ints(group, "used", r->used, r->n_experts + 1, 0))
        return -1;
    if (r->n_domains == 0)
        return 0;
    return h5_put_text(group, "way", r->way) || h5_put_text(group, "domain", r->truth) ||
                   (*r->truth && h5_put_real(group, "share_right", adapt_share_right(r))) ||
                   put_pass(group, "pass_one", &r->first) ||
                   h5_column_texts(group, "domains", (const char *const *)r->domains,
                                   r->n_domains) ||
                   h5_column_ints(group, "domain_expert", answers, r->n_domains, 0) ||
                   h5_column_ints(group, "chosen", r->chosen, r->n_domains, 0)
               ? -1
               : 0;
}

static int put_columns(hid_t items, const struct task_result *result)
{
    const struct adapt_record *r = result->adapt;
    const char **names = malloc((result->n_items + 1) * sizeof *names);
    int status;

    if (!names)
        return error_set("out of memory");
    for (size_t i = 0; i < result->n_items; i++)
        names[i] = result->items[i].expert < 0 ? "base" : r->experts[result->items[i].expert];
    status = h5_column_texts(items, "expert", names, result->n_items);
    for (size_t i = 0; i < result->n_items; i++)
        names[i] = result->items[i].domain < 0 ? "" : r->domains[result->items[i].domain];
    if (status == 0 && r->n_domains)
        status = h5_column_texts(items, "domain", names, result->n_items);
    free(names);
    return status;
}

int adapt_file_put(hid_t task, hid_t items, const struct task_result *result)
{
    hid_t group = h5_group_create(task, "adapt");
    int status = -1;

    if (group < 0)
        return -1;
    if (put_group(group, result->adapt) == 0)
        status = put_columns(items, result);
    H5Gclose(group);
    return status;
}

/* ---- confusion ---------------------------------------------------------------------------------
 */

double adapt_share_right(const struct adapt_record *r)
{
    int64_t right = 0, all = 0;

    for (size_t i = 0; i < r->n_domains; i++) {
        all += r->chosen[i];
        right += strcmp(r->domains[i], r->truth) == 0 ? r->chosen[i] : 0;
    }
    return all && *r->truth ? (double)right / (double)all : (double)NAN;
}

/* Adds all tasks up to counts [n, n]; the domains are the same in all of a run. NULL: no pass one.
 */
static const struct adapt_record *add_up(const struct task_result *results, size_t n_results,
                                         int64_t counts[DOMAINS_MAX * DOMAINS_MAX])
{
    const struct adapt_record *some = NULL;

    memset(counts, 0, DOMAINS_MAX * DOMAINS_MAX * sizeof *counts);
    for (size_t t = 0; t < n_results; t++) {
        const struct adapt_record *r = results[t].adapt;
        if (!r || r->n_domains == 0)
            continue;
        some = r;
        for (size_t i = 0; i < r->n_domains; i++)
            for (size_t j = 0; strcmp(r->domains[i], r->truth) == 0 && j < r->n_domains; j++)
                counts[i * r->n_domains + j] += r->chosen[j];
    }
    return some;
}

int adapt_file_put_confusion(hid_t file, const struct task_result *results, size_t n_results)
{
    int64_t counts[DOMAINS_MAX * DOMAINS_MAX];
    const struct adapt_record *r = add_up(results, n_results, counts);
    int status = -1;

    if (!r)
        return 0;
    hid_t group = h5_group_create(file, "adapt");
    if (group < 0)
        return -1;
    status = h5_column_texts(group, "domains", (const char *const *)r->domains, r->n_domains) ||
                     h5_column_ints(group, "confusion", counts, r->n_domains, r->n_domains)
                 ? -1
                 : 0;
    H5Gclose(group);
    return status;
}

/* ---- for people --------------------------------------------------------------------------------
 */

void adapt_print(const struct adapt_record *r, FILE *out)
{
    char first[32], second[32];
    const char *gap = " ";

    fprintf(out, "adapt %s:", r->strategy);
    for (size_t k = 0; k <= r->n_experts; k++)
        if (r->used[k]) {
            fprintf(out, "%s%s %lld", gap, k ? r->experts[k - 1] : "base", (long long)r->used[k]);
            gap = ", ";
        }
    if (r->n_domains) {
        const double whole = r->first.seconds + r->second.seconds;
        if (*r->truth)
            fprintf(out, "; %.1f %% sorted into %s", 100 * adapt_share_right(r), r->truth);
        fprintf(out, "; pass one %s, pass two %s (%.1f %% in pass one)",
                text_duration(first, sizeof first, r->first.seconds),
                text_duration(second, sizeof second, r->second.seconds),
                whole > 0 ? 100 * r->first.seconds / whole : 0);
    }
    fputc('\n', out);
}

static void print_counts(const char *const *names, const int64_t *counts, size_t n, FILE *out)
{
    char align[DOMAINS_MAX + 2] = "l";
    struct text_table table;

    memset(align + 1, 'r', n);
    text_table_begin(&table, align);
    text_table_cell(&table, "chosen:");
    for (size_t i = 0; i < n; i++)
        text_table_cell(&table, "%s", names[i]);
    for (size_t i = 0; i < n; i++) {
        int64_t sum = 0;
        for (size_t j = 0; j < n; j++)
            sum += counts[i * n + j];
        if (sum == 0)
            continue;
        text_table_cell(&table, "%s", names[i]);
        for (size_t j = 0; j < n; j++)
            text_table_cell(&table, "%lld", (long long)counts[i * n + j]);
    }
    text_table_print(&table, out, 2);
}

void adapt_print_confusion(const struct task_result *results, size_t n_results, FILE *out)
{
    int64_t counts[DOMAINS_MAX * DOMAINS_MAX];
    const struct adapt_record *r = add_up(results, n_results, counts);

    if (r)
        print_counts((const char *const *)r->domains, counts, r->n_domains, out);
}

static bool read_counts(hid_t group, int64_t *counts, size_t *n)
{
    hid_t set = H5Dopen2(group, "confusion", H5P_DEFAULT), space = -1;
    hsize_t shape[2] = {0, 0};
    bool there = false;

    if (set >= 0)
        space = H5Dget_space(set);
    if (space >= 0 && H5Sget_simple_extent_ndims(space) == 2 &&
        H5Sget_simple_extent_dims(space, shape, NULL) == 2 && shape[0] == shape[1] &&
        shape[0] >= 1 && shape[0] <= DOMAINS_MAX)
        there = H5Dread(set, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, counts) >= 0;
    *n = (size_t)shape[0];
    if (space >= 0)
        H5Sclose(space);
    if (set >= 0)
        H5Dclose(set);
    return there;
}

void adapt_file_describe(hid_t file, FILE *out)
{
    int64_t counts[DOMAINS_MAX * DOMAINS_MAX];
    char *names[DOMAINS_MAX] = {0};
    struct h5_quiet quiet;
    size_t n = 0;

    h5_quiet_begin(&quiet);
    hid_t group =
        H5Lexists(file, "adapt", H5P_DEFAULT) > 0 ? H5Gopen2(file, "adapt", H5P_DEFAULT) : -1;
    if (group < 0)
        goto done;
    if (H5Lexists(group, "confusion", H5P_DEFAULT) > 0 && read_counts(group, counts, &n)) {
        bool all = true;
        for (size_t i = 0; i < n; i++) {
            all = (names[i] = h5_text_at(group, "domains", i)) != NULL && all;
            for (char *c = names[i]; c && *c; c++)
                *c = text_printable(*c, '?');
        }
        if (all) {
            fputs("prompts by domain (rows) and what was chosen (columns)\n", out);
            print_counts((const char *const *)names, counts, n, out);
            fputc('\n', out);
        }
        for (size_t i = 0; i < n; i++)
            free(names[i]);
    }
    H5Gclose(group);
done:
    h5_quiet_end(&quiet);
}
