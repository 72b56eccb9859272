/* The searches: against their twins in numpy (tests/oracle/cem_oracle.py), on synthetic objectives
 * with known optima, and put down and taken up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>

#include "eval/search.h"
#include "mpi/error.h"

enum { MOST = 8, MOST_POINTS = 64 };

/* ---- objectives, as the oracle has them ---------------------------------------------------------
 */

static double target(size_t i)
{
    return 0.2 + 0.6 * (double)((5 * i + 2) % 7) / 6;
}

static double objective(const char *name, const double *x, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++) {
        const double d = x[i] - target(i);
        if (strcmp(name, "ellipse") == 0)
            sum -= pow(10, 2 * (double)i / (double)(n - 1)) * d * d;
        else
            sum -= d * d;
        if (strcmp(name, "valley") == 0 && i > 0) {
            const double before = x[i - 1] - target(i - 1), bend = d - before * before;
            sum -= 20 * bend * bend;
        }
    }
    return sum;
}

static void iterate(struct search *s, const char *name)
{
    double points[MOST_POINTS * MOST];
    struct search_score scores[MOST_POINTS];
    const size_t n = s->options.n, n_points = search_ask(s, points);

    assert_true(n_points > 0 && n_points <= s->options.population);
    for (size_t i = 0; i < n_points; i++)
        scores[i] = (struct search_score){objective(name, points + i * n, n), 0};
    assert_int_equal(search_tell(s, points, n_points, scores), 0);
}

static struct search created(const struct search_options *options)
{
    double start[MOST];
    struct search s;

    for (size_t i = 0; i < options->n; i++)
        start[i] = 1 / (double)options->n;
    if (search_create(&s, options, start) != 0)
        fail_msg("%s", error_message());
    return s;
}

/* ---- the oracle --------------------------------------------------------------------------------
 */

static double number(const json_t *row, size_t i)
{
    return json_number_value(json_array_get(row, i));
}

static void close_to(double ours, double theirs)
{
    if (fabs(ours - theirs) > 1e-9 * (1 + fabs(theirs)))
        fail_msg("%.17g, the oracle has %.17g", ours, theirs);
}

static void trajectories_are_those_of_numpy(void **state)
{
    json_t *cases = json_load_file(T2_FIXTURES "/search.json", 0, NULL), *c;
    size_t i;
    (void)state;

    assert_non_null(cases);
    json_array_foreach(cases, i, c)
    {
        const char *name = json_string_value(json_object_get(c, "objective"));
        const bool cma = strcmp(json_string_value(json_object_get(c, "method")), "cmaes") == 0;
        const json_t *rows = json_object_get(c, "rows");
        struct search_options o = search_defaults();
        o.method = cma ? SEARCH_CMAES : SEARCH_CEM;
        o.n = (size_t)json_integer_value(json_object_get(c, "n"));
        o.population = cma ? 16 : 32;
        o.seed = (uint64_t)json_integer_value(json_object_get(c, "seed"));
        struct search s = created(&o);
        for (size_t t = 0; t < json_array_size(rows); t++) {
            const json_t *row = json_array_get(rows, t);
            iterate(&s, name);
            close_to(s.best_score.value, number(row, 0));
            for (size_t k = 0; k < o.n; k++)
                close_to(s.mean[k], number(row, 1 + k));
            for (size_t k = 0; !cma && k < o.n; k++)
                close_to(s.deviation[k], number(row, 1 + o.n + k));
            if (cma)
                close_to(*s.sigma, number(row, 1 + o.n));
        }
        search_free(&s);
    }
    json_decref(cases);
}

/* ---- optima ------------------------------------------------------------------------------------
 */

static void known_optima_are_found(void **state)
{
    static const char *const names[] = {"sphere", "ellipse", "valley"};
    static const size_t dimensions[] = {2, 3, 8};
    (void)state;

    for (size_t m = 0; m < 2; m++)
        for (size_t d = 0; d < 3; d++)
            for (size_t f = 0; f < 3; f++) {
                struct search_options o = search_defaults();
                o.method = m ? SEARCH_CMAES : SEARCH_CEM;
                o.n = dimensions[d];
                o.population = m ? 16 : 64;
                o.iterations = m ? 150 : 100;
                o.floor = m ? 0 : 0.01;
                o.seed = 3;
                struct search s = created(&o);
                while (!search_finished(&s))
                    iterate(&s, names[f]);
                for (size_t i = 0; i < o.n; i++)
                    if (fabs(s.best[i] - target(i)) > 0.05)
                        fail_msg("%s of %s in %zu dimensions: coordinate %zu is %g, not %g",
                                 search_method_name(o.method), names[f], o.n, i, s.best[i],
                                 target(i));
                search_free(&s);
            }
}

static void a_grid_covers_its_box_and_a_simplex_sums_to_one(void **state)
{
    (void)state;
    struct search_options o = search_defaults();
    double points[MOST_POINTS * MOST];

    o.method = SEARCH_GRID;
    o.n = 2;
    o.grid = 5;
    o.lower = -1;
    struct search s = created(&o);
    assert_int_equal(s.n_points, 25);
    assert_int_equal(search_ask(&s, points), 25);
    assert_true(points[0] == -1 && points[1] == -1 && points[2] == -0.5 && points[3] == -1);
    assert_true(points[48] == 1 && points[49] == 1);
    search_free(&s);

    o.lower = 0;
    o.simplex = 2;
    s = created(&o);
    assert_int_equal(search_ask(&s, points), 5);
    for (size_t i = 0; i < 5; i++)
        assert_true(points[2 * i] == 0.25 * (double)i && points[2 * i + 1] == 1 - points[2 * i]);
    search_free(&s);

    o.n = 6;
    o.simplex = 3;
    o.grid = 3;
    s = created(&o);
    assert_int_equal(s.n_points, 36);
    size_t n = 0;
    while (!search_finished(&s)) {
        const size_t asked = search_ask(&s, points);
        for (size_t i = 0; i < asked; i++)
            assert_true(points[6 * i] + points[6 * i + 1] + points[6 * i + 2] == 1 &&
                        points[6 * i + 3] + points[6 * i + 4] + points[6 * i + 5] == 1);
        n += asked;
        iterate(&s, "sphere");
    }
    assert_int_equal(n, 36);
    search_free(&s);
}

static void a_grid_is_as_long_as_its_points_and_can_be_taken_up_anywhere(void **state)
{
    (void)state;
    struct search_options o = search_defaults();
    double numbers[32];

    o.method = SEARCH_GRID;
    o.n = 2;
    o.grid = 3;
    o.population = 2;
    o.iterations = 2; /* of the other methods */
    struct search a = created(&o);
    assert_int_equal(search_most(&a), 5);
    for (size_t t = 0; t < 5; t++) {
        struct search b = created(&o);
        assert_true(a.n_state <= 32 && !search_finished(&a));
        search_pack(&a, numbers);
        assert_int_equal(search_unpack(&b, numbers), 0);
        assert_int_equal(b.iteration, t);
        search_free(&b);
        iterate(&a, "sphere");
    }
    assert_true(search_finished(&a));
    search_free(&a);
}

static void grid_points_stay_in_their_box(void **state)
{
    (void)state;
    struct search_options o = search_defaults();
    double points[MOST_POINTS], numbers[32];
    const struct search_score best = {1, 0};

    o.method = SEARCH_GRID;
    o.n = 1;
    o.lower = -0.1;
    o.upper = 0.3; /* -0.1 + (0.3 + 0.1) is above */
    o.population = MOST_POINTS;
    for (o.grid = 2; o.grid <= MOST_POINTS; o.grid++) {
        struct search s = created(&o);
        assert_int_equal(search_ask(&s, points), o.grid);
        for (size_t i = 0; i < o.grid; i++)
            assert_true(points[i] >= o.lower && points[i] <= o.upper);
        search_offer(&s, points + o.grid - 1, best);
        search_pack(&s, numbers);
        assert_int_equal(search_unpack(&s, numbers), 0);
        search_free(&s);
    }
}

/* ---- details -----------------------------------------------------------------------------------
 */

static void the_start_alone_is_one_point(void **state)
{
    (void)state;
    struct search_options o = search_defaults();
    double points[MOST];

    o.method = SEARCH_START;
    o.n = 3;
    struct search s = created(&o);
    assert_int_equal(search_ask(&s, points), 1);
    assert_true(points[0] == 1.0 / 3 && points[2] == 1.0 / 3);
    iterate(&s, "sphere");
    assert_true(search_finished(&s));
    search_free(&s);

    double numbers[32];
    o.lower = 0.5; /* the box is for what is searched */
    s = created(&o);
    assert_int_equal(search_ask(&s, points), 1);
    assert_true(points[0] == 1.0 / 3);
    search_pack(&s, numbers);
    assert_int_equal(search_unpack(&s, numbers), 0);
    search_free(&s);
}

static void ties_go_to_the_second_number_then_to_the_first_point(void **state)
{
    (void)state;
    const struct search_score scores[] = {{1, 0}, {2, -1}, {2, -0.5}, {2, -0.5}, {0, 9}};
    size_t order[5];

    search_rank(scores, 5, order);
    assert_true(order[0] == 2 && order[1] == 3 && order[2] == 1 && order[3] == 0 && order[4] == 4);
}

static void the_best_stays_and_is_asked_again(void **state)
{
    (void)state;
    struct search_options o = search_defaults();
    double points[MOST_POINTS * MOST];

    o.n = 2;
    struct search s = created(&o);
    search_ask(&s, points);
    assert_true(points[0] == 0.5 && points[1] == 0.5); /* the start is one of the first */
    for (int t = 0; t < 8; t++) {
        const double before = s.has_best ? s.best_score.value : -INFINITY;
        iterate(&s, "valley");
        assert_true(s.best_score.value >= before);
        search_ask(&s, points);
        assert_true(points[0] == s.best[0] && points[1] == s.best[1]);
    }
    search_free(&s);
}

static void a_search_put_down_goes_on_to_the_same_bits(void **state)
{
    (void)state;
    for (int m = SEARCH_CEM; m <= SEARCH_CMAES; m++) {
        struct search_options o = search_defaults();
        o.method = (enum search_method)m;
        o.n = 3;
        o.seed = 9;
        struct search a = created(&o), b = created(&o);
        double numbers[128];
        assert_true(a.n_state <= 128);
        for (int t = 0; t < 5; t++)
            iterate(&a, "ellipse");
        search_pack(&a, numbers);
        assert_int_equal(search_unpack(&b, numbers), 0);
        for (int t = 0; t < 5; t++) {
            iterate(&a, "ellipse");
            iterate(&b, "ellipse");
        }
        assert_int_equal(a.iteration, b.iteration);
        assert_memory_equal(a.best, b.best, 3 * o.n * sizeof(double));
        if (a.sigma)
            assert_memory_equal(a.sigma, b.sigma, (1 + 2 * o.n + o.n * o.n) * sizeof(double));
        search_free(&a);
        search_free(&b);
    }
}

static void spoilt_states_are_refused(void **state)
{
    (void)state;
    struct search_options o = search_defaults();
    double numbers[128], spoilt[128];

    o.method = SEARCH_CMAES;
    o.n = 3;
    struct search s = created(&o);
    iterate(&s, "sphere");
    search_pack(&s, numbers);
    for (size_t i = 0; i < s.n_state; i++) {
        memcpy(spoilt, numbers, sizeof numbers);
        spoilt[i] = NAN;
        assert_int_equal(search_unpack(&s, spoilt), -1);
    }
    const struct {
        size_t at;
        double value;
        const char *part;
    } cases[] = {{0, -1, "iterations"},  {0, 1.5, "iterations"}, {1, 7, "iterations"},
                 {4, 12, "box"},         {10, -1, "box"},        {13, 0, "step"},
                 {21, 1e3, "symmetric"}, {20, -1, "degenerated"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memcpy(spoilt, numbers, sizeof numbers);
        spoilt[cases[i].at] = cases[i].value;
        if (search_unpack(&s, spoilt) != -1 || !strstr(error_message(), cases[i].part))
            fail_msg("number %zu: %s", cases[i].at, error_message());
    }
    search_free(&s);
}

static void impossible_options_are_refused(void **state)
{
    (void)state;
    const double start[MOST] = {0};
    struct search s;
    struct search_options good = search_defaults();
    good.n = 3;
#define REFUSED(change, part)                                                                      \
    do {                                                                                           \
        struct search_options o = good;                                                            \
        change;                                                                                    \
        if (search_create(&s, &o, start) != -1 || !strstr(error_message(), part))                  \
            fail_msg("%s: %s", #change, error_message());                                          \
        search_free(&s);                                                                           \
    } while (0)
    REFUSED(o.elite_ratio = 0.01, "fewer than two");
    REFUSED(o.elite_ratio = NAN, "fewer than two");
    REFUSED(o.upper = 0, "no room");
    REFUSED(o.population = 0, "population");
    REFUSED((o.method = SEARCH_CMAES, o.population = 2), "4 or more");
    REFUSED((o.method = SEARCH_CMAES, o.n = 5000), "at most");
    REFUSED((o.method = SEARCH_GRID, o.n = 8), "too large");
    REFUSED(o.smoothing = 1, "smoothing");
    struct search_score nan = {NAN, 0};
    good.method = SEARCH_START;
    assert_int_equal(search_create(&s, &good, start), 0);
    assert_int_equal(search_tell(&s, start, 1, &nan), -1);
    search_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trajectories_are_those_of_numpy),
        cmocka_unit_test(known_optima_are_found),
        cmocka_unit_test(a_grid_covers_its_box_and_a_simplex_sums_to_one),
        cmocka_unit_test(a_grid_is_as_long_as_its_points_and_can_be_taken_up_anywhere),
        cmocka_unit_test(grid_points_stay_in_their_box),
        cmocka_unit_test(the_start_alone_is_one_point),
        cmocka_unit_test(ties_go_to_the_second_number_then_to_the_first_point),
        cmocka_unit_test(the_best_stays_and_is_asked_again),
        cmocka_unit_test(a_search_put_down_goes_on_to_the_same_bits),
        cmocka_unit_test(spoilt_states_are_refused),
        cmocka_unit_test(impossible_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
