/* t2 report: what runs have left, as one page; and what got worse last night. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/history.h"
#include "eval/report.h"
#include "jobs/commands.h"
#include "jobs/output.h"
#include "mpi/error.h"
#include "mpi/file_write.h"

/* --check found something worse: neither a failure of the command nor a success. */
enum { COMMAND_WORSE = 3, MAX_FILES = 4096 };

struct settings {
    const char *out, *format, *title, *history, *mismatch;
    int64_t items;
    bool figures, check, quiet;
};

static const char *const formats[] = {"html", "md", "csv", "json"};

static size_t index_of(const char *const *names, size_t n, const char *name)
{
    size_t i = 0;

    while (i < n && strcmp(names[i], name) != 0)
        i++;
    return i;
}

static int write_page(const struct settings *s, const struct page *page)
{
    const enum page_format format = (enum page_format)index_of(formats, 4, s->format);
    char *bytes = NULL;
    size_t n = 0;

    if (!s->out)
        return page_write(page, format, stdout);
    FILE *out = open_memstream(&bytes, &n);
    if (!out)
        return error_set("out of memory");
    int status = page_write(page, format, out);
    if (fclose(out) != 0 && status == 0)
        status = error_set("out of memory");
    if (status == 0)
        status = file_write(s->out, bytes, n);
    free(bytes);
    return status;
}

static int report(const struct settings *s, const char *const *paths, size_t n_paths)
{
    static const char *const mismatches[] = {"refuse", "truncate", "interpolate"};
    const struct report_options options = {
        .title = s->title,
        .history = s->history,
        .n_items = (size_t)s->items,
        .figures = s->figures && strcmp(s->format, "html") == 0,
        .mismatch = (enum similarity_mismatch)index_of(mismatches, 3, s->mismatch)};
    char *notice = NULL;

    if (s->out && output_check(s->out) != 0)
        return -1;
    struct page *page = report_build(paths, n_paths, &options, &notice);
    if (!page)
        return -1;
    const int status = write_page(s, page);
    if (status == 0 && notice && !s->quiet)
        fprintf(stderr, "t2 report: %s\n", notice);
    free(notice);
    page_free(page);
    return status;
}

/* Says what got worse last night; *worse: how many metrics. */
static int check(const struct settings *s, size_t *worse)
{
    struct history h;
    size_t n_known = 0;

    *worse = 0;
    if (history_read(&h, s->history) != 0)
        return -1;
    for (size_t m = 0; h.n_nights > 0 && m < h.n_metrics; m++) {
        const struct history_verdict v = history_judge(&h, m, h.n_nights - 1);
        n_known += v.known;
        if (!v.worse)
            continue;
        ++*worse;
        printf("worse: %s is %.4g, the median of %zu nights before is %.4g (allowed: %.2g away)\n",
               h.metrics[m].name, v.value, v.n, v.median, v.allowed);
    }
    if (*worse > 0)
        printf("night of %s, commit %s\n", h.dates[h.n_nights - 1], h.commits[h.n_nights - 1]);
    else if (!s->quiet)
        printf(
            "nothing got worse: %zu metrics, %zu of them with %d nights or more to compare with\n",
            h.n_metrics, n_known, HISTORY_LEAST);
    history_free(&h);
    return 0;
}

static int command_run(const struct comm *comm, int argc, char **argv)
{
    struct settings s = {.format = "html", .mismatch = "truncate", .items = 20, .figures = true};
    struct option_spec table[] = {
        {"out", 'o', OPTION_STRING, &s.out, "FILE", .help = "the page (default: standard output)"},
        {"format", 0, OPTION_CHOICE, &s.format, .choices = "html|md|csv|json",
         .help = "html: one self-contained page; the others: its tables"},
        {"history", 0, OPTION_STRING, &s.history, "FILE.tsv",
         .help = "of nightly runs, a line a measurement: date, commit, metric, value"},
        {"check", 0, OPTION_FLAG, &s.check,
         .help =
             "no page: say what got worse in the history's last night; exit code 3 if anything"},
        {"items", 0, OPTION_INT, &s.items, "N", .min = 0, .max = 100000,
         .help = "items of each task with prompt, answer and gold"},
        {"figures", 0, OPTION_FLAG, &s.figures, .help = "figures (SVG, by gnuplot)"},
        {"mismatch", 0, OPTION_CHOICE, &s.mismatch, .choices = "refuse|truncate|interpolate",
         .help = "how experts with spectra of different lengths are compared, as in t2 analyze"},
        {"title", 0, OPTION_STRING, &s.title, "TEXT", .help = "the page's (default: t2 report)"},
        {"quiet", 'q', OPTION_FLAG, &s.quiet, .help = "nothing on stderr"},
        {0}};
    const char **paths = calloc(MAX_FILES, sizeof *paths);
    size_t n_paths = 0;
    bool done = false;
    int code = COMMAND_OK, status = 0;
    size_t worse = 0;

    if (!paths) {
        error_set("out of memory");
        return command_fail(&command_report, comm, COMMAND_FAILED);
    }
    if (options_parse(&command_report, table, comm, argc, argv, paths, MAX_FILES, &n_paths,
                      &done) != 0 ||
        (!done && s.check && !s.history && error_set("--check is about a --history")) ||
        (!done && n_paths == 0 && !s.history &&
         error_set("give files of t2 eval, train or decompose, or a --history"))) {
        code = command_fail(&command_report, comm, COMMAND_USAGE);
    } else if (!done) {
        if (comm->rank == 0)
            status = s.check ? check(&s, &worse) : report(&s, paths, n_paths);
        if (comm_agree(comm, status) != 0)
            code = command_fail(&command_report, comm, COMMAND_FAILED);
        else if (worse > 0)
            code = COMMAND_WORSE;
    }
    free(paths);
    options_free(table);
    return code;
}

const struct command command_report = {
    .name = "report",
    .summary = "Makes one page of results, experts and factors, with figures.",
    .arguments = "[FILES...]",
    .details =
        "FILES are results of t2 eval, experts of t2 train and factor files of t2 decompose, in "
        "any "
        "order. The page needs nothing else: no scripts, nothing from a network; it is light or "
        "dark "
        "as the reader's system is. A history is a text file that jobs/nightly.sbatch appends to; "
        "--check compares its last night with the median of the nights before (exit code 3: "
        "something got worse).\n\n"
        "examples\n"
        "  t2 report eval*.h5 sst2.h5 factors.h5 --out report.html\n"
        "  t2 report eval*.h5 --format md\n"
        "  t2 report --history nightly.tsv --check",
    .run = command_run,
};
