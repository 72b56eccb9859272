/* Broken and hostile tokenizer.json: an error in a sentence, or it works; nothing else. The
 * mutations are made here from the fixtures, the same ones in every run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/gguf.h"
#include "model/tokenizer.h"
#include "mpi/error.h"
#include "tests/model/tokenizer_files.h"

/* Loads; when that works, encodes and decodes. True when all of it worked. */
static bool exercise(const char *json, size_t n)
{
    static const char text[] =
        " Hello\xff w\xc3\xb6rld's <s> 123\n\n[L]  magic <|im_end|> e\xcc\x81";
    char *copy = malloc(n ? n : 1); /* exactly n bytes, so that ASan sees any step beyond */
    struct tokens tokens = {0};
    bool worked = false;

    assert_non_null(copy);
    memcpy(copy, json, n);
    error_clear();
    struct tokenizer *t = tokenizer_from_json(copy, n, "mutant.json");
    free(copy);
    if (t) {
        size_t length;
        worked = tokenizer_encode(t, text, sizeof text - 1, 3, &tokens) == 0;
        char *back = worked ? tokenizer_decode(t, tokens.ids, tokens.n, false, &length) : NULL;
        worked = worked && back;
        free(back);
        tokens_free(&tokens);
        tokenizer_free(t);
    }
    if (!worked && !strstr(error_message(), "mutant.json"))
        fail_msg("the error does not name the file: \"%s\"", error_message());
    return worked;
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static void truncated_files_are_errors(void **state)
{
    struct bytes json = read_fixture("llama3", ".json");
    (void)state;
    for (size_t i = 0; i < 24; i++)
        assert_false(exercise(json.data, json.n * i / 24));
    assert_false(exercise(json.data, json.n - 1));
    assert_true(exercise(json.data, json.n));
    free(json.data);
}

static void mutated_files_are_errors_or_work(void **state)
{
    static const char *const names[] = {"regex", "spm-first", "qwen2"};
    static const char bytes[] = "{}[]\",:0129-\\x\xff ";
    uint64_t random = 1;
    (void)state;

    for (size_t i = 0; i < 90; i++) {
        struct bytes json = read_fixture(names[i % 3], ".json");
        /* every other one in the part in front of the vocabulary, where the steps are */
        const char *vocabulary = strstr(json.data, "\"vocab\"");
        size_t part = i % 2 ? json.n : (size_t)(vocabulary - json.data);
        for (size_t k = 0; k <= i % 4; k++) {
            size_t at = next_random(&random) % part, n = next_random(&random) % 20 + 1;
            if (i % 5 == 4) { /* a stretch is lost */
                n = n > json.n - at ? json.n - at : n;
                memmove(json.data + at, json.data + at + n, json.n - at - n);
                json.n -= n;
                part = part > json.n ? json.n : part;
            } else {
                json.data[at] = bytes[next_random(&random) % (sizeof bytes - 1)];
            }
        }
        exercise(json.data, json.n);
        free(json.data);
    }
}

static void mutated_gguf_are_errors_or_work(void **state)
{
    static const char *const names[] = {"llama3", "spm-normalizer"};
    uint64_t random = 5;
    (void)state;

    for (size_t i = 0; i < 60; i++) {
        struct bytes file = read_fixture(names[i % 2], ".gguf");
        for (size_t k = 0; k <= i % 6; k++)
            file.data[next_random(&random) % file.n] = (char)next_random(&random);
        struct gguf *gguf = gguf_from_memory(file.data, file.n, "mutant.gguf");
        struct tokenizer *t = gguf ? tokenizer_load_gguf(gguf) : NULL;
        struct tokens tokens = {0};
        if (t)
            tokenizer_encode(t, "a bc  <s>\xc3\xa9", 11, 3, &tokens);
        else
            assert_non_null(strstr(error_message(), "mutant.gguf"));
        tokens_free(&tokens);
        tokenizer_free(t);
        gguf_free(gguf);
        free(file.data);
    }
}

/* A small tokenizer.json of the given parts. */
static void expect_error(const char *normalizer, const char *pre_tokenizer, const char *decoder,
                         const char *model, const char *message)
{
    char json[4096];

    snprintf(
        json, sizeof json,
        "{\"normalizer\": %s, \"pre_tokenizer\": %s, \"decoder\": %s, \"post_processor\": null,"
        " \"added_tokens\": [], \"model\": %s}",
        normalizer, pre_tokenizer, decoder, model);
    assert_false(exercise(json, strlen(json)));
    if (!strstr(error_message(), message))
        fail_msg("\"%s\" does not say \"%s\"", error_message(), message);
}

static const char model[] = "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2},"
                            " \"merges\": [\"a b\"]}";

static void what_is_not_supported_is_named(void **state)
{
    (void)state;
    expect_error("{\"type\": \"Lowercase\"}", "null", "null", model, "\"Lowercase\"");
    expect_error("null", "{\"type\": \"Whitespace\"}", "null", model, "\"Whitespace\"");
    expect_error("null", "null", "{\"type\": \"WordPiece\"}", model, "\"WordPiece\"");
    expect_error("null", "null", "null", "{\"type\": \"Unigram\"}", "\"Unigram\"");
    expect_error("null", "null", "null", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}}",
                 "\"merges\"");
    expect_error("null", "null", "null", "null", "\"model\"");
    expect_error("null", "null", "null",
                 "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}",
                 "belongs to two tokens");
    expect_error("null", "null", "null",
                 "{\"type\": \"BPE\", \"vocab\": {\"a\": 2000000000}, \"merges\": []}",
                 "id 2000000000");
    expect_error("null", "null", "null",
                 "{\"type\": \"BPE\", \"vocab\": {\"a\": -1}, \"merges\": []}", "id -1");
    expect_error("null", "null", "null",
                 "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [\"a b\"]}",
                 "merge 0");
    expect_error(
        "null",
        "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"(\"}}",
        "null", model, "pattern");
    expect_error(
        "null",
        "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"\\\\K\"}}",
        "null", model, "\\K");
    expect_error("null",
                 "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\"},"
                 " {\"type\": \"Digits\"}]}",
                 "null", model, "after ByteLevel");
}

static struct tokenizer *load_parts(const char *normalizer, const char *pre_tokenizer)
{
    char json[2048];

    snprintf(json, sizeof json,
             "{\"normalizer\": %s, \"pre_tokenizer\": %s, \"model\": %s, \"added_tokens\": []}",
             normalizer, pre_tokenizer, model);
    struct tokenizer *t = tokenizer_from_json(json, strlen(json), "hostile.json");
    if (!t)
        fail_msg("%s", error_message());
    return t;
}

static void catastrophic_patterns_end_in_an_error(void **state)
{
    struct tokens tokens = {0};
    char text[4002];
    struct tokenizer *t = load_parts("null", "{\"type\": \"Split\", \"behavior\": \"Isolated\","
                                             " \"pattern\": {\"Regex\": \"(a|aa|a*)*(a|aa)*c\"}}");
    (void)state;

    memset(text, 'a', sizeof text);
    memcpy(text + sizeof text - 2, "bc", 2);
    assert_int_equal(tokenizer_encode(t, text, sizeof text, 0, &tokens), -1);
    assert_non_null(strstr(error_message(), "takes too long"));
    assert_non_null(strstr(error_message(), "hostile.json"));
    assert_int_equal(tokens.n, 0);
    tokens_free(&tokens);
    tokenizer_free(t);
}

static void exploding_normalizers_end_in_an_error(void **state)
{
    static const char step[] = "{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"},"
                               " \"content\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}";
    struct tokens tokens = {0};
    char normalizer[2048];
    (void)state;

    snprintf(normalizer, sizeof normalizer,
             "{\"type\": \"Sequence\", \"normalizers\": [%s,%s,%s,%s,%s,%s,%s,%s,%s]}", step, step,
             step, step, step, step, step, step, step);
    struct tokenizer *t = load_parts(normalizer, "null");
    assert_int_equal(tokenizer_encode(t, "aaaa", 4, 0, &tokens), -1);
    assert_non_null(strstr(error_message(), "Replace"));
    tokens_free(&tokens);
    tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(truncated_files_are_errors),
        cmocka_unit_test(mutated_files_are_errors_or_work),
        cmocka_unit_test(mutated_gguf_are_errors_or_work),
        cmocka_unit_test(what_is_not_supported_is_named),
        cmocka_unit_test(catastrophic_patterns_end_in_an_error),
        cmocka_unit_test(exploding_normalizers_end_in_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
