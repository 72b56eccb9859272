#ifndef T2_EVAL_SANDBOX_H
#define T2_EVAL_SANDBOX_H
/* Runs Python programs that nobody has read (a model wrote them), many at a time, beside other
 * work.
 *
 * A program passes when its text runs to its end, without an exception and without leaving early:
 * a random token, printed behind the last statement, says so, not the exit code.
 *
 * What holds for a program, under bubblewrap (https://github.com/containers/bubblewrap):
 *   files       it sees /usr and the links or folders /lib*, /bin, /sbin read-only, /dev/null,
 *               /dev/zero, /dev/urandom, and an empty /tmp of its own of limited size; no /proc, no
 *               /sys, no home. Nothing that it writes outlives it or is seen by another program.
 *   network     none: a network namespace without any device, and no socket() at all.
 *   processes   a PID namespace of its own; when the program ends, or its time, all of it is
 * killed, daemons too, and the result is told only when nothing is left. It goes with the process
 * that opened the pool, however that ends. rights      no capabilities, no_new_privs, a user
 * namespace of its own. A pool opened by root runs its programs as a user without rights
 * (SANDBOX_UID): rlimits do not bind root. kernel      a seccomp filter refuses what such programs
 * do not need: ptrace, mount, bpf, keyctl, userfaultfd, perf_event_open, io_uring, new namespaces,
 * memfd, System V IPC,
 *               ... (jail.c has the list); x86-64 and aarch64. Elsewhere there is none.
 *   inherits    an empty environment, standard streams; no other descriptor.
 *   limits      struct sandbox_limits; processes by RLIMIT_NPROC, counted per user namespace since
 *               Linux 5.14, and by a watch that also adds up the memory of all its processes every
 *               50 ms.
 * What does not hold: a caller killed in the millisecond in which a jail is made may leave
 * bubblewrap's empty first process behind (no program runs in it); the kernel is shared, so a hole
 * in it is a hole here; a program may use up its limits; and the tests run in the program's own
 * interpreter, so a program that sets out to deceive them (an object that equals everything,
 * reading the token from the frames above it) can pass.
 *
 * Without bubblewrap, or where the kernel refuses namespaces, sandbox_open() fails with the reason.
 * `unsafe` runs programs with time, memory and output limits but otherwise with all rights of the
 * caller. The same hash seed for all programs, so that sets come in the same order.
 *
 * A pool belongs to one thread of the caller; inside it has one thread of its own. */
#include <stdbool.h>
#include <stddef.h>

enum { SANDBOX_UID = 196883 }; /* and GID; belongs to nobody */

struct sandbox_limits {
    double seconds;     /* by the clock */
    double cpu_seconds; /* of each process, rounded up to whole seconds */
    size_t memory;      /* bytes: address space of each process, memory of all together */
    size_t processes;   /* and threads */
    size_t file_bytes;  /* each file */
    size_t tmp_bytes;   /* all of /tmp */
    size_t output_bytes;
};

struct sandbox_options {
    struct sandbox_limits limits;
    size_t workers;     /* programs at a time; 0: processors that we may run on */
    const char *python; /* interpreter, below /usr; NULL: /usr/bin/python3 */
    const char *bwrap;  /* NULL: bwrap from PATH */
    bool unsafe;
};
/* 10 s of processor and 30 s of time, 512 MiB, 16 processes, 16 MiB a file, 64 MiB /tmp, 1 MiB
 * output. */
struct sandbox_options sandbox_defaults(void);

enum sandbox_outcome {
    SANDBOX_PASSED,
    SANDBOX_FAILED,    /* an exception, or left before the end */
    SANDBOX_TIME,      /* too long */
    SANDBOX_MEMORY,    /* all processes together too large (one alone gets a MemoryError) */
    SANDBOX_PROCESSES, /* too many */
    SANDBOX_OUTPUT,    /* printed too much */
    SANDBOX_BROKEN,    /* could not be started */
    SANDBOX_OUTCOMES
};
const char *sandbox_outcome_name(
    enum sandbox_outcome outcome); /* "passed", "failed", "time", ... */

struct sandbox_result {
    size_t id; /* as submitted */
    enum sandbox_outcome outcome;
    int status;     /* exit code, or 128 + signal */
    double seconds; /* by the clock */
    char *output;   /* the last 2 KiB that were printed, or why it is broken; malloc'ed */
};
void sandbox_result_free(struct sandbox_result *result);

struct sandbox;

/* Opens a pool and runs a small program in it. NULL with error_set, which says why programs cannot
 * be run here. */
struct sandbox *sandbox_open(const struct sandbox_options *options);
/* Ends what still runs. NULL is allowed. */
void sandbox_close(struct sandbox *sandbox);

/* Queues a program (copied); does not wait. 0, or -1 with error_set. */
int sandbox_submit(struct sandbox *sandbox, const char *program, size_t id);
/* A finished program in *result, in the order in which they finish. With wait: the next one that
 * finishes. False: none (with wait: none is under way). */
bool sandbox_next(struct sandbox *sandbox, bool wait, struct sandbox_result *result);
/* Submitted and not yet returned by sandbox_next(). */
size_t sandbox_pending(const struct sandbox *sandbox);

#endif
