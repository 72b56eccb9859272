#include "mpi/progress.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi/clock.h"
#include "mpi/text.h"

static const double redraw_seconds = 0.1, line_seconds = 10.0;
enum { BAR_COLUMNS = 24, MAX_COLUMNS = 160 };

static bool locale_is_unicode(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        if (value && value[0])
            return strcasestr(value, "utf-8") || strcasestr(value, "utf8");
    }
    return false;
}

void progress_begin(struct progress *progress, const struct comm *comm, const char *title,
                    size_t total, bool quiet)
{
    memset(progress, 0, sizeof *progress);
    if (quiet || comm->rank != 0)
        return;
    progress->file = stderr;
    progress->terminal =
        isatty(STDERR_FILENO) && strcmp(getenv("TERM") ? getenv("TERM") : "", "dumb") != 0;
    progress->unicode = locale_is_unicode();
    snprintf(progress->title, sizeof progress->title, "%s", title);
    progress->total = total;
    progress->start = progress->drawn = clock_seconds();
}

/* fraction 0..1 in eighths of a column, or '#' and '.' where the terminal has no blocks. */
static void draw_bar(char *text, size_t size, double fraction, bool unicode)
{
    static const char *const eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    const size_t filled = (size_t)(fraction * BAR_COLUMNS * 8 + 0.5), whole = filled / 8;
    size_t n = 0, column = 0;

    for (; column < whole; column++)
        n += (size_t)snprintf(text + n, size - n, "%s", unicode ? "█" : "#");
    if (unicode && filled % 8) {
        n += (size_t)snprintf(text + n, size - n, "%s", eighths[filled % 8]);
        column++;
    }
    for (; column < BAR_COLUMNS; column++)
        n += (size_t)snprintf(text + n, size - n, "%s", unicode ? " " : ".");
}

void progress_line(const struct progress *progress, double now, bool bar, size_t width, char *text,
                   size_t size)
{
    const double seconds = now - progress->start;
    const double rate = seconds > 0 ? (double)progress->done / seconds : 0;
    char done[32], total[32], left[48] = "", speed[48] = "", blocks[4 * BAR_COLUMNS + 1] = "";
    size_t done_count = progress->done;

    if (progress->total && done_count > progress->total)
        done_count = progress->total;
    text_count(done, sizeof done, (double)done_count);
    text_count(total, sizeof total, (double)progress->total);
    if (rate > 0)
        snprintf(speed, sizeof speed, rate < 10 ? "  %.2f/s" : "  %.0f/s", rate);
    if ((rate > 0 || progress->left > 0) && progress->total > done_count) {
        char eta[32];
        text_duration(eta, sizeof eta,
                      progress->left > 0 ? progress->left
                                         : (double)(progress->total - done_count) / rate);
        snprintf(left, sizeof left, "  %s left", eta);
    }
    const char *gap = progress->note[0] ? "  " : "";
    if (progress->total == 0) {
        snprintf(text, size, "%s  %s%s%s%s", progress->title, done, speed, gap, progress->note);
    } else {
        const double fraction = (double)done_count / (double)progress->total;
        if (bar && width >= 60)
            draw_bar(blocks, sizeof blocks, fraction, progress->unicode);
        snprintf(text, size, "%s  %s%s%3.0f%%  %s/%s%s%s%s%s", progress->title, blocks,
                 blocks[0] ? " " : "", 100 * fraction, done, total, speed, left, gap,
                 progress->note);
    }
    text_cut(text, width);
}

static void draw(struct progress *progress, double now)
{
    char text[640];
    size_t width = MAX_COLUMNS;

    if (progress->terminal) {
        width = text_terminal_width(progress->file, 80) - 1;
        width = width < MAX_COLUMNS ? width : MAX_COLUMNS;
    }
    progress_line(progress, now, progress->terminal, width, text, sizeof text);
    fprintf(progress->file, progress->terminal ? "\r%s\033[K" : "%s\n", text);
    fflush(progress->file);
    progress->drawn = now;
}

void progress_update(struct progress *progress, size_t done, const char *format, ...)
{
    if (!progress->file)
        return;
    const double now = clock_seconds();
    progress->done = done;
    if (format) {
        va_list args;
        va_start(args, format);
        vsnprintf(progress->note, sizeof progress->note, format, args);
        va_end(args);
    }
    if (now - progress->drawn >= (progress->terminal ? redraw_seconds : line_seconds))
        draw(progress, now);
}

void progress_end(struct progress *progress)
{
    if (progress->file && progress->drawn > progress->start) {
        if (progress->terminal) {
            fputs("\r\033[K", progress->file);
            fflush(progress->file);
        } else {
            draw(progress, clock_seconds());
        }
    }
    progress->file = NULL;
}
