#include "model/decompose_work.h"

#include <hdf5.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mpi/error.h"
#include "mpi/node_memory.h"
#include "solver/eigen.h"
#include "solver/svd_grid.h"

/* comm_queue's sums. */
enum { SUM_DONE, SUM_COST, SUM_FLOPS };
static const double cost_unit = 1e-6, flops_unit = 1e6;
enum { STATE_BYTES = 4096, POLL_MS = 50, REMOTE_POLL_MS = 2 };

/* What a rank's workers share. */
struct shop {
    const struct decompose_work *work;
    struct comm_queue queue;
    struct node_memory memory; /* of the crews that span ranks; base NULL: none here */
    size_t *crew_offset;       /* [node workers] in memory, by a crew's first worker on its node */
    size_t *queue_jobs;        /* places in the plan, in the order of drawing */
    size_t n_queue, worker_bytes;
    /* MPI and HDF5 take one thread at a time. */
    pthread_mutex_t mpi, hdf5;
    pthread_mutex_t lock; /* what follows */
    pthread_cond_t ended, opened;
    struct decompose_summary summary; /* this rank's */
    int n_running, status;
    int gate; /* workers begin at 1, or end at once at -1: on some rank a thread did not start */
    char message[2048];
};

struct worker {
    struct shop *shop;
    int thread, node_worker; /* its number on its node; -1: it is in no crew */
    pthread_t id;
};

/* ---- reading ---------------------------------------------------------------------------------
 */

static int fail_value(const struct tensor *t, size_t row, size_t column, float value)
{
    return error_set("%s: tensor %s: the weight in row %zu, column %zu is %s; the file is damaged "
                     "or was made from a model that diverged",
                     t->file, t->name, row, column, isnan(value) ? "NaN" : "infinite");
}

/* svd_source.read */
static int read_rows(const void *context, size_t first, size_t n, float *out)
{
    const struct tensor *t = context;
    const size_t n_columns = tensor_row_elements(t);

    tensor_read_rows(t, first, n, out);
    for (size_t i = 0; i < n; i++) {
        const float *row = out + i * n_columns;
        uint32_t bad = 0;
        for (size_t j = 0; j < n_columns; j++) {
            uint32_t bits;
            memcpy(&bits, &row[j], sizeof bits);
            bad |= (bits & 0x7f800000u) == 0x7f800000u;
        }
        for (size_t j = 0; bad && j < n_columns; j++)
            if (!isfinite(row[j]))
                return fail_value(t, first + i, j, row[j]);
    }
    return 0;
}

static int find_source(const struct decompose_work *w, const struct module *m,
                       struct svd_source *source)
{
    const struct tensor *t = checkpoint_find(w->ck, m->tensor);

    if (!t || t->n_dims != 2 || tensor_n_rows(t) != m->n_rows ||
        tensor_row_elements(t) != m->n_columns)
        return error_set("%s: tensor %s is not a matrix of %zu x %zu", checkpoint_path(w->ck),
                         m->tensor, m->n_rows, m->n_columns);
    *source = (struct svd_source){m->n_rows, m->n_columns, read_rows, t, t->name};
    return 0;
}

/* ---- writing and counting --------------------------------------------------------------------
 */

static void count(struct shop *shop, const struct decompose_job *job, const struct svd_report *r)
{
    struct decompose_summary *s = &shop->summary;
    const double cost =
        job->seconds * (job->n_workers ? job->n_workers : shop->work->plan->n_ranks);

    pthread_mutex_lock(&shop->lock);
    s->n_done++;
    s->n_gesvd += r->method == SVD_GESVD || r->repair == SVD_REPAIR_GESVD;
    s->n_f32 += r->precision == SVD_F32;
    s->n_f64 += r->precision == SVD_F64;
    s->n_repaired += r->repair != SVD_REPAIR_NONE;
    s->flops += r->flops;
    s->worst_orthogonality = fmax(s->worst_orthogonality, r->orthogonality);
    s->worst_residual = fmax(s->worst_residual, r->residual);
    s->worst_bound = fmax(s->worst_bound, r->bound);
    pthread_mutex_unlock(&shop->lock);
    pthread_mutex_lock(&shop->mpi);
    comm_queue_add(&shop->queue, SUM_DONE, 1);
    comm_queue_add(&shop->queue, SUM_COST, (int64_t)(cost / cost_unit));
    comm_queue_add(&shop->queue, SUM_FLOPS, (int64_t)(r->flops / flops_unit));
    pthread_mutex_unlock(&shop->mpi);
}

static int write_part(struct shop *shop, const struct decompose_job *job,
                      const struct svd_report *report, const double *sigma, const float *factor)
{
    const struct decompose_work *w = shop->work;
    const struct module *m = &w->modules[job->module];
    const struct tensor *t = checkpoint_find(w->ck, m->tensor);
    const struct factors_matrix matrix = {
        .module = *m, .source_type = t->type, .report = *report, .sigma = sigma, .factor = factor};

    pthread_mutex_lock(&shop->hdf5);
    const int status = factors_write_part(w->out, w->origin, w->options->type, &matrix);
    pthread_mutex_unlock(&shop->hdf5);
    checkpoint_release(w->ck, t);
    if (status == 0 && w->merge)
        factors_merge_fill(w->merge, w->places[job->module], module_rank(m), factor);
    if (status == 0)
        count(shop, job, report);
    return status;
}

/* Keeps the first message and stops the queue for all ranks. */
static void fail(struct shop *shop)
{
    pthread_mutex_lock(&shop->lock);
    if (shop->status == 0)
        snprintf(shop->message, sizeof shop->message, "%s", error_message());
    shop->status = -1;
    pthread_mutex_unlock(&shop->lock);
    pthread_mutex_lock(&shop->mpi);
    comm_queue_stop(&shop->queue);
    pthread_mutex_unlock(&shop->mpi);
}

/* ---- crews and queue -------------------------------------------------------------------------
 */

/* Solves in a block that the crew shares; worker 0 of it writes. */
static int solve(struct shop *shop, const struct decompose_job *job, const struct crew *crew,
                 char *block, size_t n_bytes)
{
    const struct decompose_work *w = shop->work;
    const struct module *m = &w->modules[job->module];
    const size_t r = module_rank(m);
    struct arena arena = {block, n_bytes, 0};
    struct svd_source source;
    struct svd_report report;

    if (find_source(w, m, &source) != 0)
        return -1;
    double *sigma = arena_take(&arena, r * sizeof *sigma);
    float *factor = arena_take(&arena, r * r * sizeof *factor);
    if (!sigma || !factor)
        return error_set("%s: the memory planned for it is too small", m->tensor);
    if (svd_solve(crew, &arena, &source, &w->options->svd, sigma, factor, &report) != 0)
        return -1;
    return crew->index == 0 ? write_part(shop, job, &report, sigma, factor) : 0;
}

/* The plan's crews that this worker is in, in the plan's order, which is the same for all. A worker
 * that has failed goes on to the meetings, to tell the others. */
static int work_in_crews(struct worker *worker)
{
    struct shop *shop = worker->shop;
    const struct decompose_plan *plan = shop->work->plan;
    const int node_workers = plan->ranks_per_node * plan->n_threads;
    int status = 0;

    if (worker->node_worker < 0 || !shop->memory.base)
        return 0;
    for (size_t i = 0; i < plan->n_jobs; i++) {
        const struct decompose_job *job = &plan->jobs[i];
        const int first = job->first_worker - job->node * node_workers;
        if (job->n_workers < 2 || job->node != shop->memory.group || worker->node_worker < first ||
            worker->node_worker >= first + job->n_workers)
            continue;
        char *region = shop->memory.base + shop->crew_offset[first];
        const struct crew crew = {worker->node_worker - first, job->n_workers,
                                  (struct crew_state *)(void *)region};
        status = crew_agree(&crew, status);
        if (status == 0)
            status = solve(shop, job, &crew, region + STATE_BYTES, job->bytes);
    }
    return status;
}

static int work_from_queue(struct worker *worker)
{
    struct shop *shop = worker->shop;
    const struct crew alone = crew_alone();
    char *block = NULL;
    int status = 0;

    while (status == 0) {
        pthread_mutex_lock(&shop->mpi);
        const int64_t i = comm_queue_next(&shop->queue);
        pthread_mutex_unlock(&shop->mpi);
        if (i >= (int64_t)shop->n_queue)
            break;
        if (!block)
            block = pages_create(shop->worker_bytes);
        status = block ? solve(shop, &shop->work->plan->jobs[shop->queue_jobs[i]], &alone, block,
                               shop->worker_bytes)
                       : -1;
    }
    pages_free(block, shop->worker_bytes);
    return status;
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    struct shop *shop = worker->shop;

    blas_single_thread(); /* of a BLAS on OpenMP, each thread has a setting of its own */
    pthread_mutex_lock(&shop->lock);
    while (shop->gate == 0)
        pthread_cond_wait(&shop->opened, &shop->lock);
    const bool go = shop->gate > 0;
    pthread_mutex_unlock(&shop->lock);
    if (go && (work_in_crews(worker) != 0 || work_from_queue(worker) != 0))
        fail(shop);
    pthread_mutex_lock(&shop->lock);
    shop->n_running--;
    pthread_cond_signal(&shop->ended);
    pthread_mutex_unlock(&shop->lock);
    return NULL;
}

/* ---- the grid --------------------------------------------------------------------------------
 */

static int take_rows(void *context, size_t first, size_t n, const float *rows)
{
    return factors_part_rows(context, first, n, rows);
}

static int solve_on_grid(struct shop *shop, const struct decompose_job *job)
{
    const struct decompose_work *w = shop->work;
    const struct module *m = &w->modules[job->module];
    struct svd_options options = w->options->svd;
    struct svd_source source;
    struct svd_report report;
    struct factors_part *part = NULL;
    double *sigma = NULL;
    int status = find_source(w, m, &source);

    if (options.method != SVD_ELPA && options.method != SVD_GESVD)
        options.method = SVD_SCALAPACK;
    if (status == 0 && w->comm->rank == 0) {
        sigma = malloc(module_rank(m) * sizeof *sigma);
        part = sigma ? factors_part_begin(w->out, w->origin, w->options->type, m) : NULL;
        if (!sigma)
            error_set("out of memory");
        status = part ? 0 : -1;
    }
    status = comm_agree(w->comm, status);
    if (status == 0)
        status = svd_grid_solve(w->comm->handle, &source, &options, sigma, part ? take_rows : NULL,
                                part, &report);
    if (status == 0 && part) {
        status =
            factors_part_end(part, ((const struct tensor *)source.context)->type, &report, sigma);
        part = NULL;
        if (status == 0)
            count(shop, job, &report);
    }
    factors_part_abort(part);
    status = comm_agree(w->comm, status);
    free(sigma);
    if (status == 0)
        checkpoint_release(w->ck, source.context);
    return status;
}

/* ---- the rank's main thread ------------------------------------------------------------------
 */

static void show(struct shop *shop, double start)
{
    const struct decompose_work *w = shop->work;
    struct progress *progress = w->progress;

    if (!progress->file)
        return;
    pthread_mutex_lock(&shop->mpi);
    const double done = (double)comm_queue_add(&shop->queue, SUM_DONE, 0);
    const double cost = (double)comm_queue_add(&shop->queue, SUM_COST, 0) * cost_unit;
    const double flops = (double)comm_queue_add(&shop->queue, SUM_FLOPS, 0) * flops_unit;
    pthread_mutex_unlock(&shop->mpi);
    const double seconds = MPI_Wtime() - start;
    double all = 0;
    for (size_t i = 0; i < w->plan->n_jobs; i++) {
        const struct decompose_job *job = &w->plan->jobs[i];
        all += job->seconds * (job->n_workers ? job->n_workers : w->plan->n_ranks);
    }
    progress->left =
        cost > 0 ? seconds * fmax(all - cost, 0) / cost : fmax(w->plan->seconds - seconds, 1);
    if (flops > 0)
        progress_update(progress, w->n_before + (size_t)done, "%.3g GFLOP/s",
                        flops / seconds / 1e9);
    else
        progress_update(progress, w->n_before + (size_t)done, NULL);
}

/* Waits for the workers; rank 0 shows meanwhile how far all are. */
static void wait_for_workers(struct shop *shop, double start)
{
    const struct comm *comm = shop->work->comm;
    /* Draws from other nodes may need this rank to look after its messages. */
    const bool remote = comm->rank == 0 && comm->node_size < comm->size;
    const long step = (remote ? REMOTE_POLL_MS : POLL_MS) * 1000000L;

    pthread_mutex_lock(&shop->lock);
    while (shop->n_running > 0) {
        if (comm->rank != 0) {
            pthread_cond_wait(&shop->ended, &shop->lock);
            continue;
        }
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += step;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&shop->ended, &shop->lock, &until);
        pthread_mutex_unlock(&shop->lock);
        if (remote) {
            int any;
            pthread_mutex_lock(&shop->mpi);
            MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm->handle, &any, MPI_STATUS_IGNORE);
            pthread_mutex_unlock(&shop->mpi);
        }
        show(shop, start);
        pthread_mutex_lock(&shop->lock);
    }
    pthread_mutex_unlock(&shop->lock);
}

static int run_workers(struct shop *shop, double start)
{
    const int n = shop->work->options->n_threads;
    struct worker *workers = calloc((size_t)n, sizeof *workers);
    int started = 0;

    if (comm_agree(shop->work->comm, workers ? 0 : error_set("out of memory")) != 0) {
        free(workers);
        return -1;
    }
    for (; started < n; started++) {
        struct worker *w = &workers[started];
        *w = (struct worker){.shop = shop, .thread = started};
        w->node_worker = shop->memory.base ? shop->memory.rank * n + started : -1;
        if (pthread_create(&w->id, NULL, worker_main, w) != 0)
            break;
    }
    int status = started == n ? 0
                              : error_set("only %d of %d threads could be started; use fewer "
                                          "(--threads)",
                                          started, n);
    /* Crews would wait for workers that did not start, here or on another rank. */
    status = comm_agree(shop->work->comm, status);
    pthread_mutex_lock(&shop->lock);
    shop->n_running = started;
    shop->gate = status == 0 ? 1 : -1;
    pthread_cond_broadcast(&shop->opened);
    pthread_mutex_unlock(&shop->lock);
    wait_for_workers(shop, start);
    for (int i = 0; i < started; i++)
        pthread_join(workers[i].id, NULL);
    free(workers);
    if (status == 0 && shop->status != 0)
        status = error_set("%s", shop->message);
    return comm_agree(shop->work->comm, status);
}

/* ---- before and after ------------------------------------------------------------------------
 */

/* The memory of one node's crews: a place for each first worker, as large as its largest job. */
static size_t lay_out_crews(const struct decompose_plan *plan, int node, size_t *bytes)
{
    const int node_workers = plan->ranks_per_node * plan->n_threads;
    size_t total = 0;

    memset(bytes, 0, (size_t)node_workers * sizeof *bytes);
    for (size_t i = 0; i < plan->n_jobs; i++) {
        const struct decompose_job *job = &plan->jobs[i];
        if (job->n_workers < 2 || job->node != node)
            continue;
        size_t *place = &bytes[job->first_worker - node * node_workers];
        if (*place < job->bytes + STATE_BYTES)
            *place = job->bytes + STATE_BYTES;
    }
    for (int w = 0; w < node_workers; w++) {
        const size_t size = (bytes[w] + 4095) / 4096 * 4096;
        bytes[w] = total; /* now the offset */
        total += size;
    }
    return total;
}

/* Shared memory where the plan has crews. */
static int prepare_crews(struct shop *shop)
{
    const struct decompose_work *w = shop->work;
    const struct decompose_plan *plan = w->plan;
    const int n_nodes = plan->n_ranks / plan->ranks_per_node;
    const size_t node_workers = (size_t)plan->ranks_per_node * (size_t)plan->n_threads;
    size_t most = 0;

    shop->crew_offset = calloc(node_workers, sizeof *shop->crew_offset);
    int status = comm_agree(w->comm, shop->crew_offset ? 0 : error_set("out of memory"));
    for (int node = 0; status == 0 && node < n_nodes; node++) {
        const size_t bytes = lay_out_crews(plan, node, shop->crew_offset);
        most = bytes > most ? bytes : most;
    }
    if (status != 0 || most == 0)
        return status;
    status = node_memory_create(w->comm, plan->ranks_per_node, most, &shop->memory);
    /* Without it (a container's small /dev/shm) every matrix can have a worker of its own. */
    if (status != 0)
        return plan->needs_crews ? -1 : 0;
    if (shop->memory.base)
        lay_out_crews(plan, shop->memory.group, shop->crew_offset);
    return 0;
}

/* Jobs of one worker, and crews of nodes that turned out not to be there. */
static int fill_queue(struct shop *shop)
{
    const struct decompose_plan *plan = shop->work->plan;

    shop->queue_jobs = calloc(plan->n_jobs + 1, sizeof *shop->queue_jobs);
    if (!shop->queue_jobs)
        return error_set("out of memory");
    for (size_t i = 0; i < plan->n_jobs; i++) {
        const struct decompose_job *job = &plan->jobs[i];
        const bool is_crew = job->n_workers > 1;
        if (job->n_workers == 0 ||
            (is_crew && shop->memory.made && job->node < shop->memory.n_groups))
            continue;
        shop->queue_jobs[shop->n_queue++] = i;
        if (job->bytes > shop->worker_bytes)
            shop->worker_bytes = job->bytes;
    }
    return 0;
}

static void sum_up(const struct comm *comm, const struct decompose_summary *mine,
                   struct decompose_summary *all)
{
    uint64_t counts[] = {mine->n_done, mine->n_f32, mine->n_f64, mine->n_gesvd, mine->n_repaired};
    double worst[] = {mine->worst_orthogonality, mine->worst_residual, mine->worst_bound};
    double flops = mine->flops;

    if (comm->size > 1) {
        MPI_Allreduce(MPI_IN_PLACE, counts, 5, MPI_UINT64_T, MPI_SUM, comm->handle);
        MPI_Allreduce(MPI_IN_PLACE, worst, 3, MPI_DOUBLE, MPI_MAX, comm->handle);
        MPI_Allreduce(MPI_IN_PLACE, &flops, 1, MPI_DOUBLE, MPI_SUM, comm->handle);
    }
    all->n_done = counts[0];
    all->n_f32 = counts[1];
    all->n_f64 = counts[2];
    all->n_gesvd = counts[3];
    all->n_repaired = counts[4];
    all->worst_orthogonality = worst[0];
    all->worst_residual = worst[1];
    all->worst_bound = worst[2];
    all->flops = flops;
}

int decompose_work(const struct decompose_work *work, struct decompose_summary *summary)
{
    struct shop shop = {.work = work,
                        .mpi = PTHREAD_MUTEX_INITIALIZER,
                        .hdf5 = PTHREAD_MUTEX_INITIALIZER,
                        .lock = PTHREAD_MUTEX_INITIALIZER,
                        .ended = PTHREAD_COND_INITIALIZER,
                        .opened = PTHREAD_COND_INITIALIZER};
    const struct comm *comm = work->comm;
    const double start = MPI_Wtime();
    int status;

    blas_single_thread();
    H5open(); /* the only moment at which HDF5 talks to MPI on its own */
    status = comm_agree(comm, comm_queue_create(comm, &shop.queue));
    for (size_t i = 0; status == 0 && i < work->plan->n_jobs; i++) {
        if (work->plan->jobs[i].n_workers == 0)
            status = solve_on_grid(&shop, &work->plan->jobs[i]);
        if (comm->rank == 0)
            show(&shop, start);
    }
    if (status == 0)
        status = prepare_crews(&shop);
    if (status == 0)
        status = comm_agree(comm, fill_queue(&shop));
    if (status == 0 && (shop.n_queue > 0 || shop.memory.made))
        status = run_workers(&shop, start);
    sum_up(comm, &shop.summary, summary);
    node_memory_free(&shop.memory);
    comm_queue_free(&shop.queue);
    free(shop.crew_offset);
    free(shop.queue_jobs);
    return status;
}
