#ifndef T2_SOLVER_DEVICE_H
#define T2_SOLVER_DEVICE_H
/* Which device a process computes on: the wish of --device or T2_DEVICE, and what comes of it in
 * one process. Ranks agree among themselves elsewhere (jobs/choose_device.h). */
#include <stdbool.h>
#include <stddef.h>

enum device_kind { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA };

/* Zero: auto. */
struct device {
    enum device_kind kind;
    int index; /* of DEVICE_CUDA; negative: any, for whoever chooses */
};

/* "auto", "cpu", "cuda" or "cuda:3". -1 with error_set. */
int device_parse(const char *text, struct device *device);

/* The wish with T2_DEVICE from the environment in the place of auto. *label (may be NULL): what to
 * call it in a message, "--device" or "T2_DEVICE". -1 with error_set. */
int device_wish(const char *text, struct device *device, const char **label);

/* Makes of a wish what this process alone takes: T2_DEVICE, or else CUDA's device 0 where there is
 * one, in the place of auto; device 0 where any will do. -1 with error_set where CUDA is asked for
 * and not built in, or has no such device. */
int device_resolve(struct device *device);

/* 0 if this process has this CUDA device (any, if index is negative), else -1 with error_set that
 * says what to do. */
int device_check(const struct device *device);

/* "cpu", or "cuda, NVIDIA H100 80GB HBM3, 80 GB, compute 9.0"; for records. */
void device_describe(const struct device *device, char *text, size_t size);

/* Is CUDA built in? */
bool device_built(void);

/* What tells a CUDA device from all others. -1 (no message) where that cannot be known. */
int device_identity(int index, unsigned char identity[16]);

#endif
