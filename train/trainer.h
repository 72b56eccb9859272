#ifndef T2_TRAIN_TRAINER_H
#define T2_TRAIN_TRAINER_H
/* The training loop (DESIGN.md section 6; docs/training.md): sample prompts -> roll out -> grade ->
 * forward/backward -> reduce gradients -> AdamW, on all ranks, for any adapter.
 *
 * A batch is cut into shards of a fixed number of prompts, whatever the rank count. Ranks draw
 * shards from a shared queue; each shard's gradient is computed by one rank in one order, and
 * gradients are added in the order of shards (mpi/ordered_sum.h). Random numbers are counter-based,
 * keyed by (seed, step, example, answer, position). So a run leaves the same bits on 1, 2, 3 or 64
 * ranks, killed and resumed or not.
 *
 * Rollouts. Short answers (max_new <= pass_max_new) grow inside the differentiable pass itself: the
 * rollout is the forward pass, and the backward pass follows. Long ones go through the scheduler
 * (continuous batching), then forward and backward in micro-batches of at most max_rows rows. Which
 * way is a matter of options. A baseline over the whole batch, and several inner steps, roll out
 * all shards first. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "eval/evaluate.h"
#include "eval/task.h"
#include "model/adapter.h"
#include "model/chat.h"
#include "model/model.h"
#include "model/tokenizer.h"
#include "mpi/comm.h"
#include "train/live_curve.h"
#include "train/objective.h"
#include "train/optimizer.h"
#include "train/state.h"

enum train_objective { TRAIN_REINFORCE, TRAIN_NEXT_TOKEN };
enum train_guard { GUARD_OFF, GUARD_WARN, GUARD_ROLLBACK };

struct train_options {
    enum train_objective objective;
    size_t batch, steps, n_answers, shard; /* prompts; answers a prompt; prompts of a shard */
    uint64_t seed;
    struct sampling sampling; /* of rollouts; temperature 0: greedy */
    size_t max_new;           /* 0: the task's */
    double reward_right, reward_wrong;
    enum baseline baseline;
    double kl;
    enum kl_form kl_form;
    double clip_ratio; /* 0: none */
    size_t inner_steps;
    bool eos_in_loss; /* the end-of-text token that ended an answer is part of it */
    struct adam_options adam;
    enum schedule schedule;
    size_t warmup;
    double clip_norm, clip_max;
    const char *train_split, *valid_split;
    size_t train_limit;             /* first items only; 0: all */
    size_t validate_every, n_valid; /* steps (0: never); items (0: all) */
    size_t patience;                /* validations without a better score before the end; 0: none */
    enum train_guard guard;
    size_t checkpoint_every; /* steps; 0: as often as costs no more than a fiftieth of the time. In
                                any case at the end and when asked to stop */
    size_t max_rows, pass_max_new;
    bool recompute;
    const char *rollout_log; /* JSON lines of every answer, or NULL */
};
struct train_options train_defaults(void);

struct trainer {
    const struct comm *comm;
    struct model *model;
    struct adapter *adapter;
    const struct tokenizer *tokenizer;
    const struct chat_format *chat;
    const struct task *task;
    /* Data root, few-shot and chat settings, the sandbox of code tasks; validation's. */
    struct evaluate_options evaluate;
    struct train_options options;
    const char *settings;   /* see state.h */
    const char *state_path; /* OUT.state */
    struct live_curve
        *live; /* for rank 0 to begin and to append to; NULL: none. The caller ends it */
    bool resume, quiet;
};

enum train_end { TRAIN_FINISHED, TRAIN_STOPPED_EARLY, TRAIN_INTERRUPTED };

/* Trains from the adapter's parameters (or the state file, with resume) and leaves the result in
 * *state (the same on all ranks), the best parameters if there were validations. A NaN loss or
 * gradient ends it with the step, shard and prompt that made it, after writing the last good state.
 * When asked to stop (mpi/signals.h) rank 0 writes the last finished step's state at once and *end
 * says INTERRUPTED. Collective. 0, or -1 on all ranks with error_set. */
int trainer_run(const struct trainer *trainer, struct train_state *state, enum train_end *end);

#endif
