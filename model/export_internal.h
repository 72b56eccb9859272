#ifndef T2_MODEL_EXPORT_INTERNAL_H
#define T2_MODEL_EXPORT_INTERNAL_H
/* The parts of an export. */
#include <jansson.h>

#include "model/export.h"

/* "float32", "bfloat16", "float16" (config.json); "F32", "BF16", "F16" (safetensors). */
const char *export_type_name(enum export_type type);
const char *export_type_code(enum export_type type);

/* Writes a JSON text, synced; takes the reference. NULL: out of memory. */
int export_write_json(const char *folder, const char *name, json_t *value);

/* Makes a folder that is not there yet: fill() puts files into FOLDER.tmp-PID, which is renamed. 0,
 * or -1 with error_set and nothing left behind. */
int export_in_folder(const char *folder, int (*fill)(void *context, const char *temporary),
                     void *context);

/* config.json, generation_config.json and the tokenizer's files. */
int export_describe_model(const struct checkpoint *ck, enum export_type type, const char *folder,
                          struct export_summary *summary);
/* tokenizer.json and tokenizer_config.json of a GGUF file; *why: what it has no form for. */
int export_gguf_tokenizer(const struct checkpoint *ck, const char *folder, const char **why);

#endif
