#include "mpi/file_write.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "mpi/error.h"

/* ---- SIGXFSZ ------------------------------------------------------------------------------------
 * Writing past a file-size limit raises a signal that kills by default. Held back during the
 * write, it leaves EFBIG to report. */

struct held {
    sigset_t before;
    bool was_pending;
};

static void signal_hold(struct held *held)
{
    sigset_t set;

    sigpending(&set);
    held->was_pending = sigismember(&set, SIGXFSZ);
    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &set, &held->before);
}

static void signal_release(const struct held *held)
{
    sigset_t set;
    const struct timespec at_once = {0, 0};

    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    while (!held->was_pending && sigtimedwait(&set, NULL, &at_once) == SIGXFSZ)
        ;
    pthread_sigmask(SIG_SETMASK, &held->before, NULL);
}

static int write_all(int fd, const char *bytes, size_t n)
{
    while (n) {
        /* Linux moves at most 2 GiB in one call. */
        ssize_t written = write(fd, bytes, n < (1u << 30) ? n : (1u << 30));
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -1;
        bytes += written;
        n -= (size_t)written;
    }
    return 0;
}

/* Malloc'ed. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
}

/* The new name survives a power failure only once its folder is synced; best effort. */
static void sync_folder(const char *path)
{
    char *folder = folder_of(path);
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(folder);
}

static int fail(const char *path)
{
    int reason = errno;
    return error_set("%s: cannot be written: %s%s", path, strerror(reason),
                     reason == EFBIG    ? " (the shell's file-size limit, ulimit -f)"
                     : reason == ENOENT ? " (does its folder exist?)"
                                        : "");
}

static int check_kind(const char *path)
{
    struct stat info;

    if (stat(path, &info) != 0)
        return 0; /* what is not there can be made; the folder is open()'s matter */
    if (S_ISDIR(info.st_mode))
        return error_set("%s: cannot be written: it is a folder", path);
    if (!S_ISREG(info.st_mode))
        return error_set("%s: cannot be written: it is a device, a pipe or a socket; name an "
                         "ordinary file",
                         path);
    return 0;
}

/* A file in path's folder that has no name until it is complete, so that a killed process leaves
 * nothing. *has_name: the file system cannot do that, and `temporary` is there. */
static int open_temporary(const char *path, const char *temporary, bool *has_name)
{
    char *folder = folder_of(path);
    int fd = folder ? open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666) : -1;

    free(folder);
    *has_name = fd < 0;
    return fd >= 0 ? fd : open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
}

/* What the link `path` says, from where this process stands. NULL: out of memory, or none. */
static char *read_link(const char *path)
{
    char target[PATH_MAX], *followed;
    const char *slash = strrchr(path, '/');
    const ssize_t n = readlink(path, target, sizeof target - 1);

    if (n < 0)
        return NULL;
    target[n] = '\0';
    const int n_folder = *target != '/' && slash ? (int)(slash - path) + 1 : 0;
    return asprintf(&followed, "%.*s%s", n_folder, path, target) < 0 ? NULL : followed;
}

char *file_follow(const char *path)
{
    enum { MOST_LINKS = 40 }; /* Linux's own limit */
    char *at = strdup(path);
    struct stat info;

    for (int i = 0; at && lstat(at, &info) == 0 && S_ISLNK(info.st_mode); i++) {
        char *next = i < MOST_LINKS ? read_link(at) : NULL;
        if (i == MOST_LINKS)
            error_set("%s: too many links lead on from it", path);
        else if (!next)
            error_set("%s: the link cannot be followed", path);
        free(at);
        if (!next)
            return NULL;
        at = next;
    }
    if (!at)
        error_set("%s: out of memory", path);
    return at;
}

int file_check_target(const char *path)
{
    char *target = NULL, *temporary = NULL;
    bool has_name;

    if (check_kind(path) || !(target = file_follow(path)))
        return -1;
    if (asprintf(&temporary, "%s.tmp-%ld", target, (long)getpid()) < 0) {
        free(target);
        return error_set("%s: out of memory", path);
    }
    int fd = open_temporary(target, temporary, &has_name);
    if (fd < 0)
        fail(path);
    else
        close(fd);
    if (fd >= 0 && has_name)
        unlink(temporary);
    free(temporary);
    free(target);
    return fd < 0 ? -1 : 0;
}

/* As open(2) describes for O_TMPFILE. */
static int give_name(int fd, const char *temporary)
{
    char link[32];

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    unlink(temporary); /* of a dead process with our number */
    return linkat(AT_FDCWD, link, AT_FDCWD, temporary, AT_SYMLINK_FOLLOW);
}

int file_write(const char *path, const void *bytes, size_t n_bytes)
{
    char *target = NULL, *temporary = NULL;
    struct held held;
    int fd = -1, status = -1;
    bool created = false;

    /* A link stays one: the file that it leads to is replaced. */
    if (check_kind(path) || !(target = file_follow(path)))
        return -1;
    if (asprintf(&temporary, "%s.tmp-%ld", target, (long)getpid()) < 0) {
        free(target);
        return error_set("%s: out of memory", path);
    }
    signal_hold(&held);
    fd = open_temporary(target, temporary, &created);
    if (fd < 0) {
        created = false;
        fail(path);
        goto done;
    }
    if (write_all(fd, bytes, n_bytes) || fsync(fd)) {
        fail(path);
        goto done;
    }
    if (!created && give_name(fd, temporary)) {
        /* No /proc: once more, under a name from the start. */
        close(fd);
        fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (fd < 0 || write_all(fd, bytes, n_bytes) || fsync(fd)) {
            created = fd >= 0;
            fail(path);
            goto done;
        }
    }
    created = true;
    int rc = close(fd);
    fd = -1;
    if (rc || rename(temporary, target)) {
        fail(path);
        goto done;
    }
    created = false;
    sync_folder(target);
    status = 0;
done:
    if (fd >= 0)
        close(fd);
    if (created)
        unlink(temporary);
    signal_release(&held);
    free(temporary);
    free(target);
    return status;
}
