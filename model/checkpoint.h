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

/* A number that differs where two models' tensors differ in name, type, shape, order, or 64 bytes
 * in the middle of their data: for a quick comparison between ranks. */
uint64_t checkpoint_fingerprint(const struct checkpoint *ck);

enum { CHECKPOINT_DIGEST_BYTES = 32 };

/* SHA-256 of one tensor's bytes as stored; gives their pages back. Thread-safe. */
int checkpoint_tensor_digest(const struct checkpoint *ck, size_t i,
                             uint8_t digest[CHECKPOINT_DIGEST_BYTES]);

/* The model's identity: SHA-256 over (name, type, shape, SHA-256 of the bytes) of all tensors in
 * name order, as 64 hex digits + NUL. digests [n_tensors, CHECKPOINT_DIGEST_BYTES], which may have
 * been worked out by many (model/identity.h). */
int checkpoint_identity_from_digests(const struct checkpoint *ck, const uint8_t *digests,
                                     char hex[65]);

/* The same, all by the caller: reads the whole file. */
int checkpoint_identity(const struct checkpoint *ck, char hex[65]);

#endif
