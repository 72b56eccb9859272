#ifndef T2_TRAIN_TRAIN_RESULT_H
#define T2_TRAIN_TRAIN_RESULT_H
/* What a finished training leaves: an expert file (model/expert.h) with the curve, the validations,
 * the scores and everything that made it (docs/formats.md). Local to a rank. */
#include <stddef.h>
#include <stdint.h>

#include "model/adapter_kinds.h"
#include "train/trainer.h"

/* Where an expert comes from, beside the training's own settings. Texts may be NULL. */
struct train_origin {
    const char *identity; /* of the model: 64 hex digits */
    const char *model, *architecture;
    const char *factors, *factors_identity;
    const struct adapter_kind *kind;
    const char *parametrisation;        /* svf */
    const char *adapter_settings;       /* adapter_settings_text(), or NULL */
    const char *options, *command_line; /* a recipe; as typed */
    const char *version, *cpu, *device, *isa, *kernel_order, *dtype, *chat_format, *started;
    int n_ranks, n_threads;
    double seconds;
    double peak_bytes; /* resident memory of the rank that took the most */
};

/* Scores on a split; n 0: not made. */
struct train_score {
    double before, after, error_after;
    size_t n;
};

struct train_result {
    const struct trainer *trainer;
    const struct train_state *state;
    enum train_end end;
    const struct train_origin *origin;
    const char *test_split;
    struct train_score test;
};

/* The result's parameters: the best validated ones, else the last. */
const float *train_result_parameters(const struct train_state *state);

/* Writes the expert. 0, or -1 with error_set; an earlier file stays then. */
int train_result_write(const struct train_result *result, const char *path);

/* A finished training of these settings in `path`? 1: yes; 0: there is no such file; -1 with
 * error_set: of other settings (the first line that differs), or no expert. */
int train_result_is_there(const char *path, const char *settings);

/* For t2 inspect: the state of a training that is not finished. */
bool train_state_is_file(const char *path);
int train_state_describe(const char *path, FILE *file);

#endif
