#ifndef T2_SOLVER_TEAM_H
#define T2_SOLVER_TEAM_H
/* A rank's threads. A forward pass hands out a few hundred small jobs a step, so waking must cost
 * about a microsecond; but ranks and other programs share the cores, so nobody may spin for long: a
 * waiting thread soon offers its core to others, and after a millisecond sleeps in the kernel.
 * (OpenMP run-times spin for milliseconds, which ruins every job as soon as there are more threads
 * than cores.)
 *
 * Parts of a job are claimed one by one, so a thread that the system has put aside does not hold up
 * a job in which it has no part. Which thread takes which part may not matter to the result.
 *
 * A team belongs to the thread that created it; only that thread may call it. */
#include <stddef.h>

struct team;

/* n_threads in all, the caller included. NULL with error_set. */
struct team *team_create(int n_threads);
void team_free(struct team *team);

/* 1 for NULL. */
int team_size(const struct team *team);

/* Runs work(arg, part, thread) for each part below n_parts and returns when all are done. thread <
 * team_size tells whose scratch to use. Serial when team is NULL or has one thread. Not nested. */
void team_run(struct team *team, void (*work)(void *arg, size_t part, int thread), void *arg,
              size_t n_parts);

/* The same over ranges: splits 0 .. n - 1 into parts of at least `grain` items (so few items stay
 * on the calling thread) and runs work(arg, first, end, thread) on each. */
void team_ranges(struct team *team, void (*work)(void *arg, size_t first, size_t end, int thread),
                 void *arg, size_t n, size_t grain);

#endif
