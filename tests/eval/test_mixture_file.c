/* The coefficients of a mixture in files: written, read back, and what is damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "eval/mixture_file.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"
#include "tests/eval/folder.h"

static char *experts[] = {"math", "a\x1b[31mb"}, *files[] = {"m.h5", "c.h5"};
static char *groups[] = {"layer 0", "layer 1", "layer 2"};
static double alpha[] = {0.25, 0.75, 1, 0, -0.5, 0.5};

static struct mixture made(void)
{
    return (struct mixture){.n_experts = 2,
                            .n_groups = 3,
                            .experts = experts,
                            .files = files,
                            .groups = groups,
                            .alpha = alpha,
                            .task = "mixed",
                            .method = "cem"};
}

/* A file as t2 adapt leaves it, as far as mixtures go; but for its matrices. */
static hid_t begin(void)
{
    hid_t file = h5_create("m.h5");
    assert_int_equal(h5_put_text(file, "kind", "t2 expert"), 0);
    assert_int_equal(h5_put_text(file, "task", "mixed"), 0);
    assert_int_equal(h5_put_text(file, "adaptation", "cem"), 0);
    return file;
}

static const char *end(hid_t file)
{
    const char *path = folder_file("m.h5", "");
    assert_int_equal(h5_write(file, path), 0);
    h5_close(file);
    return path;
}

static void what_was_written_is_read(void **state)
{
    const struct mixture m = made();
    struct mixture read;
    hid_t file = begin();
    (void)state;

    assert_int_equal(mixture_put(file, &m), 0);
    const char *path = end(file);
    assert_int_equal(mixture_read(&read, path), 0);
    assert_int_equal(read.n_experts, 2);
    assert_int_equal(read.n_groups, 3);
    assert_memory_equal(read.alpha, alpha, sizeof alpha);
    for (size_t k = 0; k < 2; k++) {
        assert_string_equal(read.experts[k], experts[k]);
        assert_string_equal(read.files[k], files[k]);
    }
    for (size_t g = 0; g < 3; g++)
        assert_string_equal(read.groups[g], groups[g]);
    assert_string_equal(read.file, path);
    assert_string_equal(read.task, "mixed");
    assert_string_equal(read.method, "cem");
    assert_null(read.mix);
    mixture_free(&read);
}

static void what_is_no_mixture_is_none_and_no_error(void **state)
{
    struct mixture read;
    char folder[64];
    (void)state;

    assert_int_equal(mixture_read(&read, end(begin())), 0); /* an expert that was trained */
    assert_int_equal(read.n_experts, 0);
    assert_int_equal(mixture_read(&read, folder_file("text", "hello")), 0);
    assert_int_equal(read.n_experts, 0);
    assert_int_equal(mixture_read(&read, "/nowhere/m.h5"), 0);
    snprintf(folder, sizeof folder, "%s", folder_path);
    assert_int_equal(mixture_read(&read, folder), 0);
    assert_int_equal(read.n_experts, 0);
    mixture_free(&read);
}

static void refused(hid_t file)
{
    struct mixture read;
    const char *path = end(file);

    assert_int_equal(mixture_read(&read, path), -1);
    assert_non_null(strstr(error_message(), path));
    assert_non_null(strstr(error_message(), "/mixture cannot be read"));
    assert_int_equal(read.n_experts, 0);
    mixture_free(&read);
}

static void a_damaged_mixture_is_told(void **state)
{
    struct mixture m = made();
    hid_t file = begin(), group;
    (void)state;

    /* Fewer names than coefficients, no coefficients, coefficients of one dimension, far too many.
     */
    assert_int_equal(mixture_put(file, &m), 0);
    group = H5Gopen2(file, "mixture", H5P_DEFAULT);
    H5Ldelete(group, "experts", H5P_DEFAULT);
    h5_column_texts(group, "experts", (const char *const *)experts, 1);
    H5Gclose(group);
    refused(file);
    file = begin();
    H5Gclose(h5_group_create(file, "mixture"));
    refused(file);
    static const size_t shapes[][2] = {{3, 0}, {0, 2}, {1, 65}, {5000, 1}};
    double *many = calloc(5000, sizeof *many);
    for (size_t i = 0; i < 4; i++) {
        file = begin();
        assert_int_equal(mixture_put(file, &m), 0);
        group = H5Gopen2(file, "mixture", H5P_DEFAULT);
        H5Ldelete(group, "alpha", H5P_DEFAULT);
        assert_int_equal(h5_put_doubles(group, "alpha", many, shapes[i][0], shapes[i][1]), 0);
        H5Gclose(group);
        refused(file);
    }
    free(many);
}

static void people_see_a_row_a_group_and_no_control_characters(void **state)
{
    const struct mixture m = made();
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    hid_t file = begin();
    (void)state;

    mixture_describe(file, out); /* nothing yet */
    assert_int_equal(ftell(out), 0);
    assert_int_equal(mixture_put(file, &m), 0);
    mixture_describe(file, out);
    fclose(out);
    h5_close(file);
    assert_non_null(strstr(text, "layer 2"));
    assert_non_null(strstr(text, "0.7500"));
    assert_non_null(strstr(text, "a?[31mb"));
    assert_null(strchr(text, 0x1b));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(what_is_no_mixture_is_none_and_no_error),
        cmocka_unit_test(a_damaged_mixture_is_told),
        cmocka_unit_test(people_see_a_row_a_group_and_no_control_characters),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
