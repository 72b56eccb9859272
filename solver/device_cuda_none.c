/* What device.h says of CUDA in a build without it. */
#include "solver/device.h"

bool device_built(void)
{
    return false;
}

int device_identity(int index, unsigned char identity[16])
{
    (void)index, (void)identity;
    return -1;
}
