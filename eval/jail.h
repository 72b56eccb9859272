#ifndef T2_EVAL_JAIL_H
#define T2_EVAL_JAIL_H
/* One Python program in one fresh bubblewrap jail: the command line, the seccomp filter, starting
 * it, how much memory it holds, and ending all of it. What the jail guarantees stands in
 * sandbox.h, whose pool is the only user. Linux only. */
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "eval/sandbox.h"

enum { JAIL_TOKEN = 32, JAIL_MAX_ARGUMENTS = 96 };

/* The command that starts a program, made once for a pool. */
struct jail {
    const char *arguments[JAIL_MAX_ARGUMENTS]; /* NULL-terminated */
    char *texts[JAIL_MAX_ARGUMENTS];           /* those that are ours */
    size_t n_arguments, n_texts;
    struct sandbox_limits limits;
    bool unsafe;
    unsigned char *filter; /* a seccomp program, n_filter bytes */
    size_t n_filter;
};

/* A program under way. Descriptors are -1 where there is none. */
struct inmate {
    pid_t pid;      /* bubblewrap itself (unsafe: the interpreter) */
    pid_t init;     /* the first process of the jail's PID namespace, 0: not known yet */
    int pid_fd;     /* readable when pid has ended */
    int init_fd;    /* readable when nothing is left in the jail */
    int output;     /* what the program prints, both streams */
    int info;       /* where bubblewrap tells init */
    char told[512]; /* what it has told so far */
    size_t n_told;
    char *folder;               /* unsafe: the working folder, removed at the end */
    char token[JAIL_TOKEN + 1]; /* printed by the harness when the program has run to its end */
};

/* 0, or -1 with error_set where something that is needed is not installed. */
int jail_make(struct jail *jail, const struct sandbox_options *options);
void jail_free(struct jail *jail);
/* Its part: the seccomp program, none for processors whose calls it does not know. */
int jail_make_filter(struct jail *jail);

/* Starts a program. The thread that calls it must live as long as the program: the kernel ends the
 * jail with that thread. 0, or -1 with error_set. */
int jail_start(const struct jail *jail, const char *program, struct inmate *inmate);
/* Reads the number of the jail's first process when bubblewrap tells it. */
void jail_learn_init(struct inmate *inmate);
/* Memory (anonymous and shared) and number of all processes in the jail; false when not known. */
bool jail_measure(const struct inmate *inmate, size_t *n_bytes, size_t *n_processes);
/* SIGKILL for everything inside. */
void jail_kill(const struct inmate *inmate);
/* After pid has ended: its exit status as from wait(), nothing left of it. */
int jail_reap(struct inmate *inmate);

#endif
