#ifndef T2_MODEL_CHECKPOINT_H
#define T2_MODEL_CHECKPOINT_H
/* A model on disk: a Hugging Face folder (config.json, one or more safetensors, tokenizer files) or
 * a GGUF file, memory-mapped, under one set of tensor names (the Hugging Face ones).
 *
 * Opening checks all sizes and offsets, and that every tensor that the config calls for is there
 * with its shape. Reading tensor data does not allocate. Stands on gguf.h, safetensors.h, config.h.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/config.h"
#include "model/tensor.h"

struct checkpoint;
struct gguf;

/* path: a folder or a .gguf file. NULL with error_set. The caller frees. */
struct checkpoint *checkpoint_open(const char *path);
void checkpoint_free(struct checkpoint *ck);

const char *checkpoint_path(const struct checkpoint *ck);
const struct model_config *checkpoint_config(const struct checkpoint *ck);
/* NULL unless the model is a GGUF file. */
const struct gguf *checkpoint_gguf(const struct checkpoint *ck);
/* The chat template's text (GGUF key, tokenizer_config.json or chat_template.jinja), or NULL. */
const char *checkpoint_chat_template(const struct checkpoint *ck);

size_t checkpoint_n_tensors(const struct checkpoint *ck);
const struct tensor *checkpoint_tensor(const struct checkpoint *ck, size_t i);
/* By Hugging Face name ("model.layers.0.self_attn.q_proj.weight"); NULL if absent (no message). */
const struct tensor *checkpoint_find(const struct checkpoint *ck, const char *name);

/* Tells the kernel that a tensor's pages are no longer needed (after packing). */
void checkpoint_release(const struct checkpoint *ck, const struct tensor *t);

/* SHA-256 over all tensors in name order (name, type, shape, bytes), as 64 hex digits + NUL. Reads
 * the whole file; gives the pages back. */
int checkpoint_identity(const struct checkpoint *ck, char hex[65]);

#endif
