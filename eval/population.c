#include "eval/population.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/signals.h"

enum {
    PAIRS_PER_RANK = 4, /* wanted, so that stealing evens out */
    STAGES = 4,         /* of early abandonment */
};
static const double MARGIN = 1e-9; /* for sums of shares */
_Static_assert(sizeof(struct shot_outcome) % sizeof(double) == 0, "outcomes travel as doubles");

/* One round through the queue: live candidates x shots first .. first + n - 1. */
struct round {
    const struct population *population;
    struct population_result *result;
    const size_t *which, *live;
    size_t n_which, n_live, first, n;
    double *right; /* [n_candidates] room */
};

struct search_score population_score(enum population_objective objective,
                                     const struct shot_outcome *outcomes, size_t n)
{
    struct search_score score = {0, 0};
    size_t n_right = 0;

    for (size_t i = 0; i < n; i++) {
        score.value +=
            objective == POPULATION_ACCURACY ? outcomes[i].right : outcomes[i].likelihood;
        if (objective == POPULATION_ACCURACY && outcomes[i].right > 0) {
            score.tie += outcomes[i].confidence;
            n_right++;
        }
    }
    score.value /= (double)n;
    score.tie /= n_right ? (double)n_right : 1;
    return score;
}

/* How the shots of live candidates are cut into pairs. Those of one candidate run in one batch,
 * which is cheapest, where there are candidates enough for all ranks; but what is left of them when
 * each rank has had as many is cut, so that no rank has a whole candidate more than the others. */
struct cuts {
    size_t n_even;     /* candidates of which every rank can have as many */
    size_t even, rest; /* pairs of each of these, and of each of the others */
    size_t n_pairs;
};

static struct cuts cuts_of(const struct round *r)
{
    const size_t n_ranks = (size_t)r->population->comm->size;
    const size_t wanted = PAIRS_PER_RANK * (n_ranks - 1) + 1;
    const size_t even = (wanted + r->n_live - 1) / r->n_live;
    struct cuts c = {.n_even = r->n_live - r->n_live % n_ranks, .even = even < r->n ? even : r->n};

    c.rest = n_ranks < r->n ? n_ranks : r->n;
    c.rest = c.rest > c.even ? c.rest : c.even;
    c.n_pairs = c.n_even * c.even + (r->n_live - c.n_even) * c.rest;
    return c;
}

/* A candidate and shots first .. first + n - 1. */
struct pair {
    size_t candidate, first, n;
};

static struct pair pair_at(const struct round *r, const struct cuts *c, size_t number)
{
    const size_t n_first = c->n_even * c->even;
    const bool even = number < n_first;
    const size_t n = even ? c->even : c->rest, at = even ? number : number - n_first;
    const size_t begin = at % n * r->n / n, end = (at % n + 1) * r->n / n;

    return (struct pair){r->live[(even ? 0 : c->n_even) + at / n], r->first + begin, end - begin};
}

/* This rank's share of a round. */
static int draw_pairs(const struct round *r, struct comm_queue *queue)
{
    const struct population *p = r->population;
    const struct cuts cuts = cuts_of(r);
    struct shots_run run = p->run;

    run.what = p->objective == POPULATION_ACCURACY ? SHOTS_ANSWERS : SHOTS_TARGETS;
    for (;;) {
        const int64_t number = comm_queue_next(queue);
        if (number < 0 || (size_t)number >= cuts.n_pairs)
            return 0;
        if (signals_pending()) {
            r->result->interrupted = true;
            comm_queue_stop(queue);
            return 0;
        }
        const struct pair pair = pair_at(r, &cuts, (size_t)number);
        if (p->wear(p->context, pair.candidate) != 0 ||
            shots_run(p->shots, &run, r->which + pair.first, pair.n,
                      r->result->outcomes + pair.candidate * r->n_which + pair.first) != 0) {
            comm_queue_stop(queue);
            return -1;
        }
        if (p->progress)
            p->progress(p->context, (size_t)number + 1, cuts.n_pairs);
    }
}

/* Every pair was made by one rank and is zero elsewhere: sums are exact. */
static void share_outcomes(const struct round *r, size_t n_candidates)
{
    const struct comm *comm = r->population->comm;
    const size_t width = sizeof(struct shot_outcome) / sizeof(double);
    struct population_result *result = r->result;
    int interrupted = result->interrupted;

    if (comm->size == 1)
        return;
    for (size_t c = 0; c < n_candidates; c++)
        MPI_Allreduce(MPI_IN_PLACE, result->outcomes + c * r->n_which + r->first,
                      (int)(r->n * width), MPI_DOUBLE, MPI_SUM, comm->handle);
    MPI_Allreduce(MPI_IN_PLACE, &interrupted, 1, MPI_INT, MPI_MAX, comm->handle);
    result->interrupted = interrupted > 0;
}

static int run_round(struct round *r, size_t n_candidates)
{
    const struct comm *comm = r->population->comm;
    struct comm_queue queue = {0};

    if (r->n_live * r->n == 0)
        return 0;
    int status = comm_agree(comm, comm_queue_create(comm, &queue));
    if (status != 0)
        return -1;
    status = comm_agree(comm, draw_pairs(r, &queue));
    comm_queue_free(&queue);
    if (status == 0)
        share_outcomes(r, n_candidates);
    r->result->n_evaluated += r->n_live * r->n;
    return status;
}

/* Leaves those of `live` that can still be among the n_elite best after `n_done` shots. */
static size_t abandon(const struct round *r, size_t *live, size_t n_candidates, size_t n_elite,
                      size_t n_done)
{
    struct population_result *result = r->result;
    const double left = (double)(r->n_which - n_done);
    double *right = r->right;
    size_t n = 0;

    memset(right, 0, n_candidates * sizeof *right);
    for (size_t c = 0; c < n_candidates; c++)
        for (size_t i = 0; i < n_done; i++)
            right[c] += result->outcomes[c * r->n_which + i].right;
    for (size_t k = 0; k < r->n_live; k++) {
        size_t certain = 0; /* those that will surely be better */
        for (size_t c = 0; c < n_candidates; c++)
            certain += right[c] > right[live[k]] + left + MARGIN;
        if (certain >= n_elite)
            result->abandoned[live[k]] = true;
        else
            live[n++] = live[k];
    }
    return n;
}

static void score_all(const struct round *r, size_t n_candidates)
{
    const struct population *p = r->population;
    struct population_result *result = r->result;

    for (size_t c = 0; c < n_candidates; c++) {
        result->scores[c] =
            population_score(p->objective, result->outcomes + c * r->n_which, r->n_which);
        if (p->price)
            result->scores[c].value -= p->price(p->context, c);
        /* One mixture that breaks the model is a bad candidate, not the end of the search. */
        if (!isfinite(result->scores[c].value) || !isfinite(result->scores[c].tie))
            result->scores[c] = (struct search_score){POPULATION_WORST, 0};
    }
}

int population_evaluate(const struct population *population, size_t n_candidates,
                        const size_t *which, size_t n_which, size_t n_elite,
                        struct population_result *result)
{
    const bool stages = n_elite > 0 && population->objective == POPULATION_ACCURACY &&
                        !population->price && n_which > 1;
    const size_t n_stages = !stages ? 1 : n_which < STAGES ? n_which : STAGES;
    struct round r = {.population = population,
                      .result = result,
                      .which = which,
                      .n_which = n_which,
                      .n_live = n_candidates};
    size_t *live = malloc((n_candidates + 1) * sizeof *live);
    int status = -1;

    *result = (struct population_result){0};
    result->outcomes = calloc(n_candidates * n_which + 1, sizeof *result->outcomes);
    result->scores = calloc(n_candidates + 1, sizeof *result->scores);
    result->abandoned = calloc(n_candidates + 1, sizeof *result->abandoned);
    r.right = malloc((n_candidates + 1) * sizeof *r.right);
    if (!live || !r.right || !result->outcomes || !result->scores || !result->abandoned)
        error_set("no memory to evaluate %zu candidates", n_candidates);
    else
        status = 0;
    status = comm_agree(population->comm, status);
    for (size_t c = 0; status == 0 && c < n_candidates; c++)
        live[c] = c;
    r.live = live;
    for (size_t s = 0; status == 0 && s < n_stages && !result->interrupted; s++) {
        r.first = s * n_which / n_stages;
        r.n = (s + 1) * n_which / n_stages - r.first;
        if (s > 0)
            r.n_live = abandon(&r, live, n_candidates, n_elite, r.first);
        status = run_round(&r, n_candidates);
    }
    if (status == 0)
        score_all(&r, n_candidates);
    else
        population_result_free(result);
    free(live);
    free(r.right);
    return status;
}

void population_result_free(struct population_result *result)
{
    free(result->outcomes);
    free(result->scores);
    free(result->abandoned);
    *result = (struct population_result){0};
}
