/* Any bytes as a history of nightly runs: read, and every night judged. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "eval/history.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct history history;
    char path[64];

    snprintf(path, sizeof path, "/dev/shm/t2-fuzz-history-%ld.tsv", (long)getpid());
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0)
        abort();
    if (history_read(&history, path) == 0) {
        for (size_t m = 0; m < history.n_metrics; m++)
            for (size_t night = 0; night < history.n_nights; night++) {
                const struct history_verdict v = history_judge(&history, m, night);
                if (v.worse && (!v.known || v.better))
                    abort();
            }
        history_free(&history);
    }
    unlink(path);
    return 0;
}
