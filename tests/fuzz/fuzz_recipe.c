/* Recipes: any text gives values or one sentence, and what options_record writes reads back. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "jobs/options.h"
#include "jobs/recipe.h"

static const struct command command = {.name = "generate", .summary = "", .arguments = ""};

struct values {
    int64_t max_new;
    double temperature;
    bool chat;
    const char *dtype, *system;
    struct option_list stop;
    struct option_spec table[7];
};

static void values_begin(struct values *v)
{
    *v = (struct values){.dtype = "bf16"};
    const struct option_spec table[] = {
        {"max-new", 'n', OPTION_INT, &v->max_new, .max = 100},
        {"temperature", 0, OPTION_DOUBLE, &v->temperature, .max = INFINITY},
        {"chat", 0, OPTION_FLAG, &v->chat, .help = ""},
        {"dtype", 0, OPTION_CHOICE, &v->dtype, .choices = "f32|bf16"},
        {"system", 0, OPTION_STRING, &v->system, .help = ""},
        {"stop", 0, OPTION_LIST, &v->stop, .help = ""},
        {0}};
    memcpy(v->table, table, sizeof table);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct values first, second;
    char *text = malloc(n_bytes + 1);

    memcpy(text, data, n_bytes);
    text[n_bytes] = '\0';
    values_begin(&first);
    values_begin(&second);
    if (recipe_apply_text(text, "r.ini", &command, first.table) == 0) {
        char *record = options_record(&command, first.table);
        if (recipe_apply_text(record, "record", &command, second.table) != 0 ||
            first.max_new != second.max_new || first.temperature != second.temperature ||
            first.chat != second.chat || strcmp(first.dtype, second.dtype) != 0 ||
            first.stop.n != second.stop.n || !first.system != !second.system ||
            (first.system && strcmp(first.system, second.system) != 0))
            abort();
        for (size_t i = 0; i < first.stop.n; i++)
            if (strcmp(first.stop.items[i], second.stop.items[i]) != 0)
                abort();
        free(record);
    }
    options_free(first.table);
    options_free(second.table);
    free(text);
    return 0;
}
