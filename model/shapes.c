#include "model/shapes.h"

#include <stdio.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/text.h"

/* From the models' published configurations. */
static const struct shape {
    const char *name;
    size_t n_layers, hidden, ffn, n_heads, n_kv_heads, head_dim, vocab;
} shapes[] = {
    {"llama2-7b", 32, 4096, 11008, 32, 32, 128, 32000},
    {"llama2-13b", 40, 5120, 13824, 40, 40, 128, 32000},
    {"llama2-70b", 80, 8192, 28672, 64, 8, 128, 32000},
    {"llama3-8b", 32, 4096, 14336, 32, 8, 128, 128256},
    {"llama3-70b", 80, 8192, 28672, 64, 8, 128, 128256},
    {"llama3-405b", 126, 16384, 53248, 128, 8, 128, 128256},
    {"llama3.2-1b", 16, 2048, 8192, 32, 8, 64, 128256},
    {"llama3.2-3b", 28, 3072, 8192, 24, 8, 128, 128256},
    {"mistral-7b", 32, 4096, 14336, 32, 8, 128, 32768},
    {"qwen2.5-0.5b", 24, 896, 4864, 14, 2, 64, 151936},
    {"qwen2.5-1.5b", 28, 1536, 8960, 12, 2, 128, 151936},
    {"qwen2.5-7b", 28, 3584, 18944, 28, 4, 128, 152064},
    {"qwen2.5-72b", 80, 8192, 29568, 64, 8, 128, 152064},
    {"qwen3-8b", 36, 4096, 12288, 32, 8, 128, 151936},
    {"smollm2-135m", 30, 576, 1536, 9, 3, 64, 49152},
    {"smollm2-360m", 32, 960, 2560, 15, 5, 64, 49152},
    {"smollm2-1.7b", 24, 2048, 8192, 32, 32, 64, 49152},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

int shapes_find(const char *name, struct model_config *config)
{
    const char *names[N_SHAPES];
    char list[512];
    size_t n = 0;

    for (size_t i = 0; i < N_SHAPES; i++) {
        const struct shape *s = &shapes[i];
        if (strcmp(name, s->name) == 0) {
            *config = (struct model_config){.n_layers = s->n_layers,
                                            .hidden_size = s->hidden,
                                            .ffn_size = s->ffn,
                                            .n_heads = s->n_heads,
                                            .n_kv_heads = s->n_kv_heads,
                                            .head_dim = s->head_dim,
                                            .vocab_size = s->vocab};
            snprintf(config->architecture, sizeof config->architecture, "%s", s->name);
            return 0;
        }
        names[i] = s->name;
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", s->name);
    }
    const char *near = text_nearest(name, names, N_SHAPES);
    if (near)
        return error_set("'%s' is no model shape that t2 knows, did you mean %s? There are %s",
                         name, near, list);
    return error_set("'%s' is no model shape that t2 knows; there are %s", name, list);
}
