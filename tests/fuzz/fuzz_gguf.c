/* The GGUF reader, the configuration in it, and the reading of what it holds. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/config.h"
#include "model/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_arrays(const struct gguf *gguf, const char *key)
{
    size_t n;

    if (!gguf_array_size(gguf, key, &n) || n > 100000)
        return;
    const char **texts = malloc((n + 1) * sizeof *texts);
    size_t *lengths = malloc((n + 1) * sizeof *lengths);
    int64_t *ints = malloc((n + 1) * sizeof *ints);
    float *floats = malloc((n + 1) * sizeof *floats);
    if (gguf_get_strings(gguf, key, texts, lengths))
        for (size_t i = 0; i < n; i++)
            free(strndup(texts[i], lengths[i])); /* touches every byte */
    (void)gguf_get_ints(gguf, key, ints);
    (void)gguf_get_floats(gguf, key, floats);
    free(texts);
    free(lengths);
    free(ints);
    free(floats);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *gguf = gguf_from_memory(data, size, "fuzz.gguf");
    struct model_config config;
    char text[64];

    if (!gguf)
        return 0;
    for (size_t i = 0; i < gguf_n_keys(gguf); i++) {
        const char *key = gguf_key(gguf, i);
        double real;
        bool truth;
        gguf_describe_value(gguf, i, text, 1 + i % sizeof text);
        (void)gguf_get_float(gguf, key, &real);
        (void)gguf_get_bool(gguf, key, &truth);
        read_arrays(gguf, key);
    }
    for (size_t i = 0; i < gguf_n_tensors(gguf); i++) {
        const struct tensor *t = gguf_tensor(gguf, i);
        float *row = malloc(tensor_row_elements(t) * sizeof *row);
        tensor_read_rows(t, tensor_n_rows(t) - 1, 1, row);
        free(row);
    }
    if (config_parse_gguf(&config, gguf) == 0)
        config_free(&config);
    gguf_free(gguf);
    return 0;
}
