#include "model/sample.h"

#include <math.h>
#include <stdbool.h>

/* a comes before b: larger logit, lower id among equals. */
static bool before(const float *logits, int32_t a, int32_t b)
{
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

static void sift_down(const float *logits, int32_t *heap, size_t n, size_t i)
{
    for (;;) {
        size_t best = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < n; child++)
            if (before(logits, heap[child], heap[best]))
                best = child;
        if (best == i)
            return;
        const int32_t t = heap[i];
        heap[i] = heap[best];
        heap[best] = t;
        i = best;
    }
}

static int32_t argmax(const float *logits, size_t n)
{
    int32_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = (int32_t)i;
    return best;
}

/* All tokens, in order of id. */
static int32_t sample_all(const struct sampling *s, const float *logits, size_t n, float uniform)
{
    const double t = s->temperature, max = logits[argmax(logits, n)];
    double total = 0, sum = 0;

    for (size_t i = 0; i < n; i++)
        total += exp((logits[i] - max) / t);
    int32_t last = 0;
    for (size_t i = 0; i < n; i++) {
        const double p = exp((logits[i] - max) / t);
        sum += p;
        if (p > 0)
            last = (int32_t)i;
        if (sum > uniform * total)
            return (int32_t)i;
    }
    return last;
}

int32_t sample_token(const struct sampling *s, const float *logits, size_t n, float uniform,
                     int32_t *scratch)
{
    if (s->temperature <= 0 || s->top_k == 1)
        return argmax(logits, n);
    const size_t k = s->top_k > 0 && (size_t)s->top_k < n ? (size_t)s->top_k : n;
    if (k == n && s->top_p >= 1)
        return sample_all(s, logits, n, uniform);

    /* A heap gives the tokens in order without sorting the whole vocabulary. The kept ones gather
     * at the end of scratch, where popping leaves room. */
    for (size_t i = 0; i < n; i++)
        scratch[i] = (int32_t)i;
    for (size_t i = n / 2; i-- > 0;)
        sift_down(logits, scratch, n, i);
    const double t = s->temperature, max = logits[scratch[0]];
    double total = 0;
    if (k == n)
        for (size_t i = 0; i < n; i++)
            total += exp((logits[i] - max) / t);
    size_t n_kept = 0;
    double kept = 0;
    while (n_kept < k) {
        const size_t left = n - n_kept;
        const int32_t id = scratch[0];
        scratch[0] = scratch[left - 1];
        scratch[left - 1] = id;
        sift_down(logits, scratch, left - 1, 0);
        kept += exp((logits[id] - max) / t);
        n_kept++;
        if (k == n && kept >= s->top_p * total)
            break;
    }
    if (k < n && s->top_p < 1) {
        /* The k largest are known: cut them at top_p of their sum. */
        double sum = 0;
        for (size_t i = 0; i < n_kept; i++) {
            sum += exp((logits[scratch[n - 1 - i]] - max) / t);
            if (sum >= s->top_p * kept) {
                n_kept = i + 1;
                kept = sum;
                break;
            }
        }
    }
    double sum = 0;
    for (size_t i = 0; i < n_kept; i++) {
        const int32_t id = scratch[n - 1 - i];
        sum += exp((logits[id] - max) / t);
        if (sum > uniform * kept)
            return id;
    }
    return scratch[n - n_kept];
}
