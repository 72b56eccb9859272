/* Plans: who solves which matrix, for machines that are there and that are not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "model/decompose.h"
#include "model/shapes.h"
#include "mpi/error.h"

static struct module *modules;
static size_t n_modules;
static struct decompose_options options;
static struct decompose_costs costs;
static struct decompose_plan plan;

static int begin(void **state)
{
    (void)state;
    options = (struct decompose_options){
        .svd = svd_defaults(), .n_threads = 1, .grid_from = 32768, .quiet = true};
    costs = decompose_cost_defaults();
    return 0;
}

static int end(void **state)
{
    (void)state;
    decompose_plan_free(&plan);
    free(modules);
    modules = NULL;
    return 0;
}

static void choose(const char *shape, const char *what)
{
    struct model_config config;

    assert_int_equal(shapes_find(shape, &config), 0);
    assert_int_equal(modules_select(&config, what, NULL, &modules, &n_modules), 0);
}

static void make(int n_ranks, int ranks_per_node)
{
    decompose_plan_free(&plan);
    if (decompose_plan_make(&plan, modules, n_modules, &options, &costs, n_ranks, ranks_per_node) !=
        0)
        fail_msg("%s", error_message());
}

/* What must hold of every plan. */
static void check_plan(void)
{
    const int node_workers = plan.ranks_per_node * options.n_threads;
    const int n_workers = plan.n_ranks * options.n_threads;
    const int n_nodes = plan.n_ranks / plan.ranks_per_node;
    double *free_at = calloc((size_t)n_workers, sizeof *free_at);
    int *seen = calloc(n_modules, sizeof *seen);
    double grid = 0;

    assert_int_equal(plan.n_jobs, n_modules);
    for (size_t i = 0; i < plan.n_jobs; i++) {
        const struct decompose_job *job = &plan.jobs[i];
        seen[job->module]++;
        assert_true(job->seconds > 0 && job->bytes > 0);
        if (job->n_workers == 0) {
            assert_true(i == 0 || plan.jobs[i - 1].n_workers == 0);
            grid = job->start + job->seconds;
            continue;
        }
        assert_true(job->first_worker >= 0 && job->first_worker + job->n_workers <= n_workers);
        if (job->n_workers > 1) {
            assert_in_range(job->node, 0, n_nodes - 1);
            assert_int_equal(job->first_worker / node_workers, job->node);
            assert_int_equal((job->first_worker + job->n_workers - 1) / node_workers, job->node);
            assert_true(i == 0 || plan.jobs[i - 1].n_workers != 1); /* crews go first */
        }
        for (int w = job->first_worker; w < job->first_worker + job->n_workers; w++) {
            assert_true(job->start + 1e-9 >= free_at[w] && job->start + 1e-9 >= grid);
            free_at[w] = job->start + job->seconds;
        }
        assert_true(job->start + job->seconds <= plan.seconds);
    }
    for (size_t i = 0; i < n_modules; i++)
        assert_int_equal(seen[i], 1);
    free(free_at);
    free(seen);
}

static size_t count_crews(void)
{
    size_t n = 0;

    for (size_t i = 0; i < plan.n_jobs; i++)
        n += plan.jobs[i].n_workers > 1;
    return n;
}

/* The end of the last job. */
static double span(void)
{
    double last = 0;

    for (size_t i = 0; i < plan.n_jobs; i++)
        last = fmax(last, plan.jobs[i].start + plan.jobs[i].seconds);
    return last;
}

static void every_matrix_is_solved_once_by_workers_that_are_free(void **state)
{
    (void)state;
    static const int ranks[][3] = {{1, 1, 1}, {2, 2, 1},  {3, 2, 1},   {7, 4, 3},
                                   {8, 8, 1}, {64, 8, 2}, {100, 10, 1}};
    static const char *const what[] = {"mlp", "attention", "all", "down_proj"};

    for (size_t w = 0; w < 4; w++) {
        choose("llama3.2-1b", what[w]);
        for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
            options.n_threads = ranks[i][2];
            make(ranks[i][0], ranks[i][1]);
            check_plan();
        }
        free(modules);
    }
    modules = NULL;
}

static void the_workers_are_kept_busy(void **state)
{
    (void)state;
    for (int n = 1; n <= 16; n *= 2) {
        choose("llama3-8b", "all");
        make(n, n);
        assert_true(span() <= 1.08 * plan.work / n);
        free(modules);
    }
    modules = NULL;
}

static void few_workers_need_no_crew(void **state)
{
    (void)state;
    choose("smollm2-135m", "mlp");
    make(1, 1);
    assert_int_equal(count_crews(), 0);
    make(2, 2);
    assert_int_equal(count_crews(), 0);
}

static void one_large_matrix_gets_all_workers_of_the_node(void **state)
{
    (void)state;
    choose("llama3-8b", "down_proj");
    n_modules = 1;
    make(2, 2);
    check_plan();
    assert_int_equal(plan.jobs[0].n_workers, 2);
    make(2, 1); /* on two nodes it cannot */
    assert_int_equal(plan.jobs[0].n_workers, 1);
}

static void the_tail_is_shortened_by_crews(void **state)
{
    (void)state;
    choose("llama3-8b", "down_proj");
    n_modules = 9;
    make(8, 8);
    check_plan();
    assert_true(count_crews() > 0);
    /* Alone, one worker would do two, one after the other. */
    assert_true(span() < 1.8 * plan.work / 9);
}

static void memory_makes_crews(void **state)
{
    (void)state;
    choose("llama3-8b", "down_proj");
    make(8, 8);
    const size_t alone = plan.jobs[plan.n_jobs - 1].bytes;
    options.memory = alone / 2; /* a rank's share of a node with 8 */
    make(8, 8);
    check_plan();
    assert_true(plan.needs_crews);
    for (size_t i = 0; i < plan.n_jobs; i++)
        assert_true(plan.jobs[i].n_workers >= 2);
    /* No more at once than the node holds. */
    for (size_t i = 0; i < plan.n_jobs; i++) {
        size_t bytes = 0;
        for (size_t j = 0; j < plan.n_jobs; j++)
            if (plan.jobs[j].start <= plan.jobs[i].start &&
                plan.jobs[j].start + plan.jobs[j].seconds > plan.jobs[i].start)
                bytes += plan.jobs[j].bytes;
        assert_true(bytes <= 8 * options.memory);
    }
}

static void a_matrix_that_no_node_holds_is_an_error_with_a_way_out(void **state)
{
    (void)state;
    choose("llama3-8b", "down_proj");
    options.memory = 1 << 20;
    assert_int_equal(decompose_plan_make(&plan, modules, n_modules, &options, &costs, 2, 2), -1);
    assert_non_null(strstr(error_message(), "model.layers.0.mlp.down_proj.weight [4096, 14336]"));
    assert_non_null(strstr(error_message(), "--memory"));
    assert_non_null(strstr(error_message(), "--grid-from 4096"));
}

static void grids_come_first_and_follow_from_shape_and_options(void **state)
{
    (void)state;
    choose("llama3-8b", "all");
    options.grid_from = 4096;
    make(4, 4);
    check_plan();
    for (size_t i = 0; i < plan.n_jobs; i++) {
        const struct module *m = &modules[plan.jobs[i].module];
        const bool is_large = m->n_rows >= 4096 && m->n_columns >= 4096;
        assert_true(is_large == (plan.jobs[i].n_workers == 0));
    }
    options.grid_from = 32768;
    options.svd.method = SVD_SCALAPACK;
    make(4, 4);
    check_plan();
    assert_int_equal(plan.jobs[plan.n_jobs - 1].n_workers, 0);
}

static void more_ranks_and_f32_are_faster(void **state)
{
    (void)state;
    double before = INFINITY;

    choose("llama3-70b", "all");
    for (int n = 1; n <= 256; n *= 4) {
        make(n, n < 32 ? n : 32);
        assert_true(span() < before / 2);
        before = span();
    }
    options.svd.precision = SVD_F64;
    make(256, 32);
    assert_true(span() > before);
}

static void a_device_needs_no_crews_and_its_workers_take_turns(void **state)
{
    (void)state;
    options.svd.method = SVD_CUSOLVER;
    choose("llama3-8b", "down_proj");
    make(2, 2);
    check_plan();
    const double one = span();
    assert_true(one > 0 && count_crews() == 0);
    options.n_threads = 2; /* they read and write side by side, no more */
    make(2, 2);
    check_plan();
    assert_true(count_crews() == 0);
    assert_true(span() > 0.8 * one && span() < 1.2 * one);
    make(8, 4);
    check_plan();
    assert_true(span() < 0.4 * one);
}

static void a_large_machine_is_planned_quickly(void **state)
{
    (void)state;
    struct timespec a, b;

    choose("llama3-70b", "all");
    options.n_threads = 16;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    make(512, 4);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    check_plan();
    assert_true(difftime(b.tv_sec, a.tv_sec) < 20); /* with sanitizers */
    assert_true(count_crews() > 0);
    /* Far sooner than one worker would solve the largest. */
    assert_true(span() < 0.7 * decompose_cost_seconds(&costs, &modules[4], &options.svd));

    char *text = NULL;
    size_t n = 0;
    FILE *file = open_memstream(&text, &n);
    decompose_plan_print(&plan, modules, file, true);
    fclose(file);
    assert_non_null(strstr(text, "560 matrices on 512 ranks of 16 threads, 128 nodes"));
    assert_non_null(strstr(text, "predicted time"));
    assert_non_null(strstr(text, "/layers/79/mlp.down_proj"));
    free(text);
}

static void a_machine_beyond_measure_is_planned_as_quickly(void **state)
{
    (void)state;
    choose("llama3-70b", "all");
    options.n_threads = 64;
    make(1 << 14, 64);
    const double expected = span();
    make(1 << 20, 64);
    assert_true(span() == expected); /* there are only so many matrices */
    options.n_threads = 4096;
    assert_int_equal(decompose_plan_make(&plan, modules, n_modules, &options, &costs, 1 << 20, 64),
                     -1);
    assert_non_null(strstr(error_message(), "more workers than can be planned for"));
}

static void costs_survive_a_file(void **state)
{
    (void)state;
    struct decompose_costs back;
    char path[] = "/tmp/t2-costs-XXXXXX";
    const int fd = mkstemp(path);

    assert_true(fd >= 0);
    close(fd);
    costs.f64[3] = 0.125;
    costs.fallback_mlp = 0.5;
    assert_int_equal(decompose_cost_save(&costs, path), 0);
    assert_int_equal(decompose_cost_load(&back, path), 0);
    assert_memory_equal(&back, &costs, sizeof costs);

    static const char *const bad[] = {"f32_100 = 1\n", "rows_f32\n", "rows_f32 = 0\n",
                                      "rows_f32 = -1\n", "rows_f32 = fast\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fputs(bad[i], file);
        fclose(file);
        assert_int_equal(decompose_cost_load(&back, path), -1);
        assert_non_null(strstr(error_message(), ":1: "));
    }
    unlink(path);
    assert_int_equal(decompose_cost_load(&back, path), -1);
}

static void costs_grow_with_the_matrix(void **state)
{
    (void)state;
    struct module m = {.name = "mlp.up_proj", .n_rows = 16384};
    double before = 0;

    for (size_t n = 1; n <= 16384; n += 1 + n / 7) {
        m.n_columns = n;
        const double now = decompose_cost_seconds(&costs, &m, &options.svd);
        assert_true(now > before);
        before = now;
    }
    assert_true(decompose_cost_speedup(&costs, &m, 1) == 1);
    for (int size = 2; size <= 64; size++)
        assert_true(decompose_cost_speedup(&costs, &m, size) >
                        decompose_cost_speedup(&costs, &m, size - 1) &&
                    decompose_cost_speedup(&costs, &m, size) < size);
}

static void an_unknown_shape_names_the_known(void **state)
{
    (void)state;
    struct model_config config;

    assert_int_equal(shapes_find("llama3-9b", &config), -1);
    assert_non_null(strstr(error_message(), "llama3-8b"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(every_matrix_is_solved_once_by_workers_that_are_free),
        TEST(the_workers_are_kept_busy),
        TEST(few_workers_need_no_crew),
        TEST(one_large_matrix_gets_all_workers_of_the_node),
        TEST(the_tail_is_shortened_by_crews),
        TEST(memory_makes_crews),
        TEST(a_matrix_that_no_node_holds_is_an_error_with_a_way_out),
        TEST(grids_come_first_and_follow_from_shape_and_options),
        TEST(more_ranks_and_f32_are_faster),
        TEST(a_device_needs_no_crews_and_its_workers_take_turns),
        TEST(a_large_machine_is_planned_quickly),
        TEST(a_machine_beyond_measure_is_planned_as_quickly),
        TEST(costs_survive_a_file),
        TEST(costs_grow_with_the_matrix),
        TEST(an_unknown_shape_names_the_known),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
