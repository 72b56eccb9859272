/* How long a decomposition takes. A table measured once on one machine gives the form of the curve
 * (why a matrix of twice the order takes six to eight times as long is a matter of caches and of
 * LAPACK); a second of small solves tells how fast this machine is beside it. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/decompose.h"
#include "mpi/error.h"
#include "mpi/file_write.h"
#include "mpi/node_memory.h"
#include "solver/eigen.h"

size_t decompose_cost_order(size_t i)
{
    return (size_t)64 << i;
}

/* Two workers side by side on a 2-core Xeon with AMX (OpenBLAS, SkylakeX kernels). */
struct decompose_costs decompose_cost_defaults(void)
{
    return (struct decompose_costs){
        .f32 = {0.0003, 0.0009, 0.007, 0.030, 0.155, 0.93, 6.8, 52},
        .f64 = {0.0006, 0.0018, 0.013, 0.056, 0.34, 1.75, 13, 100},
        .rows_f32 = 120e9,
        .rows_f64 = 45e9,
        .crew_efficiency = 0.85,
        .grid_efficiency = 0.4,
        .fallback_attention = 0.5, /* of SmolLM2's: q and o */
        .fallback_mlp = 0,
        .write_bytes = 1200e6,
        .write_seconds = 0.002,
        .start_seconds = 0.1,
    };
}

/* ---- prediction ------------------------------------------------------------------------------ */

/* Between the table's orders along a straight line of the logarithms; past its ends n^3, and n. */
static double table_seconds(const double *table, size_t n)
{
    const double at = log2((double)n / (double)decompose_cost_order(0));
    const int last = DECOMPOSE_COST_ORDERS - 1, i = (int)floor(at);

    if (at <= 0)
        return table[0] * exp2(at);
    if (i >= last)
        return table[last] * exp2(3 * (at - last));
    return table[i] * pow(table[i + 1] / table[i], at - i);
}

static double one_precision(const double *table, double rate, const struct module *m)
{
    const bool wide = m->n_rows < m->n_columns;
    const size_t r = wide ? m->n_rows : m->n_columns, rows = wide ? m->n_columns : m->n_rows;

    return table_seconds(table, r) + (double)(rows - r) * 4 * (double)r * (double)r / rate;
}

double decompose_cost_seconds(const struct decompose_costs *costs, const struct module *module,
                              const struct svd_options *options)
{
    const bool is_attention = strncmp(module->name, "self_attn", 9) == 0;
    const double again = is_attention ? costs->fallback_attention : costs->fallback_mlp;
    const double f32 = one_precision(costs->f32, costs->rows_f32, module);
    const double f64 = one_precision(costs->f64, costs->rows_f64, module);

    switch (options->precision) {
    case SVD_F32:
        return f32;
    case SVD_F64:
        return f64;
    default:
        return f32 + again * f64;
    }
}

double decompose_cost_speedup(const struct decompose_costs *costs, const struct module *module,
                              int size)
{
    const size_t r = module_rank(module);
    /* What is serial, by Amdahl: in one stage the tridiagonal form, about three tenths. */
    const double serial =
        eigen_method_for(4, r) != EIGEN_TWO_STAGE ? 0.3 : 1 / costs->crew_efficiency - 1;

    return size / (1 + serial * (size - 1));
}

/* ---- measurement ----------------------------------------------------------------------------- */

static const struct probe {
    size_t n_rows, order;
    enum svd_precision precision;
    int repeats;
} probes[] = {
    {128, 128, SVD_F32, 8},   {256, 256, SVD_F32, 4},  {512, 512, SVD_F32, 2},
    {1024, 1024, SVD_F32, 1}, {128, 128, SVD_F64, 8},  {256, 256, SVD_F64, 4},
    {512, 512, SVD_F64, 2},   {1536, 512, SVD_F32, 2}, {1536, 512, SVD_F64, 2},
};
enum { N_PROBES = sizeof probes / sizeof *probes, PROBE_ROWS = 1536, PROBE_ORDER = 1024 };

struct probe_worker {
    const float *matrix; /* [PROBE_ROWS, PROBE_ORDER] */
    double seconds[N_PROBES];
    int status;
    char message[512];
};

struct probe_source {
    const float *matrix;
    size_t n_columns;
};

static int read_probe(const void *context, size_t first, size_t n, float *out)
{
    const struct probe_source *s = context;

    memcpy(out, s->matrix + first * s->n_columns, n * s->n_columns * sizeof *out);
    return 0;
}

static int run_probe(const struct probe_worker *w, const struct probe *probe, double *seconds)
{
    const struct probe_source matrix = {w->matrix, probe->order};
    const struct svd_source source = {probe->n_rows, probe->order, read_probe, &matrix, "a probe"};
    const struct crew alone = crew_alone();
    struct svd_options options = svd_defaults();
    struct svd_report report;
    const size_t n = probe->order;
    int status = 0;

    options.precision = probe->precision;
    const size_t n_bytes =
        svd_work_bytes(probe->n_rows, n, &options, 1) + n * (n + 2) * sizeof(double) + 4096;
    struct arena arena = {pages_create(n_bytes), n_bytes, 0};
    if (!arena.base)
        return -1;
    double *sigma = arena_take(&arena, n * sizeof *sigma);
    float *factor = arena_take(&arena, n * n * sizeof *factor);
    /* The fastest: what else ran meanwhile is no property of the machine. */
    for (int i = 0; status == 0 && i < probe->repeats; i++) {
        status = svd_solve(&alone, &arena, &source, &options, sigma, factor, &report);
        *seconds = i == 0 ? report.seconds : fmin(*seconds, report.seconds);
    }
    pages_free(arena.base, n_bytes);
    return status;
}

static void *probe_main(void *arg)
{
    struct probe_worker *w = arg;

    blas_single_thread();
    for (size_t i = 0; w->status == 0 && i < N_PROBES; i++)
        w->status = run_probe(w, &probes[i], &w->seconds[i]);
    if (w->status != 0)
        snprintf(w->message, sizeof w->message, "%s", error_message());
    return NULL;
}

/* Runs the probes on all workers of this rank at once; seconds[i] is the slowest's. */
static int run_probes(int n_threads, double *seconds)
{
    const size_t n = (size_t)PROBE_ROWS * PROBE_ORDER;
    float *matrix = malloc(n * sizeof *matrix);
    struct probe_worker *workers = calloc((size_t)n_threads, sizeof *workers);
    pthread_t *threads = calloc((size_t)n_threads, sizeof *threads);
    int started = 0, status = -1;

    if (!matrix || !workers || !threads) {
        error_set("out of memory");
        goto done;
    }
    uint64_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        matrix[i] = (float)((double)(state >> 11) * 0x1p-52 - 1);
    }
    for (; started < n_threads; started++) {
        workers[started].matrix = matrix;
        if (pthread_create(&threads[started], NULL, probe_main, &workers[started]) != 0)
            break;
    }
    status = started == n_threads ? 0 : error_set("a thread cannot be started");
    for (int t = 0; t < started; t++) {
        pthread_join(threads[t], NULL);
        if (workers[t].status != 0)
            status = error_set("%s", workers[t].message);
        for (size_t i = 0; i < N_PROBES; i++)
            seconds[i] = fmax(seconds[i], workers[t].seconds[i]);
    }
done:
    free(matrix);
    free(workers);
    free(threads);
    return status;
}

/* Scales a table to what was measured; orders that were not take the ratio of the nearest below, or
 * else above. */
static void scale_table(double *table, enum svd_precision precision, const double *seconds)
{
    double ratio[DECOMPOSE_COST_ORDERS] = {0}, last = 0;

    for (size_t k = 0; k < N_PROBES; k++)
        for (size_t i = 0; i < DECOMPOSE_COST_ORDERS; i++)
            if (probes[k].precision == precision && probes[k].n_rows == probes[k].order &&
                probes[k].order == decompose_cost_order(i))
                ratio[i] = seconds[k] / table[i];
    for (size_t i = DECOMPOSE_COST_ORDERS; i-- > 0;)
        if (ratio[i] > 0)
            last = ratio[i]; /* of the smallest order that was measured */
    for (size_t i = 0; i < DECOMPOSE_COST_ORDERS; i++) {
        last = ratio[i] > 0 ? ratio[i] : last;
        table[i] *= last;
    }
}

static double rows_rate(enum svd_precision precision, const double *seconds)
{
    double square = 0, tall = 0, flops = 0;

    for (size_t k = 0; k < N_PROBES; k++) {
        const struct probe *p = &probes[k];
        if (p->precision != precision || p->order != 512)
            continue;
        if (p->n_rows == p->order)
            square = seconds[k];
        else {
            tall = seconds[k];
            flops = 4.0 * 512 * 512 * (double)(p->n_rows - p->order);
        }
    }
    /* Noise must not make rows free. */
    return flops / fmax(tall - square, 0.05 * tall);
}

int decompose_cost_measure(const struct comm *comm, int n_threads, struct decompose_costs *costs)
{
    double seconds[N_PROBES] = {0};

    if (comm->size > 1)
        MPI_Barrier(comm->handle);
    const int status = comm_agree(comm, run_probes(n_threads, seconds));
    if (status != 0)
        return status;
    if (comm->size > 1)
        MPI_Allreduce(MPI_IN_PLACE, seconds, N_PROBES, MPI_DOUBLE, MPI_MAX, comm->handle);
    *costs = decompose_cost_defaults();
    scale_table(costs->f32, SVD_F32, seconds);
    scale_table(costs->f64, SVD_F64, seconds);
    costs->rows_f32 = rows_rate(SVD_F32, seconds);
    costs->rows_f64 = rows_rate(SVD_F64, seconds);
    return 0;
}

/* ---- files ----------------------------------------------------------------------------------- */

static const struct field {
    const char *name;
    size_t offset;
} fields[] = {
#define FIELD(name)                                                                                \
    {                                                                                              \
#name, offsetof(struct decompose_costs, name)                                              \
    }
    FIELD(rows_f32),        FIELD(rows_f64),           FIELD(crew_efficiency),
    FIELD(grid_efficiency), FIELD(fallback_attention), FIELD(fallback_mlp),
    FIELD(write_bytes),     FIELD(write_seconds),      FIELD(start_seconds),
#undef FIELD
};
enum { N_FIELDS = sizeof fields / sizeof *fields };

/* The value that a name stands for ("rows_f32", "f64_1024"), or NULL. */
static double *find_value(struct decompose_costs *costs, const char *name)
{
    char entry[32];

    for (size_t i = 0; i < N_FIELDS; i++)
        if (strcmp(name, fields[i].name) == 0)
            return (double *)((char *)costs + fields[i].offset);
    for (size_t i = 0; i < DECOMPOSE_COST_ORDERS; i++) {
        snprintf(entry, sizeof entry, "f32_%zu", decompose_cost_order(i));
        if (strcmp(name, entry) == 0)
            return &costs->f32[i];
        snprintf(entry, sizeof entry, "f64_%zu", decompose_cost_order(i));
        if (strcmp(name, entry) == 0)
            return &costs->f64[i];
    }
    return NULL;
}

int decompose_cost_save(const struct decompose_costs *costs, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    struct decompose_costs copy = *costs;

    if (!out)
        return error_set("%s: out of memory", path);
    fputs("; What decompositions cost on one machine, for t2 decompose --plan --costs.\n"
          "; f32_N, f64_N: seconds of one worker for an N x N matrix; rows: flop/s.\n",
          out);
    for (size_t i = 0; i < DECOMPOSE_COST_ORDERS; i++)
        fprintf(out, "f32_%zu = %.4g\n", decompose_cost_order(i), costs->f32[i]);
    for (size_t i = 0; i < DECOMPOSE_COST_ORDERS; i++)
        fprintf(out, "f64_%zu = %.4g\n", decompose_cost_order(i), costs->f64[i]);
    for (size_t i = 0; i < N_FIELDS; i++)
        fprintf(out, "%s = %.4g\n", fields[i].name, *find_value(&copy, fields[i].name));
    const int status =
        fclose(out) == 0 ? file_write(path, text, size) : error_set("%s: out of memory", path);
    free(text);
    return status;
}

/* "name = value", "; remark", "" or "[section]". */
static int load_line(struct decompose_costs *costs, char *line, const char *path, size_t number)
{
    char name[64], *end;
    int at = 0;

    line += strspn(line, " \t");
    if (!*line || *line == ';' || *line == '#' || *line == '[')
        return 0;
    if (sscanf(line, "%63[A-Za-z0-9_] = %n", name, &at) != 1 || at == 0)
        return error_set("%s:%zu: is not of the form 'name = value'", path, number);
    double *value = find_value(costs, name);
    if (!value)
        return error_set("%s:%zu: '%s' is no cost that t2 knows", path, number, name);
    const double x = strtod(line + at, &end);
    const bool may_be_zero = strncmp(name, "fallback", 8) == 0 || strstr(name, "_seconds");
    if (end == line + at || end[strspn(end, " \t\r")] || !isfinite(x) || x < 0 ||
        (x == 0 && !may_be_zero))
        return error_set("%s:%zu: %s needs a positive number", path, number, name);
    *value = x;
    return 0;
}

int decompose_cost_load(struct decompose_costs *costs, const char *path)
{
    char line[256];
    size_t number = 0;
    int status = 0;
    FILE *file = fopen(path, "r");

    if (!file)
        return error_set("%s: cannot be opened: %s", path, strerror(errno));
    *costs = decompose_cost_defaults();
    while (status == 0 && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        status = load_line(costs, line, path, ++number);
    }
    if (status == 0 && ferror(file))
        status = error_set("%s: cannot be read: %s", path, strerror(errno));
    fclose(file);
    return status;
}
