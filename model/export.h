#ifndef T2_MODEL_EXPORT_H
#define T2_MODEL_EXPORT_H
/* Writes a model as a Hugging Face folder that transformers loads: safetensors files of at most
 * about 4 GB, config.json and the tokenizer's files (copied, or made from a GGUF file's metadata as
 * far as it has them). Built in FOLDER.tmp-PID, synced and renamed. Local to a rank. */
#include <stdbool.h>

#include "model/checkpoint.h"
#include "model/merge.h"
#include "solver/team.h"

enum export_type { EXPORT_F32, EXPORT_BF16, EXPORT_F16 };

struct export_options {
    enum export_type type;
    const struct merge *merge; /* NULL: the weights as they are */
    size_t shard_bytes;        /* of a file; 0: 4 GB */
};

struct export_summary {
    size_t n_tensors, n_changed, n_files, n_bytes;
    const char *no_tokenizer; /* why none was written, or NULL */
};

/* folder must not exist. 0, or -1 with error_set and nothing left behind. */
int export_model(const struct checkpoint *ck, const struct export_options *options,
                 struct team *team, const char *folder, struct export_summary *summary);

#endif
