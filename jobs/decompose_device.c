#include "jobs/decompose_device.h"

#include <string.h>

#include "mpi/error.h"
#include "solver/svd_cuda.h"

/* Of what was asked for by --device: nothing that contradicts itself. */
static int check(const struct svd_options *svd, const struct device *wish, bool by_option)
{
    if (svd->method == SVD_CUSOLVER && wish->kind == DEVICE_CPU)
        return error_set("--method cusolver works on a CUDA device: leave --device cpu out, or "
                         "choose another method");
    if (svd->method == SVD_CUSOLVER && svd->precision == SVD_F32)
        return error_set("--method cusolver works in f64: leave --precision f32 out");
    if (!by_option || wish->kind != DEVICE_CUDA || svd->method == SVD_CUSOLVER)
        return 0;
    if (svd->method != SVD_AUTO)
        return error_set("--method %s works on the processor: leave --device out, or use --method "
                         "cusolver",
                         svd_method_name(svd->method));
    if (svd->precision == SVD_F32)
        return error_set("--precision f32: a device decomposes in f64; leave it out, or use "
                         "--device cpu");
    return 0;
}

int decompose_choose_device(const struct comm *comm, const char *asked, bool planning,
                            struct svd_options *svd, struct device *device)
{
    struct device wish;
    const char *label;
    int status = device_wish(asked, &wish, &label);

    if (status == 0)
        status = check(svd, &wish, strcmp(label, "--device") == 0);
    if (comm_agree(comm, status) != 0)
        return -1;
    *device = (struct device){DEVICE_CPU, 0};
    const bool may =
        svd->method == SVD_CUSOLVER || (svd->method == SVD_AUTO && svd->precision != SVD_F32);
    if (!may || wish.kind == DEVICE_CPU)
        return 0;
    if (planning && (svd->method == SVD_CUSOLVER || wish.kind == DEVICE_CUDA))
        *device = (struct device){DEVICE_CUDA, 0};
    else if (choose_device(comm,
                           svd->method == SVD_CUSOLVER && wish.kind == DEVICE_AUTO ? "cuda" : asked,
                           device) != 0)
        return -1;
    if (device->kind == DEVICE_CUDA)
        svd->method = SVD_CUSOLVER;
    return 0;
}

int decompose_open_device(const struct comm *comm, const struct device *device,
                          struct svd_options *svd)
{
    svd->cuda = NULL;
    if (device->kind == DEVICE_CUDA)
        svd->cuda = svd_cuda_create(device->index);
    const int status = comm_agree(comm, device->kind != DEVICE_CUDA || svd->cuda ? 0 : -1);
    if (status != 0) {
        svd_cuda_free(svd->cuda);
        svd->cuda = NULL;
    }
    return status;
}
