#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "eval/dataset.h"
#include "eval/jsonl.h"
#include "eval/phrases.h"
#include "mpi/error.h"
#include "tests/eval/folder.h"

static size_t count_rows(const char *text, size_t n_bytes)
{
    struct jsonl *reader = jsonl_from_memory(text, n_bytes, "text");
    json_t *row;
    size_t n = 0;

    assert_non_null(reader);
    for (;;) {
        if (jsonl_next(reader, &row)) {
            n = SIZE_MAX;
            break;
        }
        if (!row)
            break;
        json_decref(row);
        n++;
    }
    jsonl_close(reader);
    return n;
}

static void rows_are_read_with_any_line_ends(void **state)
{
    (void)state;
    assert_int_equal(2, count_rows("{\"a\":1}\n{\"a\":2}\n", 16));
    assert_int_equal(2, count_rows("{\"a\":1}\r\n\r\n{\"a\":2}", 18));
    assert_int_equal(1, count_rows("\xef\xbb\xbf{}\n", 6));
    assert_int_equal(0, count_rows("", 0));
    assert_int_equal(0, count_rows("\n \n", 3));
}

static void bad_rows_name_file_and_line(void **state)
{
    (void)state;
    assert_int_equal(SIZE_MAX, count_rows("{\"a\":1}\n{\"a\":\n", 14));
    assert_non_null(strstr(error_message(), "text:2: not a JSON object"));
    assert_int_equal(SIZE_MAX, count_rows("[1]\n", 4));
    assert_non_null(strstr(error_message(), "text:1:"));
    assert_int_equal(SIZE_MAX, count_rows("{\"a\":\"\xff\"}\n", 10));
    assert_int_equal(SIZE_MAX, count_rows("{}\0{}\n", 6));
}

static void a_line_has_a_bounded_length(void **state)
{
    (void)state;
    size_t n = (size_t)JSONL_MAX_LINE + 100;
    char *text = malloc(n);

    memset(text, ' ', n);
    text[0] = '{';
    assert_int_equal(SIZE_MAX, count_rows(text, n));
    assert_non_null(strstr(error_message(), "longer than 4 MiB"));
    free(text);
}

static void fields_have_dotted_paths(void **state)
{
    (void)state;
    json_t *row = json_loads("{\"a\":{\"b\":[10,12.0,0.1,true,null]},\"c\":\"x\"}", 0, NULL);
    static const char *const paths[] = {"a.b.0", "a.b.1", "a.b.2", "a.b.3", "c"};
    static const char *const texts[] = {"10", "12", "0.1", "true", "x"};

    for (size_t i = 0; i < 5; i++) {
        char *text = jsonl_scalar_text(jsonl_field(row, paths[i]), paths[i]);
        assert_non_null(text);
        assert_string_equal(texts[i], text);
        free(text);
    }
    assert_null(jsonl_field(row, "a.x"));
    assert_null(jsonl_field(row, "a.b.9"));
    assert_null(jsonl_scalar_text(jsonl_field(row, "a.b"), "a.b"));
    assert_non_null(strstr(error_message(), "\"a.b\" is a list"));
    assert_null(jsonl_scalar_text(jsonl_field(row, "a.b.4"), "a.b.4"));
    json_decref(row);
}

/* n rows {"x": i} as one text. */
static char *numbered_rows(size_t n)
{
    char *text = malloc(n * 16 + 1), *p = text;

    *p = '\0';
    for (size_t i = 0; i < n; i++)
        p += sprintf(p, "{\"x\":%zu}\n", i);
    return text;
}

static void missing_splits_are_cut_from_train(void **state)
{
    (void)state;
    char *rows = numbered_rows(1000);
    char seen[1000] = {0};
    static const char *const splits[] = {"train", "valid", "test"};
    size_t sizes[3];

    folder_file("own/train.jsonl", rows);
    for (size_t s = 0; s < 3; s++) {
        struct dataset data;
        assert_int_equal(0, dataset_load(&data, folder_path, "own", splits[s]));
        for (size_t i = 0; i < data.n_rows; i++) {
            size_t x = (size_t)json_integer_value(jsonl_field(data.rows[i], "x"));
            assert_int_equal(0, seen[x]++);
            assert_int_equal(x + 1, data.lines[i]);
        }
        sizes[s] = data.n_rows;
        dataset_free(&data);
    }
    assert_int_equal(1000, sizes[0] + sizes[1] + sizes[2]);
    assert_in_range(sizes[1], 25, 80);
    assert_in_range(sizes[2], 60, 140);

    /* With files of their own, they are not cut. */
    struct dataset data;
    folder_file("own/valid.jsonl", "{\"x\":1}\n");
    folder_file("own/test.jsonl", "{\"x\":1}\n");
    assert_int_equal(0, dataset_load(&data, folder_path, "own", "train"));
    assert_int_equal(1000, data.n_rows);
    dataset_free(&data);
    free(rows);
}

static void absent_data_says_where_it_is_published(void **state)
{
    (void)state;
    struct dataset data;

    assert_int_equal(-1, dataset_load(&data, folder_path, "gsm8k", "test"));
    assert_non_null(strstr(error_message(), "github.com/openai/grade-school-math"));
    assert_int_equal(-1, dataset_load(&data, folder_path, "gms8k", "test"));
    assert_non_null(strstr(error_message(), "did you mean gsm8k?"));
    assert_int_equal(-1, dataset_load(&data, folder_path, "../etc", "test"));
    folder_file("empty/test.jsonl", "\n");
    assert_int_equal(-1, dataset_load(&data, folder_path, "empty", "test"));
    assert_non_null(strstr(error_message(), "no rows"));
}

static void bad_data_names_file_and_line(void **state)
{
    (void)state;
    struct dataset data;

    folder_file("bad/test.jsonl", "{\"x\":1}\n{\"x\":2,}\n");
    assert_int_equal(-1, dataset_load(&data, folder_path, "bad", "test"));
    assert_non_null(strstr(error_message(), "bad/test.jsonl:2:"));
}

static void test_phrases_neither_contain_nor_are_in_training_phrases(void **state)
{
    (void)state;
    /* Sentences of random words, and pieces of them, as a parse tree would give. */
    enum { N = 6000, LENGTH = 64 };
    char(*texts)[LENGTH] = calloc(N, LENGTH);
    const char **pointers = calloc(N, sizeof *pointers);
    unsigned char *splits = calloc(N, 1), *reversed = calloc(N, 1);
    uint32_t random = 12345;
    size_t counts[4] = {0};

    for (size_t i = 0; i < N; i++) {
        if (i % 6 == 0) {
            for (size_t w = 0; w < 8; w++) {
                random = random * 1664525 + 1013904223;
                sprintf(texts[i] + strlen(texts[i]), "%s%x", w ? " " : "", random >> 24);
            }
        } else { /* words first .. last of the sentence */
            random = random * 1664525 + 1013904223;
            size_t first = (random >> 20) % 6, last = first + 1 + (random >> 10) % (8 - first);
            const char *p = texts[i - i % 6];
            for (size_t w = 0; w < last && *p; w++) {
                size_t n = strcspn(p, " ");
                if (w >= first)
                    sprintf(texts[i] + strlen(texts[i]), "%s%.*s", w > first ? " " : "", (int)n, p);
                p += n + (p[n] == ' ');
            }
        }
        pointers[i] = texts[i];
    }
    assert_int_equal(0, phrases_split(pointers, N, splits));
    for (size_t i = 0; i < N; i++)
        counts[splits[i]]++;
    assert_true(counts[PHRASE_TEST] >= 10 && counts[PHRASE_VALID] >= 10);
    assert_true(counts[PHRASE_TRAIN] > N / 2);
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++) {
            bool apart = (splits[i] == PHRASE_TEST || splits[i] == PHRASE_VALID) &&
                         splits[j] != PHRASE_LEFT_OUT && splits[j] != splits[i];
            if (apart && (strstr(texts[i], texts[j]) || strstr(texts[j], texts[i])))
                fail_msg("\"%s\" (%d) and \"%s\" (%d)", texts[i], splits[i], texts[j], splits[j]);
        }
    /* The order of the rows does not matter. */
    for (size_t i = 0; i < N; i++)
        pointers[i] = texts[N - 1 - i];
    assert_int_equal(0, phrases_split(pointers, N, reversed));
    for (size_t i = 0; i < N; i++)
        assert_int_equal(splits[i], reversed[N - 1 - i]);
    free(texts);
    free(pointers);
    free(splits);
    free(reversed);
}

static void sst2_splits_have_the_promised_sizes(void **state)
{
    (void)state;
    char *root = dataset_root(NULL);
    struct dataset data;

    if (!root || !dataset_present(dataset_find("sst2"), root)) {
        printf("skipped: sst2 is not in T2_DATA\n");
        free(root);
        skip();
    }
    assert_int_equal(0, dataset_load(&data, root, "sst2", "test"));
    assert_true(data.n_rows >= 1500);
    dataset_free(&data);
    assert_int_equal(0, dataset_load(&data, root, "sst2", "valid"));
    assert_true(data.n_rows >= 1000);
    dataset_free(&data);
    assert_int_equal(0, dataset_load(&data, root, "sst2", "train"));
    assert_true(data.n_rows >= 50000);
    dataset_free(&data);
    free(root);
}

static void check_tells_good_wrong_and_absent_apart(void **state)
{
    (void)state;
    const struct dataset_facts own = {.name = "checked",
                                      .what = "",
                                      .source = "https://example.org",
                                      .files = {{"test.jsonl", 2}},
                                      .fields = {"x.y"}};
    FILE *null = fopen("/dev/null", "w");

    assert_int_equal(DATASET_ABSENT, dataset_check(&own, folder_path, null));
    folder_file("checked/test.jsonl", "{\"x\":{\"y\":1}}\n{\"x\":{\"y\":2}}\n");
    assert_int_equal(DATASET_GOOD, dataset_check(&own, folder_path, null));
    folder_file("checked/test.jsonl", "{\"x\":{\"y\":1}}\n");
    assert_int_equal(DATASET_WRONG, dataset_check(&own, folder_path, null));
    folder_file("checked/test.jsonl", "{\"x\":{\"y\":1}}\n{\"x\":{}}\n");
    assert_int_equal(DATASET_WRONG, dataset_check(&own, folder_path, null));
    assert_non_null(strstr(error_message(), ":2: the field \"x.y\" is missing"));
    fclose(null);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_read_with_any_line_ends),
        cmocka_unit_test(bad_rows_name_file_and_line),
        cmocka_unit_test(a_line_has_a_bounded_length),
        cmocka_unit_test(fields_have_dotted_paths),
        cmocka_unit_test(missing_splits_are_cut_from_train),
        cmocka_unit_test(absent_data_says_where_it_is_published),
        cmocka_unit_test(bad_data_names_file_and_line),
        cmocka_unit_test(test_phrases_neither_contain_nor_are_in_training_phrases),
        cmocka_unit_test(sst2_splits_have_the_promised_sizes),
        cmocka_unit_test(check_tells_good_wrong_and_absent_apart),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
