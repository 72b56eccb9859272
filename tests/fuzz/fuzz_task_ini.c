/* Any bytes as a task file, and rows through the task that came of it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "eval/task.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char row[] = "{\"id\":1,\"question\":\"q\",\"sentence\":\"s\",\"label\":1,"
                              "\"answer\":\"#### 3\",\"answerKey\":\"B\","
                              "\"choices\":{\"text\":[\"a\",\"b\"],\"label\":[\"A\",\"B\"]}}";
    char *text = malloc(size + 1);
    struct task task;

    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    if (task_from_text(&task, text, "fuzz.ini") == 0) {
        json_t *json = json_loads(row, 0, NULL);
        size_t line = 1;
        struct dataset set = {"d", "test", "d.jsonl", &json, &line, 1};
        const size_t examples[] = {0};
        struct task_context context = {.examples = &set,
                                       .example_rows = examples,
                                       .n_examples = 1,
                                       .n_shots = task.fewshot ? 1 : 0};
        struct task_item item;
        int predicted;
        if (task_item_make(&task, &context, &set, 0, &item) == 0) {
            task_grade(&task, &item, text, &predicted);
            task_item_free(&item);
        }
        json_decref(json);
        task_free(&task);
    }
    free(text);
    return 0;
}
