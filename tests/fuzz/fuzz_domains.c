/* Any bytes as a file of domains, and the tasks that come of it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "eval/domains.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    bool used[DOMAINS_MAX];
    struct domains domains;
    struct task task;

    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    memset(used, 1, sizeof used);
    if (domains_from_text(&domains, text, "fuzz.ini") == 0)
        for (int way = DOMAINS_GENERATE; way <= DOMAINS_CHANNEL; way++)
            if (domains_task(&domains, used, (enum domains_way)way, true, &task) == 0)
                task_free(&task);
    domains_free(&domains);
    free(text);
    return 0;
}
