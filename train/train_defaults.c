/* What t2 train does when nothing is asked for. */
#include "train/trainer.h"

struct train_options train_defaults(void)
{
    return (struct train_options){
        .objective = TRAIN_REINFORCE,
        .batch = 32,
        .steps = 75,
        .n_answers = 1,
        .shard = 16,
        .sampling = {.temperature = 1, .top_p = 1},
        .reward_right = 1,
        .reward_wrong = -1,
        .kl_form = KL_FORWARD,
        .inner_steps = 1,
        .eos_in_loss = true,
        .adam = adam_defaults(),
        .clip_norm = 1e-3,
        .train_split = "train",
        .valid_split = "valid",
        .n_valid = 200,
        .guard = GUARD_WARN,
        .max_rows = 2048,
        .pass_max_new = 16,
    };
}
