/* The forms and their derivatives are worked out in docs/training.md and DESIGN.md section 4.
 *
 * Building. With y = x M^T what the product kernels do, and Q [r, r] the small factor:
 *
 *   tall  A = Q,            B = W Q^T     rows of B: rows of W times Q
 *   wide  A = Q W,          B = Q^T       rows of A^T: columns of W times Q
 *
 * in f32 by the f32 kernels (a fixed order of additions, so the bits are the same
 * on every instruction set and team), rounded once when packed. */
#include "model/adapter_svf.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_internal.h"
#include "model/rng.h"
#include "mpi/error.h"

enum { BUILD_ROWS = 64 }; /* a multiple of KERNEL_COLUMNS */

struct svf {
    enum svf_parametrisation parametrisation;
};

struct svf_site {
    size_t r, n_in, n_out;
    /* y = B (z * A x). a [r, in], b [out, r] and their transposes (empty without backward). */
    struct matrix a, b, a_t, b_t;
    double *sigma; /* [r] */
    double sum_sigma;
};

static const struct svf_site *site_of(const struct adapter *adapter, size_t site)
{
    return adapter->sites[site].data;
}

/* ---- running --------------------------------------------------------------------------------- */

/* What a call cuts its scratch into. */
struct svf_scratch {
    size_t ldh, ldu;
    float *multipliers, *d; /* [r] */
    float *h;               /* f32 [n_rows, ldh] */
    void *u;                /* elements [n_rows, ldu] */
    size_t n_bytes;
};

static struct svf_scratch cut_scratch(const struct svf_site *s, size_t n_rows, void *memory)
{
    struct svf_scratch w = {.ldh = round_up(s->r, KERNEL_COLUMNS),
                            .ldu = round_up(s->r, KERNEL_K_STEP)};
    char *base = memory;
    const size_t vector = w.ldh * sizeof(float), rows = n_rows * w.ldh * sizeof(float);

    w.n_bytes = 2 * vector + rows + n_rows * w.ldu * element_size(s->a.element);
    if (!base)
        return w;
    w.multipliers = (float *)(void *)base;
    w.d = (float *)(void *)(base + vector);
    w.h = (float *)(void *)(base + 2 * vector);
    w.u = base + 2 * vector + rows;
    return w;
}

static size_t svf_saved_bytes(const struct adapter *adapter, size_t site, size_t n_rows)
{
    return n_rows * round_up(site_of(adapter, site)->r, KERNEL_COLUMNS) * sizeof(float);
}

static size_t svf_scratch_bytes(const struct adapter *adapter, size_t site, size_t n_rows)
{
    return cut_scratch(site_of(adapter, site), n_rows, NULL).n_bytes;
}

static double sigmoid(double p)
{
    return 1 / (1 + exp(-p));
}

/* sum(s z) of the published code's form, and z [r] if wanted. */
static double sigmoid_sum(const struct svf_site *s, const float *p, double *z)
{
    double sum = 0;
    for (size_t i = 0; i < s->r; i++) {
        const double value = sigmoid((double)p[i]);
        sum += s->sigma[i] * value;
        if (z)
            z[i] = value;
    }
    return sum;
}

/* sum(s) / sum(s z); a matrix of zeros keeps its scale. */
static double sigmoid_scale(const struct svf_site *s, double sum)
{
    return sum > 0 ? s->sum_sigma / sum : 1;
}

/* e [r]; p: the site's part of the parameters, or NULL: the base model. */
static void multipliers_of(const struct svf_site *s, enum svf_parametrisation parametrisation,
                           const float *p, float *e)
{
    if (!p) {
        for (size_t i = 0; i < s->r; i++)
            e[i] = 1;
    } else if (parametrisation == SVF_DIRECT) {
        memcpy(e, p, s->r * sizeof *e);
    } else {
        const double c = sigmoid_scale(s, sigmoid_sum(s, p, NULL));
        for (size_t i = 0; i < s->r; i++)
            e[i] = (float)(c * sigmoid((double)p[i]));
    }
}

void adapter_svf_sigmoid(const double *sigma, const float *p, size_t r, float *e)
{
    double sum = 0, sum_z = 0;

    for (size_t i = 0; i < r; i++) {
        sum += sigma[i];
        sum_z += sigma[i] * sigmoid((double)p[i]);
    }
    const double c = sum_z > 0 ? sum / sum_z : 1;
    for (size_t i = 0; i < r; i++)
        e[i] = (float)(c * sigmoid((double)p[i]));
}

void adapter_svf_multipliers(const struct adapter *adapter, size_t site, const float *parameters,
                             float *multipliers)
{
    const struct svf *svf = adapter->data;
    multipliers_of(site_of(adapter, site), svf->parametrisation,
                   parameters ? parameters + adapter->sites[site].first_parameter : NULL,
                   multipliers);
}

enum svf_parametrisation adapter_svf_parametrisation(const struct adapter *adapter)
{
    return ((const struct svf *)adapter->data)->parametrisation;
}

static void svf_forward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                        float *y, size_t ldy, bool accumulate)
{
    const struct engine *e = model_engine(call->model);
    const struct svf_site *s = site_of(adapter, site);
    const size_t n_rows = call->n_rows;
    const struct svf_scratch w = cut_scratch(s, n_rows, call->scratch);
    float *h = call->saved ? call->saved : w.h;

    adapter_svf_multipliers(adapter, site, call->parameters, w.multipliers);
    e->ops->product(e, h, w.ldh, call->x, call->ldx, n_rows, &s->a, NULL, false);
    engine_train(e)->scale_columns(e, w.u, w.ldu, h, w.ldh, call->parameters ? w.multipliers : NULL,
                                   n_rows, s->r);
    e->ops->product(e, y, ldy, w.u, w.ldu, n_rows, &s->b, NULL, accumulate);
}

/* From d = dL/de to the parameters' gradient. With e_i = c z_i, c = S / sum_j s_j z_j, z_i =
 * sigmoid(p_i): dL/dz_i = c d_i - (s_i / sum_j s_j z_j) sum_j e_j d_j. */
static void add_gradient(const struct svf_site *s, enum svf_parametrisation parametrisation,
                         const float *p, const float *e, const float *d, float *gradient)
{
    if (parametrisation == SVF_DIRECT) {
        for (size_t i = 0; i < s->r; i++)
            gradient[i] += d[i];
        return;
    }
    const double sum = sigmoid_sum(s, p, NULL), c = sigmoid_scale(s, sum);
    double inner = 0;
    for (size_t i = 0; i < s->r; i++)
        inner += (double)e[i] * (double)d[i];
    for (size_t i = 0; i < s->r; i++) {
        const double z = sigmoid((double)p[i]);
        const double dz = c * (double)d[i] - (sum > 0 ? s->sigma[i] / sum * inner : 0);
        gradient[i] += (float)(z * (1 - z) * dz);
    }
}

static int svf_backward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                        float *dx, size_t lddx, const void *g, size_t ldg, float *gradient)
{
    const struct engine *e = model_engine(call->model);
    const struct svf *svf = adapter->data;
    const struct svf_site *s = site_of(adapter, site);
    const size_t n_rows = call->n_rows;
    const struct svf_scratch w = cut_scratch(s, n_rows, call->scratch);
    const size_t first = adapter->sites[site].first_parameter;
    const float *parameters = call->parameters;
    float *q = w.h;

    adapter_svf_multipliers(adapter, site, parameters, w.multipliers);
    e->ops->product(e, q, w.ldh, g, ldg, n_rows, &s->b_t, NULL, false);
    if (gradient && (parameters || svf->parametrisation == SVF_DIRECT)) {
        memset(w.d, 0, s->r * sizeof *w.d);
        engine_train(e)->multiply_sum(e, w.d, call->saved, w.ldh, q, w.ldh, n_rows, s->r);
        add_gradient(s, svf->parametrisation, parameters ? parameters + first : NULL, w.multipliers,
                     w.d, gradient + first);
    }
    if (!dx)
        return 0;
    engine_train(e)->scale_columns(e, w.u, w.ldu, q, w.ldh, parameters ? w.multipliers : NULL,
                                   n_rows, s->r);
    e->ops->product(e, dx, lddx, w.u, w.ldu, n_rows, &s->a_t, NULL, true);
    return 0;
}

static bool svf_piece(const struct adapter *adapter, size_t site, size_t i,
                      struct adapter_piece *piece)
{
    const struct adapter_site *s = &adapter->sites[site];
    *piece = (struct adapter_piece){"z", s->first_parameter, s->n_parameters, 0};
    return i == 0;
}

static void svf_free(struct adapter *adapter)
{
    for (size_t i = 0; i < adapter->n_sites; i++) {
        struct svf_site *s = adapter->sites[i].data;
        if (!s)
            continue;
        matrix_free(&s->a);
        matrix_free(&s->b);
        matrix_free(&s->a_t);
        matrix_free(&s->b_t);
        free(s->sigma);
        free(s);
    }
    free(adapter->data);
}

static const struct adapter_ops svf_ops = {
    .kind = "svf",
    .replaces_base = true,
    .saved_bytes = svf_saved_bytes,
    .scratch_bytes = svf_scratch_bytes,
    .forward = svf_forward,
    .piece = svf_piece,
    .backward = svf_backward,
    .free = svf_free,
};

/* ---- building -------------------------------------------------------------------------------- */

struct build_job {
    const struct svf_source *source;
    size_t i; /* the module's index */
    const struct module *module;
    struct matrix q;       /* f32, packed: outputs are Q's rows */
    const float *whole;    /* W f32 [n_rows, n_columns]; NULL: rows are read as they are needed */
    float *all;            /* where read_part puts them */
    struct matrix *result; /* gets rows of W Q^T, or of W^T Q^T from `whole` */
    const struct kernels *kernels;
    float *rows, *products; /* [threads, BUILD_ROWS, q.k_padded], [threads, BUILD_ROWS, r] */
    atomic_int failed;
};

/* Rows of f32 that lie close together move to a stride of `to` >= n, zeros between. */
static void spread_rows(float *rows, size_t n_rows, size_t n, size_t to)
{
    if (n == to)
        return;
    for (size_t r = n_rows; r-- > 0;) {
        memmove(rows + r * to, rows + r * n, n * sizeof *rows);
        memset(rows + r * to + n, 0, (to - n) * sizeof *rows);
    }
}

static void read_part(void *arg, size_t part, int thread)
{
    struct build_job *j = arg;
    const size_t first = part * BUILD_ROWS, left = j->module->n_rows - first;
    const size_t n = left < BUILD_ROWS ? left : BUILD_ROWS;
    (void)thread;
    if (j->source->weights(j->source->context, j->i, first, n,
                           j->all + first * j->module->n_columns) != 0)
        atomic_store(&j->failed, 1);
}

static void multiply_part(void *arg, size_t part, int thread)
{
    struct build_job *j = arg;
    const struct module *m = j->module;
    const size_t r = j->q.n, ld = j->q.k_padded, first = part * BUILD_ROWS;
    const size_t left = j->result->n - first, n = left < BUILD_ROWS ? left : BUILD_ROWS;
    float *rows = j->rows + (size_t)thread * BUILD_ROWS * ld;
    float *products = j->products + (size_t)thread * BUILD_ROWS * r;

    if (!j->whole) {
        if (j->source->weights(j->source->context, j->i, first, n, rows) != 0) {
            atomic_store(&j->failed, 1);
            return;
        }
        spread_rows(rows, n, r, ld);
    } else {
        memset(rows, 0, n * ld * sizeof *rows);
        for (size_t k = 0; k < r; k++)
            for (size_t c = 0; c < n; c++)
                rows[c * ld + k] = j->whole[k * m->n_columns + first + c];
    }
    matrix_product(j->kernels, products, r, rows, ld, n, &j->q, 0, j->q.n_panels, false, NULL);
    matrix_pack_rows(j->result, first, n, products);
}

/* Q packed in f32 for the products, and in the model's elements into `q`. */
static int read_factor(const struct svf_source *source, size_t i, size_t r, struct matrix *wide_q,
                       struct matrix *q)
{
    float *rows = malloc(BUILD_ROWS * r * sizeof *rows);
    int status = -1;

    if (!rows) {
        error_set("no memory for the factor of a matrix of rank %zu", r);
        goto done;
    }
    for (size_t first = 0; first < r; first += BUILD_ROWS) {
        const size_t n = r - first < BUILD_ROWS ? r - first : BUILD_ROWS;
        if (source->factor(source->context, i, first, n, rows) != 0)
            goto done;
        matrix_pack_rows(wide_q, first, n, rows);
        matrix_pack_rows(q, first, n, rows);
    }
    status = 0;
done:
    free(rows);
    return status;
}

static int build_site(struct model *model, const struct svf_source *source, size_t i,
                      const struct module *m, struct svf_site *s, bool with_backward)
{
    struct team *team = model->engine.team;
    const enum element element = model->options.element;
    const size_t n_threads = (size_t)team_size(team);
    const bool wide = m->n_rows < m->n_columns;
    /* What is Q and what is a product with it, in the orientation in which its rows come. */
    struct matrix *plain = wide ? &s->b_t : &s->a, *plain_t = wide ? &s->b : &s->a_t;
    struct matrix *made = wide ? &s->a_t : &s->b, *made_t = wide ? &s->a : &s->b_t;
    struct build_job job = {.source = source, .i = i, .module = m, .result = made};
    int status = -1;

    s->n_in = m->n_columns;
    s->n_out = m->n_rows;
    s->r = wide ? m->n_rows : m->n_columns;
    s->sigma = malloc(s->r * sizeof *s->sigma);
    job.kernels = kernels_find(ELEMENT_F32, model->options.isa);
    if (!s->sigma) {
        error_set("no memory for the singular values of %s", m->path);
        goto done;
    }
    if (source->sigma(source->context, i, s->sigma) != 0 ||
        matrix_create(&job.q, ELEMENT_F32, s->r, s->r) != 0 ||
        matrix_create(plain, element, s->r, s->r) != 0 ||
        matrix_create(made, element, wide ? m->n_columns : m->n_rows, s->r) != 0 ||
        read_factor(source, i, s->r, &job.q, plain) != 0)
        goto done;
    for (size_t k = 0; k < s->r; k++)
        s->sum_sigma += s->sigma[k];
    job.rows = malloc(n_threads * BUILD_ROWS * job.q.k_padded * sizeof *job.rows);
    job.products = malloc(n_threads * BUILD_ROWS * s->r * sizeof *job.products);
    if (wide)
        job.all = malloc(m->n_rows * m->n_columns * sizeof *job.all);
    if (!job.rows || !job.products || (wide && !job.all)) {
        error_set("no memory to bring %s into its factored form", m->path);
        goto done;
    }
    if (wide)
        team_run(team, read_part, &job, (m->n_rows + BUILD_ROWS - 1) / BUILD_ROWS);
    job.whole = job.all;
    if (!atomic_load(&job.failed))
        team_run(team, multiply_part, &job, (made->n + BUILD_ROWS - 1) / BUILD_ROWS);
    if (atomic_load(&job.failed)) {
        error_set("the weights of %s cannot be read", m->path);
        goto done;
    }
    /* Forward needs a and b; the other orientations are for backward. */
    if ((with_backward || wide) &&
        (matrix_transpose(plain_t, plain, team) != 0 || matrix_transpose(made_t, made, team) != 0))
        goto done;
    if (!with_backward) {
        matrix_free(&s->a_t);
        matrix_free(&s->b_t);
    }
    status = 0;
done:
    matrix_free(&job.q);
    free(job.rows);
    free(job.products);
    free(job.all);
    return status;
}

/* The published code's start: p from N(0.1, variance 1e-3), by Box and Muller from counter-based
 * numbers keyed by the place in the model, so that a choice of modules does not change it. */
static void sigmoid_start(const struct adapter_site *site, uint64_t seed, float *p)
{
    const uint64_t stream = adapter_site_stream(site);
    for (size_t i = 0; i < site->n_parameters; i++) {
        const double u = 1 - (double)rng_uniform(seed, stream, 2 * i);
        const double v = (double)rng_uniform(seed, stream, 2 * i + 1);
        p[i] = (float)(0.1 + sqrt(1e-3) * sqrt(-2 * log(u)) * cos(2 * M_PI * v));
    }
}

struct adapter *adapter_svf_build(struct model *model, const struct svf_source *source,
                                  const struct module *modules, size_t n_modules,
                                  enum svf_parametrisation parametrisation, bool with_backward,
                                  uint64_t seed)
{
    struct adapter *adapter = adapter_create(&svf_ops, model, modules, n_modules, with_backward);
    struct svf *svf = calloc(1, sizeof *svf);
    int status = -1;

    if (!adapter)
        goto done;
    adapter->data = svf;
    if (!svf) {
        error_set("no memory for an adapter");
        goto done;
    }
    svf->parametrisation = parametrisation;
    for (size_t i = 0; i < n_modules; i++) {
        struct adapter_site *site = &adapter->sites[i];
        const struct module *m = &modules[i];
        site->first_parameter = adapter->n_parameters;
        site->n_parameters = m->n_rows < m->n_columns ? m->n_rows : m->n_columns;
        adapter->n_parameters += site->n_parameters;
    }
    adapter->parameters = malloc((adapter->n_parameters + 1) * sizeof *adapter->parameters);
    if (!adapter->parameters) {
        error_set("no memory for %zu parameters", adapter->n_parameters);
        goto done;
    }
    for (size_t i = 0; i < n_modules; i++) {
        struct adapter_site *site = &adapter->sites[i];
        float *p = adapter->parameters + site->first_parameter;
        for (size_t k = 0; k < site->n_parameters; k++)
            p[k] = 1;
        if (parametrisation == SVF_SIGMOID)
            sigmoid_start(site, seed, p);
        /* A layer's base weights go all at once, before what takes their place comes. */
        unsigned mask = 0;
        for (size_t k = 0; k < n_modules; k++)
            if (modules[k].layer == modules[i].layer)
                mask |= 1u << adapter->sites[k].projection;
        if (!(site->data = calloc(1, sizeof(struct svf_site)))) {
            error_set("no memory for an adapter");
            goto done;
        }
        if (model_give_up(model, modules[i].layer, mask) != 0 ||
            build_site(model, source, i, &modules[i], site->data, with_backward) != 0)
            goto done;
        if (source->done)
            source->done(source->context, i);
    }
    model_attach(model, adapter, NULL);
    status = 0;
done:
    if (!adapter)
        free(svf);
    if (status != 0) {
        adapter_free(adapter);
        return NULL;
    }
    return adapter;
}

/* ---- from a checkpoint and a factor file ------------------------------------------------------
 */

struct file_source {
    const struct checkpoint *ck;
    const struct module *modules;
    const struct tensor **tensors;          /* [n_modules] */
    const struct factors_matrix **matrices; /* [n_modules] */
    struct factors *factors;
};

static int file_weights(void *context, size_t i, size_t first, size_t n, float *rows)
{
    const struct file_source *s = context;
    tensor_read_rows(s->tensors[i], first, n, rows);
    return 0;
}

static int file_factor(void *context, size_t i, size_t first, size_t n, float *rows)
{
    const struct file_source *s = context;
    return factors_read(s->factors, s->matrices[i], first, n, rows);
}

static int file_sigma(void *context, size_t i, double *sigma)
{
    const struct file_source *s = context;
    const struct module *m = &s->modules[i];
    const size_t r = m->n_rows < m->n_columns ? m->n_rows : m->n_columns;
    memcpy(sigma, s->matrices[i]->sigma, r * sizeof *sigma);
    return 0;
}

/* The mapped pages count as the process's memory. */
static void file_done(void *context, size_t i)
{
    const struct file_source *s = context;
    checkpoint_release(s->ck, s->tensors[i]);
}

struct adapter *adapter_svf_create(struct model *model, const struct checkpoint *ck,
                                   struct factors *factors, const struct module *modules,
                                   size_t n_modules, enum svf_parametrisation parametrisation,
                                   bool with_backward, uint64_t seed)
{
    struct file_source files = {.ck = ck, .modules = modules, .factors = factors};
    const struct svf_source source = {&files, file_weights, file_factor, file_sigma, file_done};
    struct adapter *adapter = NULL;

    files.tensors = calloc(n_modules + 1, sizeof *files.tensors);
    files.matrices = calloc(n_modules + 1, sizeof *files.matrices);
    if (!files.tensors || !files.matrices) {
        error_set("no memory for %zu matrices", n_modules);
        goto done;
    }
    for (size_t i = 0; i < n_modules; i++) {
        const struct module *m = &modules[i];
        const struct tensor *t = checkpoint_find(ck, m->tensor);
        const struct factors_matrix *f = factors_find(factors, m->path);
        if (!t || tensor_n_rows(t) != m->n_rows || tensor_row_elements(t) != m->n_columns) {
            error_set("%s has no tensor %s of %zu x %zu", checkpoint_path(ck), m->tensor, m->n_rows,
                      m->n_columns);
            goto done;
        }
        if (!f || f->module.n_rows != m->n_rows || f->module.n_columns != m->n_columns) {
            error_set("the factor file has no matrix %s of %zu x %zu: decompose the model with "
                      "--modules that contain it",
                      m->path, m->n_rows, m->n_columns);
            goto done;
        }
        files.tensors[i] = t;
        files.matrices[i] = f;
    }
    adapter =
        adapter_svf_build(model, &source, modules, n_modules, parametrisation, with_backward, seed);
    for (size_t i = 0; i < n_modules; i++)
        checkpoint_release(ck, files.tensors[i]);
done:
    free(files.tensors);
    free(files.matrices);
    return adapter;
}

size_t adapter_svf_bytes(const struct module *modules, size_t n_modules, enum element element,
                         bool with_backward)
{
    size_t n = 0;
    for (size_t i = 0; i < n_modules; i++) {
        const size_t out = modules[i].n_rows, in = modules[i].n_columns, r = out < in ? out : in;
        n += round_up(r, KERNEL_COLUMNS) * round_up(in, KERNEL_K_STEP) +
             round_up(out, KERNEL_COLUMNS) * round_up(r, KERNEL_K_STEP);
        if (with_backward)
            n += round_up(in, KERNEL_COLUMNS) * round_up(r, KERNEL_K_STEP) +
                 round_up(r, KERNEL_COLUMNS) * round_up(out, KERNEL_K_STEP);
    }
    return n * element_size(element);
}
