#ifndef T2_JOBS_CHOOSE_DEVICE_H
#define T2_JOBS_CHOOSE_DEVICE_H
/* --device for all ranks: one kind of device everywhere, and which of a node's a rank takes. */
#include "jobs/options.h"
#include "mpi/comm.h"
#include "solver/device.h"

/* clang-format off */
/* The row of the option table for a const char * of choose_device; "auto" before parsing. */
#define DEVICE_OPTION_SPEC(value)                                                                  \
    {"device", 0, OPTION_STRING, &(value), "auto|cpu|cuda[:N]",                                    \
     .help = "what computes; cuda: a node's ranks take its devices in turn; auto takes them where " \
             "every rank has one (or T2_DEVICE says so)"}
/* clang-format on */

/* What `asked` (--device) means for this rank: CUDA's device of its number on the node, in turn
 * where there are fewer; one warning line where ranks share or where kinds differ. Never AUTO.
 * Collective. 0, or -1 on all with error_set. */
int choose_device(const struct comm *comm, const char *asked, struct device *device);

#endif
