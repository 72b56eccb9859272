#include "mpi/error.h"

#include <stdio.h>
#include <string.h>

enum { MESSAGE_SIZE = 2048 };

static _Thread_local char message[MESSAGE_SIZE];

/* A hostile file's names may hold anything: the sentence stays one line of printable text. */
static void make_printable(char *s)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c < 0x20 || c == 0x7f)
            *s = '?';
    }
}

int error_set(const char *format, ...)
{
    char text[MESSAGE_SIZE];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    make_printable(text);
    memcpy(message, text, sizeof message);
    return -1;
}

int error_prefix(const char *format, ...)
{
    char prefix[MESSAGE_SIZE], text[MESSAGE_SIZE + 2];
    va_list args;

    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    int n = snprintf(text, sizeof text, "%s: ", prefix);
    if (n < 0 || (size_t)n >= sizeof text)
        n = (int)sizeof text - 1;
    snprintf(text + n, sizeof text - (size_t)n, "%s", message);
    text[MESSAGE_SIZE - 1] = '\0';
    make_printable(text);
    memcpy(message, text, sizeof message);
    return -1;
}

const char *error_message(void)
{
    return message;
}

void error_clear(void)
{
    message[0] = '\0';
}
