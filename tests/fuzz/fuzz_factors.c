/* The factor file reader on any bytes. (scratch: raw) */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <fcntl.h>
#include <unistd.h>

#include "model/factors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/dev/shm/t2-fuzz-factors-%ld", (long)getpid());
    int fd = open(path, O_RDWR|O_CREAT|O_TRUNC, 0600);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    struct factors *f = factors_open(path);
    for (size_t i = 0; f && i < factors_n_matrices(f); i++) {
        const struct factors_matrix *m = factors_get(f, i);
        size_t r = m->module.n_rows < m->module.n_columns ? m->module.n_rows : m->module.n_columns;
        float *rows = malloc(r * r * sizeof *rows);
        if (rows)
            (void)factors_read(f, m, 0, r, rows);
        free(rows);
    }
    factors_close(f);
    close(fd);
    return 0;
}
