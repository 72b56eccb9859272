/* ranks: 1 2 3 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "mpi/error.h"
#include "mpi/share.h"
#include "mpi/threads.h"

static struct comm comm;
static char path[64];

static void write_file(const char *bytes, size_t n_bytes)
{
    if (comm.rank == 0) {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fwrite(bytes, 1, n_bytes, file);
        fclose(file);
    }
}

static void every_rank_gets_the_text(void **state)
{
    (void)state;
    char *text;
    size_t n;
    write_file("a\nb", 3);
    assert_int_equal(share_file(&comm, path, "the recipe", 100, &text, &n), 0);
    assert_int_equal(n, 3);
    assert_string_equal(text, "a\nb");
    free(text);
    write_file("", 0);
    assert_int_equal(share_file(&comm, path, "the recipe", 100, &text, &n), 0);
    assert_string_equal(text, "");
    free(text);
}

static void every_rank_gets_the_same_error(void **state)
{
    (void)state;
    char *text, expected[256];
    size_t n;
    assert_int_equal(share_file(&comm, "/nowhere", "the recipe", 100, &text, &n), -1);
    assert_string_equal(error_message(),
                        "/nowhere: cannot read the recipe: No such file or directory");
    assert_null(text);
    assert_int_equal(share_file(&comm, "/", "the recipe", 100, &text, &n), -1);
    assert_string_equal(error_message(), "/: the recipe is not a file");
    write_file("0123456789", 10);
    assert_int_equal(share_file(&comm, path, "the recipe", 9, &text, &n), -1);
    snprintf(expected, sizeof expected, "%s: the recipe is larger than 9 bytes", path);
    assert_string_equal(error_message(), expected);
    write_file("a\0b", 3);
    assert_int_equal(share_file(&comm, path, "the recipe", 9, &text, &n), -1);
    snprintf(expected, sizeof expected, "%s: the recipe is not a text file (it has a NUL byte)",
             path);
    assert_string_equal(error_message(), expected);
}

static int append(void *context, const void *bytes, size_t n_bytes)
{
    return n_bytes == 4 ? error_set("four bytes") : (strncat(context, bytes, n_bytes), 0);
}

static void bytes_arrive_in_the_order_of_ranks(void **state)
{
    (void)state;
    char all[64] = "", mine[16];
    const size_t n = (size_t)snprintf(mine, sizeof mine, "<%d>", comm.rank);
    assert_int_equal(share_collect(&comm, mine, comm.rank == 1 ? 0 : n, append, all), 0);
    if (comm.rank == 0)
        assert_string_equal(all, comm.size == 3 ? "<0><2>" : "<0>");
}

static void a_failure_of_rank_0_is_everybodys(void **state)
{
    (void)state;
    char all[64] = "";
    const bool last = comm.rank == comm.size - 1;
    assert_int_equal(share_collect(&comm, "1234", last ? 4 : 3, append, all), -1);
    assert_non_null(strstr(error_message(), "four bytes"));
}

static void a_rank_has_at_least_one_thread(void **state)
{
    (void)state;
    unsetenv("OMP_NUM_THREADS");
    unsetenv("SLURM_CPUS_PER_TASK");
    const int alone = threads_default(&comm);
    assert_true(alone >= 1 && alone <= 4096);
    setenv("SLURM_CPUS_PER_TASK", "3", 1);
    assert_int_equal(threads_default(&comm), 3);
    setenv("OMP_NUM_THREADS", "5,2", 1);
    assert_int_equal(threads_default(&comm), 5);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_gets_the_text),
        cmocka_unit_test(every_rank_gets_the_same_error),
        cmocka_unit_test(bytes_arrive_in_the_order_of_ranks),
        cmocka_unit_test(a_failure_of_rank_0_is_everybodys),
        cmocka_unit_test(a_rank_has_at_least_one_thread),
    };
    if (comm_init(&comm, &argc, &argv) != 0)
        return 1;
    snprintf(path, sizeof path, "/tmp/t2_share_%d", (int)getpid());
    MPI_Bcast(path, sizeof path, MPI_CHAR, 0, comm.handle);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (comm.rank == 0)
        unlink(path);
    comm_finish(&comm);
    return failed;
}
