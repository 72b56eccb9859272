#ifndef T2_MODEL_TOKENIZER_H
#define T2_MODEL_TOKENIZER_H
/* Text to token ids and back, bit-exact with Hugging Face tokenizers: byte-level BPE (GPT-2, Llama
 * 3, Qwen, SmolLM pre-tokenizers) and SentencePiece-style BPE (Llama 2, Mistral), with added and
 * special tokens and NFC where the model has it. Reads tokenizer.json or GGUF's arrays.
 *
 * A loaded tokenizer is read-only: any number of threads may use it. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;
struct gguf;

/* From DIR/tokenizer.json (+ tokenizer_config.json where it matters). NULL with error_set. */
struct tokenizer *tokenizer_load_hf(const char *dir);
/* From tokenizer.json's text alone (fuzzing, tests). name stands for the path in errors. */
struct tokenizer *tokenizer_from_json(const char *text, size_t n_bytes, const char *name);
/* From tokenizer.ggml.* metadata. */
struct tokenizer *tokenizer_load_gguf(const struct gguf *gguf);
void tokenizer_free(struct tokenizer *t);

struct tokens {
    int32_t *ids; /* malloc'ed */
    size_t n, capacity;
};
void tokens_free(struct tokens *tokens);
/* Appends one id; -1 when out of memory. */
int tokens_push(struct tokens *tokens, int32_t id);

enum {
    TOKENIZER_SPECIAL = 1, /* recognise special tokens ("<|im_start|>") in the text */
    TOKENIZER_ADD_BOS = 2, /* what the tokenizer itself adds around one text (post-processor) */
};
/* Appends the ids of text (n_bytes bytes; invalid UTF-8 is replaced by U+FFFD as Python's
 * errors="replace" does) to *out. 0, or -1 with error_set. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n_bytes, int flags,
                     struct tokens *out);

/* The bytes of ids, in a malloc'ed NUL-terminated string (*n_bytes without the NUL): what
 * tokenizers' decode gives with skip_special_tokens as told: ids past the vocabulary are passed
 * over, as models have more rows than there are tokens. Negative ids are an error. NULL with
 * error_set. */
char *tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                       size_t *n_bytes);

/* For streaming: text of ids[0..n) that is certain not to change when more tokens follow is
 * decode(ids[0..n)) up to its last complete character. This gives the raw bytes of one token
 * (byte-level: unmapped; SentencePiece: with U+2581 as a space, <0xAB> as that byte); special
 * tokens give "" when skip_special. The bytes belong to the tokenizer. */
const char *tokenizer_token_bytes(const struct tokenizer *t, int32_t id, bool skip_special,
                                  size_t *n_bytes);

/* The vocabulary's size (largest id + 1), and ids by text: -1 if there is none. */
size_t tokenizer_size(const struct tokenizer *t);
int32_t tokenizer_find(const struct tokenizer *t, const char *text);
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);
/* Ids that the tokenizer's own files name; -1 when absent. */
int32_t tokenizer_bos(const struct tokenizer *t);
int32_t tokenizer_eos(const struct tokenizer *t);
/* "byte-level BPE (llama3)", for inspection. */
const char *tokenizer_describe(const struct tokenizer *t);

#endif
