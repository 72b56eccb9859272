#include "mpi/crew.h"

#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mpi/error.h"

enum { SPINS = 2000, YIELDS = 200 };

/* Waits until *word is no longer `old`. The futex is not private: the word is shared memory. */
static void wait_change(_Atomic uint32_t *word, uint32_t old)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != old)
            return;
        __builtin_ia32_pause();
    }
    for (int i = 0; i < YIELDS; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != old)
            return;
        sched_yield();
    }
    while (atomic_load_explicit(word, memory_order_acquire) == old)
        syscall(SYS_futex, word, FUTEX_WAIT, old, NULL, NULL, 0);
}

void crew_wait(const struct crew *crew)
{
    struct crew_state *s = crew->state;

    if (crew->size <= 1)
        return;
    const uint32_t phase = atomic_load_explicit(&s->phase, memory_order_acquire);
    if (atomic_fetch_add_explicit(&s->arrived, 1, memory_order_acq_rel) + 1 ==
        (uint32_t)crew->size) {
        atomic_store_explicit(&s->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&s->phase, phase + 1, memory_order_release);
        syscall(SYS_futex, &s->phase, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    } else {
        wait_change(&s->phase, phase);
    }
}

int crew_agree(const struct crew *crew, int status)
{
    struct crew_state *s = crew->state;

    if (crew->size <= 1)
        return status;
    if (status) {
        uint32_t none = 0;
        if (atomic_compare_exchange_strong(&s->failed, &none, (uint32_t)crew->index + 1)) {
            strncpy(s->message, error_message(), sizeof s->message - 1);
            s->message[sizeof s->message - 1] = '\0';
        }
    }
    crew_wait(crew);
    const uint32_t failed = atomic_load(&s->failed);
    if (failed && failed != (uint32_t)crew->index + 1)
        error_set("%s", s->message);
    /* All have read it before it is cleared, and it is cleared before anyone goes on. */
    crew_wait(crew);
    if (crew->index == 0)
        atomic_store(&s->failed, 0);
    crew_wait(crew);
    return failed ? -1 : 0;
}

uint32_t crew_next(const struct crew *crew, uint32_t *own)
{
    return crew->size <= 1 ? (*own)++ : atomic_fetch_add(&crew->state->counter, 1);
}

void crew_restart(const struct crew *crew, uint32_t *own)
{
    *own = 0;
    crew_wait(crew);
    if (crew->size > 1 && crew->index == 0)
        atomic_store(&crew->state->counter, 0);
    crew_wait(crew);
}
