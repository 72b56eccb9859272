#include "model/json_scan.h"

#include <string.h>

void json_scan_free(struct json_scan *scan)
{
    text_free(&scan->scratch[0]);
    text_free(&scan->scratch[1]);
}

char json_scan_peek(struct json_scan *scan)
{
    while (scan->i < scan->n) {
        char c = scan->s[scan->i];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t')
            return c;
        scan->i++;
    }
    return '\0';
}

bool json_scan_take(struct json_scan *scan, char c)
{
    if (c == '\0' || json_scan_peek(scan) != c)
        return false;
    scan->i++;
    return true;
}

/* The four digits of \uHHHH at the scan's position. */
static bool read_hex(struct json_scan *scan, uint32_t *value)
{
    *value = 0;
    if (scan->n - scan->i < 4)
        return false;
    for (size_t k = 0; k < 4; k++) {
        char c = scan->s[scan->i++];
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                : 16;
        if (digit == 16)
            return false;
        *value = *value << 4 | digit;
    }
    return true;
}

/* One escape sequence behind its backslash. */
static bool read_escape(struct json_scan *scan, struct text *out)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    uint32_t c, low;

    if (scan->i == scan->n)
        return false;
    char name = scan->s[scan->i++];
    if (name != 'u') {
        const char *found = name ? strchr(names, name) : NULL;
        return found && text_append_char(out, (unsigned char)values[found - names]) == 0;
    }
    if (!read_hex(scan, &c))
        return false;
    if (c >= 0xd800 && c < 0xdc00) {
        if (scan->n - scan->i < 2 || memcmp(scan->s + scan->i, "\\u", 2) != 0)
            return false;
        scan->i += 2;
        if (!read_hex(scan, &low) || low < 0xdc00 || low > 0xdfff)
            return false;
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    } else if (c >= 0xdc00 && c < 0xe000) {
        return false;
    }
    return text_append_char(out, c) == 0;
}

bool json_scan_string(struct json_scan *scan, const char **text, size_t *n)
{
    struct text *out = &scan->scratch[scan->turn ^= 1];
    bool escapes = false;

    if (!json_scan_take(scan, '"'))
        return false;
    out->n = 0;
    for (size_t start = scan->i; scan->i < scan->n;) {
        unsigned char c = (unsigned char)scan->s[scan->i];
        if (c == '"') {
            *text = scan->s + start;
            *n = scan->i - start;
            if (escapes) {
                if (text_append(out, *text, *n))
                    return false;
                *text = out->data;
                *n = out->n;
            }
            scan->i++;
            return true;
        }
        if (c < 0x20)
            return false;
        if (c == '\\') {
            escapes = true;
            if (text_append(out, scan->s + start, scan->i - start))
                return false;
            scan->i++;
            if (!read_escape(scan, out))
                return false;
            start = scan->i;
            continue;
        }
        scan->i++;
    }
    return false;
}

bool json_scan_integer(struct json_scan *scan, int64_t *value)
{
    bool negative = json_scan_take(scan, '-');
    size_t first = (json_scan_peek(scan), scan->i);

    *value = 0;
    while (scan->i < scan->n && scan->s[scan->i] >= '0' && scan->s[scan->i] <= '9') {
        if (scan->i - first >= 18)
            return false;
        *value = *value * 10 + (scan->s[scan->i++] - '0');
    }
    if (scan->i == first || (scan->s[first] == '0' && scan->i > first + 1))
        return false;
    if (negative)
        *value = -*value;
    return scan->i == scan->n || !memchr(".eE", scan->s[scan->i], 3);
}

static bool skip_string(struct json_scan *scan)
{
    for (scan->i++; scan->i < scan->n; scan->i++) {
        if (scan->s[scan->i] == '"') {
            scan->i++;
            return true;
        }
        if (scan->s[scan->i] == '\\')
            scan->i++;
    }
    scan->i = scan->n;
    return false;
}

bool json_scan_skip(struct json_scan *scan)
{
    size_t depth = 0;
    char c = json_scan_peek(scan);

    if (c == '"')
        return skip_string(scan);
    if (c != '{' && c != '[') {
        size_t first = scan->i;
        while (scan->i < scan->n && !memchr(",]} \t\r\n", scan->s[scan->i], 7))
            scan->i++;
        return scan->i > first;
    }
    while (scan->i < scan->n) {
        c = scan->s[scan->i];
        if (c == '"') {
            if (!skip_string(scan))
                return false;
            continue;
        }
        scan->i++;
        depth += c == '{' || c == '[';
        if ((c == '}' || c == ']') && --depth == 0)
            return true;
    }
    return false;
}

size_t json_scan_line(const struct json_scan *scan)
{
    size_t line = 1;

    for (size_t k = 0; k < scan->i && k < scan->n; k++)
        line += scan->s[k] == '\n';
    return line;
}
