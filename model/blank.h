#ifndef T2_MODEL_BLANK_H
#define T2_MODEL_BLANK_H
/* White space in UTF-8 text as Python's str.strip() sees it, for what must match the reference byte
 * by byte. */
#include <stddef.h>

/* Length in bytes of the blank character that text[0 .. n) begins with, or ends with; 0 if none. */
size_t blank_at(const char *text, size_t n);
size_t blank_before(const char *text, size_t n);

#endif
