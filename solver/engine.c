/* An engine for a device. */
#include "solver/engine.h"

#include "solver/engine_cuda.h"

int engine_create(struct engine *e, const struct device *wish, enum element element, enum isa isa,
                  int n_threads)
{
    struct device device = *wish;

    if (device_resolve(&device) != 0)
        return -1;
    return device.kind == DEVICE_CUDA ? engine_create_cuda(e, element, isa, n_threads, device.index)
                                      : engine_create_cpu(e, element, isa, n_threads);
}
