/* Programs per second through the sandbox: bench_sandbox [WORKERS [N]] */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "eval/sandbox.h"
#include "mpi/error.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int measure(struct sandbox *sandbox, const char *name, const char *program, size_t n)
{
    size_t n_passed = 0;
    const double start = now();

    for (size_t i = 0; i < n; i++)
        if (sandbox_submit(sandbox, program, i))
            return -1;
    for (struct sandbox_result result; sandbox_next(sandbox, true, &result);) {
        n_passed += result.outcome == SANDBOX_PASSED;
        if (result.outcome != SANDBOX_PASSED)
            fprintf(stderr, "%s (status %d, %.1f s): %s\n", sandbox_outcome_name(result.outcome),
                    result.status, result.seconds, result.output);
        sandbox_result_free(&result);
    }
    const double seconds = now() - start;
    printf("%-28s %6.1f programs/s  (%zu of %zu passed)\n", name, (double)n / seconds, n_passed, n);
    return 0;
}

int main(int argc, char **argv)
{
    struct sandbox_options options = sandbox_defaults();
    const size_t n = argc > 2 ? strtoul(argv[2], NULL, 10) : 300;
    int status = 1;

    options.workers = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    struct sandbox *sandbox = sandbox_open(&options);
    if (!sandbox || measure(sandbox, "no import", "assert sorted([3, 1, 2]) == [1, 2, 3]\n", n) ||
        measure(sandbox, "import re, math", "import re, math\nassert math.gcd(4, 6) == 2\n", n) ||
        measure(sandbox, "from typing import List",
                "from typing import List\ndef f(x: List[int]): return x\nassert f([]) == []\n", n))
        fprintf(stderr, "%s\n", error_message());
    else
        status = 0;
    sandbox_close(sandbox);
    return status;
}
