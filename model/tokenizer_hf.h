#ifndef T2_MODEL_TOKENIZER_HF_H
#define T2_MODEL_TOKENIZER_HF_H
/* Shared by the two files that read tokenizer.json: tokenizer_load_hf.c (the file, the model, added
 * tokens) and tokenizer_hf_steps.c (everything with a "type" around the model). */
#include <jansson.h>

#include "model/tokenizer_internal.h"

/* The string under key, "" where there is none. */
const char *hf_string(const json_t *object, const char *key);
bool hf_bool(const json_t *object, const char *key, bool otherwise);
/* Always -1, with a sentence that names step's type. */
int hf_unsupported(const struct tokenizer *t, const char *what, const json_t *step);
/* All steps of the file; the vocabulary and added tokens must be there. */
int hf_read_steps(struct tokenizer *t, const json_t *root);

#endif
