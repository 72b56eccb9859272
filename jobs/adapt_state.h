#ifndef T2_JOBS_ADAPT_STATE_H
#define T2_JOBS_ADAPT_STATE_H
/* The file of a few-shot search between two iterations, OUT.state (docs/formats.md): the search's
 * numbers and its curves. HDF5, written whole. Serial: rank 0's. */
#include <hdf5.h>
#include <stdbool.h>
#include <stdio.h>

#include "eval/fewshot.h"

/* settings: one text of everything that decides the run's numbers. 0, or -1 with error_set. */
int adapt_state_write(const struct fewshot *f, const char *settings, const char *path);
/* f: fresh from fewshot_create with the run's options. A file of other settings is refused with the
 * first line that differs, a damaged one with a sentence; f is then good for fewshot_free only. */
int adapt_state_read(struct fewshot *f, const char *settings, const char *path);

/* The curves as the group `curve` of an open file; the state's and the result's. */
int adapt_put_curves(hid_t file, const struct fewshot *f);

/* For t2 inspect. */
bool adapt_state_is_file(const char *path);
int adapt_state_describe(const char *path, FILE *file);

#endif
