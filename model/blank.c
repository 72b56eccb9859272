#include "model/blank.h"

#include <stdbool.h>

static bool is_ascii_blank(unsigned char c)
{
    return c == ' ' || (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x1f);
}

/* U+0085, U+00A0. */
static bool is_blank2(const unsigned char *p)
{
    return p[0] == 0xc2 && (p[1] == 0x85 || p[1] == 0xa0);
}

static bool is_blank3(const unsigned char *p)
{
    unsigned code = (unsigned)p[0] << 16 | (unsigned)p[1] << 8 | p[2];

    return code == 0xe19a80 ||                       /* U+1680 */
           (code >= 0xe28080 && code <= 0xe2808a) || /* U+2000 .. U+200A */
           code == 0xe280a8 || code == 0xe280a9 ||   /* U+2028, U+2029 */
           code == 0xe280af || code == 0xe2819f ||   /* U+202F, U+205F */
           code == 0xe38080;                         /* U+3000 */
}

size_t blank_at(const char *text, size_t n)
{
    const unsigned char *p = (const unsigned char *)text;

    if (n >= 1 && is_ascii_blank(p[0]))
        return 1;
    if (n >= 2 && is_blank2(p))
        return 2;
    return n >= 3 && is_blank3(p) ? 3 : 0;
}

size_t blank_before(const char *text, size_t n)
{
    const unsigned char *end = (const unsigned char *)text + n;

    if (n >= 1 && is_ascii_blank(end[-1]))
        return 1;
    if (n >= 2 && is_blank2(end - 2))
        return 2;
    return n >= 3 && is_blank3(end - 3) ? 3 : 0;
}
