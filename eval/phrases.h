#ifndef T2_EVAL_PHRASES_H
#define T2_EVAL_PHRASES_H
/* Splits a set of phrases that were cut from the same sentences (SST-2's training file) so that no
 * evaluated phrase contains, or is contained in, a training phrase.
 *
 * Seeds are phrases of four words or more, chosen by a hash of their text. A seed's sentence is the
 * longest phrase that contains it. `test` holds the phrases of four words or more that lie inside a
 * test sentence; `valid` the same for its seeds, less what contains or is contained in a test
 * phrase; `train` what neither contains nor is contained in any of the two. What is in none (short
 * or shared pieces) is left out. Containment is that of strings, which includes that of word
 * sequences. Nothing depends on the order of the rows. */
#include <stddef.h>

enum phrase_split { PHRASE_LEFT_OUT, PHRASE_TRAIN, PHRASE_VALID, PHRASE_TEST };

/* texts [n], each NUL-terminated; splits [n] out, one enum phrase_split each. Surrounding blanks do
 * not count. 0, or -1 with error_set. */
int phrases_split(const char *const *texts, size_t n, unsigned char *splits);

#endif
