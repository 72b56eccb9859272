#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "model/chat.h"
#include "mpi/error.h"

static const char *text_of(const json_t *row, const char *key)
{
    return json_string_value(json_object_get(row, key));
}

static void every_family_renders_as_the_reference(void **state)
{
    (void)state;
    json_t *rows = json_load_file(T2_FIXTURES "/chat/chat.json", 0, NULL), *row;
    size_t i;

    assert_non_null(rows);
    assert_true(json_array_size(rows) >= 100);
    json_array_foreach(rows, i, row)
    {
        struct chat_format format;
        const json_t *list = json_object_get(row, "messages");
        size_t n = json_array_size(list);
        struct chat_message messages[8];

        assert_true(n <= 8);
        for (size_t j = 0; j < n; j++) {
            messages[j].role = text_of(json_array_get(list, j), "role");
            messages[j].content = text_of(json_array_get(list, j), "content");
        }
        assert_int_equal(0, chat_recognise(&format, text_of(row, "template"), NULL,
                                           text_of(row, "bos"), text_of(row, "eos")));
        assert_string_equal(text_of(row, "family"), chat_family_name(format.family));
        char *rendered = chat_render(&format, messages, n);
        const char *expected = text_of(row, "expected");
        if (!expected)
            assert_null(rendered); /* the template raises */
        else if (!rendered || strcmp(rendered, expected))
            fail_msg("%s, conversation of %zu: \"%s\" instead of \"%s\" (%s)",
                     text_of(row, "label"), n, rendered ? rendered : "", expected, error_message());
        free(rendered);
        chat_free(&format);
    }
    json_decref(rows);
}

static void unknown_template_says_how_to_name_a_family(void **state)
{
    (void)state;
    struct chat_format format;

    assert_int_equal(-1, chat_recognise(&format, "{{ 'A strange thing' }}", NULL, "", ""));
    assert_non_null(strstr(error_message(), "--chat-format"));
    assert_int_equal(-1, chat_recognise(&format, NULL, "chatlm", "", ""));
    assert_non_null(strstr(error_message(), "chatml"));
}

static void odd_members_of_known_families_are_errors(void **state)
{
    (void)state;
    struct chat_format format;

    assert_int_equal(-1,
                     chat_recognise(&format, "{{ '<|im_start|>user<|im_sep|>' }}", NULL, "", ""));
    assert_int_equal(-1, chat_recognise(&format, "[SYSTEM_PROMPT][INST]", NULL, "", ""));
    assert_int_equal(-1, chat_recognise(&format, "<|start_header_id|>Cutting Knowledge Date: today",
                                        NULL, "", ""));
    assert_int_equal(-1, chat_recognise(&format, "<|user|> <|end|> <|assistant|>", NULL, "", ""));
    /* By name they are written as the usual member. */
    assert_int_equal(0, chat_recognise(&format, "[SYSTEM_PROMPT][INST]", "mistral", "<s>", "</s>"));
    assert_true(format.add_bos);
    chat_free(&format);
}

static void no_template_is_raw_text_only(void **state)
{
    (void)state;
    struct chat_format format;
    struct chat_message message = {"user", "hi"};

    assert_int_equal(0, chat_recognise(&format, NULL, NULL, "", ""));
    assert_int_equal(CHAT_NONE, format.family);
    assert_null(chat_render(&format, &message, 1));
    chat_free(&format);
}

static void families_can_be_named(void **state)
{
    (void)state;
    static const struct {
        const char *name, *expected;
    } cases[] = {
        {"chatml", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"},
        {"llama2", "<s>[INST] hi [/INST]"},
        {"llama3", "<s><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
                   "<|start_header_id|>assistant<|end_header_id|>\n\n"},
        {"mistral", "<s>[INST] hi[/INST]"},
        {"zephyr", "<|user|>\nhi</s>\n<|assistant|>\n"},
        {"gemma", "<s><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n"},
        {"plain", "user: hi\nassistant:"},
    };
    struct chat_message message = {"user", "hi"};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct chat_format format;
        assert_int_equal(0, chat_recognise(&format, NULL, cases[i].name, "<s>", "</s>"));
        char *text = chat_render(&format, &message, 1);
        assert_non_null(text);
        assert_string_equal(cases[i].expected, text);
        free(text);
        chat_free(&format);
    }
}

static void impossible_conversations_are_errors(void **state)
{
    (void)state;
    struct chat_format format;
    struct chat_message messages[] = {{"user", "a"}, {"assistant", "b"}, {"tool", "c"}};

    assert_int_equal(0, chat_recognise(&format, NULL, "chatml", "", ""));
    assert_null(chat_render(&format, messages, 0));
    assert_null(chat_render(&format, messages, 2)); /* ends with the assistant */
    assert_null(chat_render(&format, messages, 3));
    assert_non_null(strstr(error_message(), "tool"));
    chat_free(&format);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_family_renders_as_the_reference),
        cmocka_unit_test(unknown_template_says_how_to_name_a_family),
        cmocka_unit_test(odd_members_of_known_families_are_errors),
        cmocka_unit_test(no_template_is_raw_text_only),
        cmocka_unit_test(families_can_be_named),
        cmocka_unit_test(impossible_conversations_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
