#include "eval/fewshot.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/rng.h"
#include "mpi/clock.h"
#include "mpi/error.h"

enum { STREAM_SAMPLE = 1 << 29 }; /* apart from the search's: streams are its iterations */

static double distance_of(const struct expert_set *set, const float *z)
{
    double sum = 0;

    for (size_t i = 0; i < set->n_parameters; i++)
        sum += ((double)z[i] - 1) * ((double)z[i] - 1);
    return sum;
}

int fewshot_create(struct fewshot *f, const struct expert_set *set,
                   const struct fewshot_options *options)
{
    double *start = NULL;
    int status = -1;

    *f = (struct fewshot){.options = *options, .set = set};
    f->n_groups = expert_set_n_groups(set, options->per);
    f->n = f->n_groups * set->n;
    f->options.search.n = f->n;
    f->options.search.simplex = options->normalise ? set->n : 0;
    f->options.search.offered = options->sample > 0;
    for (size_t k = 0; k < set->n; k++)
        f->distance += distance_of(set, set->z[k]) / (double)set->n;
    f->worn = malloc((set->n_parameters + 1) * sizeof *f->worn);
    f->alpha = malloc((f->n + 1) * sizeof *f->alpha);
    start = malloc((f->n + 1) * sizeof *start);
    if (!f->worn || !f->alpha || !start) {
        error_set("no memory for mixtures of %zu parameters", set->n_parameters);
        goto done;
    }
    for (size_t i = 0; i < f->n; i++)
        start[i] = 1 / (double)set->n;
    /* Says at once whether this reading suits these experts. */
    if (expert_set_mix(set, options->mix, start, options->per, f->worn) != 0)
        goto done;
    /* Points travel in one message. */
    if (options->search.population > INT_MAX / f->n) {
        error_set("a population of %zu with %zu coefficients each is too large: at most %d numbers",
                  options->search.population, f->n, INT_MAX);
        goto done;
    }
    status = search_create(&f->search, &f->options.search, start);
done:
    free(start);
    return status;
}

void fewshot_free(struct fewshot *f)
{
    search_free(&f->search);
    free(f->curve);
    free(f->means);
    free(f->deviations);
    free(f->bests);
    free(f->worn);
    free(f->alpha);
    *f = (struct fewshot){0};
}

int fewshot_reserve(struct fewshot *f, size_t n_iterations)
{
    const size_t n = n_iterations * f->n * sizeof(double) + 1;
    struct fewshot_point *curve = realloc(f->curve, n_iterations * sizeof *curve + 1);
    double *means = realloc(f->means, n), *deviations = realloc(f->deviations, n);
    double *bests = realloc(f->bests, n);

    f->curve = curve ? curve : f->curve;
    f->means = means ? means : f->means;
    f->deviations = deviations ? deviations : f->deviations;
    f->bests = bests ? bests : f->bests;
    return curve && means && deviations && bests
               ? 0
               : error_set("no memory for the curve of %zu iterations", n_iterations);
}

void fewshot_coefficients(const struct fewshot *f, const double *point, double *alpha)
{
    memcpy(alpha, point, f->n * sizeof *alpha);
    if (f->options.normalise)
        expert_set_normalise(alpha, f->n_groups, f->set->n);
}

int fewshot_mixture(const struct fewshot *f, const double *point, float *z)
{
    fewshot_coefficients(f, point, f->alpha);
    return expert_set_mix(f->set, f->options.mix, f->alpha, f->options.per, z);
}

int fewshot_wear(struct fewshot *f, const struct fewshot_form *form, enum expert_mix mix,
                 enum expert_granularity per, const double *alpha)
{
    if (form->weights)
        return weight_mix_wear(form->weights, mix, alpha, per);
    if (expert_set_mix(f->set, mix, alpha, per, f->worn) != 0)
        return -1;
    model_attach(form->model, form->adapter, f->worn);
    return 0;
}

/* ---- candidates --------------------------------------------------------------------------------
 */

struct candidates {
    struct fewshot *f;
    const struct population *caller;
    const double *points;  /* [n_points, n] */
    const size_t *numbers; /* which of the points; NULL: all, in order */
    const struct fewshot_form *form;
    double *prices; /* [n_points], or NULL */
};

static const double *point_at(const struct candidates *c, size_t candidate)
{
    return c->points + (c->numbers ? c->numbers[candidate] : candidate) * c->f->n;
}

static int wear(void *context, size_t candidate)
{
    struct candidates *c = context;

    fewshot_coefficients(c->f, point_at(c, candidate), c->f->alpha);
    return fewshot_wear(c->f, c->form, c->f->options.mix, c->f->options.per, c->f->alpha);
}

static double price(void *context, size_t candidate)
{
    struct candidates *c = context;
    return c->prices[c->numbers ? c->numbers[candidate] : candidate];
}

static void pass_progress(void *context, size_t n_done, size_t n_all)
{
    const struct candidates *c = context;
    if (c->caller->progress)
        c->caller->progress(c->caller->context, n_done, n_all);
}

/* Prices of all points. -1 also where a mixture is not finite. */
static int find_prices(struct candidates *c, size_t n_points)
{
    struct fewshot *f = c->f;

    for (size_t i = 0; i < n_points; i++) {
        if (fewshot_mixture(f, c->points + i * f->n, f->worn) != 0)
            return -1;
        c->prices[i] =
            f->distance > 0 ? f->options.shrink * distance_of(f->set, f->worn) / f->distance : 0;
    }
    return 0;
}

/* The shots of an iteration: all, or a sample without replacement, ascending. Returns how many. */
static size_t choose_shots(const struct fewshot *f, size_t n_shots, size_t *which)
{
    const size_t wanted = f->options.sample;
    size_t n = 0;

    for (size_t i = 0; i < n_shots; i++) {
        /* Selection sampling (Knuth, volume 2, algorithm 3.4.2 S). */
        const double u = (double)rng_uniform(f->options.search.seed,
                                             STREAM_SAMPLE + (uint64_t)f->search.iteration, i);
        if (wanted == 0 || wanted >= n_shots || u * (double)(n_shots - i) < (double)(wanted - n))
            which[n++] = i;
    }
    return n;
}

/* ---- one iteration -----------------------------------------------------------------------------
 */

static void note_iteration(struct fewshot *f, const struct population_result *result,
                           size_t n_points, size_t n_evaluated, double seconds)
{
    const size_t t = f->search.iteration - 1;
    struct fewshot_point *p = &f->curve[t];
    double sum = 0;
    size_t n = 0;

    *p = (struct fewshot_point){.best = f->search.best_score.value,
                                .best_tie = f->search.best_score.tie,
                                .least = INFINITY,
                                .most = -INFINITY,
                                .n_candidates = (double)n_points,
                                .n_evaluated = (double)n_evaluated,
                                .seconds = seconds};
    for (size_t i = 0; i < n_points; i++) {
        const double value = result->scores[i].value;
        p->n_abandoned += result->abandoned[i];
        if (result->abandoned[i] || value <= POPULATION_WORST)
            continue;
        sum += value;
        p->least = fmin(p->least, value);
        p->most = fmax(p->most, value);
        n++;
    }
    p->mean = n ? sum / (double)n : POPULATION_WORST;
    if (n == 0)
        p->least = p->most = POPULATION_WORST;
    memcpy(f->means + t * f->n, f->search.mean, f->n * sizeof(double));
    memcpy(f->deviations + t * f->n, f->search.deviation, f->n * sizeof(double));
    memcpy(f->bests + t * f->n, f->search.best, f->n * sizeof(double));
}

/* Runs the best of a sampled iteration on all shots and offers them. */
static int judge_elites(struct fewshot *f, struct candidates *c, const struct population *own,
                        size_t n_points, const struct population_result *sampled, size_t *which,
                        size_t *n_evaluated, bool *interrupted)
{
    const size_t n_elite = search_n_elite(&f->search), n_shots = own->shots->n;
    const size_t n = n_elite == 0 || n_elite > n_points ? n_points : n_elite;
    struct population_result full = {0};
    size_t *order = malloc((n_points + 1) * sizeof *order);
    int status = comm_agree(own->comm, order ? 0 : error_set("out of memory"));

    if (status != 0)
        goto done;
    search_rank(sampled->scores, n_points, order);
    for (size_t i = 0; i < n_shots; i++)
        which[i] = i;
    c->numbers = order;
    status = population_evaluate(own, n, which, n_shots, 0, &full);
    c->numbers = NULL;
    if (status != 0)
        goto done;
    *interrupted = full.interrupted;
    *n_evaluated += full.n_evaluated;
    for (size_t i = 0; i < n && !full.interrupted; i++)
        search_offer(&f->search, c->points + order[i] * f->n, full.scores[i]);
done:
    population_result_free(&full);
    free(order);
    return status;
}

int fewshot_step(struct fewshot *f, const struct population *population,
                 const struct fewshot_form *form, bool *interrupted)
{
    const struct comm *comm = population->comm;
    const double begin = clock_seconds();
    const size_t n_shots = population->shots->n, most = f->options.search.population;
    struct candidates c = {.f = f, .caller = population, .form = form};
    struct population own = *population;
    struct population_result result = {0};
    double *points = malloc(most * f->n * sizeof *points + 1);
    size_t *which = malloc((n_shots + 1) * sizeof *which), n_points = 0;
    int status = -1;

    *interrupted = false;
    c.points = points;
    c.prices = f->options.shrink > 0 ? malloc((most + 1) * sizeof *c.prices) : NULL;
    own.wear = wear;
    own.price = c.prices ? price : NULL;
    own.progress = pass_progress;
    own.context = &c;
    if (!points || !which || (f->options.shrink > 0 && !c.prices))
        error_set("no memory for a population");
    else
        status = fewshot_reserve(f, f->search.iteration + 1);
    if (comm_agree(comm, status) != 0)
        goto fail;
    n_points = search_ask(&f->search, points);
    /* Another processor's logarithm may differ in its last bit: rank 0's points count. */
    if (comm->size > 1)
        MPI_Bcast(points, (int)(n_points * f->n), MPI_DOUBLE, 0, comm->handle);
    if (comm_agree(comm, c.prices ? find_prices(&c, n_points) : 0) != 0)
        goto fail;
    const size_t n_which = choose_shots(f, n_shots, which);
    const size_t n_elite = f->options.abandon ? search_n_elite(&f->search) : 0;
    if (population_evaluate(&own, n_points, which, n_which, n_elite, &result) != 0)
        goto fail;
    *interrupted = result.interrupted;
    size_t n_evaluated = result.n_evaluated;
    if (!*interrupted && f->options.search.offered &&
        judge_elites(f, &c, &own, n_points, &result, which, &n_evaluated, interrupted) != 0)
        goto fail;
    if (!*interrupted) {
        if (comm_agree(comm, search_tell(&f->search, points, n_points, result.scores)) != 0)
            goto fail;
        note_iteration(f, &result, n_points, n_evaluated, clock_seconds() - begin);
    }
    status = 0;
    goto done;
fail:
    status = -1;
done:
    population_result_free(&result);
    free(c.prices);
    free(points);
    free(which);
    return status;
}
