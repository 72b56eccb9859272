#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "mpi/error.h"
#include "tests/model/run_logits.h"
#include "tests/model/tiny_fixture.h"

/* name: a folder of tests/fixtures/tiny, or a path below tests/fixtures. */
static struct model *load(const char *name, enum element element, enum isa isa, int n_threads)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s%s", T2_FIXTURES, strchr(name, '/') ? "" : "tiny/", name);
    struct checkpoint *ck = checkpoint_open(path);
    if (!ck)
        fail_msg("%s", error_message());
    const struct model_options options = {element, isa, n_threads, {0}};
    struct model *model = model_load(ck, &options);
    if (!model)
        fail_msg("%s", error_message());
    checkpoint_free(ck);
    return model;
}

static struct tiny_fixture expected(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/tiny/%s/expected.bin", T2_FIXTURES, name);
    return tiny_fixture_read(path);
}

static float *logits_of(struct model *model, const struct tiny_sequence *sequence, size_t chunk)
{
    float *logits = malloc(sequence->n_tokens * model->config.vocab_size * sizeof *logits);
    if (run_logits(model, sequence->ids, sequence->n_tokens, chunk, logits) != 0)
        fail_msg("%s", error_message());
    return logits;
}

static void f32_logits_of_every_family_are_the_reference_ones(void **state)
{
    (void)state;
    for (size_t i = 0; i < TINY_FIXTURE_COUNT; i++) {
        struct tiny_fixture fixture = expected(tiny_fixture_names[i]);
        struct model *model = load(tiny_fixture_names[i], ELEMENT_F32, cpu_best_isa(), 2);
        float worst = 0;
        for (size_t s = 0; s < fixture.n_sequences; s++) {
            float *logits = logits_of(model, &fixture.sequences[s], 512);
            worst = fmaxf(worst, tiny_sequence_difference(&fixture, &fixture.sequences[s], logits));
            free(logits);
        }
        print_message("%-24s largest difference %.2g\n", tiny_fixture_names[i], (double)worst);
        assert_true(worst <= 1e-4f);
        model_free(model);
        tiny_fixture_free(&fixture);
    }
}

static void f32_logits_of_quantised_gguf_files_are_the_reference_ones(void **state)
{
    (void)state;
    static const char *const files[][2] = {
        {"gguf/mix.gguf", "gguf/mix.expected.bin"},
        {"gguf/rope-llama3.gguf", "tiny/llama-rope-llama3/expected.bin"},
        {"gguf/qwen3.gguf", "tiny/qwen3/expected.bin"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", T2_FIXTURES, files[i][1]);
        struct tiny_fixture fixture = tiny_fixture_read(path);
        struct model *model = load(files[i][0], ELEMENT_F32, cpu_best_isa(), 2);
        for (size_t s = 0; s < fixture.n_sequences; s++) {
            float *logits = logits_of(model, &fixture.sequences[s], 512);
            assert_true(tiny_sequence_difference(&fixture, &fixture.sequences[s], logits) <= 1e-4f);
            free(logits);
        }
        model_free(model);
        tiny_fixture_free(&fixture);
    }
}

/* Chunks, threads and, within an order of additions, instruction sets do not change one bit. */
static void logits_have_the_same_bits_however_they_are_computed(void **state)
{
    (void)state;
    static const size_t chunks[] = {1, 3, 17, 512};
    for (size_t i = 0; i < TINY_FIXTURE_COUNT; i++) {
        struct tiny_fixture fixture = expected(tiny_fixture_names[i]);
        const struct tiny_sequence *sequence = &fixture.sequences[fixture.n_sequences - 1];
        for (int kind = 0; kind < 3; kind++) {
            /* weights and cache: f32 and f32, bf16 and f32, bf16 and bf16 */
            const enum element element = kind > 0 ? ELEMENT_BF16 : ELEMENT_F32;
            const enum kv_form form = kind > 1 ? KV_BF16 : KV_F32;
            float *first = NULL;
            const char *order = NULL;
            for (int isa = cpu_best_isa(); isa >= ISA_PLAIN; isa--)
                for (int n_threads = 1; n_threads <= 2; n_threads++) {
                    struct model *model =
                        load(tiny_fixture_names[i], element, (enum isa)isa, n_threads);
                    engine_set_kv_form(&model->engine, form);
                    const size_t bytes =
                        sequence->n_tokens * model->config.vocab_size * sizeof(float);
                    if (order && strcmp(order, model->engine.kernels->order) != 0) {
                        free(first);
                        first = NULL;
                    }
                    order = model->engine.kernels->order;
                    for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
                        float *logits = logits_of(model, sequence, chunks[c]);
                        if (!first) {
                            first = logits;
                            continue;
                        }
                        if (memcmp(first, logits, bytes) != 0)
                            fail_msg("%s differs: %s, %d threads, chunks of %zu",
                                     tiny_fixture_names[i], model->engine.kernels->name, n_threads,
                                     chunks[c]);
                        free(logits);
                    }
                    model_free(model);
                }
            free(first);
        }
        tiny_fixture_free(&fixture);
    }
}

/* The order of additions of AMX tiles, by its plain C twin: chunks do not change a bit there
 * either. */
static void logits_in_tile_order_have_the_same_bits_in_any_chunks(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "mistral-window", "qwen3", "llama-odd"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tiny_fixture fixture = expected(names[i]);
        const struct tiny_sequence *sequence = &fixture.sequences[fixture.n_sequences - 1];
        struct model *model = load(names[i], ELEMENT_BF16, ISA_PLAIN, 1);
        const size_t bytes = sequence->n_tokens * model->config.vocab_size * sizeof(float);
        if (strcmp(model->engine.ops->device, "cpu") != 0)
            skip(); /* the CPU's kernels are what is exchanged here */
        engine_set_kv_form(&model->engine, KV_TILES);
        float *before = logits_of(model, sequence, 512);
        model->engine.kernels = model->engine.kv_kernels = kernels_reference("tile32");
        float *first = logits_of(model, sequence, 512);
        assert_memory_not_equal(first, before, bytes); /* it is another order */
        for (size_t chunk = 1; chunk <= 17; chunk += 4) {
            float *logits = logits_of(model, sequence, chunk);
            assert_memory_equal(first, logits, bytes);
            free(logits);
        }
        free(before);
        free(first);
        model_free(model);
        tiny_fixture_free(&fixture);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_logits_of_every_family_are_the_reference_ones),
        cmocka_unit_test(f32_logits_of_quantised_gguf_files_are_the_reference_ones),
        cmocka_unit_test(logits_have_the_same_bits_however_they_are_computed),
        cmocka_unit_test(logits_in_tile_order_have_the_same_bits_in_any_chunks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
