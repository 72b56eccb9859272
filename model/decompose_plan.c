/* Who solves which matrix when. The bulk is list scheduling, longest first (Graham 1969: at most
 * 4/3 of the optimum); matrices that would make the tail are solved first by crews. How many, and
 * how large the crews are, is found by trying: the schedule is simulated for a few hundred choices
 * (crews of one size for the k longest; the smallest crews that meet a deadline, as in the dual
 * approximation of Turek, Wolf & Yu 1992) and the shortest taken. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/decompose.h"
#include "mpi/error.h"
#include "mpi/text.h"
#include "solver/svd_grid.h"

/* A choice with crews must be this much shorter than one with fewer: what a crew gains is less
 * certain than what it costs. */
static const double crew_gain = 0.97;
/* A rank before it solves anything: MPI, HDF5, BLAS buffers. */
static const size_t rank_bytes = (size_t)80 << 20;
enum { MAX_CREW = 64, DEADLINES = 16 };

struct task {
    size_t module;
    double seconds; /* of one worker, writing included */
    double alone;   /* of these, what no crew makes shorter */
    size_t bytes;
    int least; /* crew size that memory calls for */
    int size;  /* crew size being tried */
};

struct planner {
    const struct module *modules;
    const struct decompose_options *options;
    const struct decompose_costs *costs;
    struct task *tasks; /* longest first */
    size_t n_tasks;
    int n_workers, node_workers, n_full_nodes;
    double *free_at; /* [n_workers], zero between simulations */
    int *firsts;     /* [n_tasks] first workers, in a simulation's order */
    int *heap;       /* [n_workers] slots, by time, then number */
    double *slot_at; /* [n_workers] */
    int *best_size;  /* [n_tasks], by module */
    struct task *order;
};

static bool goes_to_grid(const struct module *m, const struct decompose_options *options)
{
    return options->svd.method == SVD_SCALAPACK || options->svd.method == SVD_ELPA ||
           options->svd.method == SVD_GESVD || module_rank(m) >= options->grid_from;
}

/* ---- simulation ------------------------------------------------------------------------------ */

static double task_seconds(const struct planner *p, const struct task *t)
{
    if (t->size <= 1)
        return t->seconds;
    return t->alone + (t->seconds - t->alone) /
                          decompose_cost_speedup(p->costs, &p->modules[t->module], t->size);
}

static bool sooner(const struct planner *p, int a, int b)
{
    return p->slot_at[a] < p->slot_at[b] || (p->slot_at[a] == p->slot_at[b] && a < b);
}

static void sink(struct planner *p, int at, int n)
{
    for (;;) {
        int child = 2 * at + 1;
        if (child >= n)
            return;
        if (child + 1 < n && sooner(p, p->heap[child + 1], p->heap[child]))
            child++;
        if (!sooner(p, p->heap[child], p->heap[at]))
            return;
        const int swap = p->heap[at];
        p->heap[at] = p->heap[child];
        p->heap[child] = swap;
        at = child;
    }
}

static int compare_tasks(const void *a, const void *b)
{
    const struct task *x = a, *y = b;
    const bool crew_x = x->size > 1, crew_y = y->size > 1;

    if (crew_x != crew_y)
        return crew_x ? -1 : 1;
    if (crew_x && x->size != y->size)
        return x->size > y->size ? -1 : 1;
    if (x->seconds != y->seconds)
        return x->seconds > y->seconds ? -1 : 1;
    return x->module < y->module ? -1 : x->module > y->module;
}

static int slot_first(const struct planner *p, int slot, int size)
{
    const int per_node = p->node_workers / size;
    return size == 1 ? slot : slot / per_node * p->node_workers + slot % per_node * size;
}

/* How many slots of a size are looked at. Jobs are at most `largest` wide and each is in the way of
 * largest / size + 2 slots, so that among this many one is free, and the first free one is taken:
 * more would change nothing, however large the machine. */
static int slots_for(const struct planner *p, int size, int largest)
{
    const int all = size == 1 ? p->n_workers : p->n_full_nodes * (p->node_workers / size);
    const size_t enough = p->n_tasks * ((size_t)(largest / size) + 2);

    return (size_t)all < enough ? all : (int)enough;
}

/* Simulates p->tasks with their sizes; fills jobs (p->n_tasks of them) unless NULL. Returns the
 * time of the last end. */
static double simulate(struct planner *p, struct decompose_job *jobs)
{
    double end = 0;

    memcpy(p->order, p->tasks, p->n_tasks * sizeof *p->order);
    qsort(p->order, p->n_tasks, sizeof *p->order, compare_tasks);
    const int largest = p->order[0].size > 1 ? p->order[0].size : 1;
    for (size_t i = 0; i < p->n_tasks;) {
        const int size = p->order[i].size > 1 ? p->order[i].size : 1;
        const int n_slots = slots_for(p, size, largest);
        for (int s = 0; s < n_slots; s++) {
            const int first = slot_first(p, s, size);
            p->heap[s] = s;
            p->slot_at[s] = 0;
            for (int w = 0; w < size; w++)
                p->slot_at[s] = fmax(p->slot_at[s], p->free_at[first + w]);
        }
        for (int s = n_slots / 2; s-- > 0;)
            sink(p, s, n_slots);
        for (; i < p->n_tasks && (p->order[i].size > 1 ? p->order[i].size : 1) == size; i++) {
            const struct task *t = &p->order[i];
            const int slot = p->heap[0], first = slot_first(p, slot, size);
            const double seconds = task_seconds(p, t), start = p->slot_at[slot];
            if (jobs)
                jobs[i] = (struct decompose_job){.module = t->module,
                                                 .first_worker = first,
                                                 .n_workers = size,
                                                 .node = size > 1 ? first / p->node_workers : -1,
                                                 .start = start,
                                                 .seconds = seconds,
                                                 .bytes = t->bytes};
            p->firsts[i] = first;
            p->slot_at[slot] = start + seconds;
            end = fmax(end, start + seconds);
            for (int w = 0; w < size; w++)
                p->free_at[first + w] = start + seconds;
            sink(p, 0, n_slots);
        }
    }
    for (size_t i = 0; i < p->n_tasks; i++) {
        const int size = p->order[i].size > 1 ? p->order[i].size : 1;
        memset(p->free_at + p->firsts[i], 0, (size_t)size * sizeof *p->free_at);
    }
    return end;
}

/* ---- the search ------------------------------------------------------------------------------ */

static void set_size(struct planner *p, size_t task, int size)
{
    struct task *t = &p->tasks[task];
    t->size = size > t->least ? size : t->least;
}

static void try_sizes(struct planner *p, double *best)
{
    const double end = simulate(p, NULL);

    if (*best > 0 && end >= *best * crew_gain)
        return;
    *best = end;
    for (size_t i = 0; i < p->n_tasks; i++)
        p->best_size[i] = p->tasks[i].size;
}

/* The k longest in crews of `size`, for values of k where the schedule changes its form. */
static void try_prefixes(struct planner *p, int size, double *best)
{
    const size_t n_slots = (size_t)p->n_full_nodes * (size_t)(p->node_workers / size);
    const size_t n = p->n_tasks, left = n % (size_t)p->n_workers;
    const size_t step = n > 256 ? n / 128 : 1;

    for (size_t k = 1; k <= n; k++) {
        if (!(k == n || k == left || k % n_slots == 0 || k % step == 0 || k < 16))
            continue;
        for (size_t i = 0; i < n; i++)
            set_size(p, i, i < k ? size : 1);
        try_sizes(p, best);
    }
}

/* Each matrix in the smallest crew that ends it within the deadline. */
static void try_deadline(struct planner *p, double deadline, int largest, double *best)
{
    for (size_t i = 0; i < p->n_tasks; i++) {
        struct task *t = &p->tasks[i];
        t->size = 1;
        while (task_seconds(p, t) > deadline && t->size * 2 <= largest)
            t->size *= 2;
        set_size(p, i, t->size);
    }
    try_sizes(p, best);
}

static void search(struct planner *p)
{
    const int largest = p->n_full_nodes == 0         ? 1
                        : p->node_workers < MAX_CREW ? p->node_workers
                                                     : MAX_CREW;
    double best = 0, total = 0, longest = 0;

    for (size_t i = 0; i < p->n_tasks; i++) {
        set_size(p, i, 1);
        total += p->tasks[i].seconds;
        longest = fmax(longest, p->tasks[i].seconds);
    }
    try_sizes(p, &best);
    const double bound = total / p->n_workers;
    if (best <= bound / crew_gain)
        return; /* nothing to gain */
    for (int size = 2; size <= largest; size = size < 4 ? size + 1 : size + size / 2)
        try_prefixes(p, size, &best);
    if (largest > 1)
        try_prefixes(p, largest, &best);
    for (int i = 0; i < DEADLINES && bound < longest; i++)
        try_deadline(p, bound * pow(longest / bound, (double)i / DEADLINES), largest, &best);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* What a crew shares. */
static size_t crew_bytes(const struct module *m, const struct decompose_options *o, int size)
{
    const size_t r = module_rank(m);
    return svd_work_bytes(m->n_rows, m->n_columns, &o->svd, size) + r * r * 4 + r * 8 + 4096;
}

static size_t part_bytes(const struct module *m, enum factors_type type)
{
    const size_t r = module_rank(m);
    return r * r * (type == FACTORS_BF16 ? 2 : 4) + r * 8 + 16384;
}

/* What a worker has besides: the tensor's pages, 2 bytes an element being usual. */
static size_t bytes_beside(const struct module *m)
{
    return m->n_rows * m->n_columns * 2;
}

/* The smallest crew size with which matrices of this size fit a node side by side. */
static int least_crew(const struct planner *p, const struct module *m, size_t bytes,
                      int ranks_per_node, int *least)
{
    const struct decompose_options *o = p->options;
    const size_t node = o->memory * (size_t)ranks_per_node;
    char need[32], have[32];

    *least = 1;
    if (o->memory == 0)
        return 0;
    const size_t at_once = node / bytes;
    if (at_once == 0)
        return error_set("%s [%zu, %zu] needs %s, a node's ranks may take %s: give them more "
                         "(--memory), or use the grid of all ranks (--grid-from %zu)",
                         m->tensor, m->n_rows, m->n_columns,
                         text_bytes(need, sizeof need, (double)bytes),
                         text_bytes(have, sizeof have, (double)node), module_rank(m));
    *least = (int)(((size_t)p->node_workers + at_once - 1) / at_once);
    return 0;
}

/* The peak of a rank: grid, crews and queue come one after the other. A crew that spans ranks
 * shows up in the memory of each. */
static size_t peak_bytes(const struct planner *p, const struct decompose_plan *plan)
{
    size_t grid = 0, crew = 0, queue = 0;
    const size_t threads = (size_t)p->options->n_threads;

    for (size_t i = 0; i < plan->n_jobs; i++) {
        const struct decompose_job *job = &plan->jobs[i];
        const size_t beside = bytes_beside(&p->modules[job->module]);
        const size_t bytes = job->bytes + beside;
        if (job->n_workers == 0)
            grid = bytes > grid ? bytes : grid;
        else if (job->n_workers == 1)
            queue = bytes > queue ? bytes : queue;
        else {
            const size_t side_by_side = threads / (size_t)job->n_workers;
            const size_t all = bytes * (side_by_side ? side_by_side : 1);
            crew = all > crew ? all : crew;
        }
    }
    queue *= threads < plan->n_jobs ? threads : plan->n_jobs;
    size_t most = grid > crew ? grid : crew;
    most = most > queue ? most : queue;
    return rank_bytes + most;
}

/* ---- the plan -------------------------------------------------------------------------------- */

/* On one node a finished matrix is written twice, as a part and to its place in the final file. */
static double write_seconds(const struct planner *p, const struct module *m)
{
    const double times = p->n_workers == p->node_workers ? 2 : 1;

    return p->costs->write_seconds +
           times * (double)part_bytes(m, p->options->type) / p->costs->write_bytes;
}

/* The end: the disk, and on several nodes all of the copying. */
static double merge_seconds(const struct planner *p, size_t file_bytes)
{
    const double share = p->n_workers == p->node_workers ? 0.5 : 1;

    return share * (double)file_bytes / p->costs->write_bytes;
}

static void add_grid_jobs(struct planner *p, struct decompose_plan *plan, size_t n_modules,
                          double *end)
{
    for (size_t i = 0; i < n_modules; i++) {
        const struct module *m = &p->modules[i];
        if (!goes_to_grid(m, p->options))
            continue;
        const double alone = decompose_cost_seconds(p->costs, m, &p->options->svd);
        const double share = plan->n_ranks > 1 ? plan->n_ranks * p->costs->grid_efficiency : 1;
        const double seconds = alone / share + write_seconds(p, m);
        plan->jobs[plan->n_jobs++] = (struct decompose_job){
            .module = i,
            .node = -1,
            .start = *end,
            .seconds = seconds,
            .bytes = svd_grid_bytes(m->n_rows, m->n_columns, &p->options->svd, plan->n_ranks)};
        *end += seconds;
        plan->work += alone + write_seconds(p, m);
    }
}

static int add_tasks(struct planner *p, struct decompose_plan *plan, size_t n_modules)
{
    for (size_t i = 0; i < n_modules; i++) {
        const struct module *m = &p->modules[i];
        if (goes_to_grid(m, p->options))
            continue;
        struct task *t = &p->tasks[p->n_tasks];
        *t = (struct task){.module = i, .bytes = crew_bytes(m, p->options, 1)};
        t->alone = write_seconds(p, m);
        t->seconds = t->alone + decompose_cost_seconds(p->costs, m, &p->options->svd);
        if (least_crew(p, m, t->bytes + bytes_beside(m), plan->ranks_per_node, &t->least) != 0)
            return -1;
        plan->work += t->seconds;
        plan->needs_crews |= t->least > 1;
        p->n_tasks++;
    }
    for (size_t i = 0; i < p->n_tasks; i++)
        p->tasks[i].size = 1;
    qsort(p->tasks, p->n_tasks, sizeof *p->tasks, compare_tasks);
    return 0;
}

int decompose_plan_make(struct decompose_plan *plan, const struct module *modules, size_t n_modules,
                        const struct decompose_options *options,
                        const struct decompose_costs *costs, int n_ranks, int ranks_per_node)
{
    int n_all;

    *plan = (struct decompose_plan){0};
    if (__builtin_mul_overflow(n_ranks, options->n_threads, &n_all))
        return error_set("%d ranks of %d threads are more workers than can be planned for; give "
                         "fewer (--ranks, --threads)",
                         n_ranks, options->n_threads);
    if (ranks_per_node > n_ranks)
        ranks_per_node = n_ranks;
    struct planner p = {.modules = modules,
                        .options = options,
                        .costs = costs,
                        .n_workers = n_all,
                        .node_workers = ranks_per_node * options->n_threads,
                        .n_full_nodes = n_ranks / ranks_per_node};
    const size_t n_workers = (size_t)p.n_workers;
    double grid_end = 0, end = 0;
    int status = -1;

    *plan = (struct decompose_plan){
        .n_ranks = n_ranks, .n_threads = options->n_threads, .ranks_per_node = ranks_per_node};
    plan->jobs = calloc(n_modules + 1, sizeof *plan->jobs);
    p.tasks = calloc(n_modules + 1, sizeof *p.tasks);
    p.order = calloc(n_modules + 1, sizeof *p.order);
    p.best_size = calloc(n_modules + 1, sizeof *p.best_size);
    p.firsts = calloc(n_modules + 1, sizeof *p.firsts);
    p.free_at = calloc(n_workers, sizeof *p.free_at);
    p.slot_at = calloc(n_workers, sizeof *p.slot_at);
    p.heap = calloc(n_workers, sizeof *p.heap);
    if (!plan->jobs || !p.tasks || !p.order || !p.best_size || !p.firsts || !p.free_at ||
        !p.slot_at || !p.heap) {
        error_set("out of memory for a plan of %zu matrices on %zu workers", n_modules, n_workers);
        goto done;
    }
    add_grid_jobs(&p, plan, n_modules, &grid_end);
    if (add_tasks(&p, plan, n_modules) != 0)
        goto done;
    if (p.n_tasks > 0) {
        search(&p);
        for (size_t i = 0; i < p.n_tasks; i++)
            p.tasks[i].size = p.best_size[i];
        end = simulate(&p, plan->jobs + plan->n_jobs);
        for (size_t i = 0; i < p.n_tasks; i++) {
            struct decompose_job *job = &plan->jobs[plan->n_jobs + i];
            job->start += grid_end;
            job->bytes = crew_bytes(&modules[job->module], options, job->n_workers);
        }
        plan->n_jobs += p.n_tasks;
    }
    for (size_t i = 0; i < n_modules; i++)
        plan->file_bytes += part_bytes(&modules[i], options->type);
    plan->seconds = costs->start_seconds + grid_end + end + merge_seconds(&p, plan->file_bytes);
    plan->bytes_per_rank = peak_bytes(&p, plan);
    status = 0;
done:
    free(p.tasks);
    free(p.order);
    free(p.best_size);
    free(p.firsts);
    free(p.free_at);
    free(p.slot_at);
    free(p.heap);
    if (status != 0)
        decompose_plan_free(plan);
    return status;
}

void decompose_plan_free(struct decompose_plan *plan)
{
    free(plan->jobs);
    *plan = (struct decompose_plan){0};
}

/* ---- printing -------------------------------------------------------------------------------- */

static const char *describe_workers(const struct decompose_job *job, char text[32])
{
    if (job->n_workers == 0)
        return "all, as a grid";
    if (job->n_workers == 1)
        return "1";
    snprintf(text, 32, "crew of %d", job->n_workers);
    return text;
}

static bool same_group(const struct decompose_job *a, const struct decompose_job *b,
                       const struct module *modules)
{
    const struct module *x = &modules[a->module], *y = &modules[b->module];
    return a->n_workers == b->n_workers && x->n_rows == y->n_rows && x->n_columns == y->n_columns;
}

/* Matrices of one shape in crews of one size. */
static void print_groups(const struct decompose_plan *plan, const struct module *modules,
                         FILE *file)
{
    struct text_table table;
    char workers[32], seconds[32], bytes[32];

    text_table_begin(&table, "rrlrr");
    text_table_cell(&table, "shape");
    text_table_cell(&table, "matrices");
    text_table_cell(&table, "workers each");
    text_table_cell(&table, "time each");
    text_table_cell(&table, "memory each");
    for (size_t i = 0; i < plan->n_jobs; i++) {
        const struct decompose_job *job = &plan->jobs[i];
        const struct module *m = &modules[job->module];
        size_t before = 0, n = 1;
        double sum = job->seconds;
        while (before < i && !same_group(&plan->jobs[before], job, modules))
            before++;
        if (before < i)
            continue;
        for (size_t j = i + 1; j < plan->n_jobs; j++)
            if (same_group(&plan->jobs[j], job, modules)) {
                n++;
                sum += plan->jobs[j].seconds;
            }
        text_table_cell(&table, "%zu x %zu", m->n_rows, m->n_columns);
        text_table_cell(&table, "%zu", n);
        text_table_cell(&table, "%s", describe_workers(job, workers));
        text_table_cell(&table, "%s", text_duration(seconds, sizeof seconds, sum / (double)n));
        text_table_cell(&table, "%s", text_bytes(bytes, sizeof bytes, (double)job->bytes));
    }
    text_table_print(&table, file, 2);
}

static void print_jobs(const struct decompose_plan *plan, const struct module *modules, FILE *file)
{
    struct text_table table;
    char seconds[32], start[32], workers[64];

    text_table_begin(&table, "lrrl");
    text_table_cell(&table, "matrix");
    text_table_cell(&table, "start");
    text_table_cell(&table, "time");
    text_table_cell(&table, "workers");
    for (size_t i = 0; i < plan->n_jobs; i++) {
        const struct decompose_job *job = &plan->jobs[i];
        if (job->n_workers == 0)
            snprintf(workers, sizeof workers, "all, as a grid");
        else if (job->n_workers == 1)
            snprintf(workers, sizeof workers, "from the queue (%d)", job->first_worker);
        else
            snprintf(workers, sizeof workers, "%d-%d on node %d", job->first_worker,
                     job->first_worker + job->n_workers - 1, job->node);
        text_table_cell(&table, "%s", modules[job->module].path);
        text_table_cell(&table, "%s", text_duration(start, sizeof start, job->start));
        text_table_cell(&table, "%s", text_duration(seconds, sizeof seconds, job->seconds));
        text_table_cell(&table, "%s", workers);
    }
    text_table_print(&table, file, 2);
}

void decompose_plan_print(const struct decompose_plan *plan, const struct module *modules,
                          FILE *file, bool verbose)
{
    const int n_nodes = (plan->n_ranks + plan->ranks_per_node - 1) / plan->ranks_per_node;
    const double workers = (double)plan->n_ranks * plan->n_threads;
    char text[32];

    fprintf(file, "plan: %zu %s on %d %s of %d %s, %d %s\n", plan->n_jobs,
            plan->n_jobs == 1 ? "matrix" : "matrices", plan->n_ranks,
            plan->n_ranks == 1 ? "rank" : "ranks", plan->n_threads,
            plan->n_threads == 1 ? "thread" : "threads", n_nodes, n_nodes == 1 ? "node" : "nodes");
    print_groups(plan, modules, file);
    if (verbose)
        print_jobs(plan, modules, file);
    fprintf(file, "  predicted time    %s", text_duration(text, sizeof text, plan->seconds));
    fprintf(file, " (one worker's work: %s", text_duration(text, sizeof text, plan->work));
    fprintf(file, ", %.0f %% of the workers' time)\n",
            plan->seconds > 0 ? 100 * plan->work / (workers * plan->seconds) : 100.0);
    fprintf(file, "  memory per rank   at most %s\n",
            text_bytes(text, sizeof text, (double)plan->bytes_per_rank));
    fprintf(file, "  factor file       %s\n",
            text_bytes(text, sizeof text, (double)plan->file_bytes));
}
