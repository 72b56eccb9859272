/* mpirun -n P bench_svd --set 2048x2048:8,4096x4096:4 [--condition C] [--spectrum log|linear]
 *     [--precision auto|f32|f64]
 *     [--method auto|lapack|one-stage|two-stage|scalapack|elpa|gesvd|cusolver]
 *     [--crew auto|one|all] [--check] [--repeat N] [--seed N]
 *
 * Times the decomposition of a set of made-up matrices in the memory of one node, as t2 decompose
 * schedules them: a rank is a worker, matrices are drawn longest first, and those that would leave
 * workers idle at the end are solved first by all workers together (--crew one: never; all:
 * always). The grid methods solve each on the grid of all ranks; cusolver on CUDA's device 0.
 * Matrices are Gaussian; with
 * --condition, U diag(s) V^T with s from 1 to 1/C (log: equal ratios, linear: equal steps) and
 * random orthogonal U and V. Prints
 *
 *   matrix I MxN METHOD PRECISION by WHO seconds S condition C bound B orthogonality O ...
 *   set seconds S GFLOP/s F     once a repetition; making the matrices is not in it
 *   peak MiB R0 R1 ...          resident, by rank; shared pages and the matrices are in it */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "model/rng.h"
#include "mpi/comm.h"
#include "mpi/error.h"
#include "solver/blas_kernels.h"
#include "solver/eigen.h"
#include "solver/svd.h"
#include "solver/svd_cuda.h"
#include "solver/svd_grid.h"

enum { MAX_MATRICES = 1024 };
enum crew_use { CREW_AUTO, CREW_ONE, CREW_ALL };

struct matrix {
    size_t n_rows, n_columns, order; /* order: the smaller one */
    uint64_t seed;
    double flops;
    float *values; /* [n_rows, n_columns], shared */
    char name[48];
};

/* In shared memory. */
struct result {
    int worker; /* -1: all */
    double seconds, condition;
    struct svd_report report;
};

struct bench {
    struct comm comm;
    struct svd_options options;
    double condition; /* 0: Gaussian */
    bool linear;
    enum crew_use crew_use;
    int repeat;
    uint64_t seed;
    struct matrix matrices[MAX_MATRICES]; /* longest first */
    size_t n, n_crew;                     /* the first n_crew by all workers */

    MPI_Win window;
    struct result *results; /* [n] */
    struct crew_state *state;
    struct arena shared, own;
    double *shared_sigma, *own_sigma;
    float *shared_factor, *own_factor;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- matrices ---------------------------------------------------------------------------------
 */

static void make_gaussian(const struct matrix *m)
{
    const size_t n = m->n_rows * m->n_columns;

    for (size_t i = 0; i < n; i += 2) { /* Box and Muller */
        const float u = 1 - rng_uniform(m->seed, 0, i), v = rng_uniform(m->seed, 0, i + 1);
        const float length = sqrtf(-2 * logf(u)), angle = 6.2831853f * v;
        m->values[i] = length * cosf(angle);
        if (i + 1 < n)
            m->values[i + 1] = length * sinf(angle);
    }
}

/* Angles within 45 degrees +- 22 in a random quadrant, so that products of them spread a vector's
 * length over all of its elements. */
static void make_angles(uint64_t seed, uint64_t stream, size_t n, float *cosines, float *sines)
{
    for (size_t i = 0; i < n; i++) {
        const float u = 4 * rng_uniform(seed, stream, i), quadrant = floorf(u);
        const float angle = 1.5707963f * (quadrant + 0.25f + 0.5f * (u - quadrant));
        cosines[i] = cosf(angle);
        sines[i] = sinf(angle);
    }
}

static void rotate(float *a, float *b, size_t n, float c, float s)
{
    for (size_t k = 0; k < n; k++) {
        const float x = a[k], y = b[k];
        a[k] = c * x - s * y;
        b[k] = s * x + c * y;
    }
}

/* diag(s) between two random butterflies of plane rotations (strides 1, 2, 4, ..., twice over):
 * orthogonal to rounding, dense, and O(m n log mn). */
static int make_conditioned(const struct bench *b, const struct matrix *m)
{
    const size_t rows = m->n_rows, columns = m->n_columns,
                 longest = rows > columns ? rows : columns;
    float *cosines = malloc(2 * longest * sizeof *cosines), *sines = cosines + longest;
    uint64_t stream = 1;

    if (!cosines)
        return error_set("%s: out of memory", m->name);
    memset(m->values, 0, rows * columns * sizeof *m->values);
    for (size_t i = 0; i < m->order; i++) {
        const double share = m->order > 1 ? (double)i / (double)(m->order - 1) : 0;
        m->values[i * columns + i] =
            (float)(b->linear ? 1 - share * (1 - 1 / b->condition) : pow(b->condition, -share));
    }
    for (int round = 0; round < 2; round++)
        for (size_t stride = 1; stride < columns; stride *= 2) {
            make_angles(m->seed, stream++, columns, cosines, sines);
            for (size_t i = 0; i < m->order; i++) { /* the rows below are zero */
                float *row = m->values + i * columns;
                for (size_t j = 0; j + stride < columns; j += 2 * stride)
                    for (size_t k = j; k < j + stride && k + stride < columns; k++)
                        rotate(row + k, row + k + stride, 1, cosines[k], sines[k]);
            }
        }
    for (int round = 0; round < 2; round++)
        for (size_t stride = 1; stride < rows; stride *= 2) {
            make_angles(m->seed, stream++, rows, cosines, sines);
            for (size_t j = 0; j + stride < rows; j += 2 * stride)
                for (size_t k = j; k < j + stride && k + stride < rows; k++)
                    rotate(m->values + k * columns, m->values + (k + stride) * columns, columns,
                           cosines[k], sines[k]);
        }
    free(cosines);
    return 0;
}

static int read_rows(const void *context, size_t first, size_t n, float *out)
{
    const struct matrix *m = context;
    memcpy(out, m->values + first * m->n_columns, n * m->n_columns * sizeof *out);
    return 0;
}

static struct svd_source source_of(const struct matrix *m)
{
    return (struct svd_source){m->n_rows, m->n_columns, read_rows, m, m->name};
}

/* ---- plan and memory --------------------------------------------------------------------------
 */

static int longer_first(const void *a, const void *b)
{
    const struct matrix *x = a, *y = b;
    return (x->flops < y->flops) - (x->flops > y->flops);
}

/* How many of the longest a crew of all should take, so that the rest, drawn one by one, ends with
 * all workers busy. A crew is taken to reach 0.85 of its workers' speed. */
static size_t plan_crew(const struct bench *b)
{
    const size_t n_workers = (size_t)b->comm.size;
    double best = INFINITY, together = 0;
    size_t n_crew = 0;

    if (n_workers == 1 || b->crew_use == CREW_ONE)
        return 0;
    if (b->crew_use == CREW_ALL)
        return b->n;
    double *busy = malloc(n_workers * sizeof *busy);
    for (size_t k = 0; busy && k <= b->n; k++) {
        double last = 0;
        memset(busy, 0, n_workers * sizeof *busy);
        for (size_t i = k; i < b->n; i++) {
            size_t w = 0;
            for (size_t j = 1; j < n_workers; j++)
                if (busy[j] < busy[w])
                    w = j;
            busy[w] += b->matrices[i].flops;
            last = fmax(last, busy[w]);
        }
        if (together + last < best) {
            best = together + last;
            n_crew = k;
        }
        if (k < b->n)
            together += b->matrices[k].flops / (0.85 * (double)n_workers);
    }
    free(busy);
    return n_crew;
}

static bool on_grid(const struct bench *b)
{
    return b->options.method >= SVD_SCALAPACK && b->options.method != SVD_CUSOLVER;
}

static size_t rounded(size_t n_bytes)
{
    return (n_bytes + 4095) / 4096 * 4096;
}

/* The shared window: results, crew state, matrices, and the crew's sigma, factor and arena. */
static int share_memory(struct bench *b)
{
    size_t size = rounded(b->n * sizeof *b->results) + rounded(sizeof *b->state);
    size_t order = 0, work = 0;
    void *base;

    for (size_t i = 0; i < b->n; i++) {
        const struct matrix *m = &b->matrices[i];
        size += rounded(m->n_rows * m->n_columns * sizeof *m->values);
        if (i < b->n_crew) {
            const size_t w = svd_work_bytes(m->n_rows, m->n_columns, &b->options, b->comm.size);
            work = w > work ? w : work;
            order = m->order > order ? m->order : order;
        }
    }
    size += rounded(order * sizeof *b->shared_sigma) +
            rounded(order * order * sizeof *b->shared_factor) + rounded(work);
    if (MPI_Win_allocate_shared(b->comm.rank == 0 ? (MPI_Aint)size : 0, 1, MPI_INFO_NULL,
                                b->comm.handle, &base, &b->window) != MPI_SUCCESS)
        return error_set("no %zu bytes of shared memory", size);
    if (b->comm.rank != 0) {
        MPI_Aint n;
        int unit;
        MPI_Win_shared_query(b->window, 0, &n, &unit, &base);
    }
    char *at = base;
    b->results = (void *)at;
    at += rounded(b->n * sizeof *b->results);
    b->state = (void *)at;
    at += rounded(sizeof *b->state);
    for (size_t i = 0; i < b->n; i++) {
        struct matrix *m = &b->matrices[i];
        m->values = (void *)at;
        at += rounded(m->n_rows * m->n_columns * sizeof *m->values);
    }
    b->shared_sigma = (void *)at;
    at += rounded(order * sizeof *b->shared_sigma);
    b->shared_factor = (void *)at;
    at += rounded(order * order * sizeof *b->shared_factor);
    b->shared = (struct arena){at, work, 0};
    if (b->comm.rank == 0)
        memset(b->results, 0, (size_t)((char *)b->matrices[0].values - (char *)b->results));
    return 0;
}

/* Pages of it that nobody touches cost nothing. NULL with error_set. */
static void *own_memory(size_t n_bytes)
{
    void *p = mmap(NULL, n_bytes ? n_bytes : 1, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        error_set("no %zu bytes of memory: %s", n_bytes, strerror(errno));
        return NULL;
    }
    return p;
}

static int take_own_memory(struct bench *b)
{
    size_t order = 0, work = 0;

    for (size_t i = on_grid(b) ? 0 : b->n_crew; i < b->n; i++) {
        const struct matrix *m = &b->matrices[i];
        const size_t w = on_grid(b) ? 0 : svd_work_bytes(m->n_rows, m->n_columns, &b->options, 1);
        work = w > work ? w : work;
        order = m->order > order ? m->order : order;
    }
    b->own = (struct arena){own_memory(work), work, 0};
    b->own_sigma = own_memory(order * sizeof *b->own_sigma);
    b->own_factor = own_memory(order * order * sizeof *b->own_factor);
    return b->own.base && b->own_sigma && b->own_factor ? 0 : -1;
}

/* ---- runs -------------------------------------------------------------------------------------
 */

static void record(struct bench *b, size_t i, int worker, double start, const double *sigma,
                   const struct svd_report *report)
{
    b->results[i] =
        (struct result){worker, now() - start, sigma[0] / sigma[b->matrices[i].order - 1], *report};
}

static int run_crew(struct bench *b)
{
    const struct crew crew = {b->comm.rank, b->comm.size, b->state};
    int status = 0;

    for (size_t i = 0; i < b->n_crew && status == 0; i++) {
        const struct svd_source source = source_of(&b->matrices[i]);
        struct svd_report report;
        const double start = now();
        b->shared.used = 0;
        status = svd_solve(&crew, &b->shared, &source, &b->options, b->shared_sigma,
                           b->shared_factor, &report);
        if (status == 0 && b->comm.rank == 0)
            record(b, i, -1, start, b->shared_sigma, &report);
        crew_wait(&crew);
    }
    return status;
}

static int run_queue(struct bench *b, struct comm_queue *queue)
{
    const struct crew crew = crew_alone();
    int status = 0;

    for (size_t i; status == 0 && (i = b->n_crew + (size_t)comm_queue_next(queue)) < b->n;) {
        const struct svd_source source = source_of(&b->matrices[i]);
        struct svd_report report;
        const double start = now();
        b->own.used = 0;
        status =
            svd_solve(&crew, &b->own, &source, &b->options, b->own_sigma, b->own_factor, &report);
        if (status == 0)
            record(b, i, b->comm.rank, start, b->own_sigma, &report);
    }
    return status;
}

struct rows_at {
    float *factor;
    size_t order;
};

static int take_rows(void *context, size_t first, size_t n, const float *rows)
{
    const struct rows_at *at = context;
    memcpy(at->factor + first * at->order, rows, n * at->order * sizeof *rows);
    return 0;
}

static int run_grid(struct bench *b)
{
    const bool root = b->comm.rank == 0;
    int status = 0;

    for (size_t i = 0; i < b->n && status == 0; i++) {
        const struct svd_source source = source_of(&b->matrices[i]);
        struct rows_at at = {b->own_factor, b->matrices[i].order};
        struct svd_report report;
        const double start = now();
        status = svd_grid_solve(b->comm.handle, &source, &b->options, root ? b->own_sigma : NULL,
                                root ? take_rows : NULL, root ? &at : NULL, &report);
        if (status == 0 && root)
            record(b, i, -1, start, b->own_sigma, &report);
    }
    return status;
}

static void print_results(const struct bench *b, double seconds)
{
    double flops = 0;

    for (size_t i = 0; i < b->n; i++) {
        const struct result *r = &b->results[i];
        const struct svd_report *s = &r->report;
        char who[32] = "all";
        if (r->worker >= 0)
            snprintf(who, sizeof who, "rank %d", r->worker);
        printf("matrix %zu %s %s %s by %s seconds %.3f condition %.3g bound %.1e orthogonality "
               "%.1e residual "
               "%.1e%s%s%s%s\n",
               i, b->matrices[i].name, svd_method_name(s->method), svd_precision_name(s->precision),
               who, r->seconds, r->condition, s->bound, s->orthogonality, s->residual,
               s->tried_f32 ? " after f32" : "", s->tried_f64 ? " after f64" : "",
               s->repair ? " repaired by " : "", s->repair ? svd_repair_name(s->repair) : "");
        flops += b->matrices[i].flops;
    }
    printf("set seconds %.4f GFLOP/s %.1f\n", seconds, flops / seconds * 1e-9);
    fflush(stdout);
}

static int run_once(struct bench *b)
{
    struct comm_queue queue;
    int status;

    if (comm_queue_create(&b->comm, &queue) != 0)
        return -1;
    MPI_Barrier(b->comm.handle);
    const double start = now();
    if (on_grid(b))
        status = run_grid(b);
    else if ((status = run_crew(b)) == 0)
        status = run_queue(b, &queue);
    status = comm_agree(&b->comm, status);
    const double seconds = now() - start;
    if (status == 0 && b->comm.rank == 0)
        print_results(b, seconds);
    comm_queue_free(&queue);
    return status;
}

/* The libraries set themselves up in their first call. */
static int warm_up(void)
{
    enum { N = 96 };
    float values[N * N], factor[N * N];
    double sigma[N];
    struct matrix m = {N, N, N, 1, 0, values, "warm-up"};
    const struct svd_source source = source_of(&m);
    const struct svd_options options = svd_defaults();
    const struct crew crew = crew_alone();
    const size_t work = svd_work_bytes(N, N, &options, 1);
    struct arena arena = {own_memory(work), work, 0};
    struct svd_report report;
    int status;

    if (!arena.base)
        return -1;
    make_gaussian(&m);
    status = svd_solve(&crew, &arena, &source, &options, sigma, factor, &report);
    munmap(arena.base, work);
    return status;
}

static int print_peaks(const struct bench *b)
{
    struct rusage usage;
    double mine, *all = malloc((size_t)b->comm.size * sizeof *all);

    getrusage(RUSAGE_SELF, &usage);
    mine = (double)usage.ru_maxrss / 1024;
    if (comm_agree(&b->comm, all ? 0 : error_set("out of memory")) != 0) {
        free(all);
        return -1;
    }
    MPI_Gather(&mine, 1, MPI_DOUBLE, all, 1, MPI_DOUBLE, 0, b->comm.handle);
    if (b->comm.rank == 0) {
        printf("peak MiB");
        for (int i = 0; i < b->comm.size; i++)
            printf(" %.0f", all[i]);
        printf("\n");
    }
    free(all);
    return 0;
}

static int run(struct bench *b)
{
    int status = 0;

    if (b->comm.node_size != b->comm.size)
        return error_set("the ranks must share one node's memory");
    blas_single_thread();
    qsort(b->matrices, b->n, sizeof *b->matrices, longer_first);
    b->n_crew = on_grid(b) ? 0 : plan_crew(b);
    if (comm_agree(&b->comm, share_memory(b)) != 0)
        return -1;
    for (size_t i = (size_t)b->comm.rank; i < b->n && status == 0; i += (size_t)b->comm.size) {
        if (b->condition > 0)
            status = make_conditioned(b, &b->matrices[i]);
        else
            make_gaussian(&b->matrices[i]);
    }
    if (status == 0)
        status = take_own_memory(b);
    if (status == 0)
        status = warm_up();
    status = comm_agree(&b->comm, status);
    for (int i = 0; i < b->repeat && status == 0; i++)
        status = run_once(b);
    if (status == 0)
        status = print_peaks(b);
    MPI_Win_free(&b->window);
    return status;
}

/* ---- options ----------------------------------------------------------------------------------
 */

static int parse_set(struct bench *b, const char *text)
{
    for (const char *at = text; *at; at += *at == ',') {
        size_t rows, columns, count = 1;
        int length = 0, more = 0;
        if (sscanf(at, "%zux%zu%n", &rows, &columns, &length) != 2 || rows == 0 || columns == 0 ||
            rows > 1 << 20 || columns > 1 << 20)
            return error_set("--set %s: expected ROWSxCOLUMNS[:COUNT],...", text);
        at += length;
        if (sscanf(at, ":%zu%n", &count, &more) == 1)
            at += more;
        if ((*at && *at != ',') || count > MAX_MATRICES - b->n)
            return error_set("--set %s: expected ROWSxCOLUMNS[:COUNT],..., at most %d matrices",
                             text, MAX_MATRICES);
        while (count-- > 0) {
            struct matrix *m = &b->matrices[b->n];
            *m = (struct matrix){.n_rows = rows,
                                 .n_columns = columns,
                                 .order = rows < columns ? rows : columns,
                                 .seed = b->seed + b->n,
                                 .flops = svd_flops(rows, columns)};
            snprintf(m->name, sizeof m->name, "%zux%zu", rows, columns);
            b->n++;
        }
    }
    return b->n ? 0 : error_set("--set names no matrix");
}

static int parse(struct bench *b, int argc, char **argv)
{
    const char *set = "";

    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        int status = 0;
        if (strcmp(name, "--check") == 0) {
            b->options.check = true;
            continue;
        }
        const char *value = i + 1 < argc ? argv[++i] : NULL;
        if (!value)
            return error_set("%s: no value", name);
        if (strcmp(name, "--set") == 0)
            set = value;
        else if (strcmp(name, "--condition") == 0)
            b->condition = atof(value);
        else if (strcmp(name, "--spectrum") == 0)
            b->linear = strcmp(value, "linear") == 0;
        else if (strcmp(name, "--precision") == 0)
            status = svd_precision_parse(value, &b->options.precision);
        else if (strcmp(name, "--method") == 0)
            status = svd_method_parse(value, &b->options.method);
        else if (strcmp(name, "--crew") == 0)
            b->crew_use = strcmp(value, "one") == 0   ? CREW_ONE
                          : strcmp(value, "all") == 0 ? CREW_ALL
                                                      : CREW_AUTO;
        else if (strcmp(name, "--repeat") == 0)
            b->repeat = atoi(value);
        else if (strcmp(name, "--seed") == 0)
            b->seed = strtoull(value, NULL, 10);
        else
            return error_set("%s: no such option; see the source's head", name);
        if (status != 0)
            return -1;
    }
    return parse_set(b, set);
}

int main(int argc, char **argv)
{
    static struct bench b = {.repeat = 1, .seed = 1};
    int code;

    blas_choose_kernels(argv);
    b.options = svd_defaults();
    if (comm_init(&b.comm, &argc, &argv) != 0)
        return fprintf(stderr, "bench_svd: %s\n", error_message()), 1;
    if (parse(&b, argc, argv) != 0)
        code = 2;
    else if (b.options.method == SVD_CUSOLVER && !(b.options.cuda = svd_cuda_create(0)))
        code = 1;
    else
        code = run(&b) != 0;
    if (code != 0 && b.comm.rank == 0)
        fprintf(stderr, "bench_svd: %s\n", error_message());
    svd_cuda_free(b.options.cuda);
    comm_finish(&b.comm);
    return code;
}
