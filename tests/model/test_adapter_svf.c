#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/scheduler.h"
#include "tests/model/run_logits.h"
#include "tests/model/svf_fixture.h"

enum { N_TOKENS = 40 };

static void some_tokens(int32_t *ids, size_t n, size_t vocab, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        ids[i] = (int32_t)((seed >> 8) % vocab);
    }
}

static float *logits_of(struct model *model, size_t chunk)
{
    int32_t ids[N_TOKENS];
    const size_t vocab = model->config.vocab_size;
    float *logits = malloc(N_TOKENS * vocab * sizeof *logits);
    some_tokens(ids, N_TOKENS, vocab, 3);
    if (run_logits(model, ids, N_TOKENS, chunk, logits) != 0)
        fail_msg("%s", error_message());
    return logits;
}

static double largest_difference(const float *a, const float *b, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return most;
}

/* Whatever is replaced of a packed group, the rest of it goes on as it was. */
static void unit_z_is_the_base_model_up_to_rounding(void **state)
{
    (void)state;
    static const char *const names[] = {"llama",         "qwen2",     "qwen3",
                                        "llama-bias",    "llama-odd", "llama-head-dim-24",
                                        "mistral-window"};
    static const unsigned masks[] = {SVF_ALL,
                                     SVF_MLP,
                                     SVF_QV,
                                     1 << PROJECTION_K,
                                     1 << PROJECTION_Q | 1 << PROJECTION_K,
                                     1 << PROJECTION_K | 1 << PROJECTION_V,
                                     1 << PROJECTION_UP | 1 << PROJECTION_O,
                                     1 << PROJECTION_GATE | 1 << PROJECTION_DOWN};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (size_t k = 0; k < sizeof masks / sizeof *masks; k++) {
            struct svf_fixture s = svf_fixture_open(names[i], masks[k], k % 2);
            struct model *model = svf_fixture_load(&s, ELEMENT_F32, cpu_best_isa(), 1);
            float *base = logits_of(model, 512);
            struct adapter *adapter = svf_fixture_adapter(&s, model, SVF_DIRECT, k % 2);
            float *identity = logits_of(model, 512);
            model_attach(model, adapter, adapter->parameters);
            float *unit = logits_of(model, 512);
            const size_t n = N_TOKENS * model->config.vocab_size;
            assert_memory_equal(identity, unit, n * sizeof *unit);
            if (largest_difference(base, unit, n) > 1e-4)
                fail_msg("%s, mask %x: %g", names[i], masks[k], largest_difference(base, unit, n));
            free(base);
            free(identity);
            free(unit);
            model_free(model);
            adapter_free(adapter);
            svf_fixture_close(&s);
        }
}

/* One site against U diag(e s) V^T and its derivatives in f64. */
static void a_site_is_its_definition(void **state)
{
    (void)state;
    enum { N = 5 };
    for (int sigmoid = 0; sigmoid <= 1; sigmoid++) {
        struct svf_fixture s = svf_fixture_open("llama-odd", SVF_ALL, 0);
        struct model *model = svf_fixture_load(&s, ELEMENT_F32, cpu_best_isa(), 1);
        struct adapter *adapter =
            svf_fixture_adapter(&s, model, sigmoid ? SVF_SIGMOID : SVF_DIRECT, true);
        float *p = svf_fixture_parameters(adapter, 0.3f);
        const struct memory *memory = model_memory(model);
        float *gradient = memory_take(memory, adapter->n_parameters, sizeof *gradient);
        for (size_t k = 0; k < adapter->n_sites; k++) {
            const struct module *m = &s.modules[k];
            const size_t r = svf_rank(m), n_in = m->n_columns, n_out = m->n_rows;
            const size_t ldx = round_up(n_in, 32), ldy = round_up(n_out, 32);
            const bool wide = n_out < n_in;
            float *x = memory_take(memory, N * ldx, sizeof *x);
            float *g = memory_take(memory, N * ldy, sizeof *g);
            float *y = memory_take(memory, N * ldy, sizeof *y);
            float *dx = memory_take(memory, N * ldx, sizeof *dx);
            float *multipliers = malloc(r * sizeof *multipliers);
            const size_t n_saved = adapter->ops->saved_bytes(adapter, k, N);
            void *saved = memory_take(memory, n_saved, 1);
            const size_t n_scratch = adapter->ops->scratch_bytes(adapter, k, N);
            void *scratch = memory_take(memory, n_scratch, 1);
            uint32_t noise = 9;
            for (size_t i = 0; i < N; i++) {
                for (size_t j = 0; j < n_in; j++)
                    x[i * ldx + j] = svf_noise(&noise);
                for (size_t j = 0; j < n_out; j++)
                    g[i * ldy + j] = svf_noise(&noise);
            }
            adapter_svf_multipliers(adapter, k, p, multipliers);
            adapter_prepare(adapter, model, p);
            /* In two calls, as rows come in training. */
            struct adapter_call call = {.model = model,
                                        .parameters = p,
                                        .x = x,
                                        .ldx = ldx,
                                        .n_rows = 2,
                                        .saved = saved,
                                        .scratch = scratch};
            adapter->ops->forward(adapter, k, &call, y, ldy, false);
            call.x = x + 2 * ldx;
            call.n_rows = N - 2;
            call.saved = (char *)saved + adapter->ops->saved_bytes(adapter, k, 2);
            adapter->ops->forward(adapter, k, &call, y + 2 * ldy, ldy, true);
            call = (struct adapter_call){
                .model = model, .parameters = p, .n_rows = N, .saved = saved, .scratch = scratch};
            assert_int_equal(adapter->ops->backward(adapter, k, &call, dx, ldx, g, ldy, gradient),
                             0);
            model_engine(model)->ops->wait(model_engine(model));
            double *w = calloc(n_out * n_in, sizeof *w), *d = calloc(r, sizeof *d);
            for (size_t c = 0; c < r; c++) {
                const float *q = s.factors[k] + c * r;
                double *t = calloc(n_in + n_out, sizeof *t);
                for (size_t a = 0; a < n_out; a++)
                    for (size_t b = 0; b < n_in; b++)
                        t[wide ? b : a] +=
                            (double)s.weights[k][a * n_in + b] * (double)q[wide ? a : b];
                for (size_t a = 0; a < n_out; a++)
                    for (size_t b = 0; b < n_in; b++) {
                        const double part = wide ? (double)q[a] * t[b] : t[a] * (double)q[b];
                        w[a * n_in + b] += (double)multipliers[c] * part;
                        for (size_t i = 0; i < N; i++)
                            d[c] += part * (double)g[i * ldy + a] * (double)x[i * ldx + b];
                    }
                free(t);
            }
            for (size_t i = 0; i < N; i++) {
                for (size_t a = 0; a < n_out; a++) {
                    double sum = 0;
                    for (size_t b = 0; b < n_in; b++)
                        sum += w[a * n_in + b] * (double)x[i * ldx + b];
                    assert_true(fabs(sum - (double)y[i * ldy + a]) < 1e-4);
                }
                for (size_t b = 0; b < n_in; b++) {
                    double sum = 0;
                    for (size_t a = 0; a < n_out; a++)
                        sum += w[a * n_in + b] * (double)g[i * ldy + a];
                    assert_true(fabs(sum - (double)dx[i * ldx + b]) < 1e-4);
                }
            }
            /* The chain through c = sum(s) / sum(s z), z = sigmoid(p). */
            const float *at = p + adapter->sites[k].first_parameter;
            double sum = 0, whole = 0, inner = 0;
            for (size_t c = 0; c < r; c++) {
                const double z = 1 / (1 + exp(-(double)at[c]));
                whole += s.sigma[k][c];
                sum += s.sigma[k][c] * z;
                inner += (double)multipliers[c] * d[c];
            }
            for (size_t c = 0; c < r; c++) {
                const double z = 1 / (1 + exp(-(double)at[c]));
                const double expected =
                    sigmoid ? z * (1 - z) * (whole / sum * d[c] - s.sigma[k][c] / sum * inner)
                            : d[c];
                const double actual = (double)gradient[adapter->sites[k].first_parameter + c];
                assert_true(fabs(actual - expected) < 1e-4 + 1e-4 * fabs(expected));
                if (sigmoid)
                    assert_true(fabs((double)multipliers[c] - whole / sum * z) < 1e-5);
                else
                    assert_true(multipliers[c] == at[c]);
            }
            memory_give(memory, x, N * ldx, sizeof *x);
            memory_give(memory, g, N * ldy, sizeof *g);
            memory_give(memory, y, N * ldy, sizeof *y);
            memory_give(memory, dx, N * ldx, sizeof *dx);
            free(multipliers);
            memory_give(memory, saved, n_saved, 1);
            memory_give(memory, scratch, n_scratch, 1);
            free(w);
            free(d);
        }
        free(p);
        memory_give(memory, gradient, adapter->n_parameters, sizeof *gradient);
        model_free(model);
        adapter_free(adapter);
        svf_fixture_close(&s);
    }
}

static void logits_have_the_same_bits_in_any_chunks_and_threads(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "qwen3", "llama-odd"};
    static const unsigned masks[] = {SVF_ALL, SVF_MLP, SVF_QV};
    for (size_t i = 0; i < 3; i++)
        for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++) {
            float *first = NULL;
            for (int n_threads = 1; n_threads <= 3; n_threads++) {
                struct svf_fixture s = svf_fixture_open(names[i], masks[i], 0);
                struct model *model =
                    svf_fixture_load(&s, (enum element)element, cpu_best_isa(), n_threads);
                struct adapter *adapter = svf_fixture_adapter(&s, model, SVF_DIRECT, false);
                float *p = svf_fixture_parameters(adapter, 0.2f);
                model_attach(model, adapter, p);
                for (size_t chunk = 1; chunk <= 64; chunk = chunk * 3 + 1) {
                    float *logits = logits_of(model, chunk);
                    if (first)
                        assert_memory_equal(first, logits,
                                            N_TOKENS * model->config.vocab_size * sizeof *logits);
                    if (first)
                        free(logits);
                    else
                        first = logits;
                }
                free(p);
                model_free(model);
                adapter_free(adapter);
                svf_fixture_close(&s);
            }
            free(first);
        }
}

/* ---- through the scheduler --------------------------------------------------------------------
 */

enum { N_REQUESTS = 12, MAX_NEW = 6 };

struct work {
    int32_t tokens[N_REQUESTS][N_TOKENS];
    size_t n_next;
    float logprobs[N_REQUESTS][N_TOKENS];
    int32_t answers[N_REQUESTS][MAX_NEW];
};

static bool take_next(void *context, struct request *request)
{
    struct work *w = context;
    const size_t i = w->n_next++;
    if (i >= N_REQUESTS)
        return false;
    *request = (struct request){.tokens = w->tokens[i],
                                .n_tokens = 10 + 2 * i,
                                .n_scored = i % 2 ? 5 : 0,
                                .max_new = i % 3 ? MAX_NEW : 0,
                                .sampling = {.temperature = 1, .top_p = 1, .seed = 3},
                                .stream = i,
                                .ignore_eos = true,
                                .user = (void *)(uintptr_t)i};
    return true;
}

static int take_done(void *context, const struct request *request, const struct response *response)
{
    struct work *w = context;
    const size_t i = (uintptr_t)request->user;
    memcpy(w->logprobs[i], response->logprobs, request->n_scored * sizeof(float));
    memcpy(w->answers[i], response->ids, response->n_ids * sizeof(int32_t));
    return 0;
}

static struct work *schedule(struct model *model, size_t batch, size_t chunk, bool share)
{
    struct work *w = calloc(1, sizeof *w);
    for (size_t i = 0; i < N_REQUESTS; i++) {
        some_tokens(w->tokens[i], N_TOKENS, model->config.vocab_size, 3);
        some_tokens(w->tokens[i] + 8, N_TOKENS - 8, model->config.vocab_size, (uint32_t)i);
    }
    struct scheduler_options options = scheduler_defaults();
    options.batch = batch;
    options.chunk = chunk;
    options.share_prefix = share;
    const struct scheduler_client client = {take_next, take_done, NULL, w};
    if (scheduler_run(model, NULL, &options, &client, NULL) != 0)
        fail_msg("%s", error_message());
    return w;
}

static void answers_with_an_adapter_do_not_depend_on_batch_chunk_sharing_or_threads(void **state)
{
    (void)state;
    for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++) {
        struct work *first = NULL, *base = NULL;
        for (int n_threads = 1; n_threads <= 2; n_threads++) {
            struct svf_fixture s = svf_fixture_open("llama", SVF_MLP | SVF_QV, 0);
            struct model *model =
                svf_fixture_load(&s, (enum element)element, cpu_best_isa(), n_threads);
            struct adapter *adapter = svf_fixture_adapter(&s, model, SVF_DIRECT, false);
            float *p = svf_fixture_parameters(adapter, 0.5f);
            if (!base)
                base = schedule(model, 4, 16, true);
            model_attach(model, adapter, p);
            for (size_t i = 0; i < 12; i++) {
                static const size_t batches[] = {1, 5, 64}, chunks[] = {3, 512};
                struct work *w = schedule(model, batches[i % 3], chunks[i / 3 % 2], i < 6);
                if (!first)
                    first = w;
                assert_memory_equal(first->logprobs, w->logprobs, sizeof w->logprobs);
                assert_memory_equal(first->answers, w->answers, sizeof w->answers);
                if (w != first)
                    free(w);
            }
            assert_memory_not_equal(first->logprobs, base->logprobs, sizeof base->logprobs);
            free(p);
            model_free(model);
            adapter_free(adapter);
            svf_fixture_close(&s);
        }
        free(first);
        free(base);
    }
}

/* ---- the rest ---------------------------------------------------------------------------------
 */

static void a_model_without_its_adapter_says_what_is_missing(void **state)
{
    (void)state;
    struct svf_fixture s = svf_fixture_open("llama", 1 << PROJECTION_V, 1);
    struct model *model = svf_fixture_load(&s, ELEMENT_F32, cpu_best_isa(), 1);
    struct adapter *adapter = svf_fixture_adapter(&s, model, SVF_DIRECT, false);
    float logits[128];
    const int32_t id = 1;
    model_attach(model, NULL, NULL);
    assert_int_equal(run_logits(model, &id, 1, 1, logits), -1);
    assert_non_null(strstr(error_message(), "layer 1: the weights of self_attn.v_proj"));
    model_free(model);
    adapter_free(adapter);
    svf_fixture_close(&s);
}

static void sigmoid_starts_where_table_6_says_whatever_else_is_chosen(void **state)
{
    (void)state;
    struct svf_fixture all = svf_fixture_open("llama", SVF_ALL, 0);
    struct svf_fixture some = svf_fixture_open("llama", SVF_QV, 1);
    struct model *models[2] = {svf_fixture_load(&all, ELEMENT_F32, cpu_best_isa(), 1),
                               svf_fixture_load(&some, ELEMENT_F32, cpu_best_isa(), 1)};
    struct adapter *a = svf_fixture_adapter(&all, models[0], SVF_SIGMOID, false);
    struct adapter *b = svf_fixture_adapter(&some, models[1], SVF_SIGMOID, false);
    double mean = 0, variance = 0;
    for (size_t i = 0; i < a->n_parameters; i++)
        mean += (double)a->parameters[i] / (double)a->n_parameters;
    for (size_t i = 0; i < a->n_parameters; i++)
        variance += pow((double)a->parameters[i] - mean, 2) / (double)a->n_parameters;
    assert_true(fabs(mean - 0.1) < 0.01 && fabs(variance - 1e-3) < 3e-4);
    const int32_t site = adapter_site_at(a, 1, PROJECTION_V);
    assert_memory_equal(a->parameters + a->sites[site].first_parameter,
                        b->parameters + b->sites[1].first_parameter,
                        b->sites[1].n_parameters * sizeof(float));
    for (int i = 0; i < 2; i++)
        model_free(models[i]);
    adapter_free(a);
    adapter_free(b);
    svf_fixture_close(&all);
    svf_fixture_close(&some);
}

/* By way of a factor file: the same bits as from memory. */
static void an_adapter_from_a_factor_file_is_the_same(void **state)
{
    (void)state;
    struct svf_fixture s = svf_fixture_open("llama", SVF_MLP | SVF_QV, 0);
    char folder[] = "/tmp/t2_adapter_XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/factors.h5", folder);
    const struct factors_origin origin = {
        .identity = "0123456789012345678901234567890123456789012345678901234567890123",
        .architecture = "llama",
        .model = "llama",
        .options = "test",
        .command_line = "test",
        .cpu = "test",
        .n_ranks = 1};
    for (size_t i = 0; i < s.n_modules; i++) {
        const struct factors_matrix m = {
            .module = s.modules[i],
            .source_type = TENSOR_BF16,
            .report = {.wide = s.modules[i].n_rows < s.modules[i].n_columns,
                       .method = SVD_LAPACK,
                       .precision = SVD_F64},
            .sigma = s.sigma[i],
            .factor = s.factors[i]};
        if (factors_write_part(path, &origin, FACTORS_F32, &m) != 0)
            fail_msg("%s", error_message());
    }
    if (factors_merge(path, &origin, FACTORS_F32, s.modules, s.n_modules) != 0)
        fail_msg("%s", error_message());
    struct factors *factors = factors_open(path);
    if (!factors)
        fail_msg("%s", error_message());
    struct model *models[2];
    struct adapter *adapters[2];
    float *logits[2];
    for (int i = 0; i < 2; i++) {
        models[i] = svf_fixture_load(&s, ELEMENT_F32, cpu_best_isa(), 2);
        adapters[i] = i ? adapter_svf_create(models[i], s.ck, factors, s.modules, s.n_modules,
                                             SVF_SIGMOID, true, 17)
                        : svf_fixture_adapter(&s, models[i], SVF_SIGMOID, true);
        if (!adapters[i])
            fail_msg("%s", error_message());
        model_attach(models[i], adapters[i], adapters[i]->parameters);
        logits[i] = logits_of(models[i], 512);
    }
    assert_memory_equal(logits[0], logits[1], N_TOKENS * s.config->vocab_size * sizeof(float));
    /* and one that the file does not have */
    struct svf_fixture all = svf_fixture_open("llama", SVF_ALL, 0);
    struct model *model = svf_fixture_load(&all, ELEMENT_F32, cpu_best_isa(), 1);
    assert_null(adapter_svf_create(model, all.ck, factors, all.modules, all.n_modules, SVF_DIRECT,
                                   false, 0));
    assert_non_null(strstr(error_message(), "/layers/00/self_attn.k_proj"));
    model_free(model);
    svf_fixture_close(&all);
    for (int i = 0; i < 2; i++) {
        free(logits[i]);
        model_free(models[i]);
        adapter_free(adapters[i]);
    }
    factors_close(factors);
    unlink(path);
    rmdir(folder);
    svf_fixture_close(&s);
}

static void base_weights_are_given_up_where_they_are_replaced(void **state)
{
    (void)state;
    struct svf_fixture s = svf_fixture_open("llama", SVF_MLP | SVF_QV, 0);
    struct model *model = svf_fixture_load(&s, ELEMENT_BF16, cpu_best_isa(), 1);
    struct adapter *adapter = svf_fixture_adapter(&s, model, SVF_DIRECT, true);
    for (size_t i = 0; i < model->config.n_layers; i++) {
        const struct layer *l = &model->layers[i];
        assert_int_equal(l->groups[GROUP_GATE_UP].n_spans, 0);
        assert_int_equal(l->groups[GROUP_DOWN].n_spans, 0);
        assert_int_equal(l->groups[GROUP_OUTPUT].n_spans, 1);
        assert_int_equal(l->groups[GROUP_QKV].n_spans, 1); /* k */
        assert_int_equal(l->groups[GROUP_QKV].spans[0].column, model->k_offset);
        assert_int_equal(l->groups[GROUP_QKV].spans[0].m.n,
                         model->config.n_kv_heads * model->config.head_dim);
    }
    model_free(model);
    adapter_free(adapter);
    svf_fixture_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unit_z_is_the_base_model_up_to_rounding),
        cmocka_unit_test(a_site_is_its_definition),
        cmocka_unit_test(logits_have_the_same_bits_in_any_chunks_and_threads),
        cmocka_unit_test(answers_with_an_adapter_do_not_depend_on_batch_chunk_sharing_or_threads),
        cmocka_unit_test(a_model_without_its_adapter_says_what_is_missing),
        cmocka_unit_test(sigmoid_starts_where_table_6_says_whatever_else_is_chosen),
        cmocka_unit_test(an_adapter_from_a_factor_file_is_the_same),
        cmocka_unit_test(base_weights_are_given_up_where_they_are_replaced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
