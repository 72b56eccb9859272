#ifndef T2_MODEL_JSON_FILE_H
#define T2_MODEL_JSON_FILE_H
/* Bounded loading of small text files and JSON documents that come with models. Refuses what a
 * careful reader should: files beyond a limit, nesting beyond JSON_MAX_DEPTH, duplicate keys,
 * invalid UTF-8, a document that is no object. */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum {
    JSON_MAX_DEPTH = 64,
    TEXT_MAX_BYTES = 4 << 20,        /* config.json, chat templates: kilobytes in practice */
    JSON_INDEX_MAX_BYTES = 32 << 20, /* lists of tensors: a few hundred bytes a tensor */
};

/* A whole file, malloc'ed, with a NUL after its *n_bytes. NULL with error_set. */
char *text_file_read(const char *path, size_t max_bytes, size_t *n_bytes);

/* A JSON object. Integers beyond 64 bits (Python writes such) become reals. NULL with error_set,
 * which says where in the text. The caller releases it with json_decref. name stands for the path
 * in errors. */
json_t *json_object_parse(const char *text, size_t n_bytes, const char *name);
json_t *json_object_load(const char *path, size_t max_bytes);

#endif
