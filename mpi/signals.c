#include "mpi/signals.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t pending;

static void remember(int signal)
{
    if (pending == SIGINT && signal == SIGINT) {
        struct sigaction plain = {.sa_handler = SIG_DFL};
        sigaction(SIGINT, &plain, NULL);
        raise(SIGINT);
    }
    pending = signal;
}

void signals_watch(void)
{
    struct sigaction action = {.sa_handler = remember, .sa_flags = SA_RESTART};

    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
}

int signals_pending(void)
{
    return pending;
}

const char *signals_name(int signal)
{
    switch (signal) {
    case SIGTERM:
        return "SIGTERM";
    case SIGINT:
        return "SIGINT";
    case SIGUSR1:
        return "SIGUSR1";
    default:
        return "a signal";
    }
}
