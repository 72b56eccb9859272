#include "jobs/blas.h"

#include <cblas.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

#include "solver/cpu.h"

void blas_choose_kernels(char **argv)
{
    static const char *const old[] = {"Prescott",   "Katmai",  "Coppermine", "Northwood",
                                      "Banias",     "Atom",    "Core2",      "Penryn",
                                      "Dunnington", "Nehalem", "Unknown",    "Generic"};
    const enum isa isa = cpu_best_isa();
    const char *chosen = openblas_get_corename();

    if (getenv("OPENBLAS_CORETYPE") || isa < ISA_AVX2 || !chosen)
        return;
    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        if (strcasecmp(chosen, old[i]) == 0) {
            setenv("OPENBLAS_CORETYPE", isa >= ISA_AVX512 ? "SkylakeX" : "Haswell", 1);
            execv("/proc/self/exe", argv);
            unsetenv("OPENBLAS_CORETYPE"); /* it could not: slow, then */
            return;
        }
}
