/* Any text as an answer. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "eval/grade.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const labels[] = {"A", "B", "positive", "very positive"};
    char *text = malloc(size + 1);
    double value;

    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    grade_last_number(text, &value);
    grade_first_label(text, labels, 4);
    grade_letter(text, labels, 4);
    grade_exact(text, "A");
    free(text);
    return 0;
}
