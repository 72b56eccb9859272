/* Writing: parts, the merge, kills and full disks; and reading back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "mpi/error.h"
#include "mpi/h5.h"
#include "tests/eval/folder.h"
#include "tests/model/factors_files.h"

enum { N = 5 };
static struct factors_origin origin;
static struct module modules[N];
static struct factors_matrix matrices[N];
static char out[128], parts[140];

static char *at(const char *format, ...)
{
    static char paths[4][200];
    static int turn;
    char *path = paths[turn++ % 4];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(path, 200, format, arguments);
    va_end(arguments);
    return path;
}

static size_t n_files(const char *folder)
{
    DIR *dir = opendir(folder);
    size_t n = 0;

    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n ? n - 2 : 0;
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static void put(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void expect_message(const char *part)
{
    if (!strstr(error_message(), part))
        fail_msg("\"%s\" is not in \"%s\"", part, error_message());
}

static void check(int status)
{
    if (status)
        fail_msg("%s", error_message());
}

static struct factors *open_or_fail(const char *path)
{
    struct factors *f = factors_open(path);
    if (!f)
        fail_msg("%s", error_message());
    return f;
}

static void write_parts(enum factors_type type)
{
    for (int i = N - 1; i >= 0; i--)
        check(factors_write_part(out, &origin, type, &matrices[i]));
}

static void expect_matrix(struct factors *f, const struct factors_matrix *expected, bool bf16)
{
    const struct factors_matrix *m = factors_find(f, expected->module.path);
    size_t r = module_rank(&expected->module);
    float *rows = malloc(r * r * sizeof *rows);

    assert_non_null(m);
    assert_memory_equal(&m->module.layer, &expected->module.layer, sizeof m->module.layer);
    assert_string_equal(expected->module.tensor, m->module.tensor);
    assert_int_equal(expected->module.n_rows, m->module.n_rows);
    assert_int_equal(expected->module.n_columns, m->module.n_columns);
    assert_int_equal(expected->source_type, m->source_type);
    const struct svd_report *a = &expected->report, *b = &m->report;
    assert_true(a->wide == b->wide && a->method == b->method && a->precision == b->precision &&
                a->tried_f32 == b->tried_f32 && a->tried_f64 == b->tried_f64 &&
                a->repair == b->repair && a->checked_in_full == b->checked_in_full &&
                a->orthogonality == b->orthogonality && a->residual == b->residual &&
                a->bound == b->bound && a->seconds == b->seconds && a->flops == b->flops);
    assert_memory_equal(expected->sigma, m->sigma, r * sizeof *m->sigma);
    check(factors_read(f, m, 0, r, rows));
    if (!bf16)
        assert_memory_equal(expected->factor, rows, r * r * sizeof *rows);
    for (size_t i = 0; i < r * r; i++)
        assert_true(fabsf(rows[i] - expected->factor[i]) <= fabsf(expected->factor[i]) * 0x1p-8f);
    /* Some rows alone. */
    float *some = malloc(r * r * sizeof *some);
    size_t first = r / 3, n = r - first > 2 ? 2 : r - first;
    check(factors_read(f, m, first, n, some));
    assert_memory_equal(rows + first * r, some, n * r * sizeof *some);
    assert_int_equal(-1, factors_read(f, m, r, 1, some));
    free(some);
    free(rows);
}

static void a_part_is_a_factor_file_of_one_matrix(void **state)
{
    (void)state;
    check(factors_write_part(out, &origin, FACTORS_F32, &matrices[1]));
    const char *path = at("%s/07.mlp.down_proj.h5", parts);
    assert_int_equal(1, n_files(parts));
    assert_true(factors_is_file(path));
    struct factors *f = open_or_fail(path);
    assert_int_equal(1, factors_n_matrices(f));
    assert_string_equal(origin.identity, factors_identity(f));
    expect_matrix(f, &matrices[1], false);
    assert_null(factors_find(f, "/layers/07/mlp.up_proj"));
    factors_close(f);
}

static void rows_may_come_in_pieces(void **state)
{
    (void)state;
    const struct factors_matrix *m = &matrices[1]; /* its factor takes two chunks */
    size_t r = m->module.n_rows;

    for (size_t step = 1; step <= r; step = step * 3 + 50) {
        struct factors_part *part = factors_part_begin(out, &origin, FACTORS_F32, &m->module);
        assert_non_null(part);
        for (size_t first = 0; first < r; first += step)
            check(factors_part_rows(part, first, step < r - first ? step : r - first,
                                    m->factor + first * r));
        check(factors_part_end(part, m->source_type, &m->report, m->sigma));
        struct factors *f = open_or_fail(at("%s/07.mlp.down_proj.h5", parts));
        expect_matrix(f, m, false);
        factors_close(f);
    }
    assert_int_equal(1, n_files(parts));
}

static void parts_that_are_wrong_or_given_up_leave_nothing(void **state)
{
    (void)state;
    const struct factors_matrix *m = &matrices[0];
    size_t r = m->module.n_columns;
    struct factors_part *part = factors_part_begin(out, &origin, FACTORS_F32, &m->module);

    assert_int_equal(-1, factors_part_rows(part, 1, 1, m->factor));
    expect_message("do not follow row 0");
    check(factors_part_rows(part, 0, 2, m->factor));
    assert_int_equal(-1, factors_part_end(part, m->source_type, &m->report, m->sigma));
    expect_message("only 2 of the factor's");
    part = factors_part_begin(out, &origin, FACTORS_BF16, &m->module);
    check(factors_part_rows(part, 0, r, m->factor));
    factors_part_abort(part);
    factors_part_abort(NULL);

    double *sigma = malloc(r * sizeof *sigma);
    memcpy(sigma, m->sigma, r * sizeof *sigma);
    sigma[1] = sigma[0] * 2;
    struct factors_matrix wrong = *m;
    wrong.sigma = sigma;
    assert_int_equal(-1, factors_write_part(out, &origin, FACTORS_F32, &wrong));
    expect_message("singular value 1 of");
    sigma[1] = NAN;
    assert_int_equal(-1, factors_write_part(out, &origin, FACTORS_F32, &wrong));
    free(sigma);
    assert_int_equal(0, n_files(parts));
}

static void bf16_is_a_type_that_hdf5_converts(void **state)
{
    (void)state;
    float *converted, *ours;
    size_t r = matrices[1].module.n_rows;

    write_parts(FACTORS_BF16);
    check(factors_merge(out, &origin, FACTORS_BF16, modules, N));
    struct factors *f = open_or_fail(out);
    for (int i = 0; i < N; i++)
        expect_matrix(f, &matrices[i], true);
    converted = malloc(r * r * sizeof *converted);
    ours = malloc(r * r * sizeof *ours);
    check(factors_read(f, factors_find(f, modules[1].path), 0, r, ours));
    factors_close(f);
    hid_t file = h5_open(out);
    hid_t dataset = H5Dopen2(file, "/layers/07/mlp.down_proj/factor", H5P_DEFAULT);
    assert_true(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, converted) >= 0);
    H5Dclose(dataset);
    h5_close(file);
    assert_memory_equal(ours, converted, r * r * sizeof *ours);
    free(converted);
    free(ours);
}

static void the_merge_holds_every_part_in_model_order(void **state)
{
    (void)state;
    write_parts(FACTORS_F32);
    put(out, "an older file");
    check(factors_merge(out, &origin, FACTORS_F32, modules, N));
    assert_false(exists(parts));
    assert_int_equal(1, n_files(folder_path));
    struct factors *f = open_or_fail(out);
    assert_int_equal(N, factors_n_matrices(f));
    for (int i = 0; i < N; i++) {
        assert_string_equal(modules[i].path, factors_get(f, (size_t)i)->module.path);
        expect_matrix(f, &matrices[i], false);
    }
    char other[65] = "bb";
    check(factors_check_model(f, origin.identity, "m"));
    assert_int_equal(-1, factors_check_model(f, other, "other.gguf"));
    expect_message("out.h5 holds the factors of another model than other.gguf");
    factors_close(f);
}

static void a_merge_without_all_parts_says_which_and_keeps_the_rest(void **state)
{
    (void)state;
    write_parts(FACTORS_F32);
    put(out, "an older file");
    unlink(at("%s/07.mlp.down_proj.h5", parts));
    assert_int_equal(-1, factors_merge(out, &origin, FACTORS_F32, modules, N));
    expect_message("07.mlp.down_proj.h5: No such file");
    assert_int_equal(N - 1, n_files(parts));
    char text[32] = "";
    FILE *file = fopen(out, "r");
    assert_non_null(fgets(text, sizeof text, file));
    fclose(file);
    assert_string_equal("an older file", text);
}

static void what_a_power_failure_spoilt_is_noticed_by_the_merge(void **state)
{
    (void)state;
    write_parts(FACTORS_F32);
    const char *path = at("%s/07.mlp.down_proj.h5", parts);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t dataset = H5Dopen2(file, "/layers/07/mlp.down_proj/factor", H5P_DEFAULT);
    const hsize_t second[2] = {301, 0};
    haddr_t address = 0;
    hsize_t size = 0;
    unsigned filters;
    H5Dget_chunk_info_by_coord(dataset, second, &filters, &address, &size);
    H5Dclose(dataset);
    H5Fclose(file);
    int fd = open(path, O_WRONLY);
    char zeros[4096] = {0};
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(sizeof zeros,
                         pwrite(fd, zeros, sizeof zeros, (off_t)(address + i * sizeof zeros)));
    close(fd);
    assert_int_equal(-1, factors_merge(out, &origin, FACTORS_F32, modules, N));
    expect_message("07.mlp.down_proj.h5: row 301 of the factor has the length");
    assert_int_equal(N, n_files(parts));
    assert_false(exists(out));
}

static void singular_values_that_a_power_failure_emptied_are_made_again(void **state)
{
    (void)state;
    bool done[N];

    write_parts(FACTORS_F32);
    const char *path = at("%s/07.mlp.down_proj.h5", parts);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t dataset = H5Dopen2(file, "/layers/07/mlp.down_proj/sigma", H5P_DEFAULT);
    const haddr_t address = H5Dget_offset(dataset);
    const size_t n = (size_t)H5Dget_storage_size(dataset);
    H5Dclose(dataset);
    H5Fclose(file);
    char *zeros = calloc(n, 1);
    int fd = open(path, O_WRONLY);
    assert_int_equal(n, pwrite(fd, zeros, n, (off_t)address));
    close(fd);
    free(zeros);
    check(factors_parts_done(out, &origin, FACTORS_F32, modules, N, done));
    assert_true(done[0] && !done[1] && done[2]);
    assert_int_equal(-1, factors_merge(out, &origin, FACTORS_F32, modules, N));
    expect_message("07.mlp.down_proj.h5: the singular values are damaged");
    /* A part of an earlier version does not say the sum. */
    file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    assert_true(H5Adelete_by_name(file, "/layers/07/mlp.down_proj", "sigma_sum", H5P_DEFAULT) >= 0);
    H5Fclose(file);
    check(factors_parts_done(out, &origin, FACTORS_F32, modules, N, done));
    assert_true(done[1]);
}

static void only_whole_parts_of_the_same_run_are_done(void **state)
{
    (void)state;
    bool done[N];

    check(factors_parts_done(out, &origin, FACTORS_F32, modules, N, done));
    for (int i = 0; i < N; i++)
        assert_false(done[i]);
    write_parts(FACTORS_F32);
    check(factors_parts_done(out, &origin, FACTORS_F32, modules, N, done));
    for (int i = 0; i < N; i++)
        assert_true(done[i]);

    check(factors_parts_done(out, &origin, FACTORS_BF16, modules, N, done));
    assert_false(done[0]);
    struct factors_origin other = origin;
    other.options = "other options";
    check(factors_parts_done(out, &other, FACTORS_F32, modules, N, done));
    assert_false(done[0]);
    assert_int_equal(-1, factors_merge(out, &other, FACTORS_F32, modules, N));
    expect_message("other options");

    assert_int_equal(0, truncate(at("%s/07.mlp.down_proj.h5", parts), 5000));
    put(at("%s/00.mlp.up_proj.h5", parts), "no HDF5");
    check(factors_parts_done(out, &origin, FACTORS_F32, modules, N, done));
    assert_string_equal("", error_message());
    assert_true(!done[0] && !done[1] && done[2]);

    other = origin;
    memset(other.identity, 'b', 64);
    assert_int_equal(-1, factors_parts_done(out, &other, FACTORS_F32, modules, N, done));
    expect_message("out.h5.parts or choose another file");
    expect_message("another model");
}

static void removal_takes_what_is_ours_alone(void **state)
{
    (void)state;
    write_parts(FACTORS_F32);
    put(at("%s/07.mlp.down_proj.h5.tmp-123", parts), "");
    put(at("%s/merged.tmp-5", parts), "");
    put(at("%s/notes.txt", parts), "");
    put(at("%s/07.mlp.down_proj.h5.bak", parts), "");
    put(at("%s/7.mlp.down_proj.h5", parts), "");
    assert_int_equal(-1, factors_parts_remove(out));
    expect_message("holds files that are not t2's");
    assert_int_equal(3, n_files(parts));
    unlink(at("%s/notes.txt", parts));
    unlink(at("%s/07.mlp.down_proj.h5.bak", parts));
    unlink(at("%s/7.mlp.down_proj.h5", parts));
    check(factors_parts_remove(out));
    assert_false(exists(parts));
    check(factors_parts_remove(out)); /* nothing there: fine */
}

static void a_merge_that_was_killed_while_removing_is_finished(void **state)
{
    (void)state;
    bool done[N];

    write_parts(FACTORS_F32);
    check(factors_merge(out, &origin, FACTORS_F32, modules, N));
    check(factors_write_part(out, &origin, FACTORS_F32, &matrices[2]));
    check(factors_parts_done(out, &origin, FACTORS_F32, modules, N, done));
    for (int i = 0; i < N; i++)
        assert_true(done[i]);
    check(factors_merge(out, &origin, FACTORS_F32, modules, N));
    assert_false(exists(parts));
    struct factors *f = open_or_fail(out);
    assert_int_equal(N, factors_n_matrices(f));
    factors_close(f);
}

static void fill(struct factors_merge *merge, int i)
{
    factors_merge_fill(merge, (size_t)i, module_rank(&matrices[i].module), matrices[i].factor);
}

static void factors_in_their_places_make_the_same_file(void **state)
{
    (void)state;
    for (int type = FACTORS_F32; type <= FACTORS_BF16; type++)
        for (int every = 1; every <= 3; every++) {
            struct factors_merge merge = {0};
            unlink(out);
            mkdir(parts, 0700);
            check(factors_merge_begin(&merge, out, &origin, (enum factors_type)type, modules, N));
            write_parts((enum factors_type)type);
            for (int i = 0; i < N; i += every) {
                fill(&merge, i);
                assert_int_equal(1, merge.filled[i]);
            }
            check(factors_merge_end(&merge, out, &origin, modules));
            assert_null(merge.path);
            factors_merge_free(&merge);
            assert_false(exists(parts));
            struct factors *f = open_or_fail(out);
            for (int i = 0; i < N; i++)
                expect_matrix(f, &matrices[i], type == FACTORS_BF16);
            factors_close(f);
        }
}

static void a_place_that_cannot_be_written_is_left_to_the_end(void **state)
{
    (void)state;
    struct factors_merge merge = {0};

    write_parts(FACTORS_F32);
    check(factors_merge_begin(&merge, out, &origin, FACTORS_F32, modules, N));
    assert_int_equal(N + 1, n_files(parts));
    unlink(merge.path);
    fill(&merge, 1);
    assert_int_equal(0, merge.filled[1]);
    assert_int_equal(-1, factors_merge_end(&merge, out, &origin, modules));
    expect_message("merged.tmp-");
    factors_merge_abort(&merge);
    factors_merge_free(&merge);
    assert_int_equal(N, n_files(parts));
    assert_false(exists(out));
    check(factors_merge(out, &origin, FACTORS_F32, modules, N));
}

/* A run, with the merge's file from the beginning or only at the end. */
static void run_to_be_killed(bool ahead)
{
    struct factors_merge merge = {0};

    mkdir(parts, 0700);
    if (ahead && factors_merge_begin(&merge, out, &origin, FACTORS_F32, modules, N) != 0)
        _exit(1);
    for (int i = 0; i < N; i++) {
        factors_write_part(out, &origin, FACTORS_F32, &matrices[i]);
        if (ahead)
            fill(&merge, i);
    }
    if (ahead)
        factors_merge_end(&merge, out, &origin, modules);
    else
        factors_merge(out, &origin, FACTORS_F32, modules, N);
    _exit(0);
}

/* Kills a child that writes parts and merges, after so many seconds (or lets it end: negative). */
static void kill_a_run(double seconds, bool ahead, int signal)
{
    pid_t child = fork();

    if (child == 0)
        run_to_be_killed(ahead);
    assert_true(child > 0);
    if (seconds >= 0) {
        usleep((unsigned)(seconds * 1e6));
        kill(child, signal);
    }
    waitpid(child, NULL, 0);
}

static void a_kill_at_any_moment_loses_no_finished_matrix(void **state)
{
    (void)state;
    bool done[N];
    const int n_kills = 48;
    struct timespec start, end;

    clock_gettime(CLOCK_MONOTONIC, &start);
    kill_a_run(-1, true, SIGKILL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double whole =
        (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
    for (int i = 0; i < n_kills; i++) {
        unlink(out);
        /* every other kill comes late, when it merges */
        const double when = i % 2 ? 0.8 + 0.25 * i / n_kills : (double)i / n_kills;
        kill_a_run(whole * when, i % 3 > 0, i % 5 == 4 ? SIGTERM : SIGKILL);
        check(factors_parts_done(out, &origin, FACTORS_F32, modules, N, done));
        for (int j = 0; j < N; j++) {
            if (exists(at("%s/%02zu.%s.h5", parts, modules[j].layer, modules[j].name)))
                assert_true(done[j]); /* what has its name is whole */
            if (!done[j])
                check(factors_write_part(out, &origin, FACTORS_F32, &matrices[j]));
        }
        check(factors_merge(out, &origin, FACTORS_F32, modules, N));
        struct factors *f = open_or_fail(out);
        for (int j = 0; j < N; j++)
            expect_matrix(f, &matrices[j], false);
        factors_close(f);
        assert_int_equal(1, n_files(folder_path));
    }
}

static void a_file_size_limit_is_a_sentence_and_leaves_nothing_partial(void **state)
{
    (void)state;
    struct rlimit before, small;

    assert_int_equal(0, getrlimit(RLIMIT_FSIZE, &before));
    small = before;
    small.rlim_cur = 1 << 20;
    assert_int_equal(0, setrlimit(RLIMIT_FSIZE, &small));
    int status = factors_write_part(out, &origin, FACTORS_F32, &matrices[1]);
    assert_int_equal(0, setrlimit(RLIMIT_FSIZE, &before));
    assert_int_equal(-1, status);
    expect_message("cannot be written, it needs");
    expect_message("ulimit -f");
    assert_int_equal(0, n_files(parts));

    write_parts(FACTORS_F32);
    small.rlim_cur = 2 << 20;
    assert_int_equal(0, setrlimit(RLIMIT_FSIZE, &small));
    status = factors_merge(out, &origin, FACTORS_F32, modules, N);
    assert_int_equal(0, setrlimit(RLIMIT_FSIZE, &before));
    assert_int_equal(-1, status);
    expect_message("ulimit -f");
    assert_int_equal(N, n_files(parts));
    assert_false(exists(out));
}

static void impossible_places_are_sentences(void **state)
{
    (void)state;
    assert_int_equal(-1, factors_write_part(at("%s/no/such/out.h5", folder_path), &origin,
                                            FACTORS_F32, &matrices[0]));
    expect_message("the folder cannot be made");
    put(parts, "a file where the folder should be");
    assert_int_equal(-1, factors_write_part(out, &origin, FACTORS_F32, &matrices[0]));
    expect_message("Not a directory");
    unlink(parts);
    mkdir(out, 0700);
    write_parts(FACTORS_F32);
    assert_int_equal(-1, factors_merge(out, &origin, FACTORS_F32, modules, N));
    expect_message("not an ordinary file");
    assert_int_equal(N, n_files(parts));
}

static void inspect_tells_origin_spectra_and_checks(void **state)
{
    (void)state;
    static const char *const expected[] = {"t2 decompose a/model.gguf",
                                           "mlp.down_proj",
                                           "two-stage f64",
                                           "condition",
                                           "602 x 700",
                                           "repaired"};
    char *text = NULL;
    size_t size = 0;

    write_parts(FACTORS_F32);
    check(factors_merge(out, &origin, FACTORS_F32, modules, N));
    for (int verbose = 0; verbose < 2; verbose++) {
        FILE *file = open_memstream(&text, &size);
        check(factors_describe(out, file, verbose));
        fclose(file);
        for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
            if (!strstr(text, expected[i]))
                fail_msg("\"%s\" is not in:\n%s", expected[i], text);
        assert_true((strstr(text, "07 mlp.down_proj") != NULL) == verbose);
        free(text);
    }
}

static int make_folder(void **state)
{
    (void)state;
    int status = folder_create();
    snprintf(out, sizeof out, "%s/out.h5", folder_path);
    snprintf(parts, sizeof parts, "%s.parts", out);
    return status;
}

static int remove_folder(void **state)
{
    (void)state;
    folder_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define IN_A_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
        IN_A_FOLDER(a_part_is_a_factor_file_of_one_matrix),
        IN_A_FOLDER(rows_may_come_in_pieces),
        IN_A_FOLDER(parts_that_are_wrong_or_given_up_leave_nothing),
        IN_A_FOLDER(bf16_is_a_type_that_hdf5_converts),
        IN_A_FOLDER(the_merge_holds_every_part_in_model_order),
        IN_A_FOLDER(a_merge_without_all_parts_says_which_and_keeps_the_rest),
        IN_A_FOLDER(what_a_power_failure_spoilt_is_noticed_by_the_merge),
        IN_A_FOLDER(singular_values_that_a_power_failure_emptied_are_made_again),
        IN_A_FOLDER(only_whole_parts_of_the_same_run_are_done),
        IN_A_FOLDER(removal_takes_what_is_ours_alone),
        IN_A_FOLDER(a_merge_that_was_killed_while_removing_is_finished),
        IN_A_FOLDER(factors_in_their_places_make_the_same_file),
        IN_A_FOLDER(a_place_that_cannot_be_written_is_left_to_the_end),
        IN_A_FOLDER(a_kill_at_any_moment_loses_no_finished_matrix),
        IN_A_FOLDER(a_file_size_limit_is_a_sentence_and_leaves_nothing_partial),
        IN_A_FOLDER(impossible_places_are_sentences),
        IN_A_FOLDER(inspect_tells_origin_spectra_and_checks),
    };

    origin = made_origin();
    modules[0] = made_module(0, "mlp.up_proj", 40, 24);
    modules[1] = made_module(7, "mlp.down_proj", 602, 700);
    modules[2] = made_module(7 + 2, "self_attn.q_proj", 32, 32);
    modules[3] = made_module(9, "mlp.gate_proj", 1, 8);
    modules[4] = made_module(100, "self_attn.k_proj", 8, 1);
    for (int i = 0; i < N; i++)
        matrices[i] = made_matrix(&modules[i]);
    int status = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i < N; i++)
        made_free(&matrices[i]);
    return status;
}
