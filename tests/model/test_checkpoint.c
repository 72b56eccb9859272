/* The real quickstart model, found through T2_MODELS (a folder that holds
 * smollm2/SmolLM2-135M-Instruct.Q4_1.gguf). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/checkpoint.h"
#include "model/describe.h"
#include "model/gguf.h"
#include "mpi/error.h"

static struct checkpoint *ck;

static void the_configuration_is_smollm2s(void **state)
{
    (void)state;
    const struct model_config *c = checkpoint_config(ck);

    assert_int_equal(c->family, FAMILY_LLAMA);
    assert_int_equal(c->n_layers, 30);
    assert_int_equal(c->hidden_size, 576);
    assert_int_equal(c->ffn_size, 1536);
    assert_int_equal(c->n_heads, 9);
    assert_int_equal(c->n_kv_heads, 3);
    assert_int_equal(c->head_dim, 64);
    assert_int_equal(c->vocab_size, 49152);
    assert_int_equal(c->max_positions, 8192);
    assert_true(c->rope.theta == 100000 && c->rope.kind == ROPE_DEFAULT);
    assert_true(c->rms_norm_eps == (double)1e-5f);
    assert_true(c->tied_embeddings && !c->qkv_bias && !c->qk_norm && c->sliding_window == 0);
    assert_int_equal(c->bos_id, 1);
    assert_int_equal(c->n_eos, 1);
    assert_int_equal(c->eos_ids[0], 2);
    assert_int_equal(checkpoint_n_tensors(ck), 272);
    assert_non_null(strstr(checkpoint_chat_template(ck), "<|im_start|>"));
}

/* Values of transformers' dequantised model. */
static void dequantised_values_are_transformers(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t row, column;
        uint32_t bits;
    } samples[] = {
#include "smollm2_samples.inc"
    };
    float row[1536];

    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        const struct tensor *t = checkpoint_find(ck, samples[i].name);
        uint32_t bits;
        assert_non_null(t);
        assert_true(tensor_row_elements(t) <= 1536);
        tensor_read_rows(t, samples[i].row, 1, row);
        memcpy(&bits, &row[samples[i].column], sizeof bits);
        if (bits != samples[i].bits)
            fail_msg("%s [%zu, %zu] is %08x, expected %08x", samples[i].name, samples[i].row,
                     samples[i].column, bits, samples[i].bits);
    }
}

static void the_tokenizers_arrays_are_there(void **state)
{
    (void)state;
    const struct gguf *gguf = checkpoint_gguf(ck);
    size_t n;

    assert_true(gguf_array_size(gguf, "tokenizer.ggml.tokens", &n) && n == 49152);
    const char **texts = malloc(n * sizeof *texts);
    size_t *lengths = malloc(n * sizeof *lengths);
    assert_true(gguf_get_strings(gguf, "tokenizer.ggml.tokens", texts, lengths));
    assert_int_equal(lengths[1], strlen("<|im_start|>"));
    assert_memory_equal(texts[1], "<|im_start|>", lengths[1]);
    free(texts);
    free(lengths);
}

static void the_identity_is_stable(void **state)
{
    (void)state;
    char hex[65];

    for (int i = 0; i < 2; i++) {
        assert_int_equal(checkpoint_identity(ck, hex), 0);
        assert_string_equal(hex,
                            "f154a12c529797fa96fdbf7ae81d1d4f31e0e5bc491c565b081bc948c58cda8c");
    }
}

static void it_is_described(void **state)
{
    (void)state;
    char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);

    assert_int_equal(checkpoint_describe(ck, out, true), 0);
    fclose(out);
    assert_non_null(strstr(text, "134.5 M (134515008)"));
    assert_non_null(strstr(text, "Q4_1 106.2 M in 210 tensors"));
    assert_non_null(strstr(text, "chat format   chatml"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_configuration_is_smollm2s),
        cmocka_unit_test(dequantised_values_are_transformers),
        cmocka_unit_test(the_tokenizers_arrays_are_there),
        cmocka_unit_test(the_identity_is_stable),
        cmocka_unit_test(it_is_described),
    };
    const char *models = getenv("T2_MODELS");
    char path[4096];

    snprintf(path, sizeof path, "%s/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", models ? models : "");
    ck = models ? checkpoint_open(path) : NULL;
    if (!ck) {
        fprintf(stderr,
                "SKIPPED: no SmolLM2 (%s); set T2_MODELS to the folder that holds "
                "smollm2/, `t2 data fetch smollm2` gets it\n",
                models ? error_message() : "T2_MODELS is not set");
        return 77;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    checkpoint_free(ck);
    return failed;
}
