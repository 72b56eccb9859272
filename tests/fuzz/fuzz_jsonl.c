/* Any bytes as a JSON Lines file. */
#include <stdint.h>
#include <stdlib.h>

#include "eval/jsonl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct jsonl *reader = jsonl_from_memory(data, size, "fuzz.jsonl");
    json_t *row;

    while (reader && jsonl_next(reader, &row) == 0 && row) {
        static const char *const paths[] = {"a", "choices.text.0", "", "..", "a.b"};
        for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
            free(jsonl_scalar_text(jsonl_field(row, paths[i]), paths[i]));
        json_decref(row);
    }
    jsonl_close(reader);
    return 0;
}
