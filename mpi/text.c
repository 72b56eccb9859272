#include "mpi/text.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { NAME_MAX_BYTES = 63 };

static size_t min3(size_t a, size_t b, size_t c)
{
    const size_t ab = a < b ? a : b;
    return ab < c ? ab : c;
}

size_t text_distance(const char *a, const char *b, size_t limit)
{
    const size_t n = strlen(a), m = strlen(b);
    size_t rows[3][NAME_MAX_BYTES + 1];

    if (n > NAME_MAX_BYTES || m > NAME_MAX_BYTES)
        return limit + 1;
    for (size_t j = 0; j <= m; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t *now = rows[i % 3];
        const size_t *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= m; j++) {
            const int ca = tolower((unsigned char)a[i - 1]), cb = tolower((unsigned char)b[j - 1]);
            now[j] = min3(last[j] + 1, now[j - 1] + 1, last[j - 1] + (ca != cb));
            if (i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) &&
                cb == tolower((unsigned char)a[i - 2]))
                now[j] = min3(now[j], before[j - 2] + 1, now[j]);
        }
    }
    return rows[n % 3][m] < limit + 1 ? rows[n % 3][m] : limit + 1;
}

const char *text_nearest(const char *word, const char *const *names, size_t n_names)
{
    const size_t n = strlen(word);
    const size_t limit = n <= 3 ? 1 : n <= 6 ? 2 : 3;
    const char *best = NULL;
    size_t best_distance = limit + 1;

    for (size_t i = 0; i < n_names; i++) {
        size_t d = text_distance(word, names[i], limit);
        if (d > 1 && n >= 2 && strncasecmp(word, names[i], n) == 0)
            d = 1;
        if (d < best_distance) {
            best_distance = d;
            best = names[i];
        }
    }
    return best;
}

char *text_bytes(char *text, size_t size, double n_bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t unit = 0;

    while (n_bytes >= 1023.5 && unit < 5) {
        n_bytes /= 1024;
        unit++;
    }
    snprintf(text, size, unit > 0 && n_bytes < 9.95 ? "%.1f %s" : "%.0f %s", n_bytes, units[unit]);
    return text;
}

char *text_duration(char *text, size_t size, double seconds)
{
    if (!(seconds >= 0))
        seconds = 0;
    if (seconds > 1e15) /* a file may say that it took for ever */
        seconds = 1e15;
    if (seconds < 9.995)
        snprintf(text, size, "%.2f s", seconds);
    else if (seconds < 99.95)
        snprintf(text, size, "%.1f s", seconds);
    else if (seconds < 3599.5)
        snprintf(text, size, "%d min %02d s", (int)(seconds + 0.5) / 60, (int)(seconds + 0.5) % 60);
    else if (seconds < 86370)
        snprintf(text, size, "%d h %02d min", (int)(seconds / 60 + 0.5) / 60,
                 (int)(seconds / 60 + 0.5) % 60);
    else
        snprintf(text, size, "%.0f d %02d h", floor((seconds + 1800) / 86400),
                 (int)fmod((seconds + 1800) / 3600, 24));
    return text;
}

char *text_count(char *text, size_t size, double n)
{
    char digits[32];

    if (!(fabs(n) < 1e6)) {
        const bool giga = fabs(n) >= 1e9;
        snprintf(text, size, "%.4g %s", n / (giga ? 1e9 : 1e6), giga ? "G" : "M");
        return text;
    }
    snprintf(digits, sizeof digits, "%.0f", n);
    const size_t length = strlen(digits), first = digits[0] == '-';
    if (length - first > 3)
        snprintf(text, size, "%.*s %s", (int)length - 3, digits, digits + length - 3);
    else
        snprintf(text, size, "%s", digits);
    return text;
}

/* Reads one character; bytes that are no UTF-8 give themselves. Returns its length. */
static size_t next_character(const unsigned char *s, unsigned *c)
{
    const size_t n = s[0] < 0xc2 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 1;

    *c = s[0];
    if (n == 1)
        return 1;
    unsigned value = s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 1;
        value = value << 6 | (s[i] & 0x3fu);
    }
    *c = value;
    return n;
}

static size_t character_width(unsigned c)
{
    if ((c >= 0x300 && c < 0x370) || (c >= 0x200b && c < 0x2010) || (c >= 0xfe00 && c < 0xfe10))
        return 0;
    if ((c >= 0x1100 && c < 0x1160) || (c >= 0x2e80 && c < 0xa4d0) || (c >= 0xac00 && c < 0xd7a4) ||
        (c >= 0xf900 && c < 0xfb00) || (c >= 0xff00 && c < 0xff61) || (c >= 0x1f300 && c < 0x1faff))
        return 2;
    return 1;
}

size_t text_width(const char *s)
{
    size_t width = 0;

    while (*s) {
        unsigned c;
        s += next_character((const unsigned char *)s, &c);
        width += character_width(c);
    }
    return width;
}

void text_cut(char *text, size_t width)
{
    size_t n = strlen(text);

    while (n > 0 && text_width(text) > width) {
        do
            n--;
        while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80);
        text[n] = '\0';
    }
}

void text_wrap(FILE *file, const char *text, size_t indent, size_t width)
{
    const size_t room = width > indent + 20 ? width - indent : 20;
    size_t column = 0;

    while (*text) {
        if (*text == '\n') {
            fputc('\n', file);
            if (text[1] && text[1] != '\n')
                fprintf(file, "%*s", (int)indent, "");
            column = 0;
            text++;
            continue;
        }
        const size_t spaces = strspn(text, " "), n = spaces + strcspn(text + spaces, " \n");
        char word[512];
        snprintf(word, sizeof word, "%.*s", (int)n, text);
        if (column > 0 && column + text_width(word) > room) {
            fprintf(file, "\n%*s%s", (int)indent, "", word + spaces);
            column = text_width(word + spaces);
        } else {
            fputs(word, file);
            column += text_width(word);
        }
        text += n;
    }
    fputc('\n', file);
}

size_t text_terminal_width(FILE *file, size_t otherwise)
{
    struct winsize size;
    const int fd = fileno(file);

    if (fd >= 0 && isatty(fd) && ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20)
        return size.ws_col;
    return otherwise;
}

void text_table_begin(struct text_table *table, const char *align)
{
    memset(table, 0, sizeof *table);
    table->align = align;
    table->n_columns = strlen(align);
}

void text_table_cell(struct text_table *table, const char *format, ...)
{
    va_list args;
    char *cell = NULL;

    if (table->n_cells == table->capacity) {
        const size_t capacity = table->capacity ? 2 * table->capacity : 64;
        char **cells = realloc(table->cells, capacity * sizeof *cells);
        if (!cells) {
            table->failed = true;
            return;
        }
        table->cells = cells;
        table->capacity = capacity;
    }
    va_start(args, format);
    if (vasprintf(&cell, format, args) < 0)
        table->failed = true;
    else
        table->cells[table->n_cells++] = cell;
    va_end(args);
}

void text_table_print(struct text_table *table, FILE *file, size_t indent)
{
    const size_t n = table->n_columns;

    if (table->failed)
        fprintf(file, "%*s(out of memory: the table is not complete)\n", (int)indent, "");
    for (size_t i = 0; i < table->n_cells; i++) {
        const size_t column = i % n;
        const bool last = column == n - 1 || i == table->n_cells - 1;
        size_t width = 0;
        for (size_t j = column; j < table->n_cells; j += n) {
            const size_t w = text_width(table->cells[j]);
            width = w > width ? w : width;
        }
        const int padding = (int)(width - text_width(table->cells[i]));
        if (column == 0)
            fprintf(file, "%*s", (int)indent, "");
        if (table->align[column] == 'r')
            fprintf(file, "%*s%s", padding, "", table->cells[i]);
        else
            fprintf(file, "%s%*s", table->cells[i], last ? 0 : padding, "");
        fputs(last ? "\n" : "  ", file);
    }
    for (size_t i = 0; i < table->n_cells; i++)
        free(table->cells[i]);
    free(table->cells);
    memset(table, 0, sizeof *table);
}
