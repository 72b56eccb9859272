/* The safetensors reader and the reading of what it holds. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *st = safetensors_from_memory(data, size, "fuzz.safetensors");

    for (size_t i = 0; st && i < safetensors_n_tensors(st); i++) {
        const struct tensor *t = safetensors_tensor(st, i);
        if (!t->data)
            continue;
        float *row = malloc((tensor_row_elements(t) + 1) * sizeof *row);
        tensor_read_rows(t, tensor_n_rows(t) - 1, 1, row);
        free(row);
    }
    safetensors_free(st);
    return 0;
}
