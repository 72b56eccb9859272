#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "jobs/watch_view.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"
#include "mpi/text.h"
#include "train/curve_read.h"
#include "train/live_curve.h"

enum { STATISTICS = 2, STEPS = 600 };
static char folder[] = "/tmp/t2_live_XXXXXX", path[64], copy[64];
static const char *const statistic_names[STATISTICS] = {"weight_a", "weight_b"};
static const struct adapter adapter = {.n_statistics = STATISTICS,
                                       .statistic_names = statistic_names};

static struct live_curve make(void)
{
    return (struct live_curve){.path = path,
                               .task = "add",
                               .adapter = "svf",
                               .command_line = "t2 train",
                               .n_steps = STEPS,
                               .validate_every = 10,
                               .n_ranks = 3,
                               .quiet = true};
}

static void add_steps(struct train_state *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const double at = (double)s->step;
        const struct train_point point = {
            .reward = at / 7, .loss = -at, .entropy = 0.1 * at, .seconds_rollout = 2};
        const double statistics[STATISTICS] = {at + 0.25, at + 0.5};
        assert_int_equal(train_state_add_point(s, &point, statistics), 0);
        if (s->step % 10 == 0) {
            const struct train_validation v = {s->step, 50, 0.5 + at / 1000, 0.25, 0.5};
            assert_int_equal(train_state_add_validation(s, &v), 0);
        }
    }
}

/* What a kill at this moment would leave: the bytes that have been written, without a close. */
static const char *as_killed_now(void)
{
    char command[160];

    snprintf(command, sizeof command, "cp %s %s", path, copy);
    assert_int_equal(system(command), 0);
    return copy;
}

static void expect_rows(const char *file, const struct train_state *s)
{
    struct curve_file c;

    assert_int_equal(curve_read(&c, file), 0);
    assert_int_equal(c.source, CURVE_LIVE);
    assert_int_equal(c.n, s->step);
    for (size_t k = 0; k < TRAIN_POINT_COLUMNS; k++)
        for (size_t i = 0; i < c.n; i++)
            assert_memory_equal(&c.columns[k][i], (const double *)&s->curve[i] + k, sizeof(double));
    assert_int_equal(c.n_validations, s->n_validations);
    for (size_t i = 0; i < c.n_validations; i++) {
        assert_true(c.validation_steps[i] == (double)s->validations[i].step);
        assert_true(c.validation_scores[i] == s->validations[i].score);
    }
    curve_free(&c);
}

static void every_step_can_be_read_without_swmr_and_after_a_kill(void **state)
{
    (void)state;
    struct live_curve live = make();
    struct train_state s;
    size_t n_rows, n_columns;

    assert_int_equal(train_state_create(&s, 3, STATISTICS), 0);
    live_curve_begin(&live, &adapter, &s);
    assert_true(live.is_open);
    expect_rows(as_killed_now(), &s);
    for (int i = 0; i < 30; i++) {
        add_steps(&s, i == 20 ? 260 : 3);
        live_curve_update(&live, &s);
        expect_rows(as_killed_now(), &s);
    }
    hid_t file = h5_open(as_killed_now()); /* plain, as h5dump and h5py open it */
    assert_true(file >= 0);
    double *values = h5_numbers(file, "curve/weight_b", &n_rows, &n_columns);
    assert_int_equal(n_rows, s.step);
    assert_true(values && values[7] == 7.5);
    free(values);
    h5_close(file);
    live_curve_end(&live, "finished");
    assert_false(live.is_open);
    expect_rows(path, &s);
    train_state_free(&s);
}

static void a_killed_one_says_running_and_an_ended_one_how(void **state)
{
    (void)state;
    struct live_curve live = make();
    struct train_state s;
    struct curve_file c;
    struct stat before, after;

    assert_int_equal(train_state_create(&s, 3, STATISTICS), 0);
    live_curve_begin(&live, &adapter, &s);
    assert_int_equal(stat(path, &before), 0);
    add_steps(&s, STEPS);
    live_curve_update(&live, &s);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_size, after.st_size); /* its room was there from the start */
    assert_int_equal(curve_read(&c, as_killed_now()), 0);
    assert_string_equal(c.state, "running");
    assert_string_equal(c.task, "add");
    assert_int_equal(c.pid, getpid());
    assert_int_equal(c.n_planned, STEPS);
    curve_free(&c);
    live_curve_end(&live, "stopped");
    live_curve_end(&live, "finished"); /* has ended */
    assert_int_equal(curve_read(&c, path), 0);
    assert_string_equal(c.state, "stopped");
    curve_free(&c);
    train_state_free(&s);
}

static void a_resumed_one_drops_the_rows_that_were_lost(void **state)
{
    (void)state;
    struct live_curve live = make();
    struct train_state s;
    struct curve_file c;

    assert_int_equal(train_state_create(&s, 3, STATISTICS), 0);
    add_steps(&s, 12);
    live_curve_begin(&live, &adapter, &s);
    expect_rows(as_killed_now(), &s);
    add_steps(&s, 1);
    live_curve_update(&live, &s);
    assert_int_equal(curve_read(&c, as_killed_now()), 0);
    assert_int_equal(c.began_step, 12);
    curve_free(&c);
    expect_rows(copy, &s);
    live_curve_end(&live, "finished");
    train_state_free(&s);
}

static void nothing_that_fails_ends_a_training_or_leaves_a_file(void **state)
{
    (void)state;
    struct live_curve live = make();
    struct train_state s;
    char inside[96];

    assert_int_equal(train_state_create(&s, 3, STATISTICS), 0);
    snprintf(inside, sizeof inside, "%s/none/x.live.h5", folder);
    live.path = inside;
    live_curve_begin(&live, &adapter, &s);
    assert_false(live.is_open);
    live_curve_update(&live, &s);
    live_curve_end(&live, "finished");

    live = make();
    unlink(path);
    live.n_steps = 100 * 1000 * 1000;
    live_curve_begin(&live, &adapter, &s);
    assert_false(live.is_open);
    assert_int_not_equal(access(path, F_OK), 0);

    live = make();
    live.path = NULL;
    live_curve_begin(&live, &adapter, &s);
    live_curve_update(&live, &s);
    live_curve_end(&live, "finished");
    train_state_free(&s);
}

static void a_file_of_another_kind_stays(void **state)
{
    (void)state;
    struct live_curve live = make();
    struct train_state s;
    char text[8] = "";

    assert_int_equal(train_state_create(&s, 3, STATISTICS), 0);
    FILE *file = fopen(path, "w");
    fputs("mine", file);
    fclose(file);
    live_curve_begin(&live, &adapter, &s);
    assert_false(live.is_open);
    assert_non_null(strstr(error_message(), "is no live curve"));
    file = fopen(path, "r");
    assert_non_null(fgets(text, sizeof text, file));
    fclose(file);
    assert_string_equal(text, "mine");
    unlink(path);
    train_state_free(&s);
}

static void a_damaged_one_is_refused_at_once(void **state)
{
    (void)state;
    struct live_curve live = make();
    struct train_state s;
    struct curve_file c;

    assert_int_equal(train_state_create(&s, 3, STATISTICS), 0);
    add_steps(&s, 5);
    live_curve_begin(&live, &adapter, &s);
    live_curve_end(&live, "finished");
    alarm(60);
    for (long at = 0; at < 48; at += 3) {
        FILE *file = fopen(as_killed_now(), "r+");
        fseek(file, at, SEEK_SET);
        const int byte = fgetc(file);
        fseek(file, at, SEEK_SET);
        fputc(byte ^ 0x40, file);
        fclose(file);
        assert_int_not_equal(curve_read(&c, copy), 0);
    }
    for (off_t n = 0; n < 4000; n += 131) {
        assert_int_equal(truncate(as_killed_now(), n), 0);
        assert_int_not_equal(curve_read(&c, copy), 0);
    }
    alarm(0);
    train_state_free(&s);
}

static void silence_and_absence_are_told_apart(void **state)
{
    (void)state;
    const struct watch_place here = watch_place_here();
    struct watch_place elsewhere = here;
    double seconds[TRAIN_POINT_COLUMNS][2] = {{0}};
    struct curve_file c = {.source = CURVE_LIVE,
                           .state = "running",
                           .host = strdup(here.host),
                           .pid_namespace = strdup(here.pid_namespace),
                           .pid = getpid(),
                           .n = 2,
                           .began = 900,
                           .updated = 1000};

    elsewhere.host[0] = '?';
    for (size_t k = 0; k < TRAIN_POINT_COLUMNS; k++)
        c.columns[k] = seconds[k];
    assert_int_equal(watch_life(&c, &here, 1e9), WATCH_RUNNING);
    assert_true(watch_step_seconds(&c) == 50);
    assert_int_equal(watch_life(&c, &elsewhere, 1060), WATCH_RUNNING);
    assert_int_equal(watch_life(&c, &elsewhere, 1000 + 5 * 50 + 1), WATCH_SILENT);
    assert_int_equal(watch_life(&c, &elsewhere, 1000 + 1801), WATCH_GONE);
    c.pid = 0x7ffffffe; /* no such process */
    assert_int_equal(watch_life(&c, &here, 1001), WATCH_GONE);
    strcpy(c.state, "failed");
    assert_int_equal(watch_life(&c, &here, 1001), WATCH_FAILED);
    free(c.host);
    free(c.pid_namespace);
}

static void the_view_fits_the_terminal(void **state)
{
    (void)state;
    struct live_curve live = make();
    struct train_state s;
    struct curve_file c;

    assert_int_equal(train_state_create(&s, 3, STATISTICS), 0);
    add_steps(&s, 100);
    live_curve_begin(&live, &adapter, &s);
    assert_int_equal(curve_read(&c, as_killed_now()), 0);
    live_curve_end(&live, "finished");
    for (size_t width = 20; width < 200; width += 30) {
        char line[1024];
        size_t n_lines = 0;
        FILE *file = tmpfile();
        watch_print(file, &c, WATCH_RUNNING, c.updated + 1, width, width % 40 == 0);
        rewind(file);
        for (; fgets(line, sizeof line, file); n_lines++) {
            line[strcspn(line, "\n")] = '\0';
            assert_true(text_width(line) <= width);
        }
        fclose(file);
        assert_in_range(n_lines, 8, 20);
    }
    curve_free(&c);
    train_state_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_step_can_be_read_without_swmr_and_after_a_kill),
        cmocka_unit_test(a_killed_one_says_running_and_an_ended_one_how),
        cmocka_unit_test(a_resumed_one_drops_the_rows_that_were_lost),
        cmocka_unit_test(nothing_that_fails_ends_a_training_or_leaves_a_file),
        cmocka_unit_test(a_file_of_another_kind_stays),
        cmocka_unit_test(a_damaged_one_is_refused_at_once),
        cmocka_unit_test(silence_and_absence_are_told_apart),
        cmocka_unit_test(the_view_fits_the_terminal),
    };

    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof path, "%s/e.live.h5", folder);
    snprintf(copy, sizeof copy, "%s/copy.live.h5", folder);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    unlink(copy);
    rmdir(folder);
    return failed;
}
