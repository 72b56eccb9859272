#ifndef T2_MPI_SIGNALS_H
#define T2_MPI_SIGNALS_H
/* Asked to stop: SIGTERM, SIGINT and SIGUSR1 (Slurm's warning before the time limit) set a flag
 * that work looks at between small pieces. A second SIGINT ends the process at once. */
#include <stdbool.h>

/* Installs the handlers (once). */
void signals_watch(void);
/* The signal that came, or 0. Cheap. */
int signals_pending(void);
/* "SIGTERM" ... */
const char *signals_name(int signal);

#endif
