#include "eval/jsonl.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "mpi/error.h"

struct jsonl {
    FILE *file; /* NULL: an empty source */
    char *name;
    char *line;
    size_t n_bytes, capacity;
    size_t number; /* of the line in `line` */
};

static struct jsonl *jsonl_new(const char *name)
{
    struct jsonl *reader = calloc(1, sizeof *reader);

    if (reader)
        reader->name = strdup(name);
    if (!reader || !reader->name) {
        error_set("%s: out of memory", name);
        free(reader);
        return NULL;
    }
    return reader;
}

struct jsonl *jsonl_open(const char *path)
{
    struct stat info;
    struct jsonl *reader = jsonl_new(path);

    if (!reader)
        return NULL;
    /* Looked at first: opening a pipe would wait for a writer. */
    const bool is_other = stat(path, &info) == 0 && !S_ISREG(info.st_mode);
    reader->file = is_other ? NULL : fopen(path, "rb");
    if (!reader->file) {
        error_set("%s: cannot be read: %s", path, is_other ? "it is not a file" : strerror(errno));
        jsonl_close(reader);
        return NULL;
    }
    return reader;
}

struct jsonl *jsonl_from_memory(const void *data, size_t n_bytes, const char *name)
{
    struct jsonl *reader = jsonl_new(name);

    if (!reader || n_bytes == 0) /* fmemopen takes no empty buffer everywhere */
        return reader;
    reader->file = fmemopen((void *)data, n_bytes, "rb");
    if (!reader->file) {
        error_set("%s: out of memory", name);
        jsonl_close(reader);
        return NULL;
    }
    return reader;
}

void jsonl_close(struct jsonl *reader)
{
    if (!reader)
        return;
    if (reader->file)
        fclose(reader->file);
    free(reader->line);
    free(reader->name);
    free(reader);
}

static int grow(struct jsonl *reader)
{
    size_t capacity = reader->capacity ? 2 * reader->capacity : 4096;
    char *line = realloc(reader->line, capacity);

    if (!line)
        return error_set("%s:%zu: out of memory", reader->name, reader->number);
    reader->line = line;
    reader->capacity = capacity;
    return 0;
}

/* Reads the next line without its end into reader->line. 1: a line; 0: the end; -1: error_set. */
static int read_line(struct jsonl *reader)
{
    int c = EOF;

    reader->n_bytes = 0;
    if (!reader->file)
        return 0;
    reader->number++;
    while ((c = getc_unlocked(reader->file)) != EOF && c != '\n') {
        if (reader->n_bytes + 1 >= reader->capacity && grow(reader))
            return -1;
        if (reader->n_bytes >= JSONL_MAX_LINE)
            return error_set("%s:%zu: the line is longer than %d MiB: one JSON object a line is "
                             "expected",
                             reader->name, reader->number, JSONL_MAX_LINE >> 20);
        reader->line[reader->n_bytes++] = (char)c;
    }
    if (c == EOF && ferror(reader->file))
        return error_set("%s:%zu: cannot be read: %s", reader->name, reader->number,
                         strerror(errno));
    if (c == EOF && reader->n_bytes == 0)
        return 0;
    if (reader->n_bytes && reader->line[reader->n_bytes - 1] == '\r')
        reader->n_bytes--;
    if (reader->capacity == 0 && grow(reader))
        return -1;
    reader->line[reader->n_bytes] = '\0';
    return 1;
}

static int parse_line(struct jsonl *reader, json_t **row)
{
    json_error_t error;
    const char *line = reader->line;
    size_t n = reader->n_bytes;

    if (reader->number == 1 && n >= 3 && memcmp(line, "\xef\xbb\xbf", 3) == 0) {
        line += 3; /* a byte order mark */
        n -= 3;
    }
    *row = json_loadb(line, n, JSON_ALLOW_NUL, &error);
    if (!*row)
        return error_set("%s:%zu: not a JSON object: %s near column %d", reader->name,
                         reader->number, error.text, error.column);
    if (!json_is_object(*row)) {
        json_decref(*row);
        *row = NULL;
        return error_set("%s:%zu: a JSON object {...} is expected on each line", reader->name,
                         reader->number);
    }
    return 0;
}

int jsonl_next(struct jsonl *reader, json_t **row)
{
    *row = NULL;
    for (;;) {
        int got = read_line(reader);
        if (got <= 0)
            return got;
        if (reader->line[strspn(reader->line, " \t")] || strlen(reader->line) != reader->n_bytes)
            return parse_line(reader, row);
    }
}

int jsonl_each(struct jsonl *reader, jsonl_use *use, void *context)
{
    json_t *row = NULL;
    int status = reader ? 0 : -1;

    while (status == 0 && (status = jsonl_next(reader, &row)) == 0 && row) {
        status = use(context, reader, row);
        json_decref(row);
    }
    jsonl_close(reader);
    return status;
}

size_t jsonl_line(const struct jsonl *reader)
{
    return reader->number;
}

const char *jsonl_name(const struct jsonl *reader)
{
    return reader->name;
}

const char *jsonl_text(const struct jsonl *reader, size_t *n_bytes)
{
    *n_bytes = reader->n_bytes;
    return reader->line ? reader->line : "";
}

const json_t *jsonl_field(const json_t *row, const char *path)
{
    const json_t *value = row;

    while (value && *path) {
        size_t n = strcspn(path, ".");
        char key[128];
        if (n >= sizeof key)
            return NULL;
        memcpy(key, path, n);
        key[n] = '\0';
        if (json_is_array(value)) {
            char *end;
            unsigned long index = strtoul(key, &end, 10);
            value = n && !*end ? json_array_get(value, index) : NULL;
        } else {
            value = json_object_get(value, key);
        }
        path += n + (path[n] == '.');
    }
    return value;
}

/* The shortest form that reads back to the same number. */
static char *real_text(double value)
{
    char text[40];

    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    if (fabs(value) < 1e15 && value == floor(value))
        snprintf(text, sizeof text, "%.0f", value);
    return strdup(text);
}

char *jsonl_scalar_text(const json_t *value, const char *what)
{
    char *text = NULL;

    if (json_is_string(value)) {
        if (strlen(json_string_value(value)) != json_string_length(value)) {
            error_set("the field \"%s\" holds a NUL character", what);
            return NULL;
        }
        text = strdup(json_string_value(value));
    } else if (json_is_integer(value)) {
        if (asprintf(&text, "%lld", (long long)json_integer_value(value)) < 0)
            text = NULL;
    } else if (json_is_real(value)) {
        text = real_text(json_real_value(value));
    } else if (json_is_boolean(value)) {
        text = strdup(json_is_true(value) ? "true" : "false");
    } else {
        error_set("the field \"%s\" is %s, not a text or a number", what,
                  !value                 ? "absent"
                  : json_is_array(value) ? "a list"
                  : json_is_null(value)  ? "null"
                                         : "an object");
        return NULL;
    }
    if (!text)
        error_set("out of memory");
    return text;
}
