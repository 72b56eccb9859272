#ifndef T2_TRAIN_STATE_H
#define T2_TRAIN_STATE_H
/* The state of a training run between two steps, and its file: everything that the next step
 * depends on. HDF5, written whole (file_write: beside, synced, renamed). OUT.state beside the
 * expert file. */
#include <stddef.h>
#include <stdint.h>

#include "train/optimizer.h"

/* One finished step. */
struct train_point {
    double reward, accuracy, kl, loss, gradient_norm, entropy, length, rate;
    double one_answer_share; /* of the most frequent answer */
    double tokens_per_second, seconds_rollout, seconds_gradient, seconds_reduce, seconds_other;
};

/* Its members in their order, as curves in files are named. */
enum { TRAIN_POINT_COLUMNS = sizeof(struct train_point) / sizeof(double) };
extern const char *const train_point_names[TRAIN_POINT_COLUMNS];

/* One validation. */
struct train_validation {
    uint64_t step, n_items;
    double score, gold_probability;
    double one_answer_share; /* of the items' answers; NaN: not known */
};

struct train_state {
    uint64_t step; /* finished steps */
    size_t n;
    float *parameters; /* [n] */
    struct adam adam;
    float *best_parameters; /* [n], or NULL before the first validation */
    double best_score;
    uint64_t best_step;
    double rate_scale;                /* halved by roll-backs */
    uint64_t n_rollbacks, last_alarm; /* step of the guard's last alarm (guard.h), 0: none */
    struct train_point *curve;        /* [step] */
    double *statistics;               /* [step, n_statistics]: the adapter's own figures */
    size_t n_statistics;
    struct train_validation *validations;
    size_t n_validations;
};

int train_state_create(struct train_state *state, size_t n_parameters, size_t n_statistics);
void train_state_free(struct train_state *state);
/* Room for one more point: adding it cannot fail afterwards. */
int train_state_reserve_point(struct train_state *state);
/* statistics [n_statistics]; may be NULL where there are none. */
int train_state_add_point(struct train_state *state, const struct train_point *point,
                          const double *statistics);
int train_state_add_validation(struct train_state *state,
                               const struct train_validation *validation);

/* settings: one text of everything that decides the run's numbers (model identity, factors, recipe,
 * isa, dtype, seed ...); a file of other settings is refused with the first line that differs. */
int train_state_write(const struct train_state *state, const char *settings, const char *path);
/* state: created with the run's n_parameters. */
int train_state_read(struct train_state *state, const char *settings, const char *path);

#endif
