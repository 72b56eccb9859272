#ifndef T2_MPI_TEXT_H
#define T2_MPI_TEXT_H
/* Small helpers for text that people read: nearest names, sizes, durations, columns. No MPI calls
 * and no files; it lies here because every folder above may need it. */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Edits (insert, delete, replace, swap of neighbours) that turn a into b, without case; capped at
 * `limit` + 1. Restricted Damerau-Levenshtein (optimal string alignment). */
size_t text_distance(const char *a, const char *b, size_t limit);

/* The name nearest to `word`, or NULL when none is near enough to be meant. A name that `word`
 * begins counts as near. */
const char *text_nearest(const char *word, const char *const *names, size_t n_names);

/* "0 bytes", "12 KiB", "258 MiB", "1.9 GiB": three digits at most. Returns text. */
char *text_bytes(char *text, size_t size, double n_bytes);

/* "0.42 s", "12.3 s", "4 min 05 s", "2 h 13 min", "3 d 04 h". Returns text. */
char *text_duration(char *text, size_t size, double seconds);

/* "12", "1 234", "134.5 M": counts below a million in full, digits in threes. Returns text. */
char *text_count(char *text, size_t size, double n);

/* c, or `otherwise` for control characters: names and texts out of a file may hold anything, a
 * terminal gets printable characters only. */
static inline char text_printable(char c, char otherwise)
{
    return (unsigned char)c < 0x20 || c == 0x7f ? otherwise : c;
}

/* Columns that a string takes on a terminal: characters, wide ones (CJK, emoji) twice, combining
 * marks none. Bytes that are no UTF-8 count one each. */
size_t text_width(const char *s);

/* Takes whole characters off the end until the text is at most `width` columns wide. */
void text_cut(char *text, size_t width);

/* Writes text in lines of at most `width` columns, broken at spaces, each line after the first
 * preceded by `indent` spaces (the caller has written the first line's beginning). Newlines in the
 * text are kept. Ends with a newline. */
void text_wrap(FILE *file, const char *text, size_t indent, size_t width);

/* The width of the terminal behind the file, or `otherwise` when it is none (or says nothing). */
size_t text_terminal_width(FILE *file, size_t otherwise);

/* A table of left- (or, from the second line on, right-) aligned columns. Cells are copied. */
struct text_table {
    size_t n_columns, n_cells, capacity;
    char **cells;      /* row by row */
    const char *align; /* one letter a column, 'l' or 'r'; must outlive the table */
    bool failed;       /* memory ran out; printing says so */
};

/* align: "lrrr" makes four columns. */
void text_table_begin(struct text_table *table, const char *align);
/* One more cell, row by row. */
void text_table_cell(struct text_table *table, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Prints with two spaces between columns and `indent` before the first; frees the cells. */
void text_table_print(struct text_table *table, FILE *file, size_t indent);

#endif
