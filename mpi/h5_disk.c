#include "mpi/h5_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/text.h"

/* fd >= 0 is closed, and the file removed. */
static int fail(int fd, const char *path)
{
    int reason = errno;

    if (fd >= 0) {
        close(fd);
        unlink(path);
    }
    return error_set("%s: cannot be written: %s%s", path, strerror(reason),
                     reason == ENOENT ? " (does its folder exist?)" : "");
}

static int fail_for_room(int fd, const char *path, size_t n_bytes)
{
    char bytes[32];
    int reason = errno;

    close(fd);
    unlink(path);
    text_bytes(bytes, sizeof bytes, (double)n_bytes);
    return error_set("%s: cannot be written, it needs %s: %s%s", path, bytes, strerror(reason),
                     reason == EFBIG ? " (the shell's file-size limit, ulimit -f)" : "");
}

/* 0 or an errno. Room behind the file's end is taken where the file system can do that (the file's
 * size stays, which HDF5 compares with what it wrote); elsewhere, looking must do. */
static int reserve(int fd, size_t n_bytes)
{
    struct rlimit limit;
    struct statvfs info;

    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        limit.rlim_cur < n_bytes)
        return EFBIG;
    if (n_bytes > INT64_MAX)
        return EFBIG;
    while (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)n_bytes) != 0) {
        if (errno == EINTR)
            continue;
        if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)
            return errno;
        return fstatvfs(fd, &info) == 0 && info.f_bavail < n_bytes / info.f_frsize + 1 ? ENOSPC : 0;
    }
    return 0;
}

/* The bytes of an HDF5 file with nothing in it, malloc'ed; NULL with error_set. */
static char *empty_image(const char *path, size_t *n)
{
    hid_t file = h5_create(path);
    char *bytes = file < 0 ? NULL : h5_image(file, path, n);

    h5_close(file);
    return bytes;
}

static hid_t open_to_write(const char *path)
{
    struct h5_quiet quiet;

    h5_quiet_begin(&quiet);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access >= 0)
        h5_without_locks(access);
    hid_t file = access >= 0 ? H5Fopen(path, H5F_ACC_RDWR, access) : (hid_t)-1;
    if (access >= 0)
        H5Pclose(access);
    h5_quiet_end(&quiet);
    return file;
}

hid_t h5_disk_create(const char *path, size_t n_bytes)
{
    size_t n;
    char *image = empty_image(path, &n);
    hid_t file = -1;

    if (!image)
        return -1;
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        fail(fd, path);
        goto done;
    }
    errno = reserve(fd, n_bytes > n ? n_bytes : n);
    if (errno) {
        fail_for_room(fd, path, n_bytes);
        goto done;
    }
    ssize_t written = write(fd, image, n);
    if (written != (ssize_t)n) {
        errno = written < 0 ? errno : ENOSPC;
        fail_for_room(fd, path, n_bytes);
        goto done;
    }
    close(fd);
    file = open_to_write(path);
    if (file < 0) {
        unlink(path);
        error_set("%s: HDF5 cannot open its new file", path);
    }
done:
    free(image);
    return file;
}

hid_t h5_disk_reopen(const char *path, size_t n_bytes)
{
    char bytes[32];
    int fd = open(path, O_RDWR | O_CLOEXEC), reason = fd < 0 ? errno : reserve(fd, n_bytes);

    if (fd >= 0)
        close(fd);
    if (reason) {
        text_bytes(bytes, sizeof bytes, (double)n_bytes);
        return error_set("%s: cannot be written, it needs %s: %s", path, bytes, strerror(reason));
    }
    const hid_t file = open_to_write(path);
    return file < 0 ? (hid_t)error_set("%s: HDF5 cannot open its own file again", path) : file;
}

int h5_disk_close(hid_t file, const char *path, bool sync)
{
    struct h5_quiet quiet;
    struct stat info;

    h5_quiet_begin(&quiet);
    int rc = H5Fflush(file, H5F_SCOPE_GLOBAL) < 0;
    rc |= H5Fclose(file) < 0;
    h5_quiet_end(&quiet);
    if (rc) {
        unlink(path);
        return error_set("%s: HDF5 cannot write the file (is the disk full?)", path);
    }
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        fail(fd, path);
        unlink(path);
        return -1;
    }
    if (fstat(fd, &info) || ftruncate(fd, info.st_size) || (sync && fsync(fd)))
        return fail(fd, path);
    if (close(fd)) {
        fail(-1, path);
        unlink(path);
        return -1;
    }
    return 0;
}

void h5_disk_abort(hid_t file, const char *path)
{
    struct h5_quiet quiet;

    if (file < 0)
        return;
    h5_quiet_begin(&quiet);
    H5Fclose(file);
    h5_quiet_end(&quiet);
    unlink(path);
}

/* The folder that holds path, opened for its names to be synced; -1 if it cannot be. */
static int open_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

    free(folder);
    return fd;
}

int h5_disk_rename(const char *from, const char *to, bool sync)
{
    if (rename(from, to)) {
        fail(-1, to);
        unlink(from);
        return -1;
    }
    int fd = sync ? open_folder(to) : -1;
    if (fd >= 0) {
        fsync(fd); /* best effort: not every file system can sync a folder */
        close(fd);
    }
    return 0;
}
