#ifndef T2_JOBS_DECOMPOSE_DEVICE_H
#define T2_JOBS_DECOMPOSE_DEVICE_H
/* What --device means for a decomposition: method cusolver on a CUDA device, the others on the
 * processor. */
#include "jobs/choose_device.h"
#include "solver/svd.h"

/* Workers of a rank that share its device: one reads and writes while the other computes. */
enum { DECOMPOSE_DEVICE_WORKERS = 2 };

/* Settles svd->method and *device: auto takes the processor where the method or the precision asks
 * for it. planning: no device need be there. Collective. 0, or -1 on all with error_set. */
int decompose_choose_device(const struct comm *comm, const char *asked, bool planning,
                            struct svd_options *svd, struct device *device);

/* Opens the device where there is one to open: svd->cuda, for svd_cuda_free (solver/svd_cuda.h).
 * Collective. 0, or -1 on all with error_set. */
int decompose_open_device(const struct comm *comm, const struct device *device,
                          struct svd_options *svd);

#endif
