#include <string.h>

#include "solver/cuda/gpu.h"

extern "C" {
#include "solver/device.h"
}

bool device_built(void)
{
    return true;
}

int device_identity(int index, unsigned char identity[16])
{
    cudaDeviceProp properties;

    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess)
        return -1;
    memcpy(identity, &properties.uuid, 16);
    return 0;
}
