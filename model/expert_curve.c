#include "model/expert_curve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 5, COLUMNS = 60, EIGHTHS = 8 };

bool expert_curve_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        if (value && *value) /* the first that is set decides */
            return strcasestr(value, "UTF-8") || strcasestr(value, "UTF8");
    }
    return false;
}

/* One character of a column that is filled to `eighths` of this row. */
static const char *cell(double eighths, bool blocks)
{
    static const char *const block[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char *const ascii[] = {" ", ".", ".", ".", ":", ":", ":", "#", "#"};
    const int level = eighths < 0 ? 0 : eighths > EIGHTHS ? EIGHTHS : (int)(eighths + 0.5);

    return (blocks ? block : ascii)[level];
}

void expert_curve_draw(FILE *out, const char *title, const double *values, const double *steps,
                       size_t n, bool blocks)
{
    const size_t columns = n < COLUMNS ? n : COLUMNS;
    double means[COLUMNS] = {0}, low = INFINITY, high = -INFINITY;

    for (size_t c = 0; c < columns; c++) {
        const size_t first = c * n / columns, end = (c + 1) * n / columns;
        for (size_t i = first; i < end; i++)
            means[c] += values[i] / (double)(end - first);
        if (!isfinite(means[c]))
            return;
        low = fmin(low, means[c]);
        high = fmax(high, means[c]);
    }
    if (columns == 0)
        return;
    /* The lowest column keeps a foot to stand on. */
    const double range = high > low ? high - low : 1;
    fprintf(out, "\n%s\n", title);
    for (int row = ROWS; row-- > 0;) {
        if (row == ROWS - 1)
            fprintf(out, "%9.3g |", high);
        else if (row == 0)
            fprintf(out, "%9.3g |", low);
        else
            fprintf(out, "%9s |", "");
        for (size_t c = 0; c < columns; c++) {
            const double height = 1 + (means[c] - low) / range * (ROWS * EIGHTHS - 1);
            fputs(cell(height - row * EIGHTHS, blocks), out);
        }
        fputc('\n', out);
    }
    const double first = steps ? steps[0] : 1, last = steps ? steps[n - 1] : (double)n;
    fprintf(out, "%9s  step %-*.0f%.0f\n", "", columns > 12 ? (int)columns - 8 : 4, first, last);
}

static double mean_of(const double *values, size_t first, size_t end)
{
    double sum = 0;

    for (size_t i = first; i < end; i++)
        sum += values[i] / (double)(end - first);
    return sum;
}

void expert_curve_row(FILE *out, const double *values, size_t n, size_t columns, bool blocks)
{
    static const char *const block[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char *const ascii[] = {"_", ".", "-", "~", "=", "+", "*", "#"};
    double low = INFINITY, high = -INFINITY;

    columns = n < columns ? n : columns;
    for (int drawing = 0; drawing < 2; drawing++)
        for (size_t c = 0; c < columns; c++) {
            const double x = mean_of(values, c * n / columns, (c + 1) * n / columns);
            const double range = high > low ? high - low : 1;
            if (drawing && !isfinite(x)) {
                fputc(' ', out);
            } else if (drawing) {
                const int level = (int)((x - low) / range * (EIGHTHS - 1) + 0.5);
                fputs((blocks ? block : ascii)[level < EIGHTHS ? level : EIGHTHS - 1], out);
            } else if (isfinite(x)) {
                low = fmin(low, x);
                high = fmax(high, x);
            }
        }
}
