/* Any text as a chat template. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct chat_message messages[] = {
        {"system", "s"}, {"user", "a"}, {"assistant", "<think>x</think>\nb"}, {"user", " c "}};
    struct chat_format format;
    char *text = malloc(size + 1);

    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    if (chat_recognise(&format, text, NULL, "<s>", "</s>") == 0) {
        free(chat_render(&format, messages, 4));
        free(chat_render(&format, messages + 1, 1));
        chat_free(&format);
    }
    free(text);
    return 0;
}
