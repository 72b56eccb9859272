#ifndef T2_EVAL_JSONL_H
#define T2_EVAL_JSONL_H
/* Reads JSON Lines one row at a time: one JSON object a line, empty lines skipped, errors that name
 * file and line. A line has a bounded length, so a hostile file cannot take more memory than that.
 * Stands on Jansson; knows nothing about data sets. */
#include <jansson.h>
#include <stddef.h>

enum { JSONL_MAX_LINE = 4 << 20 };

struct jsonl;

/* NULL with error_set. The caller closes. */
struct jsonl *jsonl_open(const char *path);
/* The same over memory that outlives the result (fuzzing); name stands for the path in errors. */
struct jsonl *jsonl_from_memory(const void *data, size_t n_bytes, const char *name);
void jsonl_close(struct jsonl *reader);

/* The next row in *row (a new reference, an object) and 0; *row is NULL after the last one. -1 with
 * error_set. */
int jsonl_next(struct jsonl *reader, json_t **row);

/* Calls use() for row after row of jsonl_open's or jsonl_from_memory's result, which it closes
 * (NULL: -1), until it returns other than 0. The row is lent. 0, or -1 with error_set. */
typedef int jsonl_use(void *context, const struct jsonl *reader, json_t *row);
int jsonl_each(struct jsonl *reader, jsonl_use *use, void *context);

/* Of the row just read: its line number (from 1) and its text without the line end, valid until the
 * next call. */
size_t jsonl_line(const struct jsonl *reader);
const char *jsonl_text(const struct jsonl *reader, size_t *n_bytes);

/* The path or name it was opened with. */
const char *jsonl_name(const struct jsonl *reader);

/* The value at a dotted path ("choices.text", "test_list.0"), borrowed; NULL if there is none. */
const json_t *jsonl_field(const json_t *row, const char *path);

/* A string, integer, real (shortest form that reads back, "12" for 12.0) or bool as malloc'ed text;
 * NULL with error_set for anything else. what names the field in the error. */
char *jsonl_scalar_text(const json_t *value, const char *what);

#endif
