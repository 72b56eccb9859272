/* The decomposition's steps in their order; each is in a file of its own (svd_internal.h). */
#include "solver/svd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/clock.h"
#include "mpi/error.h"
#include "solver/eigen.h"
#include "solver/svd_internal.h"

static const char *const method_names[SVD_METHOD_COUNT] = {
    "auto", "lapack", "one-stage", "two-stage", "scalapack", "elpa", "gesvd", "cusolver"};
static const char *const precision_names[SVD_PRECISION_COUNT] = {"auto", "f32", "f64"};

const char *svd_method_name(enum svd_method method)
{
    return method_names[method];
}

const char *svd_precision_name(enum svd_precision precision)
{
    return precision_names[precision];
}

const char *svd_repair_name(enum svd_repair repair)
{
    static const char *const names[] = {"none", "orthogonalised", "jacobi", "gesvd"};
    return names[repair];
}

int svd_method_parse(const char *name, enum svd_method *method)
{
    for (int i = 0; i < SVD_METHOD_COUNT; i++)
        if (strcmp(name, method_names[i]) == 0) {
            *method = (enum svd_method)i;
            return 0;
        }
    return error_set(
        "there is no decomposition method '%s': choose auto, lapack, one-stage, two-stage, "
        "scalapack, elpa, gesvd or cusolver",
        name);
}

int svd_precision_parse(const char *name, enum svd_precision *precision)
{
    for (int i = 0; i < SVD_PRECISION_COUNT; i++)
        if (strcmp(name, precision_names[i]) == 0) {
            *precision = (enum svd_precision)i;
            return 0;
        }
    return error_set("there is no precision '%s': choose auto, f32 or f64", name);
}

/* Gram matrix length r^2; tridiagonal form 4/3 r^3, its vectors about 4/3 r^3, back 2 r^3;
 * quotients 2 length r^2. */
double svd_flops(size_t n_rows, size_t n_columns)
{
    const double r = (double)svd_at_most(n_rows, n_columns);
    const double length = (double)(n_rows + n_columns) - r;

    return 3 * length * r * r + 14.0 / 3 * r * r * r;
}

/* ---- steps ------------------------------------------------------------------------------------
 */

/* What a decomposition has reached. */
struct state {
    struct svd_work work;
    struct svd_report *report;
    struct svd_ranked *ranked; /* [r], shared */
    double *found;             /* [r] values in the order of the rows they belong to, shared */
    double *values;            /* [r] descending, of the factor's rows, shared */
    double *sigma;
    float *factor;
    double known_residual; /* of the factor, or negative */
    bool checked;          /* the factor by the device: `contract` */
    struct svd_contract contract;
};

static size_t largest(size_t a, size_t b)
{
    return a > b ? a : b;
}

static enum eigen_method eigen_method_of(const struct svd_options *options, size_t bytes, size_t r)
{
    return options->method == SVD_LAPACK      ? EIGEN_LAPACK
           : options->method == SVD_ONE_STAGE ? EIGEN_ONE_STAGE
           : options->method == SVD_TWO_STAGE ? EIGEN_TWO_STAGE
                                              : eigen_method_for(bytes, r);
}

static size_t gram_bytes(const struct svd_options *options, size_t bytes, size_t r, int crew_size)
{
    return (r * r + r) * bytes + 2 * 64 +
           largest(eigen_work_bytes(eigen_method_of(options, bytes, r), bytes, r),
                   svd_measure_bytes(r, crew_size));
}

size_t svd_work_bytes(size_t n_rows, size_t n_columns, const struct svd_options *options,
                      int crew_size)
{
    const size_t r = svd_at_most(n_rows, n_columns);
    const size_t base = r * (sizeof(struct svd_ranked) + 2 * sizeof(double)) + 4 * 64 +
                        svd_blocks_bytes(n_rows, n_columns, options->method, crew_size);
    const size_t repair =
        r * r * 8 + 64 +
        largest(svd_repair_bytes(n_rows, n_columns), svd_measure_bytes(r, crew_size));
    size_t most = largest(repair, svd_contract_bytes(r, options->check, crew_size));

    most = largest(most, svd_device_bytes(r));

    for (size_t bytes = sizeof(float); bytes <= sizeof(double); bytes *= 2)
        most = largest(most, gram_bytes(options, bytes, r, crew_size));
    return base + most;
}

static int too_small(const struct svd_work *w)
{
    return error_set("%s: the memory given for its decomposition is too small", w->source->name);
}

static int by_value(const void *a, const void *b)
{
    const struct svd_ranked *x = a, *y = b;

    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* The same direction of a vector however it was computed: the first of its largest components is
 * positive. */
static float sign_of(const float *x, size_t n)
{
    float largest_component = 0;

    for (size_t i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(largest_component))
            largest_component = x[i];
    return largest_component < 0 ? -1.0f : 1.0f;
}

/* The order of the rows that state.found belongs to, by descending value. */
static void rank_values(struct state *s)
{
    const struct svd_work *w = &s->work;

    crew_wait(w->crew);
    if (w->crew->index == 0) {
        for (size_t i = 0; i < w->r; i++)
            s->ranked[i] = (struct svd_ranked){s->found[i], i};
        qsort(s->ranked, w->r, sizeof *s->ranked, by_value);
        for (size_t i = 0; i < w->r; i++)
            s->values[i] = s->ranked[i].value;
    }
    crew_wait(w->crew);
}

/* Rows of q by descending values (state.found) to the factor. */
static void deliver(struct state *s, size_t bytes, const void *q)
{
    struct svd_work *w = &s->work;
    const size_t r = w->r;

    rank_values(s);
    while (svd_part(w, r)) {
        const size_t from = s->ranked[w->parts.next].row * r;
        float *row = s->factor + w->parts.next * r;
        if (bytes == sizeof(float))
            memcpy(row, (const float *)q + from, r * sizeof *row);
        else
            for (size_t i = 0; i < r; i++)
                row[i] = (float)((const double *)q)[from + i];
        const float sign = sign_of(row, r);
        for (size_t i = 0; i < r; i++)
            row[i] *= sign;
    }
}

/* LAPACK's backward error puts every sigma within a small multiple of u sigma_1 of the truth. */
static double lapack_bound(const double *values, size_t r)
{
    double bound = 0;

    for (size_t i = 0; i < r && values[i] > 0; i++) {
        const double ratio = sqrt(values[0] / values[i]);
        if (ratio * (double)r * 0x1p-52 < 1)
            bound = 4 * sqrt((double)r) * 0x1p-53 * ratio;
    }
    return bound;
}

static int solve_by_lapack(struct state *s)
{
    struct svd_work *w = &s->work;
    const size_t used = w->arena->used;
    double *p = arena_take(w->arena, w->r * w->r * sizeof *p);
    int status = p ? 0 : too_small(w);

    if (status == 0)
        status = svd_lapack(w, p, s->found);
    if (status == 0) {
        deliver(s, sizeof *p, p);
        s->report->bound = lapack_bound(s->values, w->r);
        s->report->method = SVD_GESVD;
        s->report->precision = SVD_F64;
        s->known_residual = -1;
    }
    w->arena->used = used;
    return status;
}

/* Worth no further look: below this share of the largest eigenvalue an f32 Gram matrix says nothing
 * of the vectors. */
static const double f32_noise = 0x1p-21;

/* *accepted: the bounds meet the tolerance (or nobody asked). W = 0 leaves work.scale at 0. */
static int solve_by_gram(struct state *s, size_t bytes, bool *accepted)
{
    struct svd_work *w = &s->work;
    const struct svd_options *options = w->options;
    const size_t r = w->r, used = w->arena->used;
    const bool f32 = bytes == sizeof(float), choose = options->precision == SVD_PRECISION_AUTO;
    const enum eigen_method method = eigen_method_of(options, bytes, r);
    void *c = arena_take(w->arena, r * r * bytes), *values = arena_take(w->arena, r * bytes);
    struct svd_measure measure;
    int status = c && values ? 0 : too_small(w);

    *accepted = true;
    if (status == 0)
        status = svd_gram(w, bytes, c);
    if (status != 0 || w->scale == 0)
        goto done;
    status = f32 ? eigen_solve_f32(w->crew, method, w->arena, r, c, values)
                 : eigen_solve_f64(w->crew, method, w->arena, r, c, values);
    if (status != 0)
        goto done;
    svd_parts_start(w);
    if (f32 && choose) {
        const float *eigenvalues = values;
        if (!((double)eigenvalues[0] > f32_noise * (double)eigenvalues[r - 1])) {
            *accepted = false;
            goto done;
        }
    }
    svd_normalise(w, bytes, c);
    status = svd_measure(w, bytes, c, s->found, &measure);
    if (status != 0)
        goto done;
    *accepted = !choose || measure.bound <= options->tolerance;
    if (*accepted) {
        deliver(s, bytes, c);
        s->report->bound = measure.bound;
        s->report->method = method == EIGEN_LAPACK      ? SVD_LAPACK
                            : method == EIGEN_ONE_STAGE ? SVD_ONE_STAGE
                                                        : SVD_TWO_STAGE;
        s->report->precision = f32 ? SVD_F32 : SVD_F64;
        s->known_residual = f32 ? measure.residual : -1;
    }
done:
    w->arena->used = used;
    return status;
}

/* The same in f64 by a device, with the contract of what it delivers. */
static int solve_on_device(struct state *s, bool *accepted)
{
    struct svd_work *w = &s->work;
    const struct svd_options *options = w->options;
    double bound = 0;
    int status = 0;

    if (svd_device_solve(w, s->found, accepted, &bound) != 0)
        return -1;
    *accepted =
        *accepted && (options->precision != SVD_PRECISION_AUTO || bound <= options->tolerance);
    if (*accepted) {
        rank_values(s);
        status = svd_device_deliver(w, s->ranked, s->values, s->factor, &s->contract);
        s->checked = status == 0;
        s->report->bound = bound;
        s->report->method = SVD_CUSOLVER;
        s->report->precision = SVD_F64;
    }
    svd_device_end(w);
    return status;
}

static int solve(struct state *s)
{
    const struct svd_options *options = s->work.options;
    bool accepted = false;

    if (options->method == SVD_CUSOLVER) {
        if (solve_on_device(s, &accepted) != 0)
            return -1;
        s->report->tried_f64 = !accepted;
        return accepted ? 0 : solve_by_lapack(s);
    }
    if (options->method != SVD_GESVD && options->precision != SVD_F64) {
        if (solve_by_gram(s, sizeof(float), &accepted) != 0)
            return -1;
        s->report->tried_f32 = !accepted;
    }
    if (options->method != SVD_GESVD && !accepted) {
        if (solve_by_gram(s, sizeof(double), &accepted) != 0)
            return -1;
        s->report->tried_f64 = !accepted;
    }
    return accepted ? 0 : solve_by_lapack(s);
}

static void solve_zero(struct state *s)
{
    struct svd_work *w = &s->work;
    const struct svd_options *options = w->options;

    while (svd_part(w, w->r)) {
        float *row = s->factor + w->parts.next * w->r;
        memset(row, 0, w->r * sizeof *row);
        row[w->parts.next] = 1;
        s->sigma[w->parts.next] = 0;
    }
    s->report->method = options->method == SVD_AUTO ? SVD_ONE_STAGE : options->method;
    s->report->precision = options->method == SVD_CUSOLVER            ? SVD_F64
                           : options->precision == SVD_PRECISION_AUTO ? SVD_F32
                                                                      : options->precision;
}

/* ---- the contract and repairs -----------------------------------------------------------------
 */

static int repair(struct state *s, enum svd_repair way, bool *hopeless)
{
    struct svd_work *w = &s->work;
    const size_t r = w->r, used = w->arena->used;
    double *p;
    struct svd_measure measure = {0, 0};
    int status;

    *hopeless = false;
    if (way == SVD_REPAIR_GESVD)
        return solve_by_lapack(s);
    p = arena_take(w->arena, r * r * sizeof *p);
    if (!p)
        return too_small(w);
    while (svd_part(w, r))
        for (size_t i = w->parts.next * r; i < (w->parts.next + 1) * r; i++)
            p[i] = (double)s->factor[i];
    status = svd_orthogonalise(w, p, hopeless);
    if (status == 0 && !*hopeless)
        status = way == SVD_REPAIR_JACOBI ? svd_jacobi(w, p, s->found, hopeless)
                                          : svd_measure(w, sizeof *p, p, s->found, &measure);
    if (status == 0 && !*hopeless) {
        deliver(s, sizeof *p, p);
        s->report->bound = way == SVD_REPAIR_JACOBI ? lapack_bound(s->values, r) : measure.bound;
        s->report->precision = SVD_F64;
        s->known_residual = -1;
    }
    w->arena->used = used;
    return status;
}

static int hold_to_contract(struct state *s, const struct svd_hook *hook)
{
    struct svd_work *w = &s->work;
    struct svd_report *report = s->report;
    const struct svd_options *options = w->options;
    struct svd_contract contract;

    for (;;) {
        if (hook) {
            crew_wait(w->crew);
            if (w->crew->index == 0)
                hook->damage(hook->context, report->repair, w->r, s->factor);
            crew_wait(w->crew);
            s->known_residual = -1;
        }
        const bool known = s->checked && !hook;
        contract = s->contract;
        if (known)
            svd_contract_judge(w, s->values, true, &contract);
        else if (svd_contract(w, s->factor, s->values, s->known_residual, &contract) != 0)
            return -1;
        s->checked = false; /* nor is what a repair makes of it */
        report->orthogonality = contract.orthogonality;
        report->residual = contract.residual;
        report->checked_in_full = options->check || known;
        if (contract.holds &&
            (report->repair == SVD_REPAIR_NONE || report->repair == SVD_REPAIR_GESVD ||
             options->precision != SVD_PRECISION_AUTO || report->bound <= options->tolerance))
            return 0;
        if (report->repair == SVD_REPAIR_GESVD)
            return error_set("%s: its decomposition fails the contract after every repair "
                             "(orthogonality %.1e, residual %.1e)",
                             w->source->name, contract.orthogonality, contract.residual);
        bool hopeless;
        do {
            report->repair++;
            if (repair(s, report->repair, &hopeless) != 0)
                return -1;
        } while (hopeless);
    }
}

static int check_options(const struct svd_source *source, const struct svd_options *options)
{
    if (options->method == SVD_SCALAPACK || options->method == SVD_ELPA)
        return error_set("%s: method %s works on a grid of ranks, not by one node's workers",
                         source->name, svd_method_name(options->method));
    if (options->method == SVD_CUSOLVER && (!options->cuda || options->precision == SVD_F32))
        return error_set("%s: method cusolver needs a CUDA device, and works in f64", source->name);
    if (source->n_rows > INT32_MAX || source->n_columns > INT32_MAX)
        return error_set("%s: a matrix of %zu x %zu is too large for the BLAS", source->name,
                         source->n_rows, source->n_columns);
    return 0;
}

int svd_solve_hooked(const struct crew *crew, struct arena *arena, const struct svd_source *source,
                     const struct svd_options *options, const struct svd_hook *hook, double *sigma,
                     float *factor, struct svd_report *report)
{
    const size_t used = arena->used, r = svd_at_most(source->n_rows, source->n_columns);
    struct state s = {
        .work = {.crew = crew, .arena = arena, .source = source, .options = options, .r = r},
        .report = report,
        .sigma = sigma,
        .factor = factor,
        .known_residual = -1};
    struct svd_work *w = &s.work;
    const double start = clock_seconds();
    int status;

    *report = (struct svd_report){.wide = source->n_rows < source->n_columns};
    report->flops = svd_flops(source->n_rows, source->n_columns);
    w->wide = report->wide;
    w->length = source->n_rows + source->n_columns - r;
    status = check_options(source, options);
    if (status != 0)
        goto done;
    blas_single_thread();
    s.ranked = arena_take(arena, r * sizeof *s.ranked);
    s.found = arena_take(arena, r * sizeof *s.found);
    s.values = arena_take(arena, r * sizeof *s.values);
    status = s.ranked && s.found && s.values ? svd_blocks_take(w) : too_small(w);
    if (status != 0)
        goto done;
    svd_parts_start(w);
    status = w->copy || options->method == SVD_GESVD ? svd_scale(w) : 0;
    if (status == 0 && !(w->copy && w->scale == 0))
        status = solve(&s);
    if (status != 0)
        goto done;
    if (w->scale == 0) {
        solve_zero(&s);
        goto done;
    }
    status = hold_to_contract(&s, hook);
    if (status == 0 && crew->index == 0)
        for (size_t i = 0; i < r; i++)
            sigma[i] = sqrt(s.values[i]) / w->scale;
    crew_wait(crew);
done:
    report->seconds = clock_seconds() - start;
    arena->used = used;
    return status;
}

int svd_solve(const struct crew *crew, struct arena *arena, const struct svd_source *source,
              const struct svd_options *options, double *sigma, float *factor,
              struct svd_report *report)
{
    return svd_solve_hooked(crew, arena, source, options, NULL, sigma, factor, report);
}
