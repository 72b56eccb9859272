#ifndef T2_TESTS_FUZZ_H5_FEED_H
#define T2_TESTS_FUZZ_H5_FEED_H
/* For the fuzz targets that build well-formed HDF5 files: choices out of the input, texts among
 * them, and the file under a name. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi/h5.h"

struct feed {
    const uint8_t *data;
    size_t n;
};

/* 0 .. n - 1; 0 when the input has ended: the usual choice comes first everywhere. */
static size_t take(struct feed *feed, size_t n)
{
    if (feed->n == 0)
        return 0;
    feed->n--;
    return *feed->data++ % n;
}

static const char *take_text(struct feed *feed)
{
    static char text[96];
    size_t n = take(feed, sizeof text);

    memset(text, 0, sizeof text);
    for (size_t i = 0; i < n; i++)
        text[i] = (char)take(feed, 256);
    return text;
}

/* The usual text nearly always. */
static void put_text(struct feed *feed, hid_t object, const char *name, const char *usual)
{
    switch (take(feed, 16)) {
    case 1:
        return;
    case 2:
        h5_put_text(object, name, take_text(feed));
        return;
    case 3:
        h5_put_int(object, name, 1);
        return;
    default:
        h5_put_text(object, name, usual);
    }
}

/* A file with a name: HDF5 cannot open one without. */
static void write_file(hid_t file, const char *path)
{
    H5Fflush(file, H5F_SCOPE_GLOBAL);
    ssize_t n = H5Fget_file_image(file, NULL, 0);
    char *bytes = n > 0 ? malloc((size_t)n) : NULL;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    if (!bytes || fd < 0 || H5Fget_file_image(file, bytes, (size_t)n) != n ||
        write(fd, bytes, (size_t)n) != n)
        abort();
    close(fd);
    free(bytes);
}

#endif
