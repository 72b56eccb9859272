#define AXPY_NAME axpy_run_plain
#include "solver/axpy_kernel.inc"

typedef void axpy_run(const struct axpy *axpy, void *out, size_t first, size_t end);
#ifdef T2_BUILD_AVX2
axpy_run axpy_run_avx2;
#endif
#ifdef T2_BUILD_AVX512
axpy_run axpy_run_avx512;
#endif

struct job {
    const struct axpy *axpy;
    void *out;
    axpy_run *run;
};

static void run_range(void *arg, size_t first, size_t end, int thread)
{
    const struct job *job = arg;
    (void)thread;
    job->run(job->axpy, job->out, first, end);
}

void axpy_mix(const struct axpy *axpy, void *out, size_t n_elements, enum isa isa,
              struct team *team)
{
    struct job job = {axpy, out, axpy_run_plain};

#ifdef T2_BUILD_AVX2
    if (isa >= ISA_AVX2)
        job.run = axpy_run_avx2;
#endif
#ifdef T2_BUILD_AVX512
    if (isa >= ISA_AVX512)
        job.run = axpy_run_avx512;
#endif
    team_ranges(team, run_range, &job, n_elements, 1 << 15);
}
