/* libFuzzer: the input is a tokenizer.json, followed (behind a NUL byte) by a text to encode. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void encode_and_decode(const struct tokenizer *t, const char *text, size_t n, int flags)
{
    struct tokens tokens = {0};
    size_t length;

    if (tokenizer_encode(t, text, n, flags, &tokens) == 0) {
        char *back = tokenizer_decode(t, tokens.ids, tokens.n, flags & 1, &length);
        free(back);
        for (size_t i = 0; i < tokens.n; i++)
            tokenizer_token_bytes(t, tokens.ids[i], false, &length);
    }
    tokens_free(&tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char fixed[] = "Hello w\xc3\xb6rld, it's  12345 \n\n<s> \xff\xe2\x82 "
                                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    size_t n_json = end ? (size_t)(end - data) : size;
    struct tokenizer *t = tokenizer_from_json((const char *)data, n_json, "fuzz.json");

    if (!t)
        return 0;
    encode_and_decode(t, fixed, sizeof fixed - 1, TOKENIZER_SPECIAL | TOKENIZER_ADD_BOS);
    if (end)
        encode_and_decode(t, (const char *)end, size - n_json, TOKENIZER_SPECIAL);
    encode_and_decode(t, (const char *)data, n_json < 4096 ? n_json : 4096, 0);
    tokenizer_free(t);
    return 0;
}
