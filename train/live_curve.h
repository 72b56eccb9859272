#ifndef T2_TRAIN_LIVE_CURVE_H
#define T2_TRAIN_LIVE_CURVE_H
/* The curve of a training while it runs (docs/formats.md): a file beside the expert with the same
 * columns as the expert's own /curve and /validation, a row longer after every step, for t2 watch,
 * h5py and h5dump; readable after a kill. Written by rank 0 alone (mpi/h5_live.h).
 *
 * Nothing here ends a training: a file that cannot be made or written costs one line on stderr and
 * is given up. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/adapter.h"
#include "mpi/h5_live.h"
#include "train/state.h"

enum { LIVE_STATE_BYTES = 16 };
#define LIVE_CURVE_KIND "t2 live curve"

struct live_curve {
    /* The caller's, before live_curve_begin. path NULL: none. Other texts may be NULL. */
    const char *path;
    const char *task, *adapter, *model, *command_line, *version, *started;
    size_t n_steps, validate_every; /* planned; 0: no validations */
    int n_ranks;
    bool quiet;
    /* Ours. */
    struct h5_live file;
    hid_t columns[TRAIN_POINT_COLUMNS], *statistics, validations[5], state, updated;
    size_t n_statistics, n_written, n_validations;
    bool is_open;
};

/* Makes the file with the rows that a resumed state has, so that rows of steps which were lost are
 * gone. A file of another kind that is there stays. */
void live_curve_begin(struct live_curve *live, const struct adapter *adapter,
                      const struct train_state *state);
/* Appends what is new. */
void live_curve_update(struct live_curve *live, const struct train_state *state);
/* how: "finished", "stopped" (to be resumed) or "failed". Accepts one that is not open. */
void live_curve_end(struct live_curve *live, const char *how);

/* Where this process runs, as the file says it of its writer: the node's name, and the namespace
 * that its process numbers belong to. Texts [size]. */
void live_curve_place(char *host, char *space, size_t size);

#endif
