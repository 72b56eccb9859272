#include "train/rollout_order.h"

#include <stdlib.h>
#include <string.h>

#include "model/rng.h"
#include "mpi/error.h"

enum { STREAM_ORDER = 0x6f72 }; /* apart from what samples answers */

/* 0 .. n - 1 in the order of `epoch` (Fisher and Yates, from the front; only the first `wanted` are
 * settled). */
static void shuffle(uint64_t seed, uint64_t epoch, size_t n, size_t wanted, size_t *items)
{
    for (size_t i = 0; i < n; i++)
        items[i] = i;
    for (size_t i = 0; i < wanted && i + 1 < n; i++) {
        const double u = rng_uniform(seed, ((uint64_t)STREAM_ORDER << 32) + epoch, i);
        size_t j = i + (size_t)(u * (double)(n - i));
        if (j >= n)
            j = n - 1;
        const size_t t = items[i];
        items[i] = items[j];
        items[j] = t;
    }
}

int rollout_order(uint64_t seed, uint64_t step, size_t n_items, size_t batch, size_t *items)
{
    if (n_items == 0)
        return error_set("there are no training items");
    size_t *order = malloc(n_items * sizeof *order);
    if (!order)
        return error_set("no memory for the order of %zu training items", n_items);
    if (batch <= n_items) {
        const uint64_t per_epoch = n_items / batch;
        const size_t first = (size_t)(step % per_epoch) * batch;
        shuffle(seed, step / per_epoch, n_items, first + batch, order);
        memcpy(items, order + first, batch * sizeof *items);
    } else {
        for (size_t n = 0; n < batch;) {
            const uint64_t position = step * batch + n;
            const size_t at = (size_t)(position % n_items);
            const size_t count = n_items - at < batch - n ? n_items - at : batch - n;
            shuffle(seed, position / n_items, n_items, n_items, order);
            memcpy(items + n, order + at, count * sizeof *items);
            n += count;
        }
    }
    free(order);
    return 0;
}
