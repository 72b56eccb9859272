#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/modules.h"
#include "mpi/error.h"

static struct model_config config = {.n_layers = 12,
                                     .hidden_size = 64,
                                     .ffn_size = 160,
                                     .n_heads = 4,
                                     .n_kv_heads = 2,
                                     .head_dim = 16,
                                     .vocab_size = 100,
                                     .qkv_bias = true,
                                     .qk_norm = true};
static struct module *modules;
static size_t n_modules;

static int drop(void **state)
{
    (void)state;
    free(modules);
    modules = NULL;
    return 0;
}

static void select_modules(const char *what, const char *layers)
{
    free(modules);
    if (modules_select(&config, what, layers, &modules, &n_modules))
        fail_msg("%s", error_message());
}

static void expect_error(const char *what, const char *layers, const char *part)
{
    free(modules);
    assert_int_equal(-1, modules_select(&config, what, layers, &modules, &n_modules));
    assert_null(modules);
    assert_int_equal(0, n_modules);
    if (!strstr(error_message(), part))
        fail_msg("\"%s\" is not in \"%s\"", part, error_message());
}

static void all_is_every_projection_in_layer_order(void **state)
{
    static const char *const names[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                        "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                        "mlp.down_proj"};
    (void)state;
    select_modules("all", NULL);
    assert_int_equal(12 * 7, n_modules);
    for (size_t i = 0; i < n_modules; i++) {
        assert_int_equal(i / 7, modules[i].layer);
        assert_string_equal(names[i % 7], modules[i].name);
    }
    assert_string_equal("model.layers.11.mlp.down_proj.weight", modules[83].tensor);
    assert_string_equal("/layers/11/mlp.down_proj", modules[83].path);
    assert_string_equal("/layers/00/self_attn.q_proj", modules[0].path);
}

static void shapes_are_outputs_by_inputs(void **state)
{
    (void)state;
    select_modules("all", "3");
    assert_int_equal(64, modules[0].n_rows); /* q */
    assert_int_equal(64, modules[0].n_columns);
    assert_int_equal(32, modules[1].n_rows); /* k: two heads of 16 */
    assert_int_equal(160, modules[4].n_rows);
    assert_int_equal(64, modules[4].n_columns);
    assert_int_equal(64, modules[6].n_rows);
    assert_int_equal(160, modules[6].n_columns);
}

static void words_are_joined_and_count_once(void **state)
{
    (void)state;
    select_modules("mlp", "0");
    assert_int_equal(3, n_modules);
    select_modules("attention", "0");
    assert_int_equal(4, n_modules);
    select_modules("down_proj+qv+mlp.down_proj", "0");
    assert_int_equal(3, n_modules);
    assert_string_equal("self_attn.q_proj", modules[0].name);
    assert_string_equal("self_attn.v_proj", modules[1].name);
    assert_string_equal("mlp.down_proj", modules[2].name);
}

static void a_pattern_is_searched_in_layer_and_name(void **state)
{
    (void)state;
    select_modules("re:^layers\\.(3|11)\\.mlp\\.(up|gate)", NULL);
    assert_int_equal(4, n_modules);
    assert_string_equal("/layers/03/mlp.gate_proj", modules[0].path);
    assert_string_equal("/layers/11/mlp.up_proj", modules[3].path);
    select_modules("re:1\\.", "1"); /* both conditions */
    assert_int_equal(7, n_modules);
}

static void layers_are_lists_ranges_and_steps(void **state)
{
    (void)state;
    select_modules("o_proj", "0-10/5,7,1-2");
    static const size_t expected[] = {0, 1, 2, 5, 7, 10};
    assert_int_equal(6, n_modules);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(expected[i], modules[i].layer);
    select_modules("o_proj", "0-11/18446744073709551615");
    assert_int_equal(1, n_modules);
    select_modules("o_proj", "");
    assert_int_equal(12, n_modules);
}

static void three_digit_layers_have_paths(void **state)
{
    (void)state;
    config.n_layers = 126;
    select_modules("q_proj", "9,125");
    config.n_layers = 12;
    assert_string_equal("/layers/09/self_attn.q_proj", modules[0].path);
    assert_string_equal("/layers/125/self_attn.q_proj", modules[1].path);
}

static void wrong_words_name_the_choices(void **state)
{
    (void)state;
    expect_error("mpl", NULL, "did you mean \"mlp\"");
    expect_error("mpl", NULL, "down_proj, joined by '+'");
    expect_error("", NULL, "choose from mlp");
    expect_error("mlp+", NULL, "choose from mlp");
    expect_error("re:(", NULL, "the pattern is wrong");
    expect_error("re:nothing", NULL, "match none");
    expect_error("re:(a+)+$|((\\w*)*)*\\d\\d\\d\\d", NULL, "cannot be searched in \"layers.0.");
}

static void wrong_layers_are_told(void **state)
{
    (void)state;
    expect_error("mlp", "12", "layer 12 is not there, the model has the layers 0 to 11");
    expect_error("mlp", "0-99999999999999999999999", "write them as");
    expect_error("mlp", "5-3", "write them as");
    expect_error("mlp", "0-3/0", "write them as");
    expect_error("mlp", "1,,2", "write them as");
    expect_error("mlp", "1,", "write them as");
    expect_error("mlp", "-1", "write them as");
    expect_error("mlp", "x", "write them as");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(all_is_every_projection_in_layer_order, drop),
        cmocka_unit_test_teardown(shapes_are_outputs_by_inputs, drop),
        cmocka_unit_test_teardown(words_are_joined_and_count_once, drop),
        cmocka_unit_test_teardown(a_pattern_is_searched_in_layer_and_name, drop),
        cmocka_unit_test_teardown(layers_are_lists_ranges_and_steps, drop),
        cmocka_unit_test_teardown(three_digit_layers_have_paths, drop),
        cmocka_unit_test_teardown(wrong_words_name_the_choices, drop),
        cmocka_unit_test_teardown(wrong_layers_are_told, drop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
