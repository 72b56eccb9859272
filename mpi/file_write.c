#include "mpi/file_write.h"

#include <errno.h>
#include <fcntl.h>
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

/* The new name survives a power failure only once its folder is synced; best effort. */
static void sync_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
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

int file_write(const char *path, const void *bytes, size_t n_bytes)
{
    char *temporary = NULL;
    struct held held;
    struct stat info;
    int fd = -1, status = -1;
    bool created = false;

    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return error_set("%s: cannot be written: it is a folder", path);
    if (asprintf(&temporary, "%s.tmp-%ld", path, (long)getpid()) < 0)
        return error_set("%s: out of memory", path);
    signal_hold(&held);
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        fail(path);
        goto done;
    }
    created = true;
    if (write_all(fd, bytes, n_bytes) || fsync(fd)) {
        fail(path);
        goto done;
    }
    int rc = close(fd);
    fd = -1;
    if (rc || rename(temporary, path)) {
        fail(path);
        goto done;
    }
    created = false;
    sync_folder(path);
    status = 0;
done:
    if (fd >= 0)
        close(fd);
    if (created)
        unlink(temporary);
    signal_release(&held);
    free(temporary);
    return status;
}
