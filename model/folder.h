#ifndef T2_MODEL_FOLDER_H
#define T2_MODEL_FOLDER_H
/* A Hugging Face model folder: config.json, generation_config.json, one safetensors file or several
 * with an index, and the chat template. Used by checkpoint.c, which checks that the tensors fit the
 * configuration. */
#include <stddef.h>

#include "model/config.h"
#include "model/tensor.h"

struct folder;

/* Fills *config, which the caller frees. NULL with error_set. The caller frees the folder. */
struct folder *folder_open(const char *path, struct model_config *config);
void folder_free(struct folder *folder);

/* The tensors of all files, under the files' names. type is TENSOR_TYPE_COUNT and data NULL where
 * the file's element type is none that t2 reads: folder_tensor_dtype() then names it. */
size_t folder_n_tensors(const struct folder *folder);
const struct tensor *folder_tensor(const struct folder *folder, size_t i);
const char *folder_tensor_dtype(const struct folder *folder, const struct tensor *t);

/* The chat template's text, or NULL. */
const char *folder_chat_template(const struct folder *folder);

#endif
