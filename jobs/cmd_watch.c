/* t2 watch: a running training's curve, in a terminal or a log. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "jobs/commands.h"
#include "jobs/output.h"
#include "jobs/watch_view.h"
#include "model/expert_curve.h"
#include "mpi/clock.h"
#include "mpi/error.h"
#include "mpi/text.h"

struct settings {
    double every;
    bool once;
};

struct watch {
    const char *path; /* as given */
    char *beside;     /* the live curve of an expert of this name */
    struct curve_file curve;
    enum watch_life life;
    bool terminal, blocks, seen;
    size_t n_lines;          /* of the last drawing */
    size_t n, n_validations; /* of the last line */
    enum watch_life last_life;
};

/* A file is replaced when its training is resumed, and a plain reader may meet a half-written
 * piece: what fails is tried again. */
enum { TRIES = 5 };

static void wait_seconds(double seconds)
{
    const struct timespec t = {(time_t)seconds, (long)(1e9 * (seconds - floor(seconds)))};

    fflush(stdout);
    nanosleep(&t, NULL);
}

/* ---- finding the file --------------------------------------------------------------------------
 */

/* The file itself, or the live curve of the expert that has this name, or will: what was written
 * last, as an expert may be an earlier training's. NULL: neither is there. */
static const char *find(const struct watch *w)
{
    struct stat file, live;
    const bool has_file = stat(w->path, &file) == 0, has_live = stat(w->beside, &live) == 0;

    if (!has_file || !has_live)
        return has_file ? w->path : has_live ? w->beside : NULL;
    return live.st_mtim.tv_sec > file.st_mtim.tv_sec ||
                   (live.st_mtim.tv_sec == file.st_mtim.tv_sec &&
                    live.st_mtim.tv_nsec > file.st_mtim.tv_nsec)
               ? w->beside
               : w->path;
}

/* 1: read; 0: not there; -1 with error_set. */
static int look(struct watch *w, const struct watch_place *here)
{
    const char *path = NULL;

    if (!w->seen && !find(w))
        return 0;
    for (int try = 0; try < TRIES; try++) {
        if (try > 0)
            wait_seconds(0.2);
        if (!(path = find(w)))
            continue;
        struct stat info;
        if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
            return error_set("%s is not a regular file", path);
        curve_free(&w->curve);
        if (curve_read(&w->curve, path) == 0) {
            w->life = watch_life(&w->curve, here, clock_wall_seconds());
            w->seen = true;
            return 1;
        }
    }
    return path ? -1 : 0;
}

/* ---- showing -----------------------------------------------------------------------------------
 */

static void draw(struct watch *w)
{
    const size_t width = w->terminal ? text_terminal_width(stdout, 80) - 1 : 100;
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (!out)
        return;
    watch_print(out, &w->curve, w->life, clock_wall_seconds(), width, w->blocks);
    if (fclose(out) == 0) {
        if (w->n_lines > 0)
            printf("\033[%zuA\033[J", w->n_lines); /* over the last one */
        fputs(text, stdout);
        w->n_lines = 0;
        for (const char *c = text; *c; c++)
            w->n_lines += *c == '\n';
    }
    free(text);
}

/* Elsewhere than on a terminal: a line where there is something new. */
static void log_line(struct watch *w, bool first)
{
    if (!first && w->n == w->curve.n && w->n_validations == w->curve.n_validations &&
        w->last_life == w->life)
        return;
    watch_print_line(stdout, &w->curve, w->life, clock_wall_seconds());
    w->n = w->curve.n;
    w->n_validations = w->curve.n_validations;
    w->last_life = w->life;
}

static int code_of(enum watch_life life)
{
    return life == WATCH_STOPPED || life == WATCH_SAVED ? COMMAND_INTERRUPTED
           : life == WATCH_FAILED || life == WATCH_GONE ? COMMAND_FAILED
                                                        : COMMAND_OK;
}

/* The folder must be there; the file may still come. */
static int check_folder(const struct watch *w, bool once)
{
    const char *slash = strrchr(w->path, '/');
    char *folder =
        slash ? strndup(w->path, slash == w->path ? 1 : (size_t)(slash - w->path)) : strdup(".");
    struct stat info;
    int status = 0;

    if (!folder)
        return error_set("out of memory");
    if (once)
        status = error_set("%s: %s", w->path, strerror(ENOENT));
    else if (stat(folder, &info) != 0)
        status = error_set("%s: there is no folder %s", w->path, folder);
    free(folder);
    return status;
}

/* Rank 0. *code: what the training's end says. */
static int watch(struct watch *w, const struct settings *s, int *code)
{
    const double every = s->every > 0 ? s->every : w->terminal ? 2 : 10;
    const struct watch_place here = watch_place_here();
    bool told = false;

    for (bool first = true;; first = false) {
        const int found = look(w, &here);
        if (found < 0)
            return -1;
        if (found == 0 && w->seen)
            return error_set("%s: the file has been removed", w->path);
        if (found == 0) {
            if (check_folder(w, s->once) != 0)
                return -1;
            if (!told)
                fprintf(stderr, "t2 watch: waiting for %s\n", w->path);
            told = true;
            wait_seconds(every);
            continue;
        }
        const bool over = s->once || watch_is_over(w->life);
        if (w->terminal || s->once || (over && first))
            draw(w);
        else
            log_line(w, first);
        if (over)
            break;
        wait_seconds(every);
        if (ferror(stdout))
            return 0; /* the reader has gone */
    }
    *code = s->once ? COMMAND_OK : code_of(w->life);
    return 0;
}

static int command_run(const struct comm *comm, int argc, char **argv)
{
    struct settings s = {0};
    struct option_spec table[] = {
        {"once", '1', OPTION_FLAG, &s.once, .help = "show it as it is now, and end"},
        {"every", 'e', OPTION_DOUBLE, &s.every, "SECONDS", .min = 0, .max = 86400,
         .help = "between two looks (default: 2 on a terminal, 10 elsewhere)"},
        {0}};
    struct watch w = {0};
    size_t n_args;
    bool done;
    int code = COMMAND_OK, status = 0;

    if (options_parse(&command_watch, table, comm, argc, argv, &w.path, 1, &n_args, &done) != 0) {
        code = command_fail(&command_watch, comm, COMMAND_USAGE);
    } else if (!done) {
        if (comm->rank == 0) {
            const char *term = getenv("TERM");
            w.terminal = isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0;
            w.blocks = expert_curve_utf8();
            w.beside = output_beside(w.path, ".live.h5");
            status = w.beside ? watch(&w, &s, &code) : error_set("out of memory");
        }
        if (comm_agree(comm, status) != 0)
            code = command_fail(&command_watch, comm, COMMAND_FAILED);
    }
    curve_free(&w.curve);
    free(w.beside);
    options_free(table);
    return code;
}

const struct command command_watch = {
    .name = "watch",
    .summary = "Shows a running training: its curves, rate and the time left.",
    .arguments = "FILE",
    .details =
        "FILE is the live curve that t2 train writes beside its expert (OUT.live.h5), the expert "
        "itself, or a state (OUT.h5.state). OUT.h5 stands for its live curve while that is newer. "
        "A "
        "file that is not there yet is waited for. On a terminal the view redraws itself; "
        "elsewhere "
        "a line is printed for each change. It ends with the training: exit code 0 when that has "
        "finished, 75 when it was stopped to be resumed, 1 when it failed or is gone. Reading "
        "disturbs no training, from any machine that sees the file.\n\n"
        "examples\n"
        "  t2 watch e.live.h5\n"
        "  ssh login t2 watch run/sst2.h5 --once\n"
        "  t2 watch e.live.h5 --every 60 > watch.log",
    .run = command_run,
};
