/* ranks: 1 2 3 4 */
/* Decomposing data/mini: the same bits on any number of ranks, threads and crews; what is there is
 * resumed; a weight that is no number ends all ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/decompose.h"
#include "model/identity.h"
#include "mpi/error.h"

static struct comm comm;
static char folder[64], out[96], expected[96];
static struct checkpoint *ck;
static struct module *modules;
static size_t n_modules;
static struct decompose_options options;
static struct decompose_costs costs;
static struct decompose_summary summary;
static struct factors_origin origin;

static void remove_files(void)
{
    if (comm.rank == 0) {
        factors_parts_remove(out);
        unlink(out);
    }
    if (comm.size > 1)
        MPI_Barrier(comm.handle);
}

static int begin(void **state)
{
    (void)state;
    options = (struct decompose_options){
        .svd = svd_defaults(), .n_threads = 1, .grid_from = 32768, .quiet = true};
    costs = decompose_cost_defaults();
    remove_files();
    return 0;
}

static int run(const struct comm *ranks, size_t first, size_t n)
{
    return decompose_run(ranks, ck, modules + first, n, &options, &costs, &origin, out, &summary);
}

/* Are both files' singular values and factors the same, bit by bit? Rank 0 looks. */
static void compare(const char *a_path, const char *b_path, size_t first, size_t n)
{
    if (comm.rank != 0)
        return;
    struct factors *a = factors_open(a_path), *b = factors_open(b_path);
    if (!a || !b)
        fail_msg("%s", error_message());
    assert_int_equal(factors_n_matrices(a), n);
    for (size_t i = first; i < first + n; i++) {
        const struct factors_matrix *x = factors_find(a, modules[i].path);
        const struct factors_matrix *y = factors_find(b, modules[i].path);
        const size_t rows = modules[i].n_rows, columns = modules[i].n_columns;
        const size_t r = rows < columns ? rows : columns;
        float *q = malloc(r * r * sizeof *q), *p = malloc(r * r * sizeof *p);
        assert_true(x && y && q && p);
        assert_memory_equal(x->sigma, y->sigma, r * sizeof(double));
        assert_int_equal(factors_read(a, x, 0, r, q), 0);
        assert_int_equal(factors_read(b, y, 0, r, p), 0);
        assert_memory_equal(q, p, r * r * sizeof *q);
        free(q);
        free(p);
    }
    factors_close(a);
    factors_close(b);
}

static void any_ranks_and_threads_give_the_same_bits(void **state)
{
    (void)state;
    for (options.n_threads = 1; options.n_threads <= 3; options.n_threads++) {
        remove_files();
        if (run(&comm, 0, n_modules) != 0)
            fail_msg("%s", error_message());
        assert_int_equal(summary.n_done, n_modules);
        assert_int_equal(summary.n_resumed, 0);
        assert_int_equal(summary.n_f32 + summary.n_f64, n_modules);
        assert_true(summary.worst_orthogonality < 1e-4 && summary.worst_bound < 1e-4);
        compare(out, expected, 0, n_modules);
    }
}

static void crews_give_the_same_bits(void **state)
{
    (void)state;
    /* Costs that make crews worth while, and none of them cheap. */
    for (size_t i = 0; i < DECOMPOSE_COST_ORDERS; i++)
        costs.f32[i] = costs.f64[i] = 100 + (double)i;
    costs.crew_efficiency = 0.99;
    for (options.n_threads = 1; options.n_threads <= 2; options.n_threads++) {
        const size_t n = (size_t)(comm.size * options.n_threads) > 2 ? 3 : 1;
        remove_files();
        if (run(&comm, 2, n) != 0)
            fail_msg("%s", error_message());
        compare(out, expected, 2, n);
    }
    /* And where memory calls for them. */
    options.n_threads = 2;
    options.memory = 4 << 20;
    remove_files();
    if (run(&comm, 0, n_modules) != 0)
        fail_msg("%s", error_message());
    compare(out, expected, 0, n_modules);
}

static void the_grid_agrees(void **state)
{
    (void)state;
    options.grid_from = 1;
    if (run(&comm, 0, 2) != 0)
        fail_msg("%s", error_message());
    if (comm.rank != 0)
        return;
    struct factors *a = factors_open(out), *b = factors_open(expected);
    assert_true(a && b);
    const struct factors_matrix *x = factors_get(a, 0), *y = factors_get(b, 0);
    assert_int_equal(x->report.method, SVD_SCALAPACK);
    const double largest = y->sigma[0];
    for (size_t i = 0; i < 32; i++)
        assert_true(x->sigma[i] - y->sigma[i] < 1e-5 * largest &&
                    y->sigma[i] - x->sigma[i] < 1e-5 * largest);
    factors_close(a);
    factors_close(b);
}

static void what_is_there_is_resumed(void **state)
{
    (void)state;
    struct stat info;
    char parts[112];

    snprintf(parts, sizeof parts, "%s.parts", out);
    /* A complete file of fewer modules ... */
    if (run(&comm, 0, 4) != 0)
        fail_msg("%s", error_message());
    assert_int_not_equal(stat(parts, &info), 0);
    options.resume = true;
    /* ... is complete for those ... */
    assert_int_equal(run(&comm, 0, 4), 0);
    assert_true(summary.nothing_to_do);
    assert_int_equal(summary.n_resumed, 4);
    /* ... is not made smaller ... */
    assert_int_equal(run(&comm, 2, 4), -1);
    assert_non_null(strstr(error_message(), "2 matrices that --modules and --layers do not name"));
    /* ... and grows. */
    if (run(&comm, 0, n_modules) != 0)
        fail_msg("%s", error_message());
    assert_int_equal(summary.n_resumed, 4);
    assert_int_equal(summary.n_done, n_modules - 4);
    compare(out, expected, 0, n_modules);
    /* Other options are another file. */
    options.svd.precision = SVD_F64;
    origin.options = "f64";
    const int rc = run(&comm, 0, n_modules);
    origin.options = "test";
    assert_int_equal(rc, -1);
    assert_non_null(strstr(error_message(), "other options"));
}

static void a_link_stays_one_and_parts_lie_beside_its_file(void **state)
{
    (void)state;
    char link[112], there[112], file[144];
    struct stat info;

    snprintf(link, sizeof link, "%s/link.h5", folder);
    snprintf(there, sizeof there, "%s/there", folder);
    snprintf(file, sizeof file, "%s/out.h5", there);
    if (comm.rank == 0) {
        assert_int_equal(mkdir(there, 0700), 0);
        assert_int_equal(symlink("there/out.h5", link), 0); /* to nothing yet */
    }
    MPI_Barrier(comm.handle);
    for (int again = 0; again < 2; again++) {
        if (decompose_run(&comm, ck, modules, 2, &options, &costs, &origin, link, &summary) != 0)
            fail_msg("%s", error_message());
        assert_int_equal(lstat(link, &info), 0);
        assert_true(S_ISLNK(info.st_mode));
        compare(file, expected, 0, 2);
    }
    MPI_Barrier(comm.handle);
    if (comm.rank == 0) {
        unlink(file);
        rmdir(there); /* no parts are left in it */
        unlink(link);
        assert_int_equal(symlink("link.h5", link), 0);
    }
    MPI_Barrier(comm.handle);
    assert_int_equal(
        decompose_run(&comm, ck, modules, 2, &options, &costs, &origin, link, &summary), -1);
    assert_non_null(strstr(error_message(), "too many links"));
    assert_int_not_equal(lstat(there, &info), 0);
    MPI_Barrier(comm.handle);
    if (comm.rank == 0)
        unlink(link);
}

static void parts_are_not_overwritten_and_are_used(void **state)
{
    (void)state;
    /* One part, as a killed run leaves it. */
    if (comm.rank == 0) {
        struct factors *f = factors_open(expected);
        assert_non_null(f);
        struct factors_matrix matrix = *factors_get(f, 3);
        const size_t r = 128;
        float *rows = malloc(r * r * sizeof *rows);
        assert_int_equal(factors_read(f, factors_get(f, 3), 0, r, rows), 0);
        matrix.factor = rows;
        assert_int_equal(factors_write_part(out, &origin, options.type, &matrix), 0);
        free(rows);
        factors_close(f);
    }
    if (comm.size > 1)
        MPI_Barrier(comm.handle);
    assert_int_equal(run(&comm, 0, n_modules), -1);
    assert_non_null(strstr(error_message(), "--resume"));
    options.resume = true;
    if (run(&comm, 0, n_modules) != 0)
        fail_msg("%s", error_message());
    assert_int_equal(summary.n_resumed, 1);
    compare(out, expected, 0, n_modules);
}

/* A copy of the model's file with a NaN in one tensor. */
static void damage(const char *from, const char *to)
{
    FILE *in = fopen(from, "rb"), *file = fopen(to, "wb");
    struct stat info;
    assert_true(in && file && fstat(fileno(in), &info) == 0);
    const size_t n = (size_t)info.st_size;
    unsigned char *bytes = malloc(n);
    assert_true(bytes && fread(bytes, 1, n, in) == n);
    const struct tensor *t = checkpoint_find(ck, "model.layers.1.mlp.up_proj.weight");
    const struct tensor *first = NULL;
    for (size_t i = 0; i < checkpoint_n_tensors(ck); i++)
        if (!first || checkpoint_tensor(ck, i)->data < first->data)
            first = checkpoint_tensor(ck, i);
    assert_int_equal(t->type, TENSOR_BF16);
    uint64_t header;
    memcpy(&header, bytes, sizeof header);
    const size_t at = 8 + header + (size_t)((const char *)t->data - (const char *)first->data) +
                      (3 * t->shape[1] + 5) * 2;
    bytes[at] = 0xc0;
    bytes[at + 1] = 0x7f;
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    fclose(in);
    fclose(file);
    free(bytes);
}

static void a_weight_that_is_no_number_ends_all_ranks(void **state)
{
    (void)state;
    char path[160], command[256];
    struct checkpoint *sound = ck;

    snprintf(path, sizeof path, "%s/model/model.safetensors", folder);
    if (comm.rank == 0) {
        snprintf(command, sizeof command, "cp -r '%s/mini' '%s/model'", T2_DATA_DIR, folder);
        assert_int_equal(system(command), 0);
        damage(T2_DATA_DIR "/mini/model.safetensors", path);
    }
    if (comm.size > 1)
        MPI_Barrier(comm.handle);
    snprintf(path, sizeof path, "%s/model", folder);
    ck = checkpoint_open(path);
    assert_non_null(ck);
    for (options.n_threads = 1; options.n_threads <= 2; options.n_threads++) {
        remove_files();
        const int rc = run(&comm, 0, n_modules);
        assert_int_equal(rc, -1);
        assert_non_null(strstr(error_message(), "model.safetensors: tensor "
                                                "model.layers.1.mlp.up_proj.weight: the weight in "
                                                "row 3, column 5 is NaN"));
    }
    /* Alone it leaves nothing, with others what they have done. */
    struct stat info;
    size_t bad = 0;
    while (bad < n_modules && strcmp(modules[bad].path, "/layers/01/mlp.up_proj") != 0)
        bad++;
    remove_files();
    assert_int_equal(run(&comm, bad, 1), -1);
    snprintf(path, sizeof path, "%s.parts", out);
    if (comm.size > 1)
        MPI_Barrier(comm.handle);
    assert_int_not_equal(stat(path, &info), 0);
    checkpoint_free(ck);
    ck = sound;
}

static void the_identity_is_the_same_from_any_ranks(void **state)
{
    (void)state;
    char one[65], many[65];

    assert_int_equal(checkpoint_identity(ck, one), 0);
    for (int n = 1; n <= 3; n++) {
        assert_int_equal(identity_compute(&comm, ck, n, many), 0);
        assert_string_equal(many, one);
    }
}

static int prepare(void **state)
{
    (void)state;
    static const char *const path = T2_DATA_DIR "/mini";
    struct comm alone = {.handle = MPI_COMM_SELF, .size = 1, .node_size = 1};
    int status = 0;

    snprintf(folder, sizeof folder, "/tmp/t2-decompose-XXXXXX");
    if (comm.rank == 0)
        status = mkdtemp(folder) ? 0 : -1;
    MPI_Bcast(folder, sizeof folder, MPI_CHAR, 0, comm.handle);
    snprintf(out, sizeof out, "%s/out.h5", folder);
    snprintf(expected, sizeof expected, "%s/expected.h5", folder);
    ck = checkpoint_open(path);
    if (status || !ck || checkpoint_identity(ck, origin.identity) != 0 ||
        modules_select(checkpoint_config(ck), "all", "0-2", &modules, &n_modules) != 0)
        return -1;
    origin.model = path;
    origin.options = "test";
    origin.n_ranks = comm.size;
    begin(NULL);
    /* What one worker alone makes of it. */
    if (comm.rank == 0)
        status = decompose_run(&alone, ck, modules, n_modules, &options, &costs, &origin, expected,
                               &summary);
    return comm_agree(&comm, status);
}

static int finish(void **state)
{
    (void)state;
    char command[128];

    checkpoint_free(ck);
    free(modules);
    MPI_Barrier(comm.handle);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return comm.rank == 0 && strncmp(folder, "/tmp/t2-decompose-", 18) == 0 ? system(command) : 0;
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_setup(name, begin)
    const struct CMUnitTest tests[] = {
        TEST(any_ranks_and_threads_give_the_same_bits),
        TEST(crews_give_the_same_bits),
        TEST(the_grid_agrees),
        TEST(what_is_there_is_resumed),
        TEST(a_link_stays_one_and_parts_lie_beside_its_file),
        TEST(parts_are_not_overwritten_and_are_used),
        TEST(a_weight_that_is_no_number_ends_all_ranks),
        TEST(the_identity_is_the_same_from_any_ranks),
    };

    if (comm_init(&comm, &argc, &argv) != 0)
        return 1;
    if (access(T2_DATA_DIR "/mini/config.json", R_OK) != 0) {
        if (comm.rank == 0)
            printf("SKIPPED: no model in data/mini\n");
        comm_finish(&comm);
        return 77;
    }
    const int failed = cmocka_run_group_tests(tests, prepare, finish);
    if (failed && comm.size > 1)
        comm_abort(&comm, 1);
    comm_finish(&comm);
    return failed;
}
