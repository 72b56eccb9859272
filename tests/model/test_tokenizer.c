#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/gguf.h"
#include "model/tokenizer.h"
#include "mpi/error.h"
#include "tests/model/tokenizer_files.h"

static const int string_flags[] = {0, TOKENIZER_SPECIAL, TOKENIZER_SPECIAL | TOKENIZER_ADD_BOS};

static struct tokenizer *load_fixture(const char *name)
{
    struct bytes json = read_fixture(name, ".json");
    struct tokenizer *t = tokenizer_from_json(json.data, json.n, name);

    free(json.data);
    if (!t)
        fail_msg("%s", error_message());
    return t;
}

static void expect_decoded(const struct tokenizer *t, const struct tokens *tokens, bool skip,
                           struct bytes expected, const char *name, size_t i)
{
    size_t n;
    char *text = tokenizer_decode(t, tokens->ids, tokens->n, skip, &n);

    if (!text)
        fail_msg("%s", error_message());
    if (n != expected.n || memcmp(text, expected.data, n) != 0 || text[n] != '\0')
        fail_msg("%s: string %zu decodes to \"%s\" (special tokens skipped: %d)", name, i, text,
                 skip);
    free(text);
}

/* Does text hold an added token with flags that GGUF cannot say? */
static bool needs_flags(const struct bytes *text)
{
    return memmem(text->data, text->n, "[", 1) || memmem(text->data, text->n, "magic", 5);
}

static void expect_reference(const struct tokenizer *t, const char *name, bool from_gguf)
{
    struct bytes strings = read_fixture("strings", ".bin"), expected = read_fixture(name, ".bin");
    struct tokens tokens = {0};
    size_t at = 0, i = 0, compared = 0;

    for (size_t k = 0; k < strings.n; i++) {
        struct bytes text = take_text(&strings, &k, NULL);
        bool compare = !from_gguf || !needs_flags(&text);
        tokens.n = 0;
        if (tokenizer_encode(t, text.data, text.n, string_flags[i % 3], &tokens))
            fail_msg("%s", error_message());
        unsigned n = take_u16(&expected, &at);
        if (compare && n != tokens.n)
            fail_msg("%s: string %zu gives %zu tokens, expected %u", name, i, tokens.n, n);
        for (unsigned j = 0; j < n; j++) {
            unsigned id = take_u16(&expected, &at);
            if (compare && (int32_t)id != tokens.ids[j])
                fail_msg("%s: token %u of string %zu is %d, expected %u", name, j, i, tokens.ids[j],
                         id);
        }
        for (int skip = 0; skip < 2; skip++) {
            struct bytes decoded = take_text(&expected, &at, &text);
            if (compare)
                expect_decoded(t, &tokens, skip, decoded, name, i);
        }
        compared += compare;
    }
    assert_true(i >= 400 && compared >= 200);
    assert_int_equal(at, expected.n);
    free(strings.data);
    free(expected.data);
    tokens_free(&tokens);
}

static void ids_and_texts_equal_the_reference(void **state)
{
    static const char *const names[] = {"gpt2",  "llama3",         "qwen2",     "smollm",
                                        "regex", "spm-normalizer", "spm-first", "spm-always-split",
                                        "unk",   "unk-fused"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tokenizer *t = load_fixture(names[i]);
        expect_reference(t, names[i], false);
        tokenizer_free(t);
    }
}

static void gguf_gives_the_same_ids_as_tokenizer_json(void **state)
{
    static const char *const names[] = {"llama3", "qwen2", "spm-normalizer"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct bytes file = read_fixture(names[i], ".gguf");
        struct gguf *gguf = gguf_from_memory(file.data, file.n, names[i]);
        struct tokenizer *t = gguf ? tokenizer_load_gguf(gguf) : NULL;
        if (!t)
            fail_msg("%s", error_message());
        expect_reference(t, names[i], true);
        assert_int_equal(tokenizer_bos(t), tokenizer_find(t, "<s>"));
        assert_int_equal(tokenizer_eos(t), tokenizer_find(t, "</s>"));
        tokenizer_free(t);
        gguf_free(gguf);
        free(file.data);
    }
}

static void token_bytes_join_to_the_text(void **state)
{
    static const char *const names[] = {"gpt2", "qwen2", "spm-first"};
    static const char text[] = "caf\xc3\xa9 \xf0\x9f\x98\x80 <|im_end|>\n\t\x01 12";
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tokenizer *t = load_fixture(names[i]);
        struct tokens tokens = {0};
        char joined[256];
        size_t n = 0;
        assert_int_equal(tokenizer_encode(t, text, sizeof text - 1, TOKENIZER_SPECIAL, &tokens), 0);
        for (size_t k = 0; k < tokens.n; k++) {
            size_t length;
            const char *bytes = tokenizer_token_bytes(t, tokens.ids[k], false, &length);
            assert_true(n + length < sizeof joined);
            memcpy(joined + n, bytes, length);
            n += length;
        }
        size_t space = joined[0] == ' '; /* SentencePiece puts one in front */
        assert_int_equal(n - space, sizeof text - 1);
        assert_memory_equal(joined + space, text, sizeof text - 1);
        size_t length = 1;
        assert_string_equal(
            tokenizer_token_bytes(t, tokenizer_find(t, "<|im_end|>"), true, &length), "");
        assert_int_equal(length, 0);
        tokens_free(&tokens);
        tokenizer_free(t);
    }
}

static void vocabulary_answers_by_text_and_by_id(void **state)
{
    struct tokenizer *t = load_fixture("llama3");
    size_t n;
    (void)state;

    int32_t id = tokenizer_find(t, "<|im_start|>");
    assert_true(id > 0 && (size_t)id < tokenizer_size(t));
    assert_true(tokenizer_is_special(t, id));
    assert_false(tokenizer_is_special(t, tokenizer_find(t, "<tool>")));
    assert_false(tokenizer_is_special(t, -1));
    assert_false(tokenizer_is_special(t, INT32_MAX));
    assert_int_equal(tokenizer_find(t, "no such token"), -1);
    assert_int_equal(tokenizer_bos(t), tokenizer_find(t, "<s>"));
    assert_int_equal(tokenizer_eos(t), -1);
    assert_string_equal(tokenizer_describe(t), "byte-level BPE (llama3)");
    const int32_t padded[] = {tokenizer_find(t, "a"), (int32_t)tokenizer_size(t), INT32_MAX,
                              tokenizer_find(t, "b")};
    char *text = tokenizer_decode(t, padded, 4, false, &n);
    assert_string_equal(text, "ab");
    free(text);
    id = -1;
    assert_null(tokenizer_decode(t, &id, 1, false, &n));
    assert_non_null(strstr(error_message(), "not in the vocabulary"));
    tokenizer_free(t);
}

static void encode_appends_and_accepts_no_text(void **state)
{
    struct tokenizer *t = load_fixture("gpt2");
    struct tokens tokens = {0};
    size_t n = 1;
    (void)state;

    assert_int_equal(tokenizer_encode(t, NULL, 0, 3, &tokens), 0);
    assert_int_equal(tokens.n, 0);
    assert_int_equal(tokenizer_encode(t, "a", 1, 0, &tokens), 0);
    assert_int_equal(tokenizer_encode(t, "a", 1, 0, &tokens), 0);
    assert_int_equal(tokens.n, 2);
    assert_int_equal(tokens.ids[0], tokens.ids[1]);
    char *text = tokenizer_decode(t, NULL, 0, false, &n);
    assert_string_equal(text, "");
    assert_int_equal(n, 0);
    free(text);
    tokens_free(&tokens);
    tokenizer_free(t);
}

/* Long pieces merge in a heap, short ones by scanning: a period of the text must not show which. */
static void long_words_take_no_quadratic_time(void **state)
{
    static const char *const names[] = {"gpt2", "spm-first", "qwen2"};
    enum { N = 200000 };
    char *text = malloc(N);
    (void)state;

    assert_non_null(text);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tokenizer *t = load_fixture(names[i]);
        for (int kind = 0; kind < 3; kind++) {
            struct tokens tokens = {0};
            size_t n;
            /* one letter; spaces; combining marks out of canonical order */
            for (size_t k = 0; k < N; k++)
                text[k] = kind == 0 ? 'a' : kind == 1 ? ' ' : "\xcc\x81\xcc\xa3"[k % 4];
            assert_int_equal(tokenizer_encode(t, text, N, 0, &tokens), 0);
            char *back = tokenizer_decode(t, tokens.ids, tokens.n, false, &n);
            assert_non_null(back);
            /* SentencePiece's decoder takes one space from the front; NFC orders the marks */
            assert_int_equal(n, i == 1 && kind == 1 ? N - 1 : N);
            if (i != 2 || kind != 2)
                assert_memory_equal(back, text, n);
            free(back);
            tokens_free(&tokens);
        }
        tokenizer_free(t);
    }
    free(text);
}

struct thread_work {
    const struct tokenizer *t;
    const struct tokens *expected;
    bool same;
};

static const char thread_text[] = "The quick brown fox don't jump over 12345 lazy d\xc3\xb6gs. ";

static void *encode_in_thread(void *argument)
{
    struct thread_work *work = argument;
    work->same = true;
    for (int i = 0; i < 200; i++) {
        struct tokens tokens = {0};
        if (tokenizer_encode(work->t, thread_text, sizeof thread_text - 1, 3, &tokens) ||
            tokens.n != work->expected->n ||
            memcmp(tokens.ids, work->expected->ids, tokens.n * sizeof *tokens.ids) != 0)
            work->same = false;
        tokens_free(&tokens);
    }
    return NULL;
}

static void threads_share_a_tokenizer(void **state)
{
    struct tokenizer *t = load_fixture("regex");
    struct tokens expected = {0};
    struct thread_work work[4];
    pthread_t threads[4];
    (void)state;

    assert_int_equal(tokenizer_encode(t, thread_text, sizeof thread_text - 1, 3, &expected), 0);
    for (int i = 0; i < 4; i++) {
        work[i] = (struct thread_work){.t = t, .expected = &expected};
        assert_int_equal(pthread_create(&threads[i], NULL, encode_in_thread, &work[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_true(work[i].same);
    }
    tokens_free(&expected);
    tokenizer_free(t);
}

static void folder_names_bos_and_eos(void **state)
{
    char dir[] = "/tmp/t2-tokenizer-XXXXXX", path[128];
    struct bytes json = read_fixture("gpt2", ".json");
    (void)state;

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    FILE *file = fopen(path, "wb");
    assert_int_equal(fwrite(json.data, 1, json.n, file), json.n);
    fclose(file);
    struct tokenizer *t = tokenizer_load_hf(dir);
    assert_non_null(t);
    assert_int_equal(tokenizer_bos(t), -1);
    tokenizer_free(t);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
    file = fopen(path, "w");
    /* as transformers writes it: the length is 1e30 in digits, a token may be an object */
    fputs("{\"model_max_length\": 1000000000000000019884624838656, \"bos_token\": \"<s>\","
          " \"eos_token\": {\"content\": \"<|im_end|>\"}}",
          file);
    fclose(file);
    t = tokenizer_load_hf(dir);
    assert_non_null(t);
    assert_int_equal(tokenizer_bos(t), tokenizer_find(t, "<s>"));
    assert_int_equal(tokenizer_eos(t), tokenizer_find(t, "<|im_end|>"));
    tokenizer_free(t);
    unlink(path);
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    unlink(path);
    assert_null(tokenizer_load_hf(dir));
    assert_non_null(strstr(error_message(), "tokenizer.json"));
    rmdir(dir);
    free(json.data);
}

/* The quickstart model itself, when it is there: T2_MODELS/smollm2. Ids from Hugging Face
 * tokenizers with SmolLM2's pre-tokenizer (single digits, then GPT-2's pattern). */
static void smollm2_gguf_gives_the_reference_ids(void **state)
{
    static const struct {
        const char *text;
        int32_t ids[20];
        size_t n;
    } cases[] = {
        {"Hello, world! It's 2024.", {19556, 28, 905, 17, 657, 506, 216, 34, 32, 34, 36, 30}, 12},
        {"<|im_start|>user\nWhat is 12 + 345?<|im_end|>\n",
         {1, 4093, 198, 1780, 314, 216, 33, 34, 1232, 216, 35, 36, 37, 47, 2, 198},
         16},
        {"  def f(x):\n\treturn x**2  ",
         {216, 753, 275, 24, 104, 727, 198, 197, 5406, 1792, 828, 34, 256},
         13},
        {"caf\xc3\xa9 \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80\xe2\x80\x8d",
         {83, 1939, 2756, 216, 18645, 250, 48392, 138, 40303, 218, 321, 231},
         12},
        {"  12  3", {256, 33, 34, 256, 35}, 5},
    };
    const char *models = getenv("T2_MODELS");
    char path[1024];
    (void)state;

    snprintf(path, sizeof path, "%s/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", models ? models : "");
    if (!models || access(path, R_OK) != 0) {
        fprintf(stderr,
                "SKIPPED: no SmolLM2 under T2_MODELS; get it with `t2 data fetch smollm2`\n");
        skip();
    }
    struct gguf *gguf = gguf_open(path);
    struct tokenizer *t = gguf ? tokenizer_load_gguf(gguf) : NULL;
    if (!t)
        fail_msg("%s", error_message());
    gguf_free(gguf); /* the tokenizer keeps nothing of it */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tokens tokens = {0};
        size_t n;
        assert_int_equal(tokenizer_encode(t, cases[i].text, strlen(cases[i].text), 3, &tokens), 0);
        assert_int_equal(tokens.n, cases[i].n);
        assert_memory_equal(tokens.ids, cases[i].ids, tokens.n * sizeof *tokens.ids);
        char *back = tokenizer_decode(t, tokens.ids, tokens.n, false, &n);
        assert_string_equal(back, cases[i].text);
        free(back);
        tokens_free(&tokens);
    }
    assert_int_equal(tokenizer_size(t), 49152);
    assert_int_equal(tokenizer_bos(t), tokenizer_find(t, "<|im_start|>"));
    assert_int_equal(tokenizer_eos(t), tokenizer_find(t, "<|im_end|>"));
    assert_true(tokenizer_is_special(t, 2));
    tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_and_texts_equal_the_reference),
        cmocka_unit_test(gguf_gives_the_same_ids_as_tokenizer_json),
        cmocka_unit_test(token_bytes_join_to_the_text),
        cmocka_unit_test(vocabulary_answers_by_text_and_by_id),
        cmocka_unit_test(encode_appends_and_accepts_no_text),
        cmocka_unit_test(long_words_take_no_quadratic_time),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(folder_names_bos_and_eos),
        cmocka_unit_test(smollm2_gguf_gives_the_reference_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
