/* bench_attention [--batch B] [--context N] [--threads T] [--isa LEVEL] [--form f32|bf16|tiles]
 *                 [--reps N]
 *
 * One decoding step's attention of a model of SmolLM2-135M's shape, alone: B sequences with N
 * tokens in the cache bring one row each to every layer. Between layers as much memory as a layer's
 * weights is read, so that keys and values come from as far away as in a model. Prints, over all
 * layers, the sum of each layer's least time, and the speed at which keys and values were read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/clock.h"
#include "mpi/error.h"
#include "solver/engine.h"

enum { LAYERS = 30, HEADS = 9, KV_HEADS = 3, HEAD_DIM = 64, WEIGHTS = 7 << 20 };
enum { WIDTH = (HEADS + 2 * KV_HEADS) * HEAD_DIM, OUT = HEADS * HEAD_DIM };

static void *allocate(size_t bytes)
{
    void *p = aligned_alloc(64, round_up(bytes, 64));
    if (!p) {
        fprintf(stderr, "bench_attention: no memory\n");
        exit(1);
    }
    return p;
}

struct sweep {
    const uint64_t *weights;
    uint64_t sums[64];
};

static void sweep_part(void *arg, size_t part, int thread)
{
    struct sweep *s = arg;
    const size_t n = WEIGHTS / sizeof(uint64_t) / 8;
    uint64_t sum = 0;
    (void)thread;
    for (size_t i = part * n; i < (part + 1) * n; i += 8)
        sum += s->weights[i];
    s->sums[part] += sum;
}

int main(int argc, char **argv)
{
    static const char *const forms[] = {"f32", "bf16", "tiles"};
    size_t batch = 64, context = 96, reps = 20;
    int threads = 2, form = -1;
    enum isa isa = cpu_best_isa();
    struct engine e;
    struct kv_cache cache;

    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--batch") == 0)
            batch = (size_t)atol(value);
        else if (strcmp(name, "--context") == 0)
            context = (size_t)atol(value);
        else if (strcmp(name, "--reps") == 0)
            reps = (size_t)atol(value);
        else if (strcmp(name, "--threads") == 0)
            threads = atoi(value);
        else if (strcmp(name, "--isa") == 0 && isa_parse(value, &isa) != 0)
            return fprintf(stderr, "%s\n", error_message()), 2;
        for (int f = 0; strcmp(name, "--form") == 0 && f < 3; f++)
            form = strcmp(value, forms[f]) == 0 ? f : form;
    }
    if (engine_create_cpu(&e, ELEMENT_BF16, isa, threads) != 0)
        return fprintf(stderr, "%s\n", error_message()), 1;
    if (form >= 0)
        engine_set_kv_form(&e, (enum kv_form)form);
    kv_cache_create(&cache, &memory_host, e.kv_form, LAYERS, KV_HEADS, HEAD_DIM);

    const size_t n_pages = context / KV_PAGE + 1, qkv_floats = batch * WIDTH;
    int32_t *pages = allocate(batch * n_pages * sizeof *pages);
    struct batch_run *runs = allocate(batch * sizeof *runs);
    float *qkv = allocate(qkv_floats * sizeof *qkv);
    uint16_t *out = allocate(batch * OUT * sizeof *out);
    float *rope = allocate((context + 1) * HEAD_DIM / 2 * sizeof *rope);
    struct sweep sweep = {allocate((size_t)LAYERS * WEIGHTS), {0}};
    memset((void *)sweep.weights, 1, (size_t)LAYERS * WEIGHTS);
    for (size_t i = 0; i < qkv_floats; i++)
        qkv[i] = (float)((i * 2654435761u >> 8) % 1024) / 512 - 1;
    for (size_t i = 0; i < (context + 1) * HEAD_DIM / 2; i++)
        rope[i] = 0.7f;
    /* in the order in which sequences that grow together take their pages */
    for (size_t p = 0; p < n_pages; p++)
        for (size_t i = 0; i < batch; i++)
            pages[i * n_pages + p] = kv_page_take(&cache);
    for (size_t i = 0; i < cache.n_slabs; i++)
        memset(cache.slabs[i], 0x3c,
               (size_t)KV_SLAB_PAGES * LAYERS * KV_HEADS * cache.head_elements *
                   element_size(cache.element));
    for (size_t i = 0; i < batch; i++)
        runs[i] = (struct batch_run){i, 1, context, pages + i * n_pages};
    const struct batch b = {.n_rows = batch, .runs = runs, .n_runs = batch};
    const uint64_t *weights = sweep.weights;
    double least[LAYERS];
    for (size_t r = 0; r < reps; r++)
        for (size_t layer = 0; layer < LAYERS; layer++) {
            const struct attention_layer a = {.layer = layer,
                                              .n_heads = HEADS,
                                              .n_kv_heads = KV_HEADS,
                                              .head_dim = HEAD_DIM,
                                              .k_offset = OUT,
                                              .v_offset = OUT + KV_HEADS * HEAD_DIM,
                                              .scale = 0.125f,
                                              .rope_cos = rope,
                                              .rope_sin = rope};
            sweep.weights = weights + layer * WEIGHTS / sizeof *weights;
            team_run(e.team, sweep_part, &sweep, 8);
            const double start = clock_seconds();
            if (e.ops->attention(&e, &a, &cache, &b, qkv, WIDTH, out, OUT) != 0)
                return fprintf(stderr, "%s\n", error_message()), 1;
            const double time = clock_seconds() - start;
            if (r == 0 || time < least[layer])
                least[layer] = time;
        }
    double seconds = 0;
    for (size_t layer = 0; layer < LAYERS; layer++)
        seconds += least[layer];
    const double bytes = 2.0 * (double)(batch * (context + 1) * LAYERS * KV_HEADS * HEAD_DIM) *
                         (double)element_size(cache.element);
    printf("attention batch %zu context %zu %s threads %d: %.3f ms a step, %.1f GB/s\n", batch,
           context, forms[e.kv_form], threads, 1e3 * seconds, 1e-9 * bytes / seconds);
    kv_cache_free(&cache);
    engine_free(&e);
    return 0;
}
