#ifndef T2_SOLVER_CPU_H
#define T2_SOLVER_CPU_H
/* Which instruction sets this processor (and the kernel's permission) lets us use. Ordered: each
 * level includes the ones before it. A run uses one level on all its ranks. */
#include <stdbool.h>

enum isa {
    ISA_PLAIN,       /* portable C */
    ISA_AVX2,        /* AVX2 + FMA + F16C */
    ISA_AVX512,      /* AVX-512 F, BW, VL, DQ */
    ISA_AVX512_BF16, /* ... and vdpbf16ps */
    ISA_AMX,         /* ... and bf16 tiles */
    ISA_COUNT
};

/* The best level that works here (asks the kernel for AMX tile permission once). */
enum isa cpu_best_isa(void);

/* "plain", "avx2", "avx512", "avx512bf16", "amx". */
const char *isa_name(enum isa isa);

/* Inverse of isa_name; -1 with error_set naming the choices if unknown. */
int isa_parse(const char *name, enum isa *isa);

/* Processor's brand string and the features that matter here, for --version and provenance.
 * Writes at most size bytes. */
void cpu_describe(char *text, unsigned long size);

#endif
