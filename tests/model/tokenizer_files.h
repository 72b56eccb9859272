#ifndef T2_TESTS_MODEL_TOKENIZER_FILES_H
#define T2_TESTS_MODEL_TOKENIZER_FILES_H
/* Reads tests/fixtures/tokenizer, which tests/oracle/tokenizer_oracle.py writes: strings.bin, one
 * NAME.json per kind and NAME.bin with what Hugging Face tokenizers make of the strings. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bytes {
    char *data;
    size_t n;
};

static struct bytes read_file(const char *path)
{
    struct bytes bytes = {0};
    FILE *file = fopen(path, "rb");

    if (!file) {
        fprintf(stderr, "%s cannot be opened\n", path);
        abort();
    }
    fseek(file, 0, SEEK_END);
    bytes.n = (size_t)ftell(file);
    rewind(file);
    bytes.data = malloc(bytes.n + 1);
    if (!bytes.data || fread(bytes.data, 1, bytes.n, file) != bytes.n)
        abort();
    bytes.data[bytes.n] = '\0';
    fclose(file);
    return bytes;
}

static inline struct bytes read_fixture(const char *name, const char *suffix)
{
    char path[512];
    snprintf(path, sizeof path, "%s/tokenizer/%s%s", T2_FIXTURES, name, suffix);
    return read_file(path);
}

/* The next 16-bit number. */
static inline unsigned take_u16(const struct bytes *bytes, size_t *at)
{
    uint16_t value;
    if (*at + 2 > bytes->n)
        abort();
    memcpy(&value, bytes->data + *at, 2);
    *at += 2;
    return value;
}

/* The next counted text; 0xffff stands for otherwise. */
static inline struct bytes take_text(const struct bytes *bytes, size_t *at,
                                     const struct bytes *otherwise)
{
    struct bytes text;
    unsigned n = take_u16(bytes, at);
    if (n == 0xffff)
        return *otherwise;
    text.data = bytes->data + *at;
    text.n = n;
    *at += n;
    return text;
}

#endif
