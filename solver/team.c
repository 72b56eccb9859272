#include "solver/team.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mpi/error.h"

/* A waiting thread first spins, which answers fastest, then offers its core to whoever else wants
 * it, for about a millisecond in all, then sleeps. */
enum { SPINS = 200, YIELDS = 2000 };

struct worker {
    struct team *team;
    pthread_t thread;
    int index;
};

/* The ticket holds the job's number (upper half) and its next part (lower half). A worker owns a
 * part once it has moved the ticket on; the job's other fields cannot change before that part is
 * done. */
struct team {
    int n_threads;
    struct worker *workers; /* [n_threads - 1] */
    int n_started;
    void (*work)(void *arg, size_t part, int thread);
    void *arg;
    _Atomic uint32_t n_parts;
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) _Atomic uint32_t job; /* the ticket's upper half, to sleep on */
    _Atomic uint32_t n_sleeping;
    _Alignas(64) _Atomic uint32_t n_left; /* parts not done; the caller sleeps on it */
    _Atomic uint32_t caller_sleeps;
    _Atomic bool over;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

/* Waits for *word to differ from `old`; returns its last value, which is `old` if patience ran out.
 */
static uint32_t wait_awake(_Atomic uint32_t *word, uint32_t old)
{
    uint32_t value = atomic_load(word);
    for (int i = 0; value == old && i < SPINS + YIELDS; i++) {
        if (i < SPINS) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        } else {
            sched_yield();
        }
        value = atomic_load(word);
    }
    return value;
}

/* Takes parts of the current job until there are none. */
static void take_parts(struct team *t, int thread)
{
    uint64_t ticket = atomic_load(&t->ticket);
    for (;;) {
        if ((uint32_t)ticket >= atomic_load(&t->n_parts))
            return;
        if (!atomic_compare_exchange_weak(&t->ticket, &ticket, ticket + 1))
            continue;
        t->work(t->arg, (uint32_t)ticket, thread);
        if (atomic_fetch_sub(&t->n_left, 1) == 1 && atomic_load(&t->caller_sleeps))
            futex_wake(&t->n_left, 1);
        ticket = atomic_load(&t->ticket);
    }
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct team *t = w->team;
    uint32_t seen = 0;

    while (!atomic_load(&t->over)) {
        const uint32_t job = wait_awake(&t->job, seen);
        if (job == seen) {
            atomic_fetch_add(&t->n_sleeping, 1);
            futex_wait(&t->job, seen);
            atomic_fetch_sub(&t->n_sleeping, 1);
            continue;
        }
        seen = job;
        take_parts(t, w->index);
    }
    return NULL;
}

struct team *team_create(int n_threads)
{
    struct team *t = aligned_alloc(64, sizeof *t);
    if (t) {
        memset(t, 0, sizeof *t);
        t->n_threads = n_threads;
        t->workers = calloc((size_t)n_threads, sizeof *t->workers);
    }
    if (!t || !t->workers) {
        free(t);
        error_set("no memory for %d threads", n_threads);
        return NULL;
    }
    for (int i = 0; i < n_threads - 1; i++) {
        struct worker *w = &t->workers[i];
        *w = (struct worker){.team = t, .index = i + 1};
        const int rc = pthread_create(&w->thread, NULL, worker_main, w);
        if (rc != 0) {
            team_free(t);
            error_set("thread %d of %d cannot be started (%s): use fewer --threads", i + 2,
                      n_threads, strerror(rc));
            return NULL;
        }
        t->n_started++;
    }
    return t;
}

void team_free(struct team *t)
{
    if (!t)
        return;
    atomic_store(&t->over, true);
    atomic_fetch_add(&t->job, 1);
    futex_wake(&t->job, t->n_threads);
    for (int i = 0; i < t->n_started; i++)
        pthread_join(t->workers[i].thread, NULL);
    free(t->workers);
    free(t);
}

int team_size(const struct team *t)
{
    return t ? t->n_threads : 1;
}

void team_run(struct team *t, void (*work)(void *arg, size_t part, int thread), void *arg,
              size_t n_parts)
{
    if (!t || t->n_threads == 1 || n_parts < 2) {
        for (size_t i = 0; i < n_parts; i++)
            work(arg, i, 0);
        return;
    }
    /* No part of the previous job is left, so nobody reads these until the ticket changes. */
    const uint32_t job = atomic_load(&t->job) + 1;
    atomic_store(&t->ticket, (uint64_t)job << 32 | UINT32_MAX); /* nothing to claim meanwhile */
    t->work = work;
    t->arg = arg;
    atomic_store(&t->n_parts, (uint32_t)n_parts);
    atomic_store(&t->n_left, (uint32_t)n_parts);
    atomic_store(&t->ticket, (uint64_t)job << 32);
    atomic_store(&t->job, job);
    if (atomic_load(&t->n_sleeping) > 0)
        futex_wake(&t->job, t->n_threads);
    take_parts(t, 0);
    uint32_t left = atomic_load(&t->n_left);
    for (uint32_t last = 0; left > 0 && left != last; left = wait_awake(&t->n_left, left))
        last = left;
    if (left == 0)
        return;
    atomic_store(&t->caller_sleeps, 1);
    while ((left = atomic_load(&t->n_left)) > 0)
        futex_wait(&t->n_left, left);
    atomic_store(&t->caller_sleeps, 0);
}

struct ranges {
    void (*work)(void *arg, size_t first, size_t end, int thread);
    void *arg;
    size_t n, n_parts;
};

static void run_range(void *arg, size_t part, int thread)
{
    const struct ranges *r = arg;
    r->work(r->arg, r->n * part / r->n_parts, r->n * (part + 1) / r->n_parts, thread);
}

void team_ranges(struct team *t, void (*work)(void *arg, size_t first, size_t end, int thread),
                 void *arg, size_t n, size_t grain)
{
    enum { PARTS = 3 }; /* a thread, to even out disturbances */
    const size_t wanted = (size_t)team_size(t) * PARTS, most = n / (grain > 0 ? grain : 1);
    struct ranges r = {work, arg, n, most < wanted ? most : wanted};

    if (t && t->n_threads > 1 && r.n_parts > 1)
        team_run(t, run_range, &r, r.n_parts);
    else if (n > 0)
        work(arg, 0, n, 0);
}
