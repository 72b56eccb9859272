#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <sys/resource.h>

#include "eval/results.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "tests/eval/folder.h"

static struct run_info run = {
    .version = "0.1.0",
    .command_line = "t2 eval model --tasks one",
    .options = "[eval]\ntasks = one\n",
    .model_path = "model",
    .architecture = "LlamaForCausalLM",
    .n_parameters = 134515008,
    .model_sha256 = "ab",
    .dtype = "f32",
    .device = "cpu",
    .isa = "avx2",
    .kernel_order = "f32",
    .cpu = "a processor",
    .chat_format = "chatml",
    .ranks = 2,
    .threads = 3,
    .seed = 4,
    .started = "2025-01-01T00:00:00Z",
    .seconds = 1.5,
};

static double two[] = {-1.5, -2.5}, three[] = {-1, -2, -3};
static bool greedy[] = {true, false, false};
static int64_t tokens[] = {1, 2, 3};
static struct item_record items[] = {
    {.index = 0,
     .id = "first",
     .prompt = "Question: \xc3\xa4?",
     .answer = "yes",
     .gold = "yes",
     .correct = true,
     .n_choices = 2,
     .logprobs = two,
     .greedy = greedy,
     .choice_tokens = tokens},
    {.index = 1,
     .id = "second",
     .prompt = "Q\nA",
     .answer = "",
     .gold = "no",
     .n_choices = 3,
     .logprobs = three,
     .greedy = greedy,
     .choice_tokens = tokens,
     .n_generated = 5},
};
static struct task_result result = {.name = "one",
                                    .dataset = "d",
                                    .split = "test",
                                    .scoring = "choice",
                                    .task_text = "[task]\n",
                                    .items = items,
                                    .n_items = 2,
                                    .accuracy = 0.5,
                                    .accuracy_error = 0.5,
                                    .accuracy_normalised = NAN,
                                    .accuracy_normalised_error = NAN,
                                    .auc = NAN,
                                    .gold_probability = 0.7,
                                    .seconds = 2};

static char *path_in_folder(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder_path, name);
    return path;
}

static size_t n_files(void)
{
    DIR *dir = opendir(folder_path);
    size_t n = 0;

    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2;
}

static void results_are_read_back(void **state)
{
    (void)state;
    char *path = path_in_folder("r.h5"), *text, *line = NULL;
    size_t size = 0;
    double value;
    int64_t n;

    assert_int_equal(0, results_write(path, &run, &result, 1));
    assert_int_equal(1, n_files());
    assert_true(results_is_hdf5(path));
    hid_t file = h5_open(path);
    assert_true(file >= 0);
    assert_true(h5_get_text(file, "command_line", &text));
    assert_string_equal(run.command_line, text);
    free(text);
    assert_true(h5_get_int(file, "ranks", &n));
    assert_int_equal(2, n);
    hid_t task = H5Gopen2(file, "tasks/one", H5P_DEFAULT);
    assert_true(h5_get_real(task, "accuracy", &value));
    assert_float_equal(0.5, value, 0);
    assert_false(h5_get_real(task, "auc", &value)); /* does not apply */
    hid_t group = H5Gopen2(task, "items", H5P_DEFAULT);
    text = h5_text_at(group, "prompt", 0);
    assert_string_equal(items[0].prompt, text);
    free(text);
    assert_null(h5_text_at(group, "prompt", 2));
    assert_null(h5_text_at(group, "nothing", 0));

    double logprobs[6];
    hid_t dataset = H5Dopen2(group, "logprobs", H5P_DEFAULT);
    assert_true(H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, logprobs) >= 0);
    assert_float_equal(-2.5, logprobs[1], 0);
    assert_true(isnan(logprobs[2]));
    assert_float_equal(-3, logprobs[5], 0);
    H5Dclose(dataset);
    H5Gclose(group);
    H5Gclose(task);
    h5_close(file);

    FILE *out = open_memstream(&line, &size);
    assert_int_equal(0, results_describe(path, out));
    fclose(out);
    assert_non_null(strstr(line, "t2 eval model --tasks one"));
    assert_non_null(strstr(line, "0.5000"));
    assert_non_null(strstr(line, "Q"));
    free(line);
}

static void a_full_disk_is_a_sentence_and_keeps_the_old_file(void **state)
{
    (void)state;
    char *path = path_in_folder("old.h5");
    struct rlimit before, tiny;
    FILE *file;
    char text[32] = "";

    file = fopen(path, "w");
    fputs("the old file", file);
    fclose(file);
    size_t n = n_files();
    assert_int_equal(0, getrlimit(RLIMIT_FSIZE, &before));
    tiny = before;
    tiny.rlim_cur = 1000;
    assert_int_equal(0, setrlimit(RLIMIT_FSIZE, &tiny));
    int status = results_write(path, &run, &result, 1);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(-1, status);
    assert_non_null(strstr(error_message(), "old.h5: cannot be written: File too large"));
    assert_int_equal(n, n_files());
    file = fopen(path, "r");
    assert_non_null(fgets(text, sizeof text, file));
    fclose(file);
    assert_string_equal("the old file", text);
}

static void impossible_paths_are_sentences(void **state)
{
    (void)state;
    assert_int_equal(-1, results_write(path_in_folder("no/such/r.h5"), &run, &result, 1));
    assert_non_null(strstr(error_message(), "does its folder exist"));
    assert_int_equal(-1, results_write(folder_path, &run, &result, 1));
    assert_non_null(strstr(error_message(), "it is a folder"));
}

static void what_is_no_results_file_is_told(void **state)
{
    (void)state;
    FILE *null = fopen("/dev/null", "w");
    const char *path = folder_file("text.h5", "no HDF5");

    assert_false(results_is_hdf5(path));
    assert_int_equal(-1, results_describe(path, null));
    assert_int_equal(-1, results_describe(path_in_folder("absent.h5"), null));

    char *other = path_in_folder("other.h5");
    hid_t file = h5_create(other);
    assert_int_equal(0, h5_write(file, other));
    assert_int_equal(-1, results_describe(other, null));
    assert_non_null(strstr(error_message(), "not a results file"));
    assert_int_equal(0, h5_put_text(file, "kind", "t2 results"));
    assert_int_equal(0, h5_put_int(file, "format_version", 99));
    assert_int_equal(0, h5_write(file, other));
    h5_close(file);
    assert_int_equal(-1, results_describe(other, null));
    assert_non_null(strstr(error_message(), "newer"));
    fclose(null);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_are_read_back),
        cmocka_unit_test(a_full_disk_is_a_sentence_and_keeps_the_old_file),
        cmocka_unit_test(impossible_paths_are_sentences),
        cmocka_unit_test(what_is_no_results_file_is_told),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
