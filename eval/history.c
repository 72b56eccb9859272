#include "eval/history.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

enum { MAX_NIGHTS = 100000, MAX_METRICS = 10000 };

/* ---- reading -----------------------------------------------------------------------------------
 */

static int add_night(struct history *h, const char *date, const char *commit)
{
    const size_t n = h->n_nights + 1;

    if (h->n_nights > 0 && strcmp(h->dates[h->n_nights - 1], date) == 0)
        return 0;
    if (n > MAX_NIGHTS)
        return error_set("more than %d nights", MAX_NIGHTS);
    char **dates = realloc(h->dates, n * sizeof *dates);
    if (dates)
        h->dates = dates;
    char **commits = dates ? realloc(h->commits, n * sizeof *commits) : NULL;
    if (!commits)
        return error_set("out of memory");
    h->commits = commits;
    char *d = strdup(date), *c = strdup(commit);
    if (!d || !c) {
        free(d);
        free(c);
        return error_set("out of memory");
    }
    for (size_t m = 0; m < h->n_metrics; m++) {
        double *values = realloc(h->metrics[m].values, n * sizeof *values);
        if (!values) {
            free(d);
            free(c);
            return error_set("out of memory");
        }
        h->metrics[m].values = values;
        values[n - 1] = (double)NAN;
    }
    dates[n - 1] = d;
    commits[n - 1] = c;
    h->n_nights = n;
    return 0;
}

static struct history_metric *find_metric(struct history *h, const char *name)
{
    for (size_t m = 0; m < h->n_metrics; m++)
        if (strcmp(h->metrics[m].name, name) == 0)
            return &h->metrics[m];
    if (h->n_metrics == MAX_METRICS) {
        error_set("more than %d metrics", MAX_METRICS);
        return NULL;
    }
    struct history_metric *all = realloc(h->metrics, (h->n_metrics + 1) * sizeof *all);
    if (all)
        h->metrics = all;
    char *copy = strdup(name);
    double *values = calloc(h->n_nights, sizeof *values);
    if (!all || !copy || !values) {
        free(copy);
        free(values);
        error_set("out of memory");
        return NULL;
    }
    for (size_t i = 0; i < h->n_nights; i++)
        values[i] = (double)NAN;
    all[h->n_metrics] = (struct history_metric){copy, values};
    return &all[h->n_metrics++];
}

static int add_line(struct history *h, char *line)
{
    char *rest = line, *end;
    const char *date = strsep(&rest, "\t"), *commit = strsep(&rest, "\t"),
               *metric = strsep(&rest, "\t"), *number = strsep(&rest, "\t");

    if (!number || rest || !*date || !*metric)
        return error_set("is not 'date, commit, metric, value' parted by tabs");
    const double value = strtod(number, &end);
    if (end == number || *end || !isfinite(value))
        return error_set("'%.40s' is not a number", number);
    if (add_night(h, date, commit) != 0)
        return -1;
    struct history_metric *m = find_metric(h, metric);
    if (!m)
        return -1;
    m->values[h->n_nights - 1] = value;
    return 0;
}

int history_read(struct history *h, const char *path)
{
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t size = 0, n_lines = 0;
    ssize_t n;
    int status = 0;

    memset(h, 0, sizeof *h);
    if (!file)
        return error_set("%s: %s", path, strerror(errno));
    if (!(h->path = strdup(path)))
        status = error_set("out of memory");
    while (status == 0 && (n = getline(&line, &size, file)) >= 0) {
        n_lines++;
        line[strcspn(line, "\r\n")] = '\0';
        if (*line && *line != '#' && add_line(h, line) != 0)
            status = error_prefix("%s:%zu", path, n_lines);
    }
    if (status == 0 && ferror(file))
        status = error_set("%s: %s", path, strerror(errno));
    free(line);
    fclose(file);
    if (status != 0)
        history_free(h);
    return status;
}

void history_free(struct history *h)
{
    if (!h)
        return;
    for (size_t i = 0; i < h->n_nights; i++) {
        free(h->dates[i]);
        free(h->commits[i]);
    }
    for (size_t m = 0; m < h->n_metrics; m++) {
        free(h->metrics[m].name);
        free(h->metrics[m].values);
    }
    free(h->dates);
    free(h->commits);
    free(h->metrics);
    free(h->path);
    memset(h, 0, sizeof *h);
}

/* ---- the rule ----------------------------------------------------------------------------------
 */

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y ? 1 : 0;
}

static double median(double *x, size_t n)
{
    qsort(x, n, sizeof *x, compare);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);

    return n >= m && strcmp(s + n - m, end) == 0;
}

struct history_verdict history_judge(const struct history *h, size_t metric, size_t night)
{
    const struct history_metric *m = &h->metrics[metric];
    struct history_verdict v = {.value = m->values[night]};
    double before[HISTORY_WINDOW], away[HISTORY_WINDOW];

    for (size_t i = night; i > 0 && v.n < HISTORY_WINDOW; i--)
        if (!isnan(m->values[i - 1]))
            before[v.n++] = m->values[i - 1];
    if (isnan(v.value) || v.n < HISTORY_LEAST)
        return v;
    v.known = true;
    v.median = median(before, v.n);
    for (size_t i = 0; i < v.n; i++)
        away[i] = fabs(before[i] - v.median);
    const double noise = 3.5 * 1.4826 * median(away, v.n);
    const double least = ends_with(m->name, "score") ? 0.015 : 0.1 * fabs(v.median);
    v.allowed = fmax(noise, least);
    const double rise = v.value - v.median, loss = ends_with(m->name, "seconds") ? rise : -rise;
    v.worse = loss > v.allowed;
    v.better = -loss > v.allowed;
    return v;
}
