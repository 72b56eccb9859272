#ifndef T2_MPI_DEVICE_H
#define T2_MPI_DEVICE_H
/* HOST_DEVICE marks an element function that kernels share with the host. Headers that use it keep
 * to what is C as well as C++. */
#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__
#else
#define HOST_DEVICE
#endif

#endif
