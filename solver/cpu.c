#include "solver/cpu.h"

#include <stdio.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "mpi/error.h"

static const char *const names[ISA_COUNT] = {"plain", "avx2", "avx512", "avx512bf16", "amx"};

#if defined(__x86_64__)
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

static unsigned long long read_xcr0(void)
{
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (unsigned long long)hi << 32 | lo;
}

static enum isa detect(void)
{
    unsigned a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA) || !(c & bit_F16C))
        return ISA_PLAIN;
    const unsigned long long xcr0 = read_xcr0();
    unsigned b7 = 0, d7 = 0, a71 = 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        b7 = b;
        d7 = d;
    }
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d))
        a71 = a;
    if (!(b7 & bit_AVX2) || (xcr0 & 0x6) != 0x6)
        return ISA_PLAIN;
    const unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    if ((b7 & avx512) != avx512 || (xcr0 & 0xe6) != 0xe6)
        return ISA_AVX2;
    if (!(a71 & (1u << 5))) /* AVX512_BF16 */
        return ISA_AVX512;
    const unsigned amx = 1u << 22 | 1u << 24; /* AMX-BF16, AMX-TILE */
    if ((d7 & amx) != amx || (xcr0 & 0x60000) != 0x60000 ||
        syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0)
        return ISA_AVX512_BF16;
    return ISA_AMX;
}
#else
static enum isa detect(void)
{
    return ISA_PLAIN;
}
#endif

enum isa cpu_best_isa(void)
{
    static _Atomic int cached = -1; /* the same value whoever writes it */
    if (cached < 0)
        cached = (int)detect();
    return (enum isa)cached;
}

const char *isa_name(enum isa isa)
{
    return names[isa];
}

int isa_parse(const char *name, enum isa *isa)
{
    for (int i = 0; i < ISA_COUNT; i++)
        if (strcmp(name, names[i]) == 0) {
            *isa = (enum isa)i;
            return 0;
        }
    return error_set("unknown instruction set '%s': choose plain, avx2, avx512, avx512bf16 or amx",
                     name);
}

void cpu_describe(char *text, unsigned long size)
{
    char brand[49] = "unknown processor";
#if defined(__x86_64__)
    unsigned regs[12];
    if (__get_cpuid(0x80000002, regs, regs + 1, regs + 2, regs + 3) &&
        __get_cpuid(0x80000003, regs + 4, regs + 5, regs + 6, regs + 7) &&
        __get_cpuid(0x80000004, regs + 8, regs + 9, regs + 10, regs + 11)) {
        memcpy(brand, regs, 48);
        brand[48] = '\0';
    }
#endif
    const char *start = brand;
    while (*start == ' ')
        start++;
    snprintf(text, size, "%s, %s", start, isa_name(cpu_best_isa()));
}
