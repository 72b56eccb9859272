/* bench_pass MODEL [--dtype D] [--device D] [--isa LEVEL] [--threads N] [--what MASK] [--repeat N]
 * [--recompute]
 *            [--prefix P --sequences S --length T]
 *
 * Times forward and SVF backward (model/pass.h) on random tokens, phase by phase. Without sizes,
 * two shapes: 32 sequences of 64 tokens, each with a loss on all its tokens but the last; and the
 * shape of a classification step, a prefix of 40 tokens and 32 prompts of 25 tokens after it, with
 * a loss on the last token of each. Any orthogonal factor costs the same, so Q is the identity
 * here.
 *
 * MASK: a letter a projection of q k v o g u d (default gud: the MLPs). The last line of a shape
 * has what the products alone allow: the same matrices, the same rows, nothing else. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "model/adapter_svf.h"
#include "model/model_internal.h"
#include "model/pass.h"
#include "mpi/error.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct source {
    const struct checkpoint *ck;
    const struct module *modules;
};

static size_t rank_of(const struct module *m)
{
    return m->n_rows < m->n_columns ? m->n_rows : m->n_columns;
}

static int read_weights(void *context, size_t i, size_t first, size_t n, float *rows)
{
    const struct source *s = context;
    tensor_read_rows(checkpoint_find(s->ck, s->modules[i].tensor), first, n, rows);
    return 0;
}

static int identity_factor(void *context, size_t i, size_t first, size_t n, float *rows)
{
    const struct source *s = context;
    const size_t r = rank_of(&s->modules[i]);
    memset(rows, 0, n * r * sizeof *rows);
    for (size_t k = 0; k < n; k++)
        rows[k * r + first + k] = 1;
    return 0;
}

static int unit_sigma(void *context, size_t i, double *sigma)
{
    const struct source *s = context;
    for (size_t k = 0; k < rank_of(&s->modules[i]); k++)
        sigma[k] = 1;
    return 0;
}

static size_t choose(const struct checkpoint *ck, const char *what, struct module *modules)
{
    static const char letters[] = "qkvogud";
    size_t n = 0;
    for (size_t layer = 0; layer < checkpoint_config(ck)->n_layers; layer++)
        for (int p = 0; p < PROJECTION_COUNT; p++) {
            if (!strchr(what, letters[p]))
                continue;
            struct module *m = &modules[n++];
            m->layer = layer;
            snprintf(m->name, sizeof m->name, "%s", projection_name((enum projection)p));
            snprintf(m->tensor, sizeof m->tensor, "model.layers.%zu.%s.weight", layer, m->name);
            snprintf(m->path, sizeof m->path, "/layers/%02zu/%s", layer, m->name);
            const struct tensor *t = checkpoint_find(ck, m->tensor);
            m->n_rows = tensor_n_rows(t);
            m->n_columns = tensor_row_elements(t);
        }
    return n;
}

/* Seconds for all products of a forward and a backward pass on n rows (the head on n_head), on the
 * model's own matrices. */
static double products_alone(const struct model *model, const struct adapter *adapter, size_t n,
                             size_t n_head, size_t max_width)
{
    const struct engine *e = &model->engine;
    const size_t ld = round_up(max_width, 32) + 32;
    void *x = memory_take(e->memory, n * ld, sizeof(float));
    float *y = memory_take(e->memory, n * ld, sizeof *y);
    if (!x || !y)
        exit(1);
    memset(y, 0, n * ld * sizeof *y); /* touch the pages */
    double start = now();
    for (size_t layer = 0; layer < model->config.n_layers; layer++)
        for (int g = 0; g < GROUP_COUNT; g++)
            for (size_t i = 0; i < model->layers[layer].groups[g].n_spans; i++) {
                const struct span *s = &model->layers[layer].groups[g].spans[i];
                e->ops->product(e, y, ld, x, ld, n, &s->m, NULL, false);
                if (s->t.data)
                    e->ops->product(e, y, ld, x, ld, n, &s->t, NULL, false);
            }
    e->ops->wait(e);
    double seconds = now() - start;
    for (size_t k = 0; adapter && k < adapter->n_sites; k++) {
        /* The adapter's four products are those of its forward and backward without the sums. */
        const struct adapter_site *s = &adapter->sites[k];
        struct matrix m[2];
        const size_t r = s->n_parameters;
        if (engine_matrix_create(e, &m[0], r, s->module.n_columns) != 0 ||
            engine_matrix_create(e, &m[1], s->module.n_rows, r) != 0)
            exit(1);
        start = now();
        for (int twice = 0; twice < 2; twice++)
            for (int i = 0; i < 2; i++)
                e->ops->product(e, y, ld, x, ld, n, &m[i], NULL, false);
        e->ops->wait(e);
        seconds += now() - start;
        matrix_free(&m[0]);
        matrix_free(&m[1]);
    }
    memory_give(e->memory, y, n * ld, sizeof *y);
    /* The head in blocks of rows, as it runs; twice, for the way back. */
    const size_t ld_head = round_up(model->config.vocab_size, 32),
                 block = n_head < 64 ? n_head : 64;
    y = memory_take(e->memory, block * ld_head, sizeof *y);
    if (!y)
        exit(1);
    memset(y, 0, block * ld_head * sizeof *y);
    start = now();
    for (size_t first = 0; first < n_head; first += block)
        e->ops->product(e, y, ld_head, x, ld, n_head - first < block ? n_head - first : block,
                        &model->head, NULL, false);
    e->ops->wait(e);
    seconds += 2 * (now() - start);
    memory_give(e->memory, x, n * ld, sizeof(float));
    memory_give(e->memory, y, block * ld_head, sizeof *y);
    return seconds;
}

/* Floating-point operations of the base model's products, forward and back: the way back has no
 * gradients of weights, so 4 a weight and row, and the head's on its places alone. What SVF and
 * attention take comes on top. */
static double pass_flops(const struct model *model, size_t n_rows, size_t n_places)
{
    const struct model_config *c = &model->config;
    const double table = (double)c->vocab_size * (double)c->hidden_size;
    const double layers = (double)model->n_parameters - (c->tied_embeddings ? 1 : 2) * table;

    return 4 * (layers * (double)n_rows + table * (double)n_places);
}

struct shape {
    size_t prefix, n_sequences, length; /* length after the prefix */
    bool all;                           /* a loss on every token but the last */
};

static int time_shape(struct model *model, const struct adapter *adapter, const struct shape *shape,
                      bool recompute, int repeat)
{
    /* A sequence's first token tells it from the others. */
    const size_t half = model->config.vocab_size / 2;
    const int32_t n_ids = half < 1000 ? (int32_t)half : 1000;
    const size_t n_tokens = shape->prefix + shape->length;
    const size_t n_rows = shape->prefix + shape->n_sequences * shape->length;
    const size_t n_places = shape->n_sequences * (shape->all ? n_tokens - 1 : 1);
    const struct pass_options options = {n_rows, recompute, false};
    int32_t *tokens = malloc(n_tokens * sizeof *tokens);
    struct pass_place *places = malloc(n_places * sizeof *places);
    struct head_term *terms = malloc(n_places * sizeof *terms);
    struct head_term_result *results = malloc(n_places * sizeof *results);
    float *gradient = calloc(adapter->n_parameters, sizeof *gradient);
    struct pass *pass = pass_create(model, adapter, &options);
    double best[3] = {1e9, 1e9, 1e9};
    int status = -1;

    if (!pass)
        goto done;
    for (int i = 0; i < repeat; i++) {
        size_t n = 0;
        srand(1);
        for (size_t k = 0; k < shape->prefix; k++)
            tokens[k] = rand() % n_ids;
        pass_reset(pass, adapter->parameters);
        const double start = now();
        for (size_t s = 0; s < shape->n_sequences; s++) {
            size_t sequence;
            for (size_t k = 0; k < shape->length; k++)
                tokens[shape->prefix + k] = k == 0 ? n_ids + (int32_t)s % n_ids : rand() % n_ids;
            if (pass_add(pass, tokens, n_tokens, &sequence) != 0)
                goto done;
            for (size_t p = shape->all ? 0 : n_tokens - 1; p < n_tokens - shape->all; p++) {
                places[n] = (struct pass_place){sequence, p};
                terms[n++] = (struct head_term){.target = rand() % n_ids, .weight = 0.01f};
            }
        }
        if (pass_run(pass) != 0)
            goto done;
        model->engine.ops->wait(&model->engine);
        const double forward = now();
        if (pass_backward(pass, NULL, places, terms, n, gradient, results) != 0)
            goto done;
        const double end = now();
        best[0] = forward - start < best[0] ? forward - start : best[0];
        best[1] = end - forward < best[1] ? end - forward : best[1];
        best[2] = end - start < best[2] ? end - start : best[2];
    }
    const size_t width =
        model->gate_up_width > model->qkv_width ? model->gate_up_width : model->qkv_width;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double alone = 1e9;
    for (int i = 0; i < repeat; i++) {
        const double seconds = products_alone(model, adapter, n_rows, n_places, width);
        alone = seconds < alone ? seconds : alone;
    }
    printf("%zu + %zu x %zu: %zu rows, %zu places%s\n", shape->prefix, shape->n_sequences,
           shape->length, n_rows, n_places, recompute ? ", recomputed" : "");
    printf("  forward   %7.1f ms\n  head and backward %7.1f ms\n", best[0] * 1e3, best[1] * 1e3);
    printf("  together  %7.1f ms, %.0f tokens/s of rows, %.0f of tokens\n", best[2] * 1e3,
           (double)n_rows / best[2], (double)(shape->n_sequences * n_tokens) / best[2]);
    printf("  speed     %7.3f TFLOP/s of the base model's products\n",
           pass_flops(model, n_rows, n_places) / best[2] / 1e12);
    printf("  products alone %7.1f ms: %.0f %%\n", alone * 1e3, 100 * alone / best[2]);
    printf("  pass memory %zu MiB, peak of the process so far %.0f MiB\n",
           pass_bytes(model, adapter, &options) >> 20, (double)usage.ru_maxrss / 1024);
    status = 0;
done:
    pass_free(pass);
    free(tokens);
    free(places);
    free(terms);
    free(results);
    free(gradient);
    return status;
}

int main(int argc, char **argv)
{
    struct model_options options = {ELEMENT_BF16, cpu_best_isa(), 2, {0}};
    struct shape shapes[2] = {{0, 32, 64, true}, {40, 32, 25, false}};
    size_t n_shapes = 2;
    const char *what = "gud";
    bool recompute = false;
    int repeat = 5;

    if (argc < 2) {
        fprintf(stderr, "usage: bench_pass MODEL [options]; see the source's head\n");
        return 2;
    }
    for (int i = 2; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(name, "--recompute") == 0) {
            recompute = true;
            continue;
        }
        i++;
        if (strcmp(name, "--dtype") == 0)
            options.element = strcmp(value, "f32") == 0 ? ELEMENT_F32 : ELEMENT_BF16;
        else if (strcmp(name, "--isa") == 0 && isa_parse(value, &options.isa) != 0)
            return fprintf(stderr, "%s\n", error_message()), 2;
        else if (strcmp(name, "--device") == 0 && device_parse(value, &options.device) != 0)
            return fprintf(stderr, "%s\n", error_message()), 2;
        else if (strcmp(name, "--threads") == 0)
            options.n_threads = atoi(value);
        else if (strcmp(name, "--what") == 0)
            what = value;
        else if (strcmp(name, "--repeat") == 0)
            repeat = atoi(value);
        else if (strcmp(name, "--prefix") == 0)
            n_shapes = 1, shapes[0].prefix = (size_t)atol(value), shapes[0].all = false;
        else if (strcmp(name, "--sequences") == 0)
            n_shapes = 1, shapes[0].n_sequences = (size_t)atol(value);
        else if (strcmp(name, "--length") == 0)
            n_shapes = 1, shapes[0].length = (size_t)atol(value);
    }
    struct checkpoint *ck = checkpoint_open(argv[1]);
    struct model *model = ck ? model_load(ck, &options) : NULL;
    struct adapter *adapter = NULL;
    struct module *modules = NULL;
    int status = -1;
    if (!model)
        goto done;
    modules = calloc(model->config.n_layers * PROJECTION_COUNT, sizeof *modules);
    struct source from = {ck, modules};
    const struct svf_source source = {&from, read_weights, identity_factor, unit_sigma, NULL};
    const size_t n_modules = choose(ck, what, modules);
    double start = now();
    adapter = adapter_svf_build(model, &source, modules, n_modules, SVF_DIRECT, true, 0);
    if (!adapter)
        goto done;
    printf("%zu matrices, %zu parameters, factored in %.2f s, %zu MiB\n", n_modules,
           adapter->n_parameters, now() - start,
           adapter_svf_bytes(modules, n_modules, options.element, true) >> 20);
    status = 0;
    for (size_t i = 0; i < n_shapes && status == 0; i++)
        status = time_shape(model, adapter, &shapes[i], recompute, repeat);
done:
    if (status != 0)
        fprintf(stderr, "bench_pass: %s\n", error_message());
    model_free(model);
    adapter_free(adapter);
    checkpoint_free(ck);
    free(modules);
    return status != 0;
}
