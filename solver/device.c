#include "solver/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/engine_cuda.h"

int device_parse(const char *text, struct device *device)
{
    char *end;

    *device = (struct device){DEVICE_AUTO, 0};
    if (strcmp(text, "auto") == 0)
        return 0;
    if (strcmp(text, "cpu") == 0) {
        device->kind = DEVICE_CPU;
        return 0;
    }
    *device = (struct device){DEVICE_CUDA, -1};
    if (strcmp(text, "cuda") == 0)
        return 0;
    if (strncmp(text, "cuda:", 5) == 0 && text[5] >= '0' && text[5] <= '9') {
        const long index = strtol(text + 5, &end, 10);
        if (*end == '\0' && index < 4096) {
            device->index = (int)index;
            return 0;
        }
    }
    return error_set("there is no device '%s': choose auto, cpu, cuda or cuda:N", text);
}

int device_wish(const char *text, struct device *device, const char **label)
{
    const char *from = "--device", *set = getenv("T2_DEVICE");

    if (strcmp(text, "auto") == 0 && set && set[0]) {
        from = "T2_DEVICE";
        text = set;
    }
    if (label)
        *label = from;
    if (device_parse(text, device) == 0)
        return 0;
    return error_prefix("%s", from);
}

int device_check(const struct device *device)
{
    const int n = engine_cuda_count();
    char text[128];

    if (device->kind != DEVICE_CUDA || (n > 0 && device->index < n))
        return 0;
    return engine_cuda_describe(device->index > 0 ? device->index : 0, text, sizeof text);
}

int device_resolve(struct device *device)
{
    if (device->kind == DEVICE_AUTO && device_wish("auto", device, NULL) != 0)
        return -1;
    if (device->kind == DEVICE_AUTO)
        device->kind = engine_cuda_count() > 0 ? DEVICE_CUDA : DEVICE_CPU;
    if (device_check(device) != 0)
        return -1;
    device->index = device->kind == DEVICE_CUDA && device->index > 0 ? device->index : 0;
    return 0;
}

void device_describe(const struct device *device, char *text, size_t size)
{
    char what[128] = "";

    if (device->kind != DEVICE_CUDA)
        snprintf(text, size, "cpu");
    else if (engine_cuda_describe(device->index, what, sizeof what) == 0)
        snprintf(text, size, "cuda, %s", what);
    else
        snprintf(text, size, "cuda");
}
