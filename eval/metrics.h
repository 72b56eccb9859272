#ifndef T2_EVAL_METRICS_H
#define T2_EVAL_METRICS_H
/* Small statistics over items, each computed in item order so that they never depend on ranks. */
#include <stddef.h>

/* Standard error of a mean of n zeros and ones with k ones: sqrt(p (1 - p) / (n - 1)), the sample
 * form that lm-eval reports; 0 for n < 2. */
double metrics_standard_error(size_t k, size_t n);

/* Unbiased estimate of the chance that of k samples one is right, from n >= k samples with c right:
 * 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, equation 1). */
double metrics_pass_at(size_t n, size_t c, size_t k);

/* Mean of values [n] and its standard error (sample form; 0 for n < 2). */
double metrics_mean(const double *values, size_t n, double *error);

/* Area under the ROC curve of scores [n] for classes [n] (nonzero: positive), ties count half
 * (Mann-Whitney U). NaN where a class is missing or n is 0, or when out of memory. */
double metrics_auc(const double *scores, const unsigned char *classes, size_t n);

/* exp(logprobs[index]) / sum_i exp(logprobs[i]). */
double metrics_softmax_at(const double *logprobs, size_t n, size_t index);

/* First index of the largest of values[i] / divisors[i] (divisors NULL: 1), as numpy.argmax. */
size_t metrics_argmax(const double *values, const double *divisors, size_t n);

#endif
