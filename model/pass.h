#ifndef T2_MODEL_PASS_H
#define T2_MODEL_PASS_H
/* A differentiable forward pass over a set of sequences that may grow: prompts go in, tokens are
 * sampled and appended, terms of a loss are named, and one call brings the gradient of the
 * adapter's parameters. On-policy training needs no second forward: the rollout is the forward
 * pass.
 *
 * Rows that sequences share (an instruction, a prompt answered several times) are computed once,
 * forward and backward. Local to a rank. What comes out depends on the sequences, their order
 * and the model alone: the same bits on any number of threads and ranks. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/adapter.h"
#include "model/model.h"

struct pass;

struct pass_options {
    size_t max_rows; /* unique tokens at most */
    bool recompute;  /* keep each layer's input alone and run layers again in the backward pass */
    bool inference;  /* no backward will be asked for: nothing is kept */
};

/* adapter may be NULL (base model; nothing to differentiate). parameters: see adapter_ops.forward;
 * they must stay as they are until the pass is reset. NULL with error_set. */
struct pass *pass_create(struct model *model, const struct adapter *adapter,
                         const struct pass_options *options);
void pass_free(struct pass *pass);

/* Bytes that a pass of these options takes, with the keys and values of max_rows tokens. The cache
 * has whole pages of 64 positions: each sequence that ends in one of its own takes up to that much
 * more. */
size_t pass_bytes(const struct model *model, const struct adapter *adapter,
                  const struct pass_options *options);

/* Forgets all sequences; from now on the adapter runs with these parameters (NULL: as the base
 * model), and without dropout. */
void pass_reset(struct pass *pass, const float *parameters);

/* After a reset, before the first sequence: rows have keys, so adapters that have it use dropout.
 * The key of a row comes from the key of the sequence that it was made for (the first that has it)
 * and its position. Without a call there is none, as in generation. */
void pass_use_dropout(struct pass *pass, uint64_t key);

/* Adds a sequence; its longest common prefix with those added before is shared. *sequence counts
 * from 0. -1 with error_set when rows or positions run out. */
int pass_add(struct pass *pass, const int32_t *tokens, size_t n_tokens, size_t *sequence);
/* Adds one token to a sequence's end (never shared with others). */
int pass_append(struct pass *pass, size_t sequence, int32_t token);
/* How many rows are in use. */
size_t pass_n_rows(const struct pass *pass);

/* Runs the rows added since the last call through the model. */
int pass_run(struct pass *pass);

/* A place: the token at `position` of a sequence, whose row predicts the next token. */
struct pass_place {
    size_t sequence, position;
};

/* The head at n places (already run): results [n], and logits f32 [n, vocab padded to 16] or NULL.
 * See engine.h. */
int pass_head(struct pass *pass, const struct pass_place *places, size_t n, const int32_t *targets,
              struct head_result *results, float *logits);

/* The loss's terms at n places (engine_train.h), and its gradient added to gradient [n_parameters].
 * base: a pass in which the same sequences have been run with the base model, for KL terms, or
 * NULL. results [n]. May be called once between resets (recompute or not). 0, or -1 with error_set;
 * a gradient that is not finite is an error that says so. gradient NULL: results alone. */
int pass_backward(struct pass *pass, struct pass *base, const struct pass_place *places,
                  const struct head_term *terms, size_t n, float *gradient,
                  struct head_term_result *results);

#endif
