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

/* The group "layers" of groups that are named by their numbers, nearly always, with matrices. */
static inline void put_layers(struct feed *feed, hid_t file,
                              void (*put_matrix)(struct feed *feed, hid_t layer, size_t number))
{
    static const char *const numbers[] = {"00", "01", "100", "7", "-1", "99999999999999999999"};
    hid_t layers = h5_group_create(file, "layers");

    for (size_t i = 0, n = 1 + take(feed, 4); i < n; i++) {
        size_t which = take(feed, 8);
        const char *number = which < 6 ? numbers[which] : take_text(feed);
        if (!*number)
            continue;
        if (take(feed, 16) == 1) {
            H5Lcreate_hard(file, "/layers", layers, number, H5P_DEFAULT, H5P_DEFAULT);
            continue;
        }
        hid_t layer = h5_group_create(layers, number);
        for (size_t j = 0, m = 1 + take(feed, 3); layer >= 0 && j < m; j++)
            put_matrix(feed, layer, strtoul(number, NULL, 10));
        if (layer >= 0)
            H5Gclose(layer);
    }
    H5Gclose(layers);
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
