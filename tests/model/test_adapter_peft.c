/* LoRA, DoRA and (IA)^3 against PEFT (tests/oracle/peft_oracle.py), finite differences, and
 * themselves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/merge.h"
#include "tests/model/peft_fixture.h"
#include "train/optimizer.h"

static const struct {
    const char *name, *model;
} cases[] = {{"lora-qv", "qwen2"},       {"lora-all", "llama-odd"}, {"dora-qv", "qwen2"},
             {"dora-all", "llama-bias"}, {"ia3", "qwen2"},          {"ia3-all", "llama-bias"}};
enum { N_CASES = sizeof cases / sizeof *cases };

struct setting {
    struct peft_fixture f;
    struct model *model;
    struct adapter *adapter;
    float *gradient;
};

static struct setting open_case(size_t i, enum element element, int n_threads, double dropout)
{
    struct setting s = {.f = peft_fixture_read(cases[i].name, cases[i].model)};
    s.model = peft_fixture_model(&s.f, element, n_threads);
    s.adapter = peft_fixture_adapter(&s.f, s.model, dropout);
    s.gradient = calloc(s.adapter->n_parameters, sizeof *s.gradient);
    return s;
}

static void close_case(struct setting *s)
{
    free(s->gradient);
    model_attach(s->model, NULL, NULL);
    adapter_free(s->adapter);
    model_free(s->model);
    peft_fixture_free(&s->f);
}

static struct pass *new_pass(struct setting *s, bool recompute)
{
    const struct pass_options options = {s->f.n_tokens, recompute, false};
    struct pass *pass = pass_create(s->model, s->adapter, &options);
    if (!pass)
        fail_msg("%s", error_message());
    return pass;
}

/* The loss, its gradient in s->gradient. key 0: no dropout. */
static double run(struct setting *s, struct pass *pass, const float *parameters, uint64_t key)
{
    struct head_term_result *results = calloc(s->f.n_terms, sizeof *results);
    size_t sequence;
    double loss = 0;

    pass_reset(pass, parameters);
    if (key)
        pass_use_dropout(pass, key);
    memset(s->gradient, 0, s->adapter->n_parameters * sizeof *s->gradient);
    if (pass_add(pass, s->f.ids, s->f.n_tokens, &sequence) != 0 || pass_run(pass) != 0 ||
        pass_backward(pass, NULL, s->f.places, s->f.terms, s->f.n_terms, s->gradient, results) != 0)
        fail_msg("%s", error_message());
    for (size_t i = 0; i < s->f.n_terms; i++)
        loss -= (double)s->f.terms[i].weight * (double)results[i].logprob;
    free(results);
    return loss;
}

static void logits_and_gradients_are_those_of_peft(void **state)
{
    (void)state;
    for (size_t c = 0; c < 2 * N_CASES; c++) {
        struct setting s = open_case(c / 2, ELEMENT_F32, 1, 0);
        struct pass *pass = new_pass(&s, c % 2);
        const size_t ld = round_up(s.f.vocab, KERNEL_COLUMNS);
        float *logits = calloc(s.f.n_terms * ld, sizeof *logits);
        struct head_result *results = calloc(s.f.n_terms, sizeof *results);
        float *p = s.adapter->parameters;
        peft_fixture_start(&s.f, s.adapter, p);
        const double loss = run(&s, pass, p, 0);
        assert_true(fabs(loss - (double)s.f.loss) < 1e-5);
        assert_int_equal(pass_head(pass, s.f.places, s.f.n_terms, NULL, results, logits), 0);
        for (size_t i = 0; i < s.f.n_terms; i++)
            for (size_t k = 0; k < s.f.vocab; k++)
                assert_true(fabsf(logits[i * ld + k] - s.f.logits[i * s.f.vocab + k]) < 1e-4f);
        double worst = 0;
        for (size_t i = 0; i < s.f.n_matrices; i++)
            for (size_t k = 0; k < s.f.n[i]; k++)
                worst =
                    fmax(worst, fabs((double)s.gradient[s.adapter->sites[i].first_parameter + k] -
                                     (double)s.f.gradient[i][k]));
        if (!(worst < 1e-5))
            fail_msg("%s: a gradient is off by %g", cases[c / 2].name, worst);
        free(logits);
        free(results);
        pass_free(pass);
        close_case(&s);
    }
}

static void five_optimizer_steps_end_where_peft_does(void **state)
{
    (void)state;
    for (size_t c = 0; c < N_CASES; c++) {
        struct setting s = open_case(c, ELEMENT_F32, 1, 0);
        struct pass *pass = new_pass(&s, false);
        struct adam_options options = adam_defaults();
        struct adam adam;
        float *p = s.adapter->parameters;
        size_t n = 0, n_off = 0;
        double worst = 0;

        options.weight_decay = (double)s.f.decay;
        assert_int_equal(adam_create(&adam, s.adapter->n_parameters), 0);
        peft_fixture_start(&s.f, s.adapter, p);
        for (size_t step = 0; step < s.f.n_steps; step++) {
            run(&s, pass, p, 0);
            adam_step(&adam, &options, (double)s.f.rate, p, s.gradient, NULL);
        }
        for (size_t i = 0; i < s.f.n_matrices; i++)
            for (size_t k = 0; k < s.f.n[i]; k++, n++) {
                const double off = fabs((double)p[s.adapter->sites[i].first_parameter + k] -
                                        (double)s.f.end[i][k]);
                n_off += off >= 1e-5;
                worst = fmax(worst, off);
            }
        if (n_off * 1000 > n || worst > 2 * (double)s.f.rate * (double)s.f.n_steps)
            fail_msg("%s: %zu of %zu elements are off, the worst by %g", cases[c].name, n_off, n,
                     worst);
        adam_free(&adam);
        pass_free(pass);
        close_case(&s);
    }
}

/* Central differences of the loss along random directions, masks included. */
static void gradients_are_finite_differences(void **state)
{
    (void)state;
    enum { N_DIRECTIONS = 4 };
    for (size_t c = 0; c < N_CASES; c++)
        for (uint64_t key = 0; key <= 9; key += 9) {
            struct setting s = open_case(c, ELEMENT_F32, 1, 0.3);
            struct pass *pass = new_pass(&s, false);
            const size_t n = s.adapter->n_parameters;
            float *p = s.adapter->parameters, *near = malloc(n * sizeof *near);
            float *direction = malloc(n * sizeof *direction);
            uint32_t noise = 77;

            /* The norm is a constant to DoRA's gradient: let only magnitudes vary. */
            const bool dora = strcmp(s.f.kind, "dora") == 0;
            peft_fixture_start(&s.f, s.adapter, p);
            for (int d = 0; d < N_DIRECTIONS; d++) {
                double expected = 0, length = 0;
                run(&s, pass, p, key);
                for (size_t i = 0; i < s.adapter->n_sites; i++)
                    for (size_t k = 0; k < s.f.n[i]; k++) {
                        const size_t at = s.adapter->sites[i].first_parameter + k;
                        noise = noise * 1664525u + 1013904223u;
                        direction[at] = (float)(noise >> 8) * 0x1p-23f - 1;
                        if (dora && k < s.f.n[i] - s.f.modules[i].n_rows)
                            direction[at] = 0;
                        length += (double)direction[at] * (double)direction[at];
                    }
                for (size_t i = 0; i < n; i++)
                    expected += (double)direction[i] * (double)s.gradient[i] / sqrt(length);
                const double step = 1e-2;
                double ends[2];
                for (int side = 0; side < 2; side++) {
                    for (size_t i = 0; i < n; i++)
                        near[i] = p[i] + (float)((side ? step : -step) * (double)direction[i] /
                                                 sqrt(length));
                    ends[side] = run(&s, pass, near, key);
                }
                const double measured = (ends[1] - ends[0]) / (2 * step);
                if (fabs(measured - expected) > 2e-3 * fabs(expected) + 3e-4)
                    fail_msg("%s, key %d: %g, by differences %g", cases[c].name, (int)key, expected,
                             measured);
            }
            free(near);
            free(direction);
            pass_free(pass);
            close_case(&s);
        }
}

/* Bits: recomputed or not, and on any number of threads, with dropout. */
static void gradients_have_the_same_bits_on_any_threads_and_recomputed(void **state)
{
    (void)state;
    for (size_t c = 0; c < N_CASES; c++)
        for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++) {
            float *first = NULL;
            for (int way = 0; way < 4; way++) {
                struct setting s = open_case(c, (enum element)element, 1 + way % 3, 0.2);
                struct pass *pass = new_pass(&s, way == 3);
                const size_t bytes = s.adapter->n_parameters * sizeof(float);
                peft_fixture_start(&s.f, s.adapter, s.adapter->parameters);
                run(&s, pass, s.adapter->parameters, 3);
                if (first)
                    assert_memory_equal(first, s.gradient, bytes);
                else
                    memcpy(first = malloc(bytes), s.gradient, bytes);
                pass_free(pass);
                close_case(&s);
            }
            free(first);
        }
}

/* Where nothing has been learned, and for the base model's term, logits are the base model's. */
static void at_the_start_an_adapter_is_the_base_model(void **state)
{
    (void)state;
    for (size_t c = 0; c < N_CASES; c++)
        for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++) {
            struct setting s = open_case(c, (enum element)element, 2, 0.2);
            const struct pass_options options = {s.f.n_tokens, false, true};
            const size_t ld = round_up(s.f.vocab, KERNEL_COLUMNS);
            float *logits[3];
            for (int way = 0; way < 3; way++) {
                struct head_result results[64];
                size_t sequence;
                struct pass *pass = pass_create(s.model, way > 0 ? s.adapter : NULL, &options);
                pass_reset(pass, way > 1 ? s.adapter->parameters : NULL);
                logits[way] = calloc(s.f.n_terms * ld, sizeof(float));
                assert_int_equal(pass_add(pass, s.f.ids, s.f.n_tokens, &sequence), 0);
                assert_int_equal(pass_run(pass), 0);
                assert_int_equal(
                    pass_head(pass, s.f.places, s.f.n_terms, NULL, results, logits[way]), 0);
                pass_free(pass);
            }
            /* l * (W x + bias) is added to the stream at once there. */
            const bool other_order = strcmp(cases[c].name, "ia3-all") == 0;
            for (int way = 1; way < (other_order ? 2 : 3); way++)
                if (memcmp(logits[0], logits[way], s.f.n_terms * ld * sizeof(float)) != 0)
                    fail_msg("%s, element %d, way %d: not the base model's bits", cases[c].name,
                             element, way);
            for (int way = 0; way < 3; way++)
                free(logits[way]);
            close_case(&s);
        }
}

static float *logits_of(const struct peft_fixture *f, struct model *model)
{
    const size_t ld = round_up(f->vocab, KERNEL_COLUMNS);
    const struct pass_options options = {f->n_tokens, false, true};
    struct pass *pass = pass_create(model, model->adapter, &options);
    float *logits = calloc(f->n_terms * ld, sizeof *logits);
    struct head_result results[64];
    size_t sequence;

    pass_reset(pass, model->adapter_parameters);
    assert_int_equal(pass_add(pass, f->ids, f->n_tokens, &sequence), 0);
    assert_int_equal(pass_run(pass), 0);
    assert_int_equal(pass_head(pass, f->places, f->n_terms, NULL, results, logits), 0);
    pass_free(pass);
    return logits;
}

/* Through an expert's matrices: as a file holds them, beside the weights and merged into them. */
static void an_expert_gives_the_same_logits_merged_and_unmerged(void **state)
{
    (void)state;
    for (size_t c = 0; c < N_CASES; c++) {
        struct setting s = open_case(c, ELEMENT_F32, 2, 0.1);
        const struct adapter_kind *kind = adapter_kind_find(s.f.kind);
        const struct adapter_settings set = {.rank = s.f.rank, .alpha = (double)s.f.alpha};
        const size_t ld = round_up(s.f.vocab, KERNEL_COLUMNS);
        char path[] = "expert.h5";
        struct expert e = {.path = path,
                           .kind = s.f.kind,
                           .settings = adapter_settings_text(kind, &set),
                           .n_matrices = s.f.n_matrices,
                           .matrices = calloc(s.f.n_matrices, sizeof *e.matrices)};

        peft_fixture_start(&s.f, s.adapter, s.adapter->parameters);
        for (size_t i = 0; i < s.f.n_matrices; i++) {
            e.matrices[i].module = s.f.modules[i];
            assert_int_equal(
                adapter_fill(kind, s.adapter, i, s.adapter->parameters, "", &e.matrices[i]), 0);
        }
        struct adapter *read = adapter_from_expert(&e, s.model, s.f.ck, NULL);
        if (!read)
            fail_msg("%s", error_message());
        assert_memory_equal(read->parameters, s.adapter->parameters,
                            read->n_parameters * sizeof(float));
        model_attach(s.model, read, read->parameters);
        float *unmerged = logits_of(&s.f, s.model);
        struct merge *merge = merge_create(&e, NULL, cpu_best_isa(), 0);
        if (!merge)
            fail_msg("%s", error_message());
        const struct model_options options = {ELEMENT_F32, cpu_best_isa(), 2, {0}};
        struct model *other = model_load_merged(s.f.ck, &options, merge);
        float *merged = logits_of(&s.f, other);
        for (size_t i = 0; i < s.f.n_terms; i++)
            for (size_t k = 0; k < s.f.vocab; k++) {
                const float expected = s.f.logits[i * s.f.vocab + k];
                assert_true(fabsf(unmerged[i * ld + k] - expected) < 1e-4f);
                if (!(fabsf(merged[i * ld + k] - expected) < 1e-4f))
                    fail_msg("%s: %g, merged %g", cases[c].name, expected, merged[i * ld + k]);
            }
        /* What is missing is named. */
        e.matrices[0].parameters[0].name[0] = 'x';
        assert_null(merge_create(&e, NULL, cpu_best_isa(), 0));
        assert_non_null(strstr(error_message(), s.f.modules[0].path));
        model_free(other);
        merge_free(merge);
        free(unmerged);
        free(merged);
        model_attach(s.model, NULL, NULL);
        adapter_free(read);
        for (size_t i = 0; i < e.n_matrices; i++) {
            for (size_t k = 0; k < e.matrices[i].n_parameters; k++)
                free(e.matrices[i].parameters[k].values);
            free(e.matrices[i].parameters);
        }
        free(e.matrices);
        free(e.settings);
        close_case(&s);
    }
}

static void dropout_leaves_out_its_share_and_keeps_the_mean(void **state)
{
    (void)state;
    enum { N = 200, WIDTH = 70, LD = 96 };
    struct engine e;
    uint64_t keys[N];
    float *x = calloc(N * LD, sizeof *x), *y = malloc(N * LD * sizeof *y);
    float *twice = calloc(N * LD, sizeof *twice);
    size_t n_zero = 0;
    double sum = 0;

    assert_int_equal(engine_create_cpu(&e, ELEMENT_F32, cpu_best_isa(), 2), 0);
    for (size_t i = 0; i < N; i++) {
        keys[i] = i * 3 + 1;
        for (size_t k = 0; k < WIDTH; k++)
            x[i * LD + k] = 1;
    }
    const struct dropout dropout = {keys, 12, 65536 / 4};
    engine_train(&e)->drop(&e, y, LD, x, LD, N, WIDTH, &dropout);
    engine_train(&e)->add_dropped(&e, twice, LD, x, LD, N, WIDTH, &dropout);
    assert_memory_equal(y, twice, N * LD * sizeof *y);
    for (size_t i = 0; i < N; i++)
        for (size_t k = 0; k < WIDTH; k++) {
            n_zero += y[i * LD + k] == 0;
            sum += (double)y[i * LD + k];
        }
    assert_true(fabs((double)n_zero / (N * WIDTH) - 0.25) < 0.015);
    assert_true(fabs(sum / (N * WIDTH) - 1) < 0.02);
    engine_free(&e);
    free(x);
    free(y);
    free(twice);
}

static void impossible_settings_are_told(void **state)
{
    (void)state;
    struct peft_fixture f = peft_fixture_read("lora-qv", "qwen2");
    struct model *model = peft_fixture_model(&f, ELEMENT_F32, 1);
    struct adapter_source source = {.model = model,
                                    .ck = f.ck,
                                    .modules = f.modules,
                                    .n_modules = f.n_matrices,
                                    .settings = {.rank = 17, .alpha = 2}};

    assert_null(adapter_kind_create(adapter_kind_find("lora"), &source));
    assert_non_null(strstr(error_message(), "a rank of 17 is not possible for /layers/00/"
                                            "self_attn.v_proj of 16 x 32: choose 1 to 16"));
    source.settings.rank = 2;
    source.settings.dropout = 1;
    assert_null(adapter_kind_create(adapter_kind_find("dora"), &source));
    assert_non_null(strstr(error_message(), "a dropout of 1"));
    assert_null(adapter_kind_find("lorra"));
    assert_non_null(strstr(error_message(), "svf, lora, dora, ia3"));
    model_free(model);
    peft_fixture_free(&f);
}

static void settings_go_to_text_and_back(void **state)
{
    (void)state;
    const struct adapter_kind *lora = adapter_kind_find("lora");
    const struct adapter_settings set = {.rank = 7, .alpha = 0.1, .dropout = 0.25};
    struct adapter_settings back;
    char *text = adapter_settings_text(lora, &set);

    assert_string_equal(text, "rank = 7\nalpha = 0.1\ndropout = 0.25\n");
    assert_int_equal(adapter_settings_read(lora, text, &back), 0);
    assert_true(back.rank == 7 && back.alpha == set.alpha && back.dropout == set.dropout);
    free(text);
    static const char *const bad[] = {"rank = x\n", "rank = -1\n", "depth = 3\n", "rank\n",
                                      "alpha = nan\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(adapter_settings_read(lora, bad[i], &back), -1);
    assert_int_equal(adapter_settings_read(adapter_kind_find("ia3"), "rank = 1\n", &back), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_and_gradients_are_those_of_peft),
        cmocka_unit_test(five_optimizer_steps_end_where_peft_does),
        cmocka_unit_test(gradients_are_finite_differences),
        cmocka_unit_test(gradients_have_the_same_bits_on_any_threads_and_recomputed),
        cmocka_unit_test(at_the_start_an_adapter_is_the_base_model),
        cmocka_unit_test(an_expert_gives_the_same_logits_merged_and_unmerged),
        cmocka_unit_test(dropout_leaves_out_its_share_and_keeps_the_mean),
        cmocka_unit_test(impossible_settings_are_told),
        cmocka_unit_test(settings_go_to_text_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
