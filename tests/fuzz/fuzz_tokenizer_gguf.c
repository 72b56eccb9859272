/* libFuzzer: the input is a GGUF file; its tokenizer is loaded and used. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "model/gguf.h"
#include "model/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "Hello w\xc3\xb6rld, it's  12345 \n\n<s> \xff\xe2\x82 <|im_end|>";
    struct gguf *gguf = gguf_from_memory(data, size, "fuzz.gguf");
    struct tokenizer *t = gguf ? tokenizer_load_gguf(gguf) : NULL;
    struct tokens tokens = {0};
    size_t length;

    gguf_free(gguf);
    if (t && tokenizer_encode(t, text, sizeof text - 1, 3, &tokens) == 0)
        free(tokenizer_decode(t, tokens.ids, tokens.n, true, &length));
    tokens_free(&tokens);
    tokenizer_free(t);
    return 0;
}
