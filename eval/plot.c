#include "eval/plot.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model/utf8.h"
#include "mpi/error.h"

extern char **environ;

enum { WIDTH = 560, HEIGHT = 330, MAX_SVG = 16 << 20 };

/* ---- the script --------------------------------------------------------------------------------
 */

/* A single-quoted string of gnuplot, in which only the quote has a meaning. */
static void put_quoted(FILE *out, const char *s)
{
    const size_t n = strlen(s);

    fputc('\'', out);
    for (size_t i = 0; i < n;) {
        uint32_t c;
        const size_t length = utf8_decode(s + i, n - i, &c, NULL);
        if (c == '\'')
            fputs("''", out);
        else if (c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0xfffd)
            fputc('?', out);
        else
            fwrite(s + i, 1, length, out);
        i += length;
    }
    fputc('\'', out);
}

static void put_data(FILE *out, const struct plot_series *s, size_t index)
{
    fprintf(out, "$D%zu << EOD\n", index);
    for (size_t i = 0; i < s->n; i++) {
        const double x = s->x ? s->x[i] : (double)(i + 1);
        if (isfinite(x) && isfinite(s->y[i]))
            fprintf(out, "%.9g %.9g\n", x, s->y[i]);
        else
            fputc('\n', out);
    }
    fputs("EOD\n", out);
}

/* Placeholder colours, which become CSS variables: rgb(1, 2, i) and rgb(1, 1, 1). */
static void put_script(FILE *out, const struct plot *plot, size_t number)
{
    static const char *const styles[] = {"lines lw 1.8", "points pt 7 ps 0.6",
                                         "linespoints lw 1.8 pt 7 ps 0.5",
                                         "linespoints lw 1.4 dt 2 pt 7 ps 0.6"};

    fprintf(out,
            "set terminal svg size %d,%d dynamic font 'sans-serif,14' name 'f%zu' noenhanced\n"
            "set border 3 lc rgb '#010101'\nset tics nomirror textcolor rgb '#000000'\n"
            "set grid lt 1 lw 0.6 lc rgb '#010101'\nset key below left Left reverse samplen 2 "
            "spacing 1.15\n"
            "set bmargin\nset datafile missing 'nan'\n",
            WIDTH, HEIGHT, number);
    fputs("set xlabel ", out);
    put_quoted(out, plot->x_label);
    fputs(" offset 0,0.3\nset ylabel ", out);
    put_quoted(out, plot->y_label);
    fprintf(out, "\n%s%s", plot->log_x ? "set logscale x\n" : "",
            plot->log_y ? "set logscale y\nset format y '%g'\n" : "");
    if (plot->y_min != 0 || plot->y_max != 0)
        fprintf(out, "set yrange [%.9g:%.9g]\n", plot->y_min, plot->y_max);
    for (size_t i = 0; i < plot->n_series; i++)
        put_data(out, &plot->series[i], i);
    for (size_t i = 0; i < plot->n_series; i++) {
        const struct plot_series *s = &plot->series[i];
        fprintf(out, "%s $D%zu using 1:2 with %s lc rgb '#0102%02zx' ", i ? "," : "plot", i,
                styles[s->style], s->colour % PLOT_COLOURS + 1);
        if (*s->label) {
            fputs("title ", out);
            put_quoted(out, s->label);
        } else {
            fputs("notitle", out);
        }
    }
    fputc('\n', out);
}

/* ---- gnuplot -----------------------------------------------------------------------------------
 */

/* Its output as a string; the script comes from a file, so that neither side waits for the other.
 */
static char *read_all(int fd)
{
    char *bytes = NULL;
    size_t n = 0, capacity = 0;
    ssize_t got;

    do {
        if (capacity - n < 65536) {
            char *room = realloc(bytes, capacity += 262144);
            if (!room || capacity > MAX_SVG) {
                free(room ? room : bytes);
                error_set("out of memory");
                return NULL;
            }
            bytes = room;
        }
        got = read(fd, bytes + n, capacity - n - 1);
        n += got > 0 ? (size_t)got : 0;
    } while (got > 0 || (got < 0 && errno == EINTR));
    bytes[n] = '\0';
    return bytes;
}

static char *run_gnuplot(int script)
{
    char *argv[] = {(char *)"gnuplot", (char *)"-d", NULL};
    posix_spawn_file_actions_t actions;
    int ends[2], status = 0;
    char *svg = NULL;
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) != 0) {
        error_set("no pipe to gnuplot: %s", strerror(errno));
        return NULL;
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, script, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    const int failure = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (failure) {
        error_set(failure == ENOENT ? "gnuplot is not installed (apt-get install gnuplot-nox)"
                                    : "gnuplot cannot be started: %s",
                  strerror(failure));
    } else {
        svg = read_all(ends[0]);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        if (svg && (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || !strstr(svg, "</svg>"))) {
            error_set("gnuplot has failed (exit status %d)", status);
            free(svg);
            svg = NULL;
        }
    }
    close(ends[0]);
    return svg;
}

/* ---- colours and names -------------------------------------------------------------------------
 */

struct change {
    const char *from, *to;
};

/* What gnuplot writes, outside texts, into what a page needs. Texts cannot hold these: gnuplot
 * escapes '<', and what follows a '<' or stands in quotes is its own. */
static void put_changed(FILE *out, const char *svg, size_t number)
{
    char prefix_id[40], prefix_use[48], canvas[48], dot[40];
    const struct change changes[] = {
        {"id='gpPt", prefix_id},
        {"xlink:href='#gpPt", prefix_use},
        {"id='gpDot'", dot},
        {"<g id=\"gnuplot_canvas\">", canvas},
        {"\"black\"", "\"currentColor\""},
        {"'black'", "'currentColor'"},
        {"\"rgb(0,0,0)\"", "\"currentColor\""},
        {"fill=\"#ffffff\"", "fill=\"none\""},
        {"rgb(  1,   1,   1)", "var(--grid)"},
        {"rgb(  1,   2,   1)", "var(--s1)"},
        {"rgb(  1,   2,   2)", "var(--s2)"},
        {"rgb(  1,   2,   3)", "var(--s3)"},
        {"rgb(  1,   2,   4)", "var(--s4)"},
        {"rgb(  1,   2,   5)", "var(--s5)"},
        {"rgb(  1,   2,   6)", "var(--s6)"},
        {"rgb(  1,   2,   7)", "var(--s7)"},
        {"rgb(  1,   2,   8)", "var(--s8)"},
    };

    snprintf(prefix_id, sizeof prefix_id, "id='f%zuPt", number);
    snprintf(prefix_use, sizeof prefix_use, "xlink:href='#f%zuPt", number);
    snprintf(canvas, sizeof canvas, "<g>");
    snprintf(dot, sizeof dot, "id='f%zuDot'", number);
    while (*svg) {
        size_t i = 0;
        if (strncmp(svg, "<title>", 7) == 0 || strncmp(svg, "<filter", 7) == 0) {
            const bool title = svg[1] == 't'; /* a tooltip; boxes that are not used */
            const char *end = strstr(svg, title ? "</title>" : "</filter>");
            if (end) {
                svg = end + strlen(title ? "</title>" : "</filter>");
                continue;
            }
        }
        while (i < sizeof changes / sizeof *changes &&
               strncmp(svg, changes[i].from, strlen(changes[i].from)) != 0)
            i++;
        if (i < sizeof changes / sizeof *changes) {
            fputs(changes[i].to, out);
            svg += strlen(changes[i].from);
        } else {
            fputc(*svg++, out);
        }
    }
}

char *plot_svg(const struct plot *plot, size_t number)
{
    FILE *script = tmpfile(), *out = NULL;
    char *svg = NULL, *changed = NULL;
    size_t size;

    if (!script) {
        error_set("no temporary file for gnuplot: %s", strerror(errno));
        return NULL;
    }
    put_script(script, plot, number);
    if (fflush(script) != 0 || lseek(fileno(script), 0, SEEK_SET) != 0) {
        error_set("no temporary file for gnuplot: %s", strerror(errno));
        goto done;
    }
    if (!(svg = run_gnuplot(fileno(script))))
        goto done;
    const char *start = strstr(svg, "<svg");
    if (!start || !(out = open_memstream(&changed, &size))) {
        error_set("gnuplot wrote no SVG");
        goto done;
    }
    put_changed(out, start, number);
    if (fclose(out) != 0) {
        free(changed);
        changed = NULL;
        error_set("out of memory");
    }
done:
    free(svg);
    fclose(script);
    return changed;
}
