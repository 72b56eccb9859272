#include "jobs/train_plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapter_svf.h"
#include "model/scheduler.h"
#include "mpi/clock.h"
#include "mpi/error.h"
#include "mpi/text.h"
#include "solver/engine.h"
#include "solver/engine_product.h"
#include "solver/kv_cache.h"
#include "solver/team.h"

static const double network = 100e9 / 8; /* bytes/s: 100 Gbit/s */
static const double message = 2e-6;      /* seconds of one message */

static size_t packed(size_t n, size_t k, enum element element)
{
    return round_up(n, KERNEL_COLUMNS) * round_up(k, KERNEL_K_STEP) * element_size(element);
}

static bool is_chosen(const struct module *modules, size_t n_modules, const struct module *m)
{
    for (size_t i = 0; i < n_modules; i++)
        if (modules[i].layer == m->layer && strcmp(modules[i].name, m->name) == 0)
            return true;
    return false;
}

/* Keys and values of n_sequences sequences of n_tokens in all: whole pages, in slabs of several. */
static size_t cache_bytes(const struct model_config *c, enum element element, size_t n_tokens,
                          size_t n_sequences)
{
    const size_t pages = round_up(n_tokens / KV_PAGE + n_sequences, KV_SLAB_PAGES);
    struct kv_cache cache;

    kv_cache_create(&cache, &memory_host, engine_kv_form(element, cpu_best_isa()), c->n_layers,
                    c->n_kv_heads, c->head_dim);
    const size_t bytes =
        pages * c->n_layers * c->n_kv_heads * cache.head_elements * element_size(cache.element);
    kv_cache_free(&cache);
    return bytes;
}

/* What a pass keeps for a token (model/pass.c), keys and values aside. */
static size_t bytes_per_row(const struct model_config *c, const struct train_plan_adapter *a,
                            const struct train_options *o, enum element element)
{
    const struct module *modules = a->modules;
    const size_t n_modules = a->n_modules;
    const size_t heads = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const size_t e = element_size(element);
    const size_t kept = 4 * (heads + 2 * kv) + 8 * c->hidden_size + 8 * c->ffn_size;
    size_t saved = 0, widest = 0;

    for (size_t i = 0; i < n_modules; i++) {
        /* Beside base weights: the input, and what a scaled projection gives. */
        const size_t r = a->kind->needs_factors ? module_rank(&modules[i])
                                                : modules[i].n_rows + modules[i].n_columns;
        saved += 4 * r;
        widest = r > widest ? r : widest;
    }
    const size_t common = 4 * (4 * c->hidden_size + 2 * heads + heads + 2 * kv) +
                          e * (2 * c->hidden_size + heads + c->ffn_size) + (4 + e) * widest;
    const size_t layers = o->recompute
                              ? 4 * c->hidden_size * c->n_layers + kept + saved / c->n_layers
                              : kept * c->n_layers + saved;
    return layers + common;
}

/* SVF runs a matrix as two; what stands beside base weights has two products forward, and backward
 * twice as many. */
static void add_adapter(struct train_plan *plan, const struct train_plan_adapter *a,
                        enum element element)
{
    for (size_t i = 0; i < a->n_modules; i++) {
        const struct module *m = &a->modules[i];
        const size_t n = adapter_kind_count(a->kind, a->settings, a->modules, a->n_modules, i);
        plan->n_parameters += n;
        plan->flops_per_token += a->kind->needs_factors
                                     ? 4.0 * (double)n * (double)(m->n_rows + m->n_columns)
                                     : 6.0 * (double)n;
    }
    plan->gradient_bytes = plan->n_parameters * sizeof(float);
    plan->factored_bytes = a->kind->needs_factors
                               ? adapter_svf_bytes(a->modules, a->n_modules, element, true)
                               : 2 * plan->n_parameters * element_size(element);
}

void train_plan_make(struct train_plan *plan, const struct model_config *c,
                     const struct train_plan_adapter *adapter, const struct train_options *o,
                     enum element element, size_t tokens)
{
    enum { PROGRAM = 80 << 20, WORD = 256, HEAD_ROWS = 64, ROLLOUT_ROWS = 32, VECTORS = 12 };
    const size_t answers = (o->shard < o->batch ? o->shard : o->batch) * o->n_answers;
    const size_t sequences = answers < o->max_rows ? answers : o->max_rows;
    const size_t n_shards = (o->batch + o->shard - 1) / o->shard;
    struct module *all = NULL;
    size_t n_all = 0;
    const size_t table = packed(c->vocab_size, c->hidden_size, element);

    *plan = (struct train_plan){0};
    add_adapter(plan, adapter, element);
    if (modules_select(c, "all", NULL, &all, &n_all) == 0)
        for (size_t i = 0; i < n_all; i++) {
            const size_t bytes = packed(all[i].n_rows, all[i].n_columns, element);
            plan->weight_bytes += bytes;
            if (adapter->kind->needs_factors &&
                is_chosen(adapter->modules, adapter->n_modules, &all[i]))
                continue;
            plan->base_bytes += bytes + packed(all[i].n_columns, all[i].n_rows, element);
            plan->flops_per_token += 4.0 * (double)all[i].n_rows * (double)all[i].n_columns;
        }
    free(all);
    plan->weight_bytes += table * (c->tied_embeddings ? 1 : 2);
    plan->base_bytes +=
        table * (c->tied_embeddings ? 1 : 2) + packed(c->hidden_size, c->vocab_size, element);
    plan->activation_bytes = bytes_per_row(c, adapter, o, element) * o->max_rows;
    plan->activation_bytes += cache_bytes(c, element, o->max_rows, sequences);
    if (o->kl != 0) /* the base model's pass */
        plan->activation_bytes +=
            o->max_rows * 4 *
                (5 * c->hidden_size + 3 * c->n_heads * c->head_dim + 2 * c->ffn_size) +
            cache_bytes(c, element, o->max_rows, sequences);
    /* Program and libraries, tokenizer (measured); the parameters, their sums and moments, here and
     * as copies; the gradients of this rank's shards; logits; and keys and values of rollouts that
     * the scheduler makes. */
    plan->other_bytes =
        PROGRAM + WORD * c->vocab_size + (VECTORS + n_shards) * plan->gradient_bytes +
        (ROLLOUT_ROWS + (o->kl != 0 ? 2 : 1) * HEAD_ROWS) * c->vocab_size * sizeof(float);
    if (o->max_new > o->pass_max_new) {
        const size_t batch = scheduler_defaults().batch;
        const size_t n = answers < batch ? answers : batch;
        plan->other_bytes += cache_bytes(c, element, n * tokens, n);
    }
}

double train_plan_step(const struct train_plan *plan, const struct train_options *o, size_t tokens,
                       double flops, double bytes, size_t n_ranks, double *reduce)
{
    const size_t n_shards = (o->batch + o->shard - 1) / o->shard;
    const size_t mine = (n_shards + n_ranks - 1) / n_ranks; /* of the busiest rank */
    const size_t prompts = mine * o->shard < o->batch ? mine * o->shard : o->batch;
    const double others = (double)(n_ranks - 1) / (double)n_ranks;
    /* Each rank sends its shards' slices (f32) and gets the sums (f64): mpi/ordered_sum.h. */
    const double travels =
        others * ((double)mine * (double)plan->gradient_bytes + 2 * (double)plan->gradient_bytes);
    const double kl = o->kl != 0 ? 1.0 / 2 : 0; /* the base model's forward */

    *reduce = n_ranks == 1 ? 0 : travels / bytes + 2 * message * (double)(n_ranks - 1);
    return (1 + kl) * plan->flops_per_token * (double)tokens * (double)prompts / flops + *reduce;
}

double train_plan_measure(enum element element, enum isa isa, int n_threads)
{
    enum { SIDE = 2048, ROWS = 256 };
    const struct kernels *kernels = kernels_find(element, isa);
    struct team *team = team_create(n_threads);
    struct matrix m = {0};
    void *x = calloc(ROWS * SIDE, sizeof(float));
    float *y = calloc(ROWS * SIDE, sizeof *y), *row = calloc(SIDE * 16, sizeof *row);
    double best = 0;

    if (!team || !x || !y || !row || matrix_create(&m, element, SIDE, SIDE) != 0)
        goto done;
    for (size_t i = 0; i < SIDE; i += 16)
        matrix_pack_rows(&m, i, 16, row);
    for (const double start = clock_seconds(); clock_seconds() - start < 0.5;) {
        const double begin = clock_seconds();
        matrix_product(kernels, y, SIDE, x, SIDE, ROWS, &m, 0, m.n_panels, false, team);
        best = fmax(best, 2.0 * SIDE * SIDE * ROWS / (clock_seconds() - begin));
    }
done:
    matrix_free(&m);
    team_free(team);
    free(x);
    free(y);
    free(row);
    return best;
}

int train_plan_print(const struct model_config *c, const struct train_plan_adapter *adapter,
                     const struct train_options *o, enum element element, int n_threads,
                     size_t tokens, FILE *file)
{
    struct train_plan plan;
    struct text_table table;
    const enum isa isa = cpu_best_isa();
    const double flops = train_plan_measure(element, isa, n_threads);
    char text[6][32];

    if (flops <= 0)
        return error_set("out of memory");
    train_plan_make(&plan, c, adapter, o, element, tokens);
    const size_t rank_bytes =
        plan.base_bytes + plan.factored_bytes + plan.activation_bytes + plan.other_bytes;
    fprintf(file, "parameters   %s in %zu matrices\n",
            text_count(text[0], sizeof text[0], (double)plan.n_parameters), adapter->n_modules);
    fprintf(file,
            "a rank       %s at most: %s in matrices that stay, %s of the adapter, %s for %zu "
            "tokens, %s for the rest (weights alone: %s)\n",
            text_bytes(text[0], sizeof text[0], (double)rank_bytes),
            text_bytes(text[1], sizeof text[1], (double)plan.base_bytes),
            text_bytes(text[2], sizeof text[2], (double)plan.factored_bytes),
            text_bytes(text[3], sizeof text[3], (double)plan.activation_bytes), o->max_rows,
            text_bytes(text[4], sizeof text[4], (double)plan.other_bytes),
            text_bytes(text[5], sizeof text[5], (double)plan.weight_bytes));
    fprintf(file, "gradient     %s a step\n",
            text_bytes(text[0], sizeof text[0], (double)plan.gradient_bytes));
    fprintf(file, "a token      %.3g Gflop forward and backward\n", plan.flops_per_token / 1e9);
    fprintf(file,
            "a step       %zu prompts of %zu tokens (answers included), shards of %zu; products at "
            "%.0f GFLOP/s a rank (measured: %s, %s, %d thread%s), a network of 100 Gbit/s\n\n",
            o->batch, tokens, o->shard, flops / 1e9, element == ELEMENT_F32 ? "f32" : "bf16",
            isa_name(isa), n_threads, n_threads == 1 ? "" : "s");
    text_table_begin(&table, "rrrrr");
    static const char *const heads[] = {"ranks", "step, s", "reduction, s", "of the step",
                                        "tokens/s"};
    for (size_t i = 0; i < 5; i++)
        text_table_cell(&table, "%s", heads[i]);
    for (size_t n = 1; n <= 512; n *= 2) {
        double reduce;
        const double step = train_plan_step(&plan, o, tokens, flops, network, n, &reduce);
        text_table_cell(&table, "%zu", n);
        text_table_cell(&table, "%.3g", step);
        text_table_cell(&table, "%.2g", reduce);
        text_table_cell(&table, "%.2f %%", 100 * reduce / step);
        text_table_cell(&table, "%.4g", (double)(o->batch * tokens) / step);
    }
    text_table_print(&table, file, 2);
    const size_t n_shards = (o->batch + o->shard - 1) / o->shard;
    fprintf(file,
            "\nMore than %zu ranks have nothing to do: a batch has %zu shards (--shard, --batch). "
            "Attention, sampling and grading are left out.\n",
            n_shards, n_shards);
    return 0;
}
