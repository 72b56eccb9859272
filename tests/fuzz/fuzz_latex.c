/* Any two texts as answers, in a line each; and as whole solutions. Must be symmetric where it says
 * equal, and must come to an end. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "eval/latex.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);

    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    free(latex_extract(text));
    char *second = strchr(text, '\n');
    if (second)
        *second++ = '\0';
    latex_equal(text, second ? second : text);
    latex_equal(second ? second : text, text);
    free(text);
    return 0;
}
