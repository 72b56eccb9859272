/* Any text as a model's SQL: read, compared with itself, written, and run on an empty database. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "eval/sql.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *header = json_pack("[s, s, s]", "Name", "Year built", "Height (m)");
    struct sql_query query;
    char *answer = malloc(size + 1), *rows = NULL;

    if (!answer || !header)
        abort();
    memcpy(answer, data, size);
    answer[size] = '\0';
    char *text = sql_extract(answer);
    if (text) {
        if (sql_query_parse(&query, text, header)) {
            if (!sql_query_equal(&query, &query))
                abort();
            free(sql_query_text(&query, "t", NULL, true));
        }
        sql_query_free(&query);
        sql_execute(":memory:", text, &rows);
    }
    free(rows);
    free(text);
    free(answer);
    json_decref(header);
    return 0;
}
