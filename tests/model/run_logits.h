#ifndef T2_TESTS_MODEL_RUN_LOGITS_H
#define T2_TESTS_MODEL_RUN_LOGITS_H
/* All logits of one sequence through forward.h, in passes of at most `chunk` tokens. */
#include <stdlib.h>
#include <string.h>

#include "model/forward.h"
#include "model/model_internal.h"

/* logits f32 [n, vocab_size]. 0, or -1 with error_set. */
static inline int run_logits(struct model *model, const int32_t *ids, size_t n, size_t chunk,
                             float *logits)
{
    const size_t vocab = model->config.vocab_size;
    const size_t max_rows = chunk < n ? chunk : n, n_pages = n / KV_PAGE + 1;
    struct forward f = {0};
    struct kv_cache cache = {0};
    int32_t *pages = malloc(n_pages * sizeof *pages);
    int32_t *rows = malloc(n * sizeof *rows);
    struct head_result *results = malloc(n * sizeof *results);
    float *padded = NULL;
    int status = -1;

    if (forward_create(&f, model, max_rows) != 0 || forward_cache_create(&cache, model) != 0)
        goto done;
    padded = aligned_alloc(64, max_rows * f.ld_logits * sizeof *padded);
    for (size_t i = 0; i < n_pages; i++)
        if ((pages[i] = kv_page_take(&cache)) < 0)
            goto done;
    for (size_t i = 0; i < n; i++)
        rows[i] = (int32_t)i;
    for (size_t first = 0; first < n; first += max_rows) {
        const size_t n_rows = n - first < max_rows ? n - first : max_rows;
        const struct batch_run run = {.n_rows = n_rows, .first_position = first, .pages = pages};
        const struct batch batch = {
            .n_rows = n_rows, .ids = ids + first, .runs = &run, .n_runs = 1};
        if (forward_run(&f, &cache, &batch) != 0 ||
            forward_head(&f, rows, n_rows, NULL, results, padded) != 0)
            goto done;
        for (size_t r = 0; r < n_rows; r++)
            memcpy(logits + (first + r) * vocab, padded + r * f.ld_logits, vocab * sizeof(float));
    }
    status = 0;
done:
    forward_free(&f);
    kv_cache_free(&cache);
    free(pages);
    free(rows);
    free(results);
    free(padded);
    return status;
}

#endif
