#include "eval/metrics.h"

#include <math.h>
#include <stdlib.h>

double metrics_standard_error(size_t k, size_t n)
{
    if (n < 2)
        return 0;
    double p = (double)k / (double)n;
    return sqrt(p * (1 - p) / (double)(n - 1));
}

struct scored {
    double score;
    unsigned char positive;
};

static int compare_scored(const void *a, const void *b)
{
    double x = ((const struct scored *)a)->score, y = ((const struct scored *)b)->score;
    return (x > y) - (x < y);
}

double metrics_auc(const double *scores, const unsigned char *classes, size_t n)
{
    size_t n_positive = 0;
    double below = 0, wins = 0; /* negatives seen so far; pairs that the positive wins */

    struct scored *sorted = n ? malloc(n * sizeof *sorted) : NULL;
    if (!sorted)
        return NAN;
    for (size_t i = 0; i < n; i++) {
        sorted[i] = (struct scored){scores[i], classes[i] != 0};
        n_positive += classes[i] != 0;
    }
    qsort(sorted, n, sizeof *sorted, compare_scored);
    for (size_t i = 0; i < n;) {
        size_t j = i;
        double positive = 0, negative = 0;
        for (; j < n && sorted[j].score == sorted[i].score; j++) {
            positive += sorted[j].positive;
            negative += !sorted[j].positive;
        }
        wins += positive * (below + negative / 2);
        below += negative;
        i = j > i ? j : i + 1; /* a NaN equals nothing, not even itself */
    }
    free(sorted);
    size_t n_negative = n - n_positive;
    return n_positive && n_negative ? wins / ((double)n_positive * (double)n_negative) : NAN;
}

double metrics_softmax_at(const double *logprobs, size_t n, size_t index)
{
    double largest = logprobs[0], sum = 0;

    for (size_t i = 1; i < n; i++)
        largest = logprobs[i] > largest ? logprobs[i] : largest;
    for (size_t i = 0; i < n; i++)
        sum += exp(logprobs[i] - largest);
    return exp(logprobs[index] - largest) / sum;
}

size_t metrics_argmax(const double *values, const double *divisors, size_t n)
{
    size_t best = 0;
    double best_value = 0;

    for (size_t i = 0; i < n; i++) {
        double value = divisors ? values[i] / divisors[i] : values[i];
        if (i == 0 || value > best_value) {
            best = i;
            best_value = value;
        }
    }
    return best;
}

double metrics_pass_at(size_t n, size_t c, size_t k)
{
    double none = 1;

    if (n - c < k)
        return 1;
    for (size_t i = n - c + 1; i <= n; i++)
        none *= 1 - (double)k / (double)i;
    return 1 - none;
}

double metrics_mean(const double *values, size_t n, double *error)
{
    double sum = 0, squares = 0;

    for (size_t i = 0; i < n; i++)
        sum += values[i];
    const double mean = n ? sum / (double)n : 0;
    for (size_t i = 0; i < n; i++)
        squares += (values[i] - mean) * (values[i] - mean);
    *error = n < 2 ? 0 : sqrt(squares / (double)(n - 1) / (double)n);
    return mean;
}
