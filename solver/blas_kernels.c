#include "solver/blas_kernels.h"

#include <cblas.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "solver/cpu.h"

/* OpenBLAS's names for x86 cores without AVX2. */
static bool is_old(const char *core)
{
    static const char *const old[] = {"Katmai",     "Coppermine",   "Northwood",   "Prescott",
                                      "Banias",     "Atom",         "Core2",       "Penryn",
                                      "Dunnington", "Nehalem",      "Sandybridge", "Athlon",
                                      "Opteron",    "Opteron_SSE3", "Barcelona",   "Nano",
                                      "Bobcat",     "Bulldozer",    "Piledriver",  "unknown"};

    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        if (strcasecmp(core, old[i]) == 0)
            return true;
    return false;
}

const char *blas_kernels(void)
{
    return openblas_get_corename();
}

void blas_choose_kernels(char **argv)
{
    const enum isa isa = cpu_best_isa();

    if (isa < ISA_AVX2 || getenv("OPENBLAS_CORETYPE") || !is_old(openblas_get_corename()))
        return;
    setenv("OPENBLAS_CORETYPE", isa >= ISA_AVX512 ? "SkylakeX" : "Haswell", 1);
    execv("/proc/self/exe", argv);
    unsetenv("OPENBLAS_CORETYPE"); /* it could not be started again: slow, but right */
}
