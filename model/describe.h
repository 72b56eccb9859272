#ifndef T2_MODEL_DESCRIBE_H
#define T2_MODEL_DESCRIBE_H
/* What `t2 inspect MODEL` shows of a model, for people. */
#include <stdbool.h>
#include <stdio.h>

#include "model/checkpoint.h"

/* verbose: the table of tensors as well, and a GGUF file's metadata. 0, or -1 with error_set when
 * out cannot be written. */
int checkpoint_describe(const struct checkpoint *ck, FILE *out, bool verbose);

#endif
