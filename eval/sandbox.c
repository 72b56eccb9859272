#include "eval/sandbox.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "eval/jail.h"
#include "mpi/clock.h"
#include "mpi/error.h"

enum { TAIL = 2048, MAX_WORKERS = 256, FDS_PER_CELL = 4 };

static const double watch_after = 0.1, watch_every = 0.05; /* seconds */
static const double patience = 10;                         /* for the kernel to clear a jail away */

/* A program that waits, or a result. */
struct entry {
    struct entry *next;
    char *program;
    struct sandbox_result result;
};

struct list {
    struct entry *first, **end;
};

/* A place for one running program. */
struct cell {
    struct entry *entry; /* NULL: free */
    struct inmate inmate;
    double start, next_watch, ended_at;
    bool killed, ended;           /* ended: bubblewrap is gone, others perhaps not yet */
    enum sandbox_outcome verdict; /* when killed */
    size_t n_output;
    char tail[2 * TAIL]; /* the last bytes of the output lie at its end when moved */
    size_t n_tail;
};

struct sandbox {
    struct jail jail;
    size_t n_cells;
    struct cell *cells; /* the supervisor's own */
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock; /* for what follows */
    pthread_cond_t news;
    struct list queue, done;
    size_t n_pending; /* submitted, not returned */
    bool closing;
    int wake; /* eventfd */
};

static const char *const outcome_names[SANDBOX_OUTCOMES] = {
    "passed", "failed", "time", "memory", "processes", "output", "broken"};

const char *sandbox_outcome_name(enum sandbox_outcome outcome)
{
    return outcome < SANDBOX_OUTCOMES ? outcome_names[outcome] : "unknown";
}

struct sandbox_options sandbox_defaults(void)
{
    return (struct sandbox_options){.limits = {.seconds = 30,
                                               .cpu_seconds = 10,
                                               .memory = (size_t)512 << 20,
                                               .processes = 16,
                                               .file_bytes = (size_t)16 << 20,
                                               .tmp_bytes = (size_t)64 << 20,
                                               .output_bytes = (size_t)1 << 20}};
}

void sandbox_result_free(struct sandbox_result *result)
{
    if (!result)
        return;
    free(result->output);
    memset(result, 0, sizeof *result);
}

/* ---- lists -------------------------------------------------------------------------------------
 */

static void list_init(struct list *list)
{
    list->first = NULL;
    list->end = &list->first;
}

static void list_put(struct list *list, struct entry *entry)
{
    entry->next = NULL;
    *list->end = entry;
    list->end = &entry->next;
}

static struct entry *list_take(struct list *list)
{
    struct entry *entry = list->first;

    if (entry) {
        list->first = entry->next;
        if (!list->first)
            list->end = &list->first;
    }
    return entry;
}

static void entry_free(struct entry *entry)
{
    if (!entry)
        return;
    free(entry->program);
    sandbox_result_free(&entry->result);
    free(entry);
}

/* ---- one cell ----------------------------------------------------------------------------------
 */

static void report(struct sandbox *s, struct entry *entry)
{
    free(entry->program);
    entry->program = NULL;
    pthread_mutex_lock(&s->lock);
    list_put(&s->done, entry);
    pthread_cond_signal(&s->news);
    pthread_mutex_unlock(&s->lock);
}

static void start_cell(struct sandbox *s, struct cell *cell, struct entry *entry)
{
    cell->entry = entry;
    cell->start = clock_seconds();
    cell->next_watch = cell->start + watch_after;
    cell->killed = cell->ended = false;
    cell->n_output = cell->n_tail = 0;
    if (jail_start(&s->jail, entry->program, &cell->inmate)) {
        cell->entry = NULL;
        entry->result.outcome = SANDBOX_BROKEN;
        entry->result.output = strdup(error_message());
        report(s, entry);
    }
}

static void kill_cell(struct cell *cell, enum sandbox_outcome verdict)
{
    if (!cell->killed) {
        cell->killed = true;
        cell->verdict = verdict;
    }
    jail_kill(&cell->inmate);
}

static void keep_tail(struct cell *cell, const char *bytes, size_t n)
{
    if (n > TAIL) {
        bytes += n - TAIL;
        n = TAIL;
    }
    if (cell->n_tail + n > sizeof cell->tail) {
        memmove(cell->tail, cell->tail + cell->n_tail - TAIL, TAIL);
        cell->n_tail = TAIL;
    }
    memcpy(cell->tail + cell->n_tail, bytes, n);
    cell->n_tail += n;
}

/* Reads what there is, up to about one megabyte; closes the pipe at its end. */
static void read_output(struct sandbox *s, struct cell *cell)
{
    char buffer[1 << 16];

    for (int i = 0; i < 16 && cell->inmate.output >= 0; i++) {
        const ssize_t n = read(cell->inmate.output, buffer, sizeof buffer);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            close(cell->inmate.output);
            cell->inmate.output = -1;
            return;
        }
        keep_tail(cell, buffer, (size_t)n);
        cell->n_output += (size_t)n;
        if (cell->n_output > s->jail.limits.output_bytes)
            kill_cell(cell, SANDBOX_OUTPUT);
    }
}

/* The token, if the program has come to its end, is taken out of the output. */
static bool take_token(struct cell *cell)
{
    char *found = memmem(cell->tail, cell->n_tail, cell->inmate.token, JAIL_TOKEN);

    if (!found)
        return false;
    const size_t rest = (size_t)(cell->tail + cell->n_tail - (found + JAIL_TOKEN));
    memmove(found, found + JAIL_TOKEN, rest);
    cell->n_tail -= JAIL_TOKEN;
    return true;
}

/* All is over: the result. */
static void finish_cell(struct sandbox *s, struct cell *cell)
{
    struct sandbox_result *result = &cell->entry->result;

    read_output(s, cell);
    const int status = jail_reap(&cell->inmate);
    result->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    result->seconds = clock_seconds() - cell->start;
    const bool finished = take_token(cell);
    if (cell->killed)
        result->outcome = cell->verdict;
    else if (finished && result->status == 0)
        result->outcome = SANDBOX_PASSED;
    else
        result->outcome = result->status == 128 + SIGXCPU ? SANDBOX_TIME : SANDBOX_FAILED;
    const size_t n = cell->n_tail < TAIL ? cell->n_tail : TAIL;
    result->output = strndup(cell->tail + cell->n_tail - n, n);
    struct entry *entry = cell->entry;
    cell->entry = NULL;
    report(s, entry);
}

static void watch_cell(struct sandbox *s, struct cell *cell, double time)
{
    const struct sandbox_limits *limits = &s->jail.limits;
    size_t n_bytes, n_processes;

    if (cell->ended)
        return;
    if (time >= cell->start + limits->seconds) {
        kill_cell(cell, SANDBOX_TIME);
        cell->next_watch = time + watch_every;
        return;
    }
    if (time < cell->next_watch)
        return;
    cell->next_watch = time + watch_every;
    if (cell->inmate.info >= 0)
        jail_learn_init(&cell->inmate);
    if (!jail_measure(&cell->inmate, &n_bytes, &n_processes))
        return;
    if (n_bytes > limits->memory)
        kill_cell(cell, SANDBOX_MEMORY);
    else if (n_processes > limits->processes)
        kill_cell(cell, SANDBOX_PROCESSES);
}

/* ---- the supervisor ----------------------------------------------------------------------------
 */

/* Gives free cells work. False: the pool closes and nothing runs any more. */
static bool hand_out(struct sandbox *s)
{
    bool busy = false;

    pthread_mutex_lock(&s->lock);
    const bool closing = s->closing;
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < s->n_cells; i++) {
        struct cell *cell = &s->cells[i];
        while (!cell->entry && !closing) {
            pthread_mutex_lock(&s->lock);
            struct entry *entry = list_take(&s->queue);
            pthread_mutex_unlock(&s->lock);
            if (!entry)
                break;
            start_cell(s, cell, entry);
        }
        if (cell->entry && closing)
            kill_cell(cell, SANDBOX_FAILED);
        busy = busy || cell->entry;
    }
    return busy || !closing;
}

static int wait_time(const struct sandbox *s, double time)
{
    double until = -1;

    for (size_t i = 0; i < s->n_cells; i++) {
        const struct cell *cell = &s->cells[i];
        if (!cell->entry)
            continue;
        double next = cell->ended ? cell->ended_at + patience : cell->next_watch;
        if (!cell->ended && !cell->killed && cell->start + s->jail.limits.seconds < next)
            next = cell->start + s->jail.limits.seconds;
        if (until < 0 || next < until)
            until = next;
    }
    if (until < 0)
        return -1;
    return until <= time ? 0 : (int)((until - time) * 1e3) + 1;
}

/* Has the cell's program and all it started ended? */
static void check_end(struct sandbox *s, struct cell *cell, double time)
{
    struct pollfd fds[2] = {{cell->inmate.pid_fd, POLLIN, 0}, {-1, POLLIN, 0}};

    if (!cell->ended) {
        poll(fds, 1, 0);
        if (!(fds[0].revents & POLLIN))
            return;
        cell->ended = true;
        cell->ended_at = time;
    }
    if (cell->inmate.init_fd >= 0 && time < cell->ended_at + patience) {
        fds[1].fd = cell->inmate.init_fd;
        poll(&fds[1], 1, 0);
        if (!(fds[1].revents & POLLIN))
            return;
    }
    finish_cell(s, cell);
}

static void poll_once(struct sandbox *s, struct pollfd *fds)
{
    nfds_t n = 0;

    fds[n++] = (struct pollfd){s->wake, POLLIN, 0};
    for (size_t i = 0; i < s->n_cells; i++) {
        const struct cell *cell = &s->cells[i];
        if (!cell->entry)
            continue;
        /* Negative descriptors are ignored; one that has told all would wake us for ever. */
        fds[n++] = (struct pollfd){cell->ended ? -1 : cell->inmate.pid_fd, POLLIN, 0};
        fds[n++] = (struct pollfd){cell->ended ? cell->inmate.init_fd : -1, POLLIN, 0};
        fds[n++] = (struct pollfd){cell->inmate.output, POLLIN, 0};
        fds[n++] = (struct pollfd){cell->inmate.info, POLLIN, 0};
    }
    poll(fds, n, wait_time(s, clock_seconds()));
    if (fds[0].revents & POLLIN) {
        uint64_t count;
        if (read(s->wake, &count, sizeof count) < 0)
            return;
    }
}

static void *supervise(void *context)
{
    struct sandbox *s = context;
    struct pollfd fds[1 + FDS_PER_CELL * MAX_WORKERS];

    while (hand_out(s)) {
        poll_once(s, fds);
        const double time = clock_seconds();
        for (size_t i = 0; i < s->n_cells; i++) {
            struct cell *cell = &s->cells[i];
            if (!cell->entry)
                continue;
            if (cell->inmate.info >= 0)
                jail_learn_init(&cell->inmate);
            if (cell->inmate.output >= 0)
                read_output(s, cell);
            watch_cell(s, cell, time);
            check_end(s, cell, time);
        }
    }
    return NULL;
}

/* ---- the caller's side -------------------------------------------------------------------------
 */

static size_t count_processors(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    const int n = CPU_COUNT(&set);
    return n < 1 ? 1 : (size_t)n;
}

/* Runs a program that does nothing. */
static int try_out(struct sandbox *s)
{
    struct sandbox_result result = {0};
    int status = 0;

    if (sandbox_submit(s, "pass", 0))
        return -1;
    if (!sandbox_next(s, true, &result) || result.outcome != SANDBOX_PASSED) {
        const char *said = result.output ? result.output : "";
        size_t n = strlen(said);
        while (n && (said[n - 1] == '\n' || said[n - 1] == ' '))
            n--;
        status = error_set("model-written programs cannot be run%s here: %.*s%s(exit code %d)",
                           s->jail.unsafe ? "" : " safely", n > 300 ? 300 : (int)n, said,
                           n ? " " : "", result.status);
    }
    sandbox_result_free(&result);
    return status;
}

struct sandbox *sandbox_open(const struct sandbox_options *options)
{
    struct sandbox *s = calloc(1, sizeof *s);
    sigset_t all, before;

    if (!s) {
        error_set("out of memory");
        return NULL;
    }
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->news, NULL);
    list_init(&s->queue);
    list_init(&s->done);
    s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->n_cells = options->workers ? options->workers : count_processors();
    if (s->n_cells > MAX_WORKERS)
        s->n_cells = MAX_WORKERS;
    s->cells = calloc(s->n_cells, sizeof *s->cells);
    if (!s->cells || s->wake < 0) {
        error_set("out of memory");
        goto failed;
    }
    if (jail_make(&s->jail, options)) {
        error_prefix("model-written programs cannot be run safely here");
        goto failed;
    }
    /* The caller's signals are the caller's business. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int rc = pthread_create(&s->thread, NULL, supervise, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) {
        error_set("the sandbox's thread cannot be started: %s", strerror(rc));
        goto failed;
    }
    s->has_thread = true;
    if (try_out(s) == 0)
        return s;
failed:
    sandbox_close(s);
    return NULL;
}

static void wake(struct sandbox *s)
{
    const uint64_t one = 1;

    while (write(s->wake, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

void sandbox_close(struct sandbox *s)
{
    if (!s)
        return;
    if (s->has_thread) {
        pthread_mutex_lock(&s->lock);
        s->closing = true;
        pthread_mutex_unlock(&s->lock);
        wake(s);
        pthread_join(s->thread, NULL);
    }
    for (struct entry *e = list_take(&s->queue); e; e = list_take(&s->queue))
        entry_free(e);
    for (struct entry *e = list_take(&s->done); e; e = list_take(&s->done))
        entry_free(e);
    if (s->wake >= 0)
        close(s->wake);
    jail_free(&s->jail);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->news);
    free(s->cells);
    free(s);
}

int sandbox_submit(struct sandbox *s, const char *program, size_t id)
{
    struct entry *entry = calloc(1, sizeof *entry);

    if (!entry || !(entry->program = strdup(program))) {
        free(entry);
        return error_set("out of memory");
    }
    entry->result.id = id;
    pthread_mutex_lock(&s->lock);
    list_put(&s->queue, entry);
    s->n_pending++;
    pthread_mutex_unlock(&s->lock);
    wake(s);
    return 0;
}

bool sandbox_next(struct sandbox *s, bool wait, struct sandbox_result *result)
{
    pthread_mutex_lock(&s->lock);
    while (wait && !s->done.first && s->n_pending)
        pthread_cond_wait(&s->news, &s->lock);
    struct entry *entry = list_take(&s->done);
    if (entry)
        s->n_pending--;
    pthread_mutex_unlock(&s->lock);
    if (!entry)
        return false;
    *result = entry->result;
    memset(&entry->result, 0, sizeof entry->result);
    entry_free(entry);
    return true;
}

size_t sandbox_pending(const struct sandbox *s)
{
    return s->n_pending; /* changed by the caller's thread alone */
}
