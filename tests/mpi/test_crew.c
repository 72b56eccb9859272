#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "mpi/crew.h"
#include "mpi/error.h"

enum { WORKERS = 4, ROUNDS = 300, PARTS = 50 };

/* What the workers of one test share. */
struct shared {
    struct crew_state state;
    void (*work)(const struct crew *crew, struct shared *shared);
    uint32_t written[WORKERS];
    uint32_t taken[PARTS];
    uint32_t wrong[WORKERS];
    char messages[WORKERS][100];
};

struct worker {
    struct crew crew;
    struct shared *shared;
};

static void *start(void *argument)
{
    struct worker *w = argument;
    w->shared->work(&w->crew, w->shared);
    return NULL;
}

/* Threads assert nothing themselves (cmocka jumps): they count in `wrong`. */
static void run(struct shared *shared, int size,
                void (*work)(const struct crew *crew, struct shared *shared))
{
    struct worker workers[WORKERS];
    pthread_t threads[WORKERS];

    memset(shared, 0, sizeof *shared);
    shared->work = work;
    for (int i = 0; i < size; i++) {
        workers[i] = (struct worker){{i, size, &shared->state}, shared};
        assert_int_equal(pthread_create(&threads[i], NULL, start, &workers[i]), 0);
    }
    for (int i = 0; i < size; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < size; i++)
        assert_int_equal(shared->wrong[i], 0);
}

static void write_and_look(const struct crew *crew, struct shared *s)
{
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        s->written[crew->index] = round;
        crew_wait(crew);
        for (int i = 0; i < crew->size; i++)
            s->wrong[crew->index] += s->written[i] != round;
        crew_wait(crew);
    }
}

static void what_was_written_before_a_barrier_is_seen_after_it(void **state)
{
    (void)state;
    struct shared s;
    for (int size = 1; size <= WORKERS; size++)
        run(&s, size, write_and_look);
}

static void take_parts(const struct crew *crew, struct shared *s)
{
    uint32_t own = 7, part;

    for (uint32_t round = 1; round <= ROUNDS; round++) {
        crew_restart(crew, &own);
        while ((part = crew_next(crew, &own)) < PARTS)
            s->taken[part]++;
        crew_wait(crew);
        for (int i = 0; i < PARTS; i++)
            s->wrong[crew->index] += s->taken[i] != round;
        crew_wait(crew);
    }
}

static void every_part_is_handed_out_once(void **state)
{
    (void)state;
    struct shared s;
    for (int size = 1; size <= WORKERS; size++)
        run(&s, size, take_parts);
}

static void fail_in_turn(const struct crew *crew, struct shared *s)
{
    for (int round = 0; round < ROUNDS; round++) {
        const int failing = round % (crew->size + 1);
        int status = 0;
        char expected[100];

        error_clear();
        if (crew->index == failing)
            status = error_set("worker %d failed in round %d", failing, round);
        status = crew_agree(crew, status);
        snprintf(expected, sizeof expected, "worker %d failed in round %d", failing, round);
        if (failing == crew->size)
            s->wrong[crew->index] += status != 0 || error_message()[0];
        else
            s->wrong[crew->index] += status != -1 || strcmp(error_message(), expected) != 0;
    }
}

static void one_failure_is_told_to_all(void **state)
{
    (void)state;
    struct shared s;
    for (int size = 1; size <= WORKERS; size++)
        run(&s, size, fail_in_turn);
}

static void fail_together(const struct crew *crew, struct shared *s)
{
    for (int round = 0; round < ROUNDS; round++) {
        error_set("worker %d", crew->index);
        s->wrong[crew->index] += crew_agree(crew, -1) != -1;
        strcpy(s->messages[crew->index], error_message());
        crew_wait(crew);
        s->wrong[crew->index] += strcmp(s->messages[0], s->messages[crew->index]) != 0;
        crew_wait(crew);
    }
}

static void of_many_failures_all_tell_the_same_one(void **state)
{
    (void)state;
    struct shared s;
    for (int size = 1; size <= WORKERS; size++)
        run(&s, size, fail_together);
}

static void one_worker_needs_no_shared_memory(void **state)
{
    (void)state;
    const struct crew crew = crew_alone();
    uint32_t own;

    crew_wait(&crew);
    crew_restart(&crew, &own);
    assert_int_equal(crew_next(&crew, &own), 0);
    assert_int_equal(crew_next(&crew, &own), 1);
    assert_int_equal(crew_agree(&crew, 0), 0);
    error_set("alone");
    assert_int_equal(crew_agree(&crew, -1), -1);
    assert_string_equal(error_message(), "alone");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_before_a_barrier_is_seen_after_it),
        cmocka_unit_test(every_part_is_handed_out_once),
        cmocka_unit_test(one_failure_is_told_to_all),
        cmocka_unit_test(of_many_failures_all_tell_the_same_one),
        cmocka_unit_test(one_worker_needs_no_shared_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
