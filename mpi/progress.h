#ifndef T2_MPI_PROGRESS_H
#define T2_MPI_PROGRESS_H
/* A progress line on stderr, on rank 0: a bar that redraws itself on a terminal (ten times a second
 * at most), a plain line every ten seconds elsewhere (a Slurm log). Costs a clock reading per
 * update. Not for several threads at once. */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "mpi/comm.h"

struct progress {
    FILE *file; /* NULL: silent */
    bool terminal, unicode;
    char title[48], note[96];
    size_t done, total;
    double start, drawn; /* seconds on the monotonic clock */
    double left;         /* seconds, where the caller knows better than by counting; else 0 */
};

/* Silent on ranks other than 0 and when quiet. total 0: unknown. */
void progress_begin(struct progress *progress, const struct comm *comm, const char *title,
                    size_t total, bool quiet);
/* done: how many are finished now. format: a free text beside it, such as a running score; NULL
 * keeps the last one. */
void progress_update(struct progress *progress, size_t done, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Takes the bar away; elsewhere, if a line was printed, prints a last one. Accepts a zeroed struct.
 */
void progress_end(struct progress *progress);

/* The line at time `now`, at most `width` columns; a bar when `bar`. For tests. */
void progress_line(const struct progress *progress, double now, bool bar, size_t width, char *text,
                   size_t size);

#endif
