#ifndef T2_EVAL_SEARCH_H
#define T2_EVAL_SEARCH_H
/* Search for the point of a box where a score is highest, by asking for a batch of points and being
 * told their scores: the cross-entropy method (de Boer et al. 2005; Transformer-Squared, section
 * 3.2), CMA-ES (Hansen 2016, arXiv 1604.00772), a grid, or the start alone. Knows nothing of
 * models; serial.
 *
 * Random numbers are counter-based, keyed by (seed; iteration, point, coordinate): what is asked
 * depends on the options and on what was told, nothing else. The whole state is an array of
 * numbers, so a run can be put down and taken up between two iterations.
 *
 *     search_create(&s, &options, start);
 *     while (!search_finished(&s)) {
 *         const size_t n = search_ask(&s, points);
 *         ... scores[0 .. n - 1] ...
 *         search_tell(&s, points, n, scores);
 *     }
 *     s.best, s.best_score
 *
 * Scores are pairs: the second number breaks ties of the first. Among equal points the one with the
 * lower index counts as better, and an earlier iteration's best stays. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum search_method { SEARCH_CEM, SEARCH_CMAES, SEARCH_GRID, SEARCH_START };

struct search_score {
    double value, tie; /* not NaN */
};

struct search_options {
    enum search_method method;
    size_t n;            /* coordinates */
    size_t population;   /* points of an iteration */
    size_t iterations;   /* at most; a grid ends by itself */
    double lower, upper; /* the box; points are clipped to it (not the start alone) */
    double elite_ratio;  /* cem: the share of the points that the next distribution is made from */
    double spread;       /* cem, cmaes: first standard deviation, as a share of upper - lower */
    double floor;        /* cem: smallest standard deviation of a coordinate; cmaes: of a step */
    double smoothing;    /* cem: share of the old mean and deviation in the new ones */
    bool keep_best;      /* cem, cmaes: point 0 is the best so far (at first the start) */
    bool offered;        /* the best is what search_offer says, not what search_tell saw */
    size_t grid;         /* points along a side of the grid, >= 2 */
    size_t simplex;      /* grid: > 0: coordinates in rows of so many, each row summing to 1 */
    uint64_t seed;
};
/* The published code's: 32 points, a fifth of them elites, the box [0, 1], keep_best. */
struct search_options search_defaults(void);

enum { SEARCH_MAX_GRID = 1 << 16, SEARCH_MAX_CMAES = 2048 };

struct search {
    struct search_options options;
    size_t n_points;  /* of the grid */
    size_t iteration; /* finished */
    bool has_best;
    struct search_score best_score;
    size_t n_state;
    double *state;                   /* what search_pack gives: the numbers below are inside */
    double *best, *mean, *deviation; /* [n] */
    double *covariance;              /* cmaes: [n, n] */
    double *path_c, *path_sigma;     /* cmaes: [n] */
    double *sigma;                   /* cmaes: one number */
    double *roots;                   /* cmaes, not of the state: C^1/2, C^-1/2 and room, 4 n^2 */
};

/* start: [n]. 0, or -1 with error_set (a grid too large, ratios outside of 0 to 1). search_free in
 * any case. */
int search_create(struct search *search, const struct search_options *options, const double *start);
void search_free(struct search *search);

/* Iterations of the whole search: of a grid as many as its points need, of the start alone 1. */
size_t search_most(const struct search *search);
bool search_finished(const struct search *search);
/* Fills points [<= population, n]; returns how many. The same until search_tell is called. */
size_t search_ask(const struct search *search, double *points);
/* points as asked. -1 with error_set when a score is NaN or the distribution has degenerated. */
int search_tell(struct search *search, const double *points, size_t n_points,
                const struct search_score *scores);
/* A point [n] that may be the best: for scores of search_tell that cannot be compared between
 * iterations. */
void search_offer(struct search *search, const double *point, struct search_score score);
/* How many of the best points of an iteration the next one depends on (0: none). A point known to
 * be none of them and not the best may be told with any score that keeps it so. */
size_t search_n_elite(const struct search *search);

/* Is a better than b? */
static inline bool search_better(struct search_score a, struct search_score b)
{
    return a.value > b.value || (a.value == b.value && a.tie > b.tie);
}
/* Indices of scores from best to worst. */
void search_rank(const struct search_score *scores, size_t n, size_t *order);

/* numbers [search->n_state] out of and into a search created with the same options. -1 with
 * error_set when they cannot be such a search's. */
void search_pack(const struct search *search, double *numbers);
int search_unpack(struct search *search, const double *numbers);

/* "cem", "cmaes", "grid", "uniform" (the start alone). */
const char *search_method_name(enum search_method method);

#endif
