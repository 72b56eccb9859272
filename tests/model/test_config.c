#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "model/config.h"
#include "mpi/error.h"

static const char *case_name;

static void expect_number(const json_t *expected, const char *key, double got)
{
    const json_t *value = json_object_get(expected, key);
    double wanted = json_is_boolean(value) ? json_is_true(value) : json_number_value(value);

    if (!value)
        fail_msg("%s: the fixture has no %s", case_name, key);
    if (wanted != got)
        fail_msg("%s: %s is %.17g, expected %.17g", case_name, key, got, wanted);
}

static void expect_rope(const json_t *rope, const struct rope_config *r)
{
    assert_string_equal(json_string_value(json_object_get(rope, "kind")), rope_kind_name(r->kind));
    expect_number(rope, "theta", r->theta);
    if (r->kind != ROPE_DEFAULT)
        expect_number(rope, "factor", r->factor);
    if (r->kind == ROPE_LLAMA3) {
        expect_number(rope, "low_freq_factor", r->low_freq_factor);
        expect_number(rope, "high_freq_factor", r->high_freq_factor);
    }
    if (r->kind == ROPE_LLAMA3 || r->kind == ROPE_YARN)
        expect_number(rope, "original_max_positions", r->original_max_positions);
    if (r->kind == ROPE_YARN) {
        expect_number(rope, "beta_fast", r->beta_fast);
        expect_number(rope, "beta_slow", r->beta_slow);
        expect_number(rope, "attention_factor", r->attention_factor);
        expect_number(rope, "mscale", r->mscale);
        expect_number(rope, "mscale_all_dim", r->mscale_all_dim);
        expect_number(rope, "truncate", r->truncate);
    }
}

static void expect_config(const json_t *e, const struct model_config *c)
{
    const json_t *eos = json_object_get(e, "eos_ids");

    expect_number(e, "n_layers", (double)c->n_layers);
    expect_number(e, "hidden_size", (double)c->hidden_size);
    expect_number(e, "ffn_size", (double)c->ffn_size);
    expect_number(e, "n_heads", (double)c->n_heads);
    expect_number(e, "n_kv_heads", (double)c->n_kv_heads);
    expect_number(e, "head_dim", (double)c->head_dim);
    expect_number(e, "vocab_size", (double)c->vocab_size);
    expect_number(e, "max_positions", (double)c->max_positions);
    expect_number(e, "sliding_window", (double)c->sliding_window);
    expect_number(e, "window_first_layer", (double)c->window_first_layer);
    expect_number(e, "rms_norm_eps", c->rms_norm_eps);
    expect_number(e, "tied", c->tied_embeddings);
    expect_number(e, "qkv_bias", c->qkv_bias);
    expect_number(e, "output_bias", c->output_bias);
    expect_number(e, "mlp_bias", c->mlp_bias);
    expect_number(e, "qk_norm", c->qk_norm);
    expect_number(e, "bos_id", c->bos_id);
    if (json_array_size(eos) != c->n_eos)
        fail_msg("%s: %zu end tokens, expected %zu", case_name, c->n_eos, json_array_size(eos));
    for (size_t i = 0; i < c->n_eos; i++)
        assert_int_equal(c->eos_ids[i], json_integer_value(json_array_get(eos, i)));
    expect_rope(json_object_get(e, "rope"), &c->rope);
}

/* configs.json is made by tests/oracle/config_oracle.py from transformers' config classes. */
static void every_variant_reads_as_transformers_reads_it(void **state)
{
    (void)state;
    json_t *cases = json_load_file(T2_FIXTURES "/configs.json", 0, NULL);

    assert_true(json_array_size(cases) > 30);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *entry = json_array_get(cases, i);
        const json_t *generation = json_object_get(entry, "generation");
        char *text = json_dumps(json_object_get(entry, "config"), 0);
        char *other = json_is_null(generation) ? NULL : json_dumps(generation, 0);
        struct model_config c;
        case_name = json_string_value(json_object_get(entry, "name"));
        if (config_parse_hf(&c, text, strlen(text), other, other ? strlen(other) : 0,
                            "config.json") != 0)
            fail_msg("%s: %s", case_name, error_message());
        expect_config(json_object_get(entry, "expected"), &c);
        config_free(&c);
        free(text);
        free(other);
    }
    json_decref(cases);
}

static int parse(struct model_config *c, const char *text)
{
    return config_parse_hf(c, text, strlen(text), NULL, 0, "config.json");
}

static void the_model_type_stands_in_for_a_missing_architecture(void **state)
{
    (void)state;
    struct model_config c;

    assert_int_equal(parse(&c, "{\"model_type\":\"qwen3\"}"), 0);
    assert_int_equal(c.family, FAMILY_QWEN3);
    assert_int_equal(parse(&c, "{\"model_type\":\"mistral\",\"architectures\":null}"), 0);
    assert_int_equal(c.family, FAMILY_MISTRAL);
}

static void original_length_at_the_top_wins(void **state)
{
    (void)state;
    struct model_config c;

    assert_int_equal(parse(&c, "{\"model_type\":\"llama\",\"original_max_position_embeddings\":77,"
                               "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,"
                               "\"original_max_position_embeddings\":1024}}"),
                     0);
    assert_true(c.rope.original_max_positions == 77);
}

static void yarn_without_factor_takes_the_ratio_of_lengths(void **state)
{
    (void)state;
    struct model_config c;

    assert_int_equal(parse(&c, "{\"model_type\":\"llama\",\"max_position_embeddings\":8192,"
                               "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":null,"
                               "\"original_max_position_embeddings\":1024}}"),
                     0);
    assert_true(c.rope.factor == 8);
}

#define LLAMA "{\"model_type\":\"llama\","
#define QWEN "{\"model_type\":\"qwen2\","

static void unfit_configurations_are_explained(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } faults[] = {
        {"", "is empty"},
        {"{", "is not valid JSON (line 1"},
        {"[]", "no JSON object"},
        {"{}", "names no architecture; t2 runs LlamaForCausalLM, MistralForCausalLM"},
        {"{\"architectures\":[\"GemmaForCausalLM\"]}", "not supported: GemmaForCausalLM"},
        {"{\"architectures\":[\"LlamaForSequenceClassification\"],\"model_type\":\"llama\"}",
         "LlamaForSequenceClassification"},
        {LLAMA "\"hidden_size\":1,\"hidden_size\":2}", "not valid JSON"},
        {LLAMA "\"hidden_size\":\"big\"}", "hidden_size must be a whole number"},
        {LLAMA "\"hidden_size\":4096.5}", "hidden_size must be a whole number"},
        {LLAMA "\"hidden_size\":-1}", "hidden_size must be a whole number"},
        {LLAMA "\"hidden_size\":1e300}", "hidden_size must be a whole number"},
        {LLAMA "\"hidden_size\":99999999999999999999999}", "hidden_size must be a whole number"},
        {LLAMA "\"hidden_size\":0}", "hidden size is 0"},
        {LLAMA "\"hidden_size\":100}", "no multiple of num_attention_heads 32"},
        {LLAMA "\"num_hidden_layers\":1000000}", "number of layers is 1000000"},
        {LLAMA "\"num_attention_heads\":0}", "attention heads is 0"},
        {LLAMA "\"num_key_value_heads\":0}", "key/value heads is 0"},
        {LLAMA "\"num_key_value_heads\":5}", "cannot share 5"},
        {LLAMA "\"head_dim\":0}", "head size is 0"},
        {LLAMA "\"head_dim\":63}", "head size 63 is odd"},
        {LLAMA "\"vocab_size\":0}", "vocabulary size is 0"},
        {LLAMA "\"max_position_embeddings\":0}", "context length is 0"},
        {LLAMA "\"rms_norm_eps\":-1}", "epsilon is -1"},
        {LLAMA "\"rms_norm_eps\":\"x\"}", "rms_norm_eps must be a number"},
        {LLAMA "\"hidden_act\":\"gelu\"}", "activation (hidden_act) is gelu"},
        {LLAMA "\"attention_bias\":1}", "attention_bias must be true or false"},
        {LLAMA "\"quantization_config\":{\"quant_method\":\"gptq\"}}", "quantised (gptq)"},
        {LLAMA "\"partial_rotary_factor\":0.5}", "partial_rotary_factor 0.5"},
        {LLAMA "\"rope_theta\":0}", "rope theta) is 0"},
        {LLAMA "\"rope_scaling\":[1]}", "must be objects"},
        {LLAMA "\"rope_parameters\":7}", "must be objects"},
        {LLAMA "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}", "\"dynamic\" is not"},
        {LLAMA "\"rope_scaling\":{\"type\":3}}", "(no text)"},
        {LLAMA "\"rope_scaling\":{\"type\":\"linear\"}}", "needs the number factor"},
        {LLAMA "\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", "factor is 0"},
        {LLAMA "\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8}}", "low_freq_factor"},
        {LLAMA "\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
               "\"high_freq_factor\":1}}",
         "two different positive frequency factors"},
        {LLAMA "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"beta_fast\":-1}}",
         "impossible constants"},
        {LLAMA "\"eos_token_id\":\"</s>\"}", "eos_token_id must be"},
        {LLAMA "\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", "more than 8 end tokens"},
        {LLAMA "\"bos_token_id\":\"<s>\"}", "bos_token_id must be"},
        {"{\"model_type\":\"mistral\",\"sliding_window\":0}", "sliding_window is 0"},
        {QWEN "\"use_sliding_window\":true,\"layer_types\":[\"full_attention\"]}",
         "must list the 32 layers"},
        {QWEN "\"num_hidden_layers\":2,\"layer_types\":[\"full_attention\",\"other\"]}",
         "has \"other\" for layer 1"},
        {QWEN "\"num_hidden_layers\":2,"
              "\"layer_types\":[\"sliding_attention\",\"full_attention\"]}",
         "layer 1 sees everything after"},
        {QWEN "\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1},"
              "\"sliding_attention\":{\"rope_theta\":2}}}",
         "different rotary parameters"},
    };

    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        struct model_config c;
        if (parse(&c, faults[i].text) == 0)
            fail_msg("%s is accepted", faults[i].text);
        if (!strstr(error_message(), faults[i].message) ||
            !strstr(error_message(), "config.json: "))
            fail_msg("\"%s\": \"%s\" does not say \"%s\"", faults[i].text, error_message(),
                     faults[i].message);
    }
}

static void deep_nesting_is_refused_before_it_is_parsed(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    static char text[N];
    struct model_config c;

    memset(text, '[', N);
    assert_int_equal(config_parse_hf(&c, text, N, NULL, 0, "config.json"), -1);
    assert_non_null(strstr(error_message(), "nested deeper than 64"));
}

static void damage_in_generation_config_names_it(void **state)
{
    (void)state;
    struct model_config c;
    const char *text = "{\"model_type\":\"llama\"}";

    assert_int_equal(config_parse_hf(&c, text, strlen(text), "{", 1, "config.json"), -1);
    assert_non_null(strstr(error_message(), "generation_config.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_variant_reads_as_transformers_reads_it),
        cmocka_unit_test(the_model_type_stands_in_for_a_missing_architecture),
        cmocka_unit_test(original_length_at_the_top_wins),
        cmocka_unit_test(yarn_without_factor_takes_the_ratio_of_lengths),
        cmocka_unit_test(unfit_configurations_are_explained),
        cmocka_unit_test(deep_nesting_is_refused_before_it_is_parsed),
        cmocka_unit_test(damage_in_generation_config_names_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
