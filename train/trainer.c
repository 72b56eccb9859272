#include "train/trainer.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "eval/items.h"
#include "mpi/clock.h"
#include "mpi/error.h"
#include "mpi/hash.h"
#include "mpi/ordered_sum.h"
#include "mpi/progress.h"
#include "mpi/share.h"
#include "mpi/signals.h"
#include "mpi/text.h"
#include "train/guard.h"
#include "train/rollout.h"
#include "train/rollout_order.h"

/* One answer's figures, as every rank gets them. */
struct record {
    double reward, correct, length;
    uint64_t hash;
};

/* A shard whose gradient this rank has made. */
struct own_shard {
    struct shard shard;
    float *gradient; /* [n_parameters + n_sums] */
};

struct run {
    const struct trainer *t;
    struct train_state *state;
    struct items items;
    struct rollout rollout;
    struct comm_queue queue;
    uint64_t n_phases; /* times that the queue has been gone through */
    size_t n_shards, n_answers;
    size_t *rows;          /* [batch] of the step */
    struct own_shard *own; /* [n_shards], the first n_own are this rank's */
    size_t n_own;
    struct record *records;   /* [n_answers] */
    struct shard_sums *sums;  /* [n_shards] */
    double *advantages;       /* [n_answers] */
    double *total;            /* [n_parameters + n_sums] */
    double penalty;           /* the adapter's, in the step's loss */
    double *statistics;       /* [n_statistics] of the step */
    float *gradient, *origin; /* [n_parameters] */
    /* What a step works on; the state gets them when the step is over, so that it can be written at
     * any moment of one. */
    float *parameters; /* [n_parameters] */
    struct adam adam;
    struct progress progress;
    FILE *log;
    double last_save, save_seconds;
    uint64_t saved_step; /* 0: none */
    pthread_t keeper;
    pthread_mutex_t lock;
    atomic_bool keeper_ends;
    bool has_queue, has_keeper;
};

/* ---- safety -------------------------------------------------------------------------------------
 */

static int save(struct run *run)
{
    const struct trainer *t = run->t;
    const double start = clock_seconds();
    const int status =
        t->state_path ? train_state_write(run->state, t->settings, t->state_path) : 0;

    run->last_save = clock_seconds();
    run->save_seconds = run->last_save - start;
    if (status == 0)
        run->saved_step = run->state->step;
    return status;
}

/* Asked to stop, the last finished step is written at once, by a thread of its own: its rank may be
 * waiting for one that has died (mpirun tells the others so by SIGTERM), and be killed a second
 * later. Rank 0 does it, and rank 1 writes the same bytes, in case that it is rank 0 that has died.
 * The lock is around whatever changes the state, and around HDF5. */
static void *keep(void *arg)
{
    const struct timespec a_while = {0, 20 * 1000 * 1000};
    struct run *run = arg;

    while (!atomic_load(&run->keeper_ends)) {
        if (signals_pending()) {
            pthread_mutex_lock(&run->lock);
            if (run->state->step > 0)
                save(run);
            pthread_mutex_unlock(&run->lock);
            break;
        }
        nanosleep(&a_while, NULL);
    }
    return NULL;
}

static int keeper_begin(struct run *run)
{
    if (run->t->comm->rank > 1 || !run->t->state_path)
        return 0;
    if (pthread_create(&run->keeper, NULL, keep, run) != 0)
        return error_set("a thread cannot be started");
    run->has_keeper = true;
    return 0;
}

static void keeper_end(struct run *run)
{
    atomic_store(&run->keeper_ends, true);
    if (run->has_keeper)
        pthread_join(run->keeper, NULL);
    run->has_keeper = false;
}

static bool anyone_asked(const struct run *run)
{
    const struct comm *comm = run->t->comm;
    int asked = signals_pending() != 0;

    if (comm->size > 1)
        MPI_Allreduce(MPI_IN_PLACE, &asked, 1, MPI_INT, MPI_MAX, comm->handle);
    return asked;
}

/* ---- shards -------------------------------------------------------------------------------------
 */

static void record_answers(struct run *run, const struct shard *shard)
{
    for (size_t i = 0; i < shard->n_prompts * shard->n_answers; i++) {
        const struct answer *a = &shard->answers[i];
        run->records[shard->first * shard->n_answers + i] =
            (struct record){a->reward, a->correct, (double)a->tokens.n, hash_text(a->text)};
    }
}

/* Hands shards out; each goes to exactly one rank. A rank draws once more than it gets, so every
 * phase begins n_shards + ranks further on. */
static bool draw_shard(struct run *run, size_t *number)
{
    const uint64_t base = run->n_phases * (run->n_shards + (uint64_t)run->t->comm->size);
    const uint64_t drawn = (uint64_t)comm_queue_next(&run->queue) - base;

    *number = (size_t)drawn;
    return drawn < run->n_shards;
}

static void own_clear(struct run *run)
{
    for (size_t i = 0; i < run->n_own; i++)
        shard_free(&run->own[i].shard);
    run->n_own = 0;
}

static int compare_numbers(const void *a, const void *b)
{
    const size_t x = ((const struct own_shard *)a)->shard.number;
    const size_t y = ((const struct own_shard *)b)->shard.number;

    return (x > y) - (x < y);
}

/* Makes this rank's shards of the step, each handed to work(). */
static int each_new_shard(struct run *run, int (*work)(struct run *, struct own_shard *))
{
    int status = 0;
    size_t number;

    own_clear(run);
    while (draw_shard(run, &number)) {
        if (status || signals_pending())
            continue; /* goes on drawing, so that the count stays right */
        struct own_shard *own = &run->own[run->n_own++];
        status = shard_make(&own->shard, &run->rollout, run->state->step, number, run->rows);
        if (status == 0)
            status = work(run, own);
        if (status == 0)
            record_answers(run, &own->shard);
    }
    run->n_phases++;
    qsort(run->own, run->n_own, sizeof *run->own, compare_numbers);
    return status;
}

/* Elements of a gradient's buffer: the adapter's sums stand behind it. */
static size_t n_summed(const struct run *run)
{
    return run->state->n + run->t->adapter->n_sums;
}

static int new_gradient(struct run *run, struct own_shard *own)
{
    if (!own->gradient)
        own->gradient = malloc((n_summed(run) + 1) * sizeof *own->gradient);
    if (!own->gradient)
        return error_set("no memory for the gradient of %zu parameters", run->state->n);
    memset(own->gradient, 0, n_summed(run) * sizeof *own->gradient);
    return 0;
}

static int work_at_once(struct run *run, struct own_shard *own)
{
    if (new_gradient(run, own) != 0)
        return -1;
    return shard_gradient(&own->shard, &run->rollout, run->state->parameters, NULL, own->gradient,
                          &run->sums[own->shard.number]);
}

static int work_roll_out(struct run *run, struct own_shard *own)
{
    return shard_roll_out(&own->shard, &run->rollout, run->state->parameters,
                          &run->sums[own->shard.number]);
}

/* Every rank gets all answers' figures. Each record is one rank's: the others' bits are zero. */
static void share_records(struct run *run)
{
    enum { WORDS = sizeof(struct record) / sizeof(uint64_t) };
    const struct comm *comm = run->t->comm;

    if (comm->size > 1)
        MPI_Allreduce(MPI_IN_PLACE, run->records, (int)run->n_answers * WORDS, MPI_UINT64_T,
                      MPI_BOR, comm->handle);
}

/* ---- rollout log --------------------------------------------------------------------------------
 */

static void put_json_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c < 0x20)
            fprintf(out, "\\u%04x", c);
        else
            fputc(c, out);
    }
    fputc('"', out);
}

static int take_log(void *context, const void *bytes, size_t n_bytes)
{
    const struct run *run = context;

    if (fwrite(bytes, 1, n_bytes, run->log) != n_bytes || fflush(run->log) != 0)
        return error_set("%s: the rollout log cannot be written (disk full?)",
                         run->t->options.rollout_log);
    return 0;
}

static int log_answers(struct run *run)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = run->t->options.rollout_log ? open_memstream(&text, &size) : NULL;

    if (!run->t->options.rollout_log)
        return 0;
    for (size_t s = 0; out && s < run->n_own; s++) {
        const struct shard *shard = &run->own[s].shard;
        for (size_t i = 0; i < shard->n_prompts * shard->n_answers; i++) {
            const struct answer *a = &shard->answers[i];
            const struct shard_prompt *p = &shard->prompts[i / shard->n_answers];
            fprintf(out, "{\"step\": %llu, \"index\": %zu, \"id\": ",
                    (unsigned long long)shard->step + 1, shard->first * shard->n_answers + i);
            put_json_text(out, p->item.id);
            fprintf(out, ", \"answer\": ");
            put_json_text(out, a->text);
            fprintf(out, ", \"gold\": ");
            put_json_text(out, p->item.gold);
            if (run->t->task->grader == GRADE_PYTHON_TESTS)
                fprintf(out, ", \"program\": \"%s\"", sandbox_outcome_name(a->outcome));
            fprintf(out, ", \"correct\": %s, \"reward\": %g, \"tokens\": %zu, \"ids\": [",
                    a->correct ? "true" : "false", a->reward, a->tokens.n);
            for (size_t k = 0; k < a->tokens.n; k++)
                fprintf(out, "%s%d", k > 0 ? ", " : "", (int)a->tokens.ids[k]);
            fprintf(out, "]}\n");
        }
    }
    int status = comm_agree(run->t->comm, !out || fclose(out) ? error_set("out of memory") : 0);
    if (status == 0)
        status = share_collect(run->t->comm, text, size, take_log, run);
    free(text);
    return status;
}

/* ---- a step -------------------------------------------------------------------------------------
 */

/* All shards' sums, added in the order of shards: the guard looks at them. Each is one rank's. */
static struct shard_sums share_sums(struct run *run)
{
    enum { MEMBERS = sizeof(struct shard_sums) / sizeof(double) };
    const struct comm *comm = run->t->comm;
    struct shard_sums total = {0};
    double *to = (double *)&total;

    if (comm->size > 1)
        MPI_Allreduce(MPI_IN_PLACE, run->sums, (int)run->n_shards * MEMBERS, MPI_DOUBLE, MPI_SUM,
                      comm->handle);
    for (size_t i = 0; i < run->n_shards; i++)
        for (size_t k = 0; k < MEMBERS; k++)
            to[k] += ((const double *)&run->sums[i])[k];
    return total;
}

/* Before another gradient on the same answers: times go on adding up. */
static void clear_sums(struct shard_sums *sums)
{
    *sums = (struct shard_sums){.seconds_rollout = sums->seconds_rollout,
                                .seconds_gradient = sums->seconds_gradient};
}

static double one_answer_share(const struct run *run)
{
    size_t most = 0;

    for (size_t i = 0; i < run->n_answers; i++) {
        size_t n = 0;
        for (size_t j = 0; j < run->n_answers; j++)
            n += run->records[j].hash == run->records[i].hash;
        most = n > most ? n : most;
    }
    return (double)most / (double)run->n_answers;
}

/* AdamW's step, and the adapter's own where it has one. */
static void step_parameters(struct run *run, double rate)
{
    const struct adam_options *o = &run->t->options.adam;
    const struct adapter *a = run->t->adapter;

    adam_step_beside(&run->adam, o, rate, run->parameters, run->gradient, run->origin, a->first_own,
                     a->n_own);
    if (a->n_own > 0) {
        const struct adapter_step step = {rate,       o->beta1,        o->beta2,
                                          o->epsilon, o->weight_decay, run->adam.step};
        a->ops->update(a, run->parameters, run->gradient, run->adam.m, run->adam.v, &step);
    }
}

/* Gradients of all shards to one optimizer step. n: what the loss is divided by. */
static int apply_gradients(struct run *run, double n, struct train_point *point)
{
    const struct train_options *o = &run->t->options;
    struct train_state *s = run->state;
    size_t *numbers = malloc((run->n_own + 1) * sizeof *numbers);
    const float **mine = malloc((run->n_own + 1) * sizeof *mine);
    int status = numbers && mine ? 0 : error_set("out of memory");
    const double start = clock_seconds();

    for (size_t i = 0; status == 0 && i < run->n_own; i++) {
        numbers[i] = run->own[i].shard.number;
        mine[i] = run->own[i].gradient;
    }
    status = comm_agree(run->t->comm, status);
    if (status == 0)
        status = ordered_sum(run->t->comm, run->n_shards, numbers, mine, run->n_own, n_summed(run),
                             run->total);
    free(numbers);
    free(mine);
    if (status)
        return status;
    point->seconds_reduce += clock_seconds() - start;
    for (size_t i = 0; i < s->n; i++)
        run->gradient[i] = (float)(run->total[i] / n);
    const struct adapter *a = run->t->adapter;
    run->penalty = a->ops->penalty ? a->ops->penalty(a, run->parameters, run->gradient) : 0;
    if (a->n_statistics > 0)
        a->ops->statistics(a, run->parameters, run->total + s->n, run->statistics);
    point->gradient_norm = clip_by_norm(run->gradient, s->n, o->clip_norm);
    if (!isfinite(point->gradient_norm))
        return error_set("step %llu: the gradient is not finite; a smaller --rate or a --clip-norm "
                         "keeps the model where its numbers hold",
                         (unsigned long long)s->step + 1);
    if (o->clip_max > 0)
        clip_by_max(run->gradient, s->n, o->clip_max);
    point->rate = o->adam.rate * s->rate_scale *
                  schedule_factor(o->schedule, (size_t)s->step, o->steps, o->warmup);
    step_parameters(run, point->rate);
    return 0;
}

/* A step works on copies ... */
static void begin_step(struct run *run)
{
    const struct train_state *s = run->state;

    memcpy(run->parameters, s->parameters, s->n * sizeof *s->parameters);
    memcpy(run->adam.m, s->adam.m, s->n * sizeof *s->adam.m);
    memcpy(run->adam.v, s->adam.v, s->n * sizeof *s->adam.v);
    run->adam.step = s->adam.step;
}

/* ... that become the state, all at once. */
static int end_step(struct run *run, const struct train_point *point)
{
    struct train_state *s = run->state;
    float *parameters = s->parameters;
    const struct adam adam = s->adam;

    pthread_mutex_lock(&run->lock);
    int status = train_state_reserve_point(s);
    pthread_mutex_unlock(&run->lock);
    if (comm_agree(run->t->comm, status) != 0)
        return -1;
    pthread_mutex_lock(&run->lock);
    train_state_add_point(s, point, run->statistics); /* there is room */
    s->parameters = run->parameters;
    s->adam = run->adam;
    run->parameters = parameters;
    run->adam = adam;
    guard_check(run->t, s, run->origin);
    pthread_mutex_unlock(&run->lock);
    return 0;
}

/* All ranks leave together: 0, -1 with error_set, or 1 when someone was asked to stop. */
static int agree_or_stop(struct run *run, int status)
{
    if (comm_agree(run->t->comm, status) != 0)
        return -1;
    return anyone_asked(run) ? 1 : 0;
}

static int step_run(struct run *run)
{
    const struct train_options *o = &run->t->options;
    struct train_state *s = run->state;
    struct train_point point = {0};
    const double start = clock_seconds();
    const bool two_phases =
        o->objective == TRAIN_REINFORCE && (o->baseline == BASELINE_MEAN || o->inner_steps > 1);

    memset(run->records, 0, run->n_answers * sizeof *run->records);
    memset(run->sums, 0, run->n_shards * sizeof *run->sums);
    begin_step(run);
    if (comm_agree(run->t->comm,
                   rollout_order(o->seed, s->step, run->items.n, o->batch, run->rows)) != 0)
        return -1;
    int status = agree_or_stop(run, each_new_shard(run, two_phases ? work_roll_out : work_at_once));
    if (status)
        return status;
    share_records(run);
    double n = (double)run->n_answers;
    if (o->objective == TRAIN_NEXT_TOKEN) {
        n = 0;
        for (size_t i = 0; i < run->n_answers; i++)
            n += run->records[i].length;
    }
    if (!two_phases) {
        if (apply_gradients(run, n, &point) != 0)
            return -1;
    } else {
        double *rewards = malloc(run->n_answers * sizeof *rewards);
        status = comm_agree(run->t->comm, rewards ? 0 : error_set("out of memory"));
        if (status == 0) {
            for (size_t i = 0; i < run->n_answers; i++)
                rewards[i] = run->records[i].reward;
            objective_advantages(o->baseline, rewards, o->batch, o->n_answers, run->advantages);
        }
        free(rewards);
        for (size_t inner = 0; status == 0 && inner < o->inner_steps; inner++) {
            for (size_t i = 0; status == 0 && i < run->n_own; i++) {
                struct shard *shard = &run->own[i].shard;
                clear_sums(&run->sums[shard->number]);
                status = new_gradient(run, &run->own[i]);
                if (status == 0)
                    status = shard_gradient(shard, &run->rollout, run->parameters,
                                            run->advantages + shard->first * shard->n_answers,
                                            run->own[i].gradient, &run->sums[shard->number]);
            }
            status = agree_or_stop(run, status);
            if (status == 0)
                status = apply_gradients(run, n, &point);
        }
        if (status)
            return status;
    }
    if (log_answers(run) != 0)
        return -1;

    const struct shard_sums sums = share_sums(run);
    for (size_t i = 0; i < run->n_answers; i++) {
        point.reward += run->records[i].reward / (double)run->n_answers;
        point.accuracy += run->records[i].correct / (double)run->n_answers;
        point.length += run->records[i].length / (double)run->n_answers;
    }
    point.loss = sums.loss / n + run->penalty;
    point.kl = sums.n_tokens > 0 ? sums.kl / sums.n_tokens : 0;
    point.entropy = sums.n_tokens > 0 ? sums.entropy / sums.n_tokens : 0;
    point.one_answer_share = one_answer_share(run);
    const double seconds = clock_seconds() - start, n_ranks = run->t->comm->size;
    point.tokens_per_second = seconds > 0 ? sums.n_rows / seconds : 0;
    point.seconds_rollout = sums.seconds_rollout / n_ranks;
    point.seconds_gradient = sums.seconds_gradient / n_ranks;
    point.seconds_other =
        seconds - point.seconds_rollout - point.seconds_gradient - point.seconds_reduce;
    return end_step(run, &point);
}

/* ---- validation ---------------------------------------------------------------------------------
 */

static bool validation_is_due(const struct run *run)
{
    const struct train_options *o = &run->t->options;
    const struct train_state *s = run->state;

    if (o->validate_every == 0)
        return false;
    if (s->n_validations > 0 && s->validations[s->n_validations - 1].step >= s->step)
        return false;
    return s->step % o->validate_every == 0 || s->step == o->steps;
}

static int validate(struct run *run)
{
    const struct trainer *t = run->t;
    struct train_state *s = run->state;
    struct evaluate_options options = t->evaluate;
    struct task_result result;

    options.run = scheduler_run;
    options.split = t->options.valid_split;
    options.limit = t->options.n_valid;
    model_attach(t->model, t->adapter, s->parameters);
    int status =
        evaluate_task(t->comm, t->model, t->tokenizer, t->chat, t->task, &options, &result);
    if (status)
        return status;
    const struct train_validation validation = {s->step, result.n_items, result.accuracy,
                                                result.gold_probability, result.one_answer_share};
    task_result_free(&result);
    float *best = s->best_parameters ? s->best_parameters : malloc((s->n + 1) * sizeof *best);
    pthread_mutex_lock(&run->lock);
    status = best ? train_state_add_validation(s, &validation) : error_set("out of memory");
    if (status == 0 && validation.score > s->best_score) {
        s->best_score = validation.score;
        s->best_step = s->step;
        memcpy(best, s->parameters, s->n * sizeof *s->parameters);
        s->best_parameters = best;
    }
    if (status == 0)
        guard_check(t, s, run->origin);
    pthread_mutex_unlock(&run->lock);
    if (best != s->best_parameters)
        free(best);
    return comm_agree(t->comm, status);
}

static bool patience_is_over(const struct run *run)
{
    const struct train_options *o = &run->t->options;
    const struct train_state *s = run->state;

    return o->patience > 0 && s->n_validations > 0 &&
           s->step - s->best_step >= o->patience * o->validate_every && s->step > s->best_step;
}

/* ---- the run ------------------------------------------------------------------------------------
 */

/* Rank 0 reads the state; all get it. */
static int resume(struct run *run)
{
    const struct trainer *t = run->t;
    struct train_state *s = run->state;
    const struct comm *comm = t->comm;
    int status = comm->rank == 0 ? train_state_read(s, t->settings, t->state_path) : 0;

    if (comm_agree(comm, status) != 0)
        return -1;
    if (comm->size == 1)
        return 0;
    uint64_t counts[7] = {s->step,        s->adam.step,     s->best_step,
                          s->n_rollbacks, s->n_validations, s->best_parameters != NULL,
                          s->last_alarm};
    double reals[2] = {s->best_score, s->rate_scale};
    MPI_Bcast(counts, 7, MPI_UINT64_T, 0, comm->handle);
    MPI_Bcast(reals, 2, MPI_DOUBLE, 0, comm->handle);
    if (comm->rank != 0) {
        s->step = counts[0];
        s->adam.step = counts[1];
        s->best_step = counts[2];
        s->n_rollbacks = counts[3];
        s->n_validations = (size_t)counts[4];
        s->last_alarm = counts[6];
        s->best_score = reals[0];
        s->rate_scale = reals[1];
        s->curve = malloc((s->step + 1) * sizeof *s->curve);
        s->validations = malloc((s->n_validations + 1) * sizeof *s->validations);
        if (counts[5])
            s->best_parameters = malloc((s->n + 1) * sizeof *s->best_parameters);
        s->statistics = malloc((s->step * s->n_statistics + 1) * sizeof *s->statistics);
        if (!s->curve || !s->statistics || !s->validations || (counts[5] && !s->best_parameters))
            status = error_set("no memory for the training state");
    }
    if (comm_agree(comm, status) != 0)
        return -1;
    const struct {
        void *bytes;
        size_t n;
    } parts[] = {
        {s->parameters, s->n * sizeof *s->parameters},
        {s->adam.m, s->n * sizeof *s->adam.m},
        {s->adam.v, s->n * sizeof *s->adam.v},
        {s->best_parameters, counts[5] ? s->n * sizeof *s->best_parameters : 0},
        {s->curve, s->step * sizeof *s->curve},
        {s->statistics, s->step * s->n_statistics * sizeof *s->statistics},
        {s->validations, s->n_validations * sizeof *s->validations},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        for (size_t at = 0; at < parts[i].n; at += 1 << 30)
            MPI_Bcast((char *)parts[i].bytes + at,
                      (int)(parts[i].n - at < 1 << 30 ? parts[i].n - at : 1 << 30), MPI_BYTE, 0,
                      comm->handle);
    return 0;
}

static int open_log(struct run *run)
{
    const char *path = run->t->options.rollout_log;

    if (!path || run->t->comm->rank != 0)
        return 0;
    run->log = fopen(path, run->state->step > 0 ? "a" : "w");
    return run->log ? 0 : error_set("%s: the rollout log cannot be made", path);
}

static int prepare(struct run *run)
{
    const struct trainer *t = run->t;
    const struct train_options *o = &t->options;
    const struct items_options items = {.data_root = t->evaluate.data_root,
                                        .split = o->train_split,
                                        .system = t->evaluate.system,
                                        .chat = t->evaluate.chat,
                                        .fewshot = t->evaluate.fewshot,
                                        .max_new = (int64_t)o->max_new,
                                        .limit = o->train_limit,
                                        .seed = t->evaluate.seed};

    if (t->task->grader == GRADE_PYTHON_TESTS && o->objective == TRAIN_REINFORCE &&
        !t->evaluate.sandbox)
        return error_set(
            "task %s: its answers are programs, and there is no sandbox to run them in",
            t->task->name);
    if (items_open(&run->items, t->task, t->chat, &items))
        return -1;
    run->n_shards = (o->batch + o->shard - 1) / o->shard;
    run->n_answers = o->batch * o->n_answers;
    run->rows = calloc(o->batch, sizeof *run->rows);
    run->own = calloc(run->n_shards, sizeof *run->own);
    run->records = calloc(run->n_answers, sizeof *run->records);
    run->sums = calloc(run->n_shards, sizeof *run->sums);
    run->advantages = calloc(run->n_answers, sizeof *run->advantages);
    run->total = malloc((n_summed(run) + 1) * sizeof *run->total);
    run->statistics = calloc(t->adapter->n_statistics + 1, sizeof *run->statistics);
    run->gradient = malloc((run->state->n + 1) * sizeof *run->gradient);
    run->origin = malloc((run->state->n + 1) * sizeof *run->origin);
    run->parameters = malloc((run->state->n + 1) * sizeof *run->parameters);
    if (adam_create(&run->adam, run->state->n) != 0)
        return -1;
    if (!run->rows || !run->own || !run->records || !run->sums || !run->advantages || !run->total ||
        !run->statistics || !run->gradient || !run->origin || !run->parameters)
        return error_set("no memory for a batch of %zu", o->batch);
    memcpy(run->origin, t->adapter->parameters, run->state->n * sizeof *run->origin);
    return rollout_create(&run->rollout, t, &run->items);
}

static void run_free(struct run *run)
{
    own_clear(run);
    for (size_t i = 0; run->own && i < run->n_shards; i++)
        free(run->own[i].gradient);
    free(run->own);
    free(run->rows);
    free(run->records);
    free(run->sums);
    free(run->advantages);
    free(run->total);
    free(run->statistics);
    free(run->gradient);
    free(run->origin);
    free(run->parameters);
    adam_free(&run->adam);
    rollout_free(&run->rollout);
    items_close(&run->items);
    if (run->has_queue)
        comm_queue_free(&run->queue);
    if (run->log)
        fclose(run->log);
}

static void show(struct run *run)
{
    const struct train_state *s = run->state;
    const struct train_point *p = &s->curve[s->step - 1];
    char best[48] = "";

    if (s->n_validations > 0)
        snprintf(best, sizeof best, ", valid %.3f (best %.3f at %llu)",
                 s->validations[s->n_validations - 1].score, s->best_score,
                 (unsigned long long)s->best_step);
    progress_update(&run->progress, (size_t)s->step,
                    "reward %+.2f acc %.2f entropy %.2f%s, %.0f tok/s", p->reward, p->accuracy,
                    p->entropy, best, p->tokens_per_second);
}

/* What is new, for those who watch. */
static void note_live(struct run *run)
{
    if (!run->t->live || run->t->comm->rank != 0)
        return;
    pthread_mutex_lock(&run->lock);
    live_curve_update(run->t->live, run->state);
    pthread_mutex_unlock(&run->lock);
}

/* Without a number of steps: whenever writing takes no more than a fiftieth of the time since it
 * was last done. */
static bool checkpoint_is_due(const struct run *run)
{
    const size_t every = run->t->options.checkpoint_every;

    if (run->state->step == 0 || run->t->comm->rank != 0)
        return false;
    if (every > 0)
        return run->state->step % every == 0;
    return clock_seconds() - run->last_save >= 50 * run->save_seconds;
}

/* Before the next step: validation, checkpoint, patience, the guard. *over: no further step. */
static int between_steps(struct run *run, enum train_end *end, bool *over)
{
    const struct train_options *o = &run->t->options;
    struct train_state *s = run->state;

    if (validation_is_due(run) && validate(run) != 0)
        return -1;
    pthread_mutex_lock(&run->lock);
    int status = checkpoint_is_due(run) ? save(run) : 0;
    pthread_mutex_unlock(&run->lock);
    status = agree_or_stop(run, status);
    if (status < 0)
        return -1;
    *over = true;
    if (status > 0)
        *end = TRAIN_INTERRUPTED;
    else if (s->step >= o->steps)
        *end = TRAIN_FINISHED;
    else if (patience_is_over(run))
        *end = TRAIN_STOPPED_EARLY;
    else
        *over = false;
    return 0;
}

int trainer_run(const struct trainer *t, struct train_state *state, enum train_end *end)
{
    struct run run = {.t = t, .state = state, .lock = PTHREAD_MUTEX_INITIALIZER};
    bool over = false;
    int status;

    *end = TRAIN_FINISHED;
    signals_watch();
    status = train_state_create(state, t->adapter->n_parameters, t->adapter->n_statistics);
    if (status == 0) {
        memcpy(state->parameters, t->adapter->parameters, state->n * sizeof *state->parameters);
        status = prepare(&run);
    }
    status = comm_agree(t->comm, status);
    if (status == 0)
        status = items_compare_ranks(t->comm, &run.items);
    if (status == 0 && t->resume) {
        status = resume(&run);
        run.saved_step = state->step;
    }
    if (status == 0)
        status = comm_agree(t->comm, open_log(&run));
    if (status == 0) {
        status = comm_agree(t->comm, comm_queue_create(t->comm, &run.queue));
        run.has_queue = status == 0;
    }
    if (status == 0 && t->live && t->comm->rank == 0)
        live_curve_begin(t->live, t->adapter, state);
    if (status == 0)
        status = comm_agree(t->comm, keeper_begin(&run));
    progress_begin(&run.progress, t->comm, t->task->name, t->options.steps, t->quiet);
    while (status == 0) {
        status = between_steps(&run, end, &over);
        note_live(&run); /* a validation */
        if (status || over)
            break;
        status = step_run(&run);
        if (status == 0) {
            note_live(&run);
            show(&run);
        }
    }
    progress_end(&run.progress);
    if (status > 0) {
        *end = TRAIN_INTERRUPTED;
        status = 0;
    }
    keeper_end(&run);
    /* The last good state is kept, whatever ended the run. */
    int saved = 0;
    if (t->comm->rank == 0 && run.own && run.saved_step != state->step) {
        char message[1024];
        snprintf(message, sizeof message, "%s", error_message());
        saved = save(&run);
        if (status != 0)
            error_set("%s", message);
    }
    if (status == 0)
        status = comm_agree(t->comm, saved);
    run_free(&run);
    return status;
}
