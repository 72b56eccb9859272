#ifndef T2_MODEL_JSON_SCAN_H
#define T2_MODEL_JSON_SCAN_H
/* Walks JSON text in place, for the two parts of tokenizer.json that hold hundreds of thousands of
 * strings: building a tree of them takes Jansson ten times as long as everything else. Checks the
 * grammar of what it reads; json_scan_skip only balances brackets, so that what is skipped has to
 * be checked by whoever reads it. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/utf8.h"

struct json_scan {
    const char *s;
    size_t n, i;
    struct text scratch[2]; /* texts with escapes, decoded; turn by turn */
    int turn;
};
void json_scan_free(struct json_scan *scan);

/* The next character that is not white space, '\0' at the end; it is not consumed. */
char json_scan_peek(struct json_scan *scan);
/* Consumes c if it comes next. */
bool json_scan_take(struct json_scan *scan, char c);
/* The string that comes next. *text stays valid until the next but one string is read. It may hold
 * NUL characters and, where the JSON text does, invalid UTF-8. */
bool json_scan_string(struct json_scan *scan, const char **text, size_t *n);
bool json_scan_integer(struct json_scan *scan, int64_t *value);
/* Any value. */
bool json_scan_skip(struct json_scan *scan);
/* In which line the scan stands, from 1. */
size_t json_scan_line(const struct json_scan *scan);

#endif
