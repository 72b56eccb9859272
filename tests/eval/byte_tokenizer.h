#ifndef T2_TESTS_BYTE_TOKENIZER_H
#define T2_TESTS_BYTE_TOKENIZER_H
#include <stdio.h>
#include <stdlib.h>

#include "model/tokenizer.h"

/* A byte-level tokenizer without merges: one token a byte. */
static inline struct tokenizer *make_byte_tokenizer(void)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    unsigned next = 256;

    fprintf(out, "{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,"
                 "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                 "\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":null,"
                 "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
                 "\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":\"BPE\","
                 "\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
                 "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,"
                 "\"vocab\":{");
    for (unsigned byte = 0; byte < 256; byte++) {
        bool shown = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
        fprintf(out, "%s\"\\u%04x\":%u", byte ? "," : "", shown ? byte : next++, byte);
    }
    fprintf(out, "},\"merges\":[]}}");
    fclose(out);
    struct tokenizer *made = tokenizer_from_json(text, size, "bytes");
    free(text);
    return made;
}

#endif
