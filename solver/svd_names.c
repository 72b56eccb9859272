/* The names of methods, precisions and repairs, as options and files have them. */
#include <string.h>

#include "mpi/error.h"
#include "solver/svd.h"

static const char *const methods[SVD_METHOD_COUNT] = {
    [SVD_AUTO] = "auto",           [SVD_LAPACK] = "lapack", [SVD_TWO_STAGE] = "two-stage",
    [SVD_SCALAPACK] = "scalapack", [SVD_ELPA] = "elpa",     [SVD_GESVD] = "gesvd"};
static const char *const precisions[SVD_PRECISION_COUNT] = {
    [SVD_PRECISION_AUTO] = "auto", [SVD_F32] = "f32", [SVD_F64] = "f64"};
static const char *const repairs[] = {[SVD_REPAIR_NONE] = "none",
                                      [SVD_REPAIR_ORTHOGONALISED] = "orthogonalised",
                                      [SVD_REPAIR_JACOBI] = "jacobi",
                                      [SVD_REPAIR_GESVD] = "gesvd"};

const char *svd_method_name(enum svd_method method)
{
    return methods[method];
}

const char *svd_precision_name(enum svd_precision precision)
{
    return precisions[precision];
}

const char *svd_repair_name(enum svd_repair repair)
{
    return repairs[repair];
}

int svd_method_parse(const char *name, enum svd_method *method)
{
    for (int i = 0; i < SVD_METHOD_COUNT; i++) {
        if (strcmp(name, methods[i]) == 0) {
            *method = (enum svd_method)i;
            return 0;
        }
    }
    return error_set("\"%.40s\" is no method; choose auto, lapack, two-stage, scalapack, elpa or "
                     "gesvd",
                     name);
}

int svd_precision_parse(const char *name, enum svd_precision *precision)
{
    for (int i = 0; i < SVD_PRECISION_COUNT; i++) {
        if (strcmp(name, precisions[i]) == 0) {
            *precision = (enum svd_precision)i;
            return 0;
        }
    }
    return error_set("\"%.40s\" is no precision; choose auto, f32 or f64", name);
}
