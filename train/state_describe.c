/* Training states for people: t2 inspect. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"
#include "mpi/text.h"
#include "train/state_text.h"
#include "train/train_result.h"

void state_text_print(const char *settings, FILE *out)
{
    fputs("\n  settings\n", out);
    for (const char *line = settings; *line;) {
        const size_t length = strcspn(line, "\n");
        fputs("    ", out);
        for (size_t i = 0; i < length; i++)
            putc(text_printable(line[i], '?'), out);
        putc('\n', out);
        line += length + (line[length] == '\n');
    }
}

int train_state_describe(const char *path, FILE *out)
{
    hid_t file = h5_open(path);
    int64_t version = 0, step = 0, best_step = 0, n_rollbacks = 0;
    size_t n = 0, columns = 0, n_validations = 0;
    double best = 0;
    char *settings = NULL;
    int status = -1;

    if (file < 0)
        return -1;
    if (!h5_get_int(file, "format_version", &version) || version != TRAIN_STATE_VERSION) {
        error_set("%s has the format version %lld; this t2 reads %d", path, (long long)version,
                  TRAIN_STATE_VERSION);
        goto done;
    }
    if (!h5_get_text(file, "settings", &settings) || !h5_get_int(file, "step", &step) ||
        !h5_get_int(file, "best_step", &best_step) || !h5_get_real(file, "best_score", &best) ||
        !h5_get_int(file, "n_rollbacks", &n_rollbacks) ||
        !h5_shape(file, "parameters", &n, &columns) ||
        !h5_shape(file, "validations", &n_validations, &columns)) {
        error_set("%s lacks a part of the training state: the file is damaged", path);
        goto done;
    }
    fprintf(out, "%s: state of a training that is not finished (t2 train --resume goes on)\n\n",
            path);
    fprintf(out, "  step         %lld\n  parameters   %zu\n", (long long)step, n);
    if (n_validations > 0 && isfinite(best))
        fprintf(out, "  best         %.4f at step %lld, of %zu validations\n", best,
                (long long)best_step, n_validations);
    if (n_rollbacks > 0)
        fprintf(out, "  rollbacks    %lld\n", (long long)n_rollbacks);
    state_text_print(settings, out);
    status = 0;
done:
    free(settings);
    h5_close(file);
    return status;
}
