#ifndef T2_MODEL_UTF8_H
#define T2_MODEL_UTF8_H
/* UTF-8 text as the tokenizers need it: decoding with Python's treatment of invalid bytes, the
 * character classes of pre-tokenizer patterns, and canonical composition. Character properties come
 * from utf8proc, corrected to the Unicode versions that Hugging Face tokenizers 0.2x is built with,
 * since token ids must be identical. Stands on nothing of ours but error.h. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A growing byte string. All zero is an empty one; data is NULL until something is appended. */
struct text {
    char *data;
    size_t n, capacity;
};
void text_free(struct text *text);
/* Each returns -1 with error_set when out of memory. bytes must not lie inside text. */
int text_append(struct text *text, const char *bytes, size_t n);
int text_append_char(struct text *text, uint32_t code_point);

/* Decodes the character at s (n > 0 bytes left) into *code_point and returns its length. An invalid
 * sequence gives U+FFFD and the length of its maximal subpart (Unicode 15, section 3.9, table 3-8;
 * Python's and Rust's lossy decoding do the same); *valid tells (NULL: not asked). */
size_t utf8_decode(const char *s, size_t n, uint32_t *code_point, bool *valid);
/* Writes 1 to 4 bytes, returns how many. code_point is a valid scalar value. */
size_t utf8_encode(uint32_t code_point, char *s);
bool utf8_is_valid(const char *s, size_t n);
/* Appends s with each invalid maximal subpart as U+FFFD. */
int utf8_append_lossy(struct text *text, const char *s, size_t n);

enum utf8_class {
    UTF8_OTHER,
    UTF8_LETTER, /* \p{L} */
    UTF8_NUMBER, /* \p{N} */
    UTF8_SPACE,  /* \s: White_Space */
    UTF8_NEWLINE /* CR or LF, which are \s too */
};
enum utf8_class utf8_classify(uint32_t code_point);
/* Rust's char::is_numeric, a newer Unicode version than the patterns' \p{N}. */
bool utf8_is_numeric(uint32_t code_point);
/* \w of Rust's regex: Alphabetic, M, Nd, Pc, Join_Control. */
bool utf8_is_word(uint32_t code_point);
bool utf8_is_space(uint32_t code_point);

enum utf8_form { UTF8_NFC, UTF8_NFD, UTF8_NFKC, UTF8_NFKD };
/* Appends the normal form of valid UTF-8. Linear also in long runs of combining marks. */
int utf8_append_normalized(struct text *text, const char *s, size_t n, enum utf8_form form);

#endif
