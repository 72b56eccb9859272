/* The state's layout: iteration, has_best, best value, best tie, then best, mean and deviation [n],
 * then for CMA-ES sigma, both paths [n] and the covariance [n, n]. */
#include "eval/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/rng.h"
#include "mpi/error.h"

enum { STATE_HEAD = 4 };

struct search_options search_defaults(void)
{
    return (struct search_options){
        .method = SEARCH_CEM,
        .population = 32,
        .iterations = 100,
        .upper = 1,
        .elite_ratio = 0.2,
        .spread = 0.5,
        .keep_best = true,
        .grid = 11,
    };
}

const char *search_method_name(enum search_method method)
{
    static const char *const names[] = {"cem", "cmaes", "grid", "uniform"};
    return names[method];
}

/* A number of the normal distribution by Box and Muller from two uniform ones of 53 bits. */
static double normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    const philox4x32_ctr_t bits = rng_block(seed, stream, index);
    const double u = (double)((uint64_t)bits.v[0] << 21 ^ bits.v[1] >> 11) * 0x1p-53;
    const double v = (double)((uint64_t)bits.v[2] << 21 ^ bits.v[3] >> 11) * 0x1p-53;
    return sqrt(-2 * log(1 - u)) * cos(2 * M_PI * v);
}

static double clip(const struct search_options *o, double x)
{
    return fmin(fmax(x, o->lower), o->upper);
}

/* ---- the grid ----------------------------------------------------------------------------------
 */

/* Ways to write `total` as an ordered sum of n numbers from 0: C(total + n - 1, n - 1), capped. */
static size_t compositions(size_t total, size_t n)
{
    double ways = 1;

    for (size_t i = 1; i < n; i++)
        ways = ways * (double)(total + i) / (double)i;
    return ways > SEARCH_MAX_GRID ? (size_t)SEARCH_MAX_GRID + 1 : (size_t)llround(ways);
}

/* A row's points: those of the simplex, or of a line. */
static size_t row_points(const struct search_options *o)
{
    return o->simplex ? compositions(o->grid - 1, o->simplex) : o->grid;
}

static size_t count_grid(const struct search_options *o)
{
    const size_t rows = o->simplex ? o->n / o->simplex : o->n;
    size_t n = 1;

    for (size_t i = 0; i < rows && n <= SEARCH_MAX_GRID; i++)
        n *= row_points(o);
    return n;
}

/* The index-th composition, with the first number falling slowest. */
static void composition(size_t index, size_t total, size_t n, double step, double *x)
{
    for (size_t i = 0; i + 1 < n; i++) {
        size_t first = 0;
        for (;; first++) {
            const size_t ways = compositions(total - first, n - 1 - i);
            if (index < ways)
                break;
            index -= ways;
        }
        x[i] = step * (double)first;
        total -= first;
    }
    x[n - 1] = step * (double)total;
}

static void grid_point(const struct search_options *o, size_t index, double *x)
{
    const size_t per_row = row_points(o), width = o->simplex ? o->simplex : 1;

    for (size_t first = 0; first < o->n; first += width, index /= per_row) {
        const size_t i = index % per_row;
        if (o->simplex)
            composition(i, o->grid - 1, width, 1 / (double)(o->grid - 1), x + first);
        else
            /* Rounding may leave the box. */
            x[first] =
                clip(o, o->lower + (o->upper - o->lower) * (double)i / (double)(o->grid - 1));
    }
}

/* ---- creation ----------------------------------------------------------------------------------
 */

static int check_options(const struct search_options *o)
{
    if (o->n == 0 || o->population == 0 || o->iterations == 0)
        return error_set("a search needs coordinates, a population and iterations");
    if (!(o->lower < o->upper) || !isfinite(o->lower) || !isfinite(o->upper))
        return error_set("a search from %g to %g has no room", o->lower, o->upper);
    if (o->method == SEARCH_CEM && (!(o->elite_ratio > 0 && o->elite_ratio <= 1) ||
                                    search_n_elite(&(struct search){.options = *o}) < 2))
        return error_set(
            "an elite ratio of %g leaves fewer than two of %zu points: their deviation "
            "would be zero; a larger ratio or population keeps two",
            o->elite_ratio, o->population);
    if (o->method == SEARCH_CMAES && (o->population < 4 || o->n > SEARCH_MAX_CMAES))
        return error_set("CMA-ES needs a population of 4 or more and at most %d coordinates, not "
                         "%zu and %zu",
                         SEARCH_MAX_CMAES, o->population, o->n);
    if (o->method == SEARCH_GRID && (o->grid < 2 || count_grid(o) > SEARCH_MAX_GRID))
        return error_set("a grid of %zu points along each of %zu coordinates is too large (more "
                         "than %d points): it is meant for two experts; use cem",
                         o->grid, o->n, SEARCH_MAX_GRID);
    if (!(o->smoothing >= 0 && o->smoothing < 1) || !(o->floor >= 0) || !(o->spread > 0))
        return error_set("a search's smoothing lies in 0 to 1, its deviations above 0");
    return 0;
}

int search_create(struct search *s, const struct search_options *options, const double *start)
{
    const size_t n = options->n;
    const bool cma = options->method == SEARCH_CMAES;

    *s = (struct search){.options = *options};
    if (check_options(options) != 0)
        return -1;
    s->n_state = STATE_HEAD + 3 * n + (cma ? 1 + 2 * n + n * n : 0);
    s->state = calloc(s->n_state, sizeof *s->state);
    s->roots = cma ? calloc(4 * n * n, sizeof *s->roots) : NULL;
    if (!s->state || (cma && !s->roots))
        return error_set("no memory for a search of %zu coordinates", n);
    s->best = s->state + STATE_HEAD;
    s->mean = s->best + n;
    s->deviation = s->mean + n;
    for (size_t i = 0; i < n; i++) {
        /* Alone, the start is what was asked for; in a search, one of the points of the box. */
        s->mean[i] = s->best[i] =
            options->method == SEARCH_START ? start[i] : clip(options, start[i]);
        s->deviation[i] = options->spread * (options->upper - options->lower);
    }
    if (cma) {
        s->sigma = s->deviation + n;
        s->path_c = s->sigma + 1;
        s->path_sigma = s->path_c + n;
        s->covariance = s->path_sigma + n;
        *s->sigma = options->spread * (options->upper - options->lower);
        for (size_t i = 0; i < n; i++)
            s->covariance[i * n + i] = s->roots[i * n + i] = s->roots[n * n + i * n + i] = 1;
    }
    if (options->method == SEARCH_GRID)
        s->n_points = count_grid(options);
    return 0;
}

void search_free(struct search *s)
{
    free(s->state);
    free(s->roots);
    *s = (struct search){0};
}

size_t search_most(const struct search *s)
{
    if (s->options.method == SEARCH_GRID)
        return (s->n_points - 1) / s->options.population + 1;
    return s->options.method == SEARCH_START ? 1 : s->options.iterations;
}

bool search_finished(const struct search *s)
{
    return s->iteration >= search_most(s);
}

/* ---- asking ------------------------------------------------------------------------------------
 */

/* mean + deviation * normal, or mean + sigma C^1/2 normal. */
static void draw(const struct search *s, size_t point, double *x)
{
    const struct search_options *o = &s->options;
    const size_t n = o->n;

    if (o->method == SEARCH_CEM) {
        for (size_t i = 0; i < n; i++)
            x[i] = clip(o, s->mean[i] +
                               s->deviation[i] * normal(o->seed, s->iteration, point * n + i));
        return;
    }
    memset(x, 0, n * sizeof *x);
    for (size_t j = 0; j < n; j++) {
        const double number = normal(o->seed, s->iteration, point * n + j);
        for (size_t i = 0; i < n; i++)
            x[i] += s->roots[j * n + i] * number;
    }
    for (size_t i = 0; i < n; i++)
        x[i] = clip(o, s->mean[i] + *s->sigma * x[i]);
}

size_t search_ask(const struct search *s, double *points)
{
    const struct search_options *o = &s->options;
    const size_t n = o->n, first = s->iteration * o->population;
    size_t n_points = o->population;

    if (search_finished(s))
        return 0;
    if (o->method == SEARCH_START) {
        memcpy(points, s->mean, n * sizeof *points);
        return 1;
    }
    if (o->method == SEARCH_GRID) {
        if (s->n_points - first < n_points)
            n_points = s->n_points - first;
        for (size_t i = 0; i < n_points; i++)
            grid_point(o, first + i, points + i * n);
        return n_points;
    }
    for (size_t i = 0; i < n_points; i++) {
        if (i == 0 && o->keep_best)
            memcpy(points, s->best, n * sizeof *points);
        else
            draw(s, i, points + i * n);
    }
    return n_points;
}

/* ---- being told --------------------------------------------------------------------------------
 */

size_t search_n_elite(const struct search *s)
{
    const struct search_options *o = &s->options;

    return o->method == SEARCH_CEM     ? (size_t)(o->elite_ratio * (double)o->population + 1e-9)
           : o->method == SEARCH_CMAES ? o->population / 2
                                       : 0;
}

void search_rank(const struct search_score *scores, size_t n, size_t *order)
{
    /* Insertion keeps equal ones in order; n is a population. */
    for (size_t i = 0; i < n; i++) {
        size_t at = i;
        for (; at > 0 && search_better(scores[i], scores[order[at - 1]]); at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
}

static void update_cem(struct search *s, const double *points, const size_t *order)
{
    const struct search_options *o = &s->options;
    const size_t n = o->n, n_elite = search_n_elite(s);

    for (size_t i = 0; i < n; i++) {
        double mean = 0, squares = 0;
        for (size_t e = 0; e < n_elite; e++)
            mean += points[order[e] * n + i];
        mean /= (double)n_elite;
        for (size_t e = 0; e < n_elite; e++) {
            const double d = points[order[e] * n + i] - mean;
            squares += d * d;
        }
        const double deviation = sqrt(squares / (double)(n_elite - 1));
        s->mean[i] = (1 - o->smoothing) * mean + o->smoothing * s->mean[i];
        s->deviation[i] = (1 - o->smoothing) * deviation + o->smoothing * s->deviation[i];
        s->deviation[i] = fmax(s->deviation[i], o->floor);
    }
}

/* Eigenvectors (columns of v) and eigenvalues (diagonal of a) of a symmetric matrix by cyclic
 * Jacobi rotations (Golub and Van Loan, section 8.5). */
static void jacobi(double *a, double *v, size_t n)
{
    for (size_t i = 0; i < n * n; i++)
        v[i] = i % (n + 1) == 0;
    for (int sweep = 0; sweep < 60; sweep++) {
        double off = 0, all = 0;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++) {
                all += a[i * n + j] * a[i * n + j];
                off += i == j ? 0 : a[i * n + j] * a[i * n + j];
            }
        if (off <= 1e-30 * all)
            return;
        for (size_t p = 0; p < n; p++)
            for (size_t q = p + 1; q < n; q++) {
                const double apq = a[p * n + q];
                if (apq == 0)
                    continue;
                const double tau = (a[q * n + q] - a[p * n + p]) / (2 * apq);
                const double t = (tau >= 0 ? 1 : -1) / (fabs(tau) + sqrt(1 + tau * tau));
                const double c = 1 / sqrt(1 + t * t), sn = t * c;
                for (size_t k = 0; k < n; k++) {
                    const double x = a[k * n + p], y = a[k * n + q];
                    a[k * n + p] = c * x - sn * y;
                    a[k * n + q] = sn * x + c * y;
                }
                for (size_t k = 0; k < n; k++) {
                    const double x = a[p * n + k], y = a[q * n + k];
                    a[p * n + k] = c * x - sn * y;
                    a[q * n + k] = sn * x + c * y;
                }
                for (size_t k = 0; k < n; k++) {
                    const double x = v[k * n + p], y = v[k * n + q];
                    v[k * n + p] = c * x - sn * y;
                    v[k * n + q] = sn * x + c * y;
                }
            }
    }
}

/* C^1/2 and C^-1/2: unlike eigenvectors, the same however they are found. */
static int find_roots(struct search *s)
{
    const size_t n = s->options.n;
    double *root = s->roots, *inverse = root + n * n, *a = inverse + n * n, *v = a + n * n;

    memcpy(a, s->covariance, n * n * sizeof *a);
    jacobi(a, v, n);
    memset(root, 0, 2 * n * n * sizeof *root);
    for (size_t k = 0; k < n; k++) {
        const double value = a[k * n + k];
        if (!(value > 1e-300) || !isfinite(value))
            return error_set("the search's covariance has degenerated");
        const double d = sqrt(value);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++) {
                const double product = v[i * n + k] * v[j * n + k];
                root[i * n + j] += d * product;
                inverse[i * n + j] += product / d;
            }
    }
    return 0;
}

/* Hansen 2016, appendix A, with the positive weights. */
static int update_cmaes(struct search *s, const double *points, const size_t *order)
{
    const struct search_options *o = &s->options;
    const size_t n = o->n, mu = o->population / 2;
    const double dim = (double)n, sigma = *s->sigma;
    const double *inverse = s->roots + n * n;
    double *step = s->roots + 2 * n * n; /* room beside the roots */
    double *weights = malloc((mu + 1) * sizeof *weights);
    double sum = 0, squares = 0, length = 0;

    if (!weights)
        return error_set("out of memory");
    for (size_t e = 0; e < mu; e++)
        sum += weights[e] = log((double)mu + 0.5) - log((double)e + 1);
    for (size_t e = 0; e < mu; e++) {
        weights[e] /= sum;
        squares += weights[e] * weights[e];
    }
    const double mu_eff = 1 / squares;
    const double c_sigma = (mu_eff + 2) / (dim + mu_eff + 5);
    const double damping = 1 + 2 * fmax(0, sqrt((mu_eff - 1) / (dim + 1)) - 1) + c_sigma;
    const double c_c = (4 + mu_eff / dim) / (dim + 4 + 2 * mu_eff / dim);
    const double c_1 = 2 / ((dim + 1.3) * (dim + 1.3) + mu_eff);
    const double c_mu =
        fmin(1 - c_1, 2 * (mu_eff - 2 + 1 / mu_eff) / ((dim + 2) * (dim + 2) + mu_eff));
    const double expected = sqrt(dim) * (1 - 1 / (4 * dim) + 1 / (21 * dim * dim));

    for (size_t i = 0; i < n; i++) {
        step[i] = 0;
        for (size_t e = 0; e < mu; e++)
            step[i] += weights[e] * (points[order[e] * n + i] - s->mean[i]) / sigma;
    }
    for (size_t i = 0; i < n; i++) {
        double y = 0;
        for (size_t j = 0; j < n; j++)
            y += inverse[i * n + j] * step[j];
        s->path_sigma[i] =
            (1 - c_sigma) * s->path_sigma[i] + sqrt(c_sigma * (2 - c_sigma) * mu_eff) * y;
        length += s->path_sigma[i] * s->path_sigma[i];
    }
    length = sqrt(length);
    const double correction = sqrt(1 - pow(1 - c_sigma, 2 * (double)(s->iteration + 1)));
    const double h = length / correction < (1.4 + 2 / (dim + 1)) * expected ? 1 : 0;
    for (size_t i = 0; i < n; i++)
        s->path_c[i] = (1 - c_c) * s->path_c[i] + h * sqrt(c_c * (2 - c_c) * mu_eff) * step[i];
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            double rank_mu = 0;
            for (size_t e = 0; e < mu; e++)
                rank_mu += weights[e] * ((points[order[e] * n + i] - s->mean[i]) / sigma) *
                           ((points[order[e] * n + j] - s->mean[j]) / sigma);
            s->covariance[i * n + j] =
                (1 - c_1 - c_mu + (1 - h) * c_1 * c_c * (2 - c_c)) * s->covariance[i * n + j] +
                c_1 * s->path_c[i] * s->path_c[j] + c_mu * rank_mu;
            s->covariance[j * n + i] = s->covariance[i * n + j];
        }
    for (size_t i = 0; i < n; i++)
        s->mean[i] += sigma * step[i];
    *s->sigma = fmax(sigma * exp(fmin(1, c_sigma / damping * (length / expected - 1))), o->floor);
    for (size_t i = 0; i < n; i++)
        s->deviation[i] = *s->sigma * sqrt(s->covariance[i * n + i]);
    free(weights);
    return find_roots(s);
}

void search_offer(struct search *s, const double *point, struct search_score score)
{
    if (s->has_best && !search_better(score, s->best_score))
        return;
    s->has_best = true;
    s->best_score = score;
    memcpy(s->best, point, s->options.n * sizeof *s->best);
}

int search_tell(struct search *s, const double *points, size_t n_points,
                const struct search_score *scores)
{
    const size_t n = s->options.n;
    size_t *order = malloc((n_points + 1) * sizeof *order);
    int status = -1;

    if (!order) {
        error_set("out of memory");
        goto done;
    }
    for (size_t i = 0; i < n_points; i++)
        if (isnan(scores[i].value) || isnan(scores[i].tie)) {
            error_set("the score of candidate %zu is not a number", i);
            goto done;
        }
    search_rank(scores, n_points, order);
    if (!s->options.offered)
        search_offer(s, points + order[0] * n, scores[order[0]]);
    status = 0;
    if (s->options.method == SEARCH_CEM)
        update_cem(s, points, order);
    else if (s->options.method == SEARCH_CMAES)
        status = update_cmaes(s, points, order);
    s->iteration++;
done:
    free(order);
    return status;
}

/* ---- putting down and taking up ----------------------------------------------------------------
 */

void search_pack(const struct search *s, double *numbers)
{
    memcpy(numbers, s->state, s->n_state * sizeof *numbers);
    numbers[0] = (double)s->iteration;
    numbers[1] = s->has_best;
    numbers[2] = s->best_score.value;
    numbers[3] = s->best_score.tie;
}

int search_unpack(struct search *s, const double *numbers)
{
    const struct search_options *o = &s->options;
    const size_t n = o->n;

    for (size_t i = 0; i < s->n_state; i++)
        if (!isfinite(numbers[i]))
            return error_set("a number of the search's state is not finite");
    if (numbers[0] < 0 || numbers[0] > 0x1p50 || numbers[0] != floor(numbers[0]) ||
        (numbers[1] != 0 && numbers[1] != 1))
        return error_set("the search's state has no number of iterations");
    for (size_t i = 0; i < n && o->method != SEARCH_START; i++)
        if (numbers[STATE_HEAD + i] < o->lower || numbers[STATE_HEAD + i] > o->upper ||
            numbers[STATE_HEAD + 2 * n + i] < 0)
            return error_set("the search's state does not lie in its box");
    memcpy(s->state, numbers, s->n_state * sizeof *numbers);
    s->iteration = (size_t)numbers[0];
    s->has_best = numbers[1] > 0;
    s->best_score = (struct search_score){numbers[2], numbers[3]};
    if (o->method != SEARCH_CMAES)
        return 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++)
            if (s->covariance[i * n + j] != s->covariance[j * n + i])
                return error_set("the search's covariance is not symmetric");
    return *s->sigma > 0 ? find_roots(s) : error_set("the search's step is not above 0");
}
