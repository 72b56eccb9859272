#ifndef T2_EVAL_HISTORY_H
#define T2_EVAL_HISTORY_H
/* The history of nightly runs: a text file with a line a measurement, which jobs/nightly.sbatch
 * appends to, and the rule that says what got worse. Local to a rank.
 *
 *     date<TAB>commit<TAB>metric<TAB>value
 *
 * Lines that begin with '#' and empty ones are passed over. All lines of one date are a night; the
 * last of several values counts. A metric's name says what is good: "...seconds": less; all others
 * (scores, rates): more; "...score": a part of 1. */
#include <stdbool.h>
#include <stddef.h>

struct history_metric {
    char *name;
    double *values; /* [n_nights]; NaN: not measured */
};

struct history {
    char *path;
    char **dates, **commits; /* [n_nights], in the file's order */
    size_t n_nights;
    struct history_metric *metrics;
    size_t n_metrics;
};

/* 0, or -1 with error_set that names the line; then nothing to free. */
int history_read(struct history *history, const char *path);
void history_free(struct history *history);

/* The last night against those before it (the last HISTORY_WINDOW at most, HISTORY_LEAST at
 * least). With m their median and s 1.4826 times the median of |x - m|, which is the standard
 * deviation of normal noise, a value is worse when it lies on the bad side of m by more than 3.5 s,
 * and by more than what is not worth an alarm: 10 % of m for times and rates, 0.015 for scores. The
 * median and its deviations do not move with a few odd nights. */
enum { HISTORY_WINDOW = 20, HISTORY_LEAST = 5 };

struct history_verdict {
    double value, median, allowed; /* worse: further from the median than allowed */
    size_t n;                      /* nights compared with */
    bool known, worse, better;
};
/* Of metric `metric` on night `night` (0 ... n_nights - 1). known: measured, and enough nights
 * before. */
struct history_verdict history_judge(const struct history *history, size_t metric, size_t night);

#endif
