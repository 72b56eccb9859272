/* config.json, and generation_config.json after the first NUL. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *split = size ? memchr(data, 0, size) : NULL;
    const char *text = size ? (const char *)data : "";
    size_t n = split ? (size_t)(split - data) : size;
    struct model_config config;

    if (config_parse_hf(&config, text, n, split ? text + n + 1 : NULL, split ? size - n - 1 : 0,
                        "config.json") == 0)
        config_free(&config);
    return 0;
}
