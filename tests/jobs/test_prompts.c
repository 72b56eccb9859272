/* ranks: 1 2 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "jobs/options.h"
#include "jobs/prompts.h"
#include "mpi/error.h"

static struct comm comm;

static const char *write_file(const char *extension, const char *text)
{
    static char path[80];

    snprintf(path, sizeof path, "/tmp/t2_prompts_%d%s", (int)getppid(), extension);
    MPI_Bcast(path, sizeof path, MPI_CHAR, 0, comm.handle);
    if (comm.rank == 0) {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fputs(text, file);
        fclose(file);
    }
    return path;
}

/* By the rank that wrote it: another one might be late, and hit the next test's file. */
static void remove_file(const char *path)
{
    MPI_Barrier(comm.handle);
    if (comm.rank == 0)
        unlink(path);
}

static void a_text_file_has_one_prompt_a_line(void **state)
{
    (void)state;
    struct prompts p;
    const char *path = write_file(".txt", "one\r\n\n two \nthree");
    assert_int_equal(prompts_file(&comm, path, &p), 0);
    assert_int_equal(p.n, 3);
    assert_false(p.jsonl);
    assert_string_equal(p.texts[0], "one");
    assert_string_equal(p.texts[1], " two ");
    assert_string_equal(p.texts[2], "three");
    prompts_free(&p);
    remove_file(path);
}

static void a_jsonl_file_has_a_prompt_a_row(void **state)
{
    (void)state;
    struct prompts p;
    const char *path =
        write_file(".jsonl", "{\"prompt\": \"a\\nb\", \"x\": 1}\n{\"prompt\": \"c\"}\n");
    assert_int_equal(prompts_file(&comm, path, &p), 0);
    assert_int_equal(p.n, 2);
    assert_true(p.jsonl);
    assert_string_equal(p.texts[0], "a\nb");
    prompts_free(&p);
    remove_file(path);
}

static void a_row_without_a_prompt_is_named_by_its_line(void **state)
{
    (void)state;
    struct prompts p;
    const char *path = write_file(".jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": 3}\n");
    assert_int_equal(prompts_file(&comm, path, &p), -1);
    assert_non_null(strstr(error_message(), ".jsonl:2: the row has no text field \"prompt\""));
    remove_file(path);
}

static void an_empty_file_is_an_error(void **state)
{
    (void)state;
    struct prompts p;
    const char *path = write_file(".txt", "\n\n");
    assert_int_equal(prompts_file(&comm, path, &p), -1);
    assert_non_null(strstr(error_message(), "there are no prompts in it"));
    remove_file(path);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_file_has_one_prompt_a_line),
        cmocka_unit_test(a_jsonl_file_has_a_prompt_a_row),
        cmocka_unit_test(a_row_without_a_prompt_is_named_by_its_line),
        cmocka_unit_test(an_empty_file_is_an_error),
    };
    if (comm_init(&comm, &argc, &argv) != 0)
        return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_finish(&comm);
    return failed;
}
