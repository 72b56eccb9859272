#include "mpi/h5_live.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi/clock.h"
#include "mpi/error.h"
#include "mpi/file_write.h"
#include "mpi/h5.h"

enum {
    CHUNK_ROWS = 256,
    GROW_BYTES = 1 << 16,
    /* In a superblock of version 3. */
    MARK = 11,
    CHECKSUM = H5_LIVE_SUPERBLOCK - 4,
    /* A reader that meets a half-written piece looks again; HDF5's own hundred times, each twice
     * as long after the one before, would be for ever at a damaged file. */
    READ_ATTEMPTS = 20
};
static const double sync_seconds = 10;

/* ---- making ------------------------------------------------------------------------------------
 */

hid_t h5_live_create(const char *name)
{
    struct h5_quiet quiet;
    hid_t file = -1;

    h5_quiet_begin(&quiet);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access >= 0 && H5Pset_fapl_core(access, GROW_BYTES, 0) >= 0 &&
        H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0)
        file = H5Fcreate(name, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    if (access >= 0)
        H5Pclose(access);
    h5_quiet_end(&quiet);
    if (file < 0)
        error_set("%s: HDF5 cannot make a file in memory", name);
    return file;
}

int h5_live_column(hid_t group, const char *name, hid_t type, size_t room)
{
    /* Two chunks at least: a single one has an index of its own kind, and gives its room back. */
    const hsize_t most = room > 2 ? room : 2, half = (most + 1) / 2, none = 0;
    const hsize_t chunk = half < CHUNK_ROWS ? half : CHUNK_ROWS;
    struct h5_quiet quiet;
    hid_t dataset = -1;

    h5_quiet_begin(&quiet);
    hid_t space = H5Screate_simple(1, &most, &most);
    hid_t layout = H5Pcreate(H5P_DATASET_CREATE);
    if (space >= 0 && layout >= 0 && H5Pset_chunk(layout, 1, &chunk) >= 0 &&
        H5Pset_alloc_time(layout, H5D_ALLOC_TIME_EARLY) >= 0)
        dataset = H5Dcreate2(group, name, type, space, H5P_DEFAULT, layout, H5P_DEFAULT);
    /* Made at its full length, so that it has its room; the room stays. */
    int status = dataset >= 0 && H5Dset_extent(dataset, &none) >= 0 ? 0 : -1;
    if (dataset >= 0)
        H5Dclose(dataset);
    if (layout >= 0)
        H5Pclose(layout);
    if (space >= 0)
        H5Sclose(space);
    h5_quiet_end(&quiet);
    return status ? error_set("HDF5 cannot make the column %s of %zu rows", name, room) : 0;
}

int h5_live_text(hid_t group, const char *name, const char *text, size_t size)
{
    struct h5_quiet quiet;
    char bytes[64] = "";
    hid_t dataset = -1;

    strncpy(bytes, text, sizeof bytes - 1);
    h5_quiet_begin(&quiet);
    hid_t type = size <= sizeof bytes ? H5Tcopy(H5T_C_S1) : (hid_t)-1;
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t layout = H5Pcreate(H5P_DATASET_CREATE);
    if (type >= 0 && space >= 0 && layout >= 0 && H5Tset_size(type, size) >= 0 &&
        H5Pset_alloc_time(layout, H5D_ALLOC_TIME_EARLY) >= 0)
        dataset = H5Dcreate2(group, name, type, space, H5P_DEFAULT, layout, H5P_DEFAULT);
    int status =
        dataset >= 0 && H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes) >= 0 ? 0 : -1;
    if (dataset >= 0)
        H5Dclose(dataset);
    if (layout >= 0)
        H5Pclose(layout);
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    h5_quiet_end(&quiet);
    return status ? error_set("HDF5 cannot make the text %s", name) : 0;
}

/* HDF5's metadata checksum of CHECKSUM bytes: lookup3 by Bob Jenkins (public domain), hashlittle()
 * from 0, for a length that is a multiple of four. */
static uint32_t checksum(const unsigned char *bytes)
{
    static const int mix[6] = {4, 6, 8, 16, 19, 4}, final[7] = {14, 11, 25, 16, 4, 14, 24};
    uint32_t x[3] = {0xdeadbeef + CHECKSUM, 0xdeadbeef + CHECKSUM, 0xdeadbeef + CHECKSUM};
    size_t at = 0;

#define ROTATED(v, k) ((v) << (k) | (v) >> (32 - (k)))
    for (;; at += 12) {
        for (size_t i = 0; i < 3 && at + 4 * i < CHECKSUM; i++) {
            const unsigned char *b = bytes + at + 4 * i;
            x[i] +=
                (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
        }
        if (CHECKSUM - at <= 12)
            break;
        for (int k = 0; k < 6; k++) {
            uint32_t *a = &x[k % 3], *b = &x[(k + 1) % 3], *c = &x[(k + 2) % 3];
            *a -= *c;
            *a ^= ROTATED(*c, mix[k]);
            *c += *b;
        }
    }
    for (int k = 0; k < 7; k++) {
        uint32_t *c = &x[(k + 2) % 3], *b = &x[(k + 1) % 3];
        *c ^= *b;
        *c -= ROTATED(*b, final[k]);
    }
#undef ROTATED
    return x[2];
}

int h5_live_write(hid_t file, const char *path)
{
    size_t n;
    unsigned char *bytes = (unsigned char *)h5_image(file, path, &n);
    int status = -1;

    if (bytes && n > H5_LIVE_SUPERBLOCK && bytes[8] == 3) {
        bytes[MARK] = 0; /* HDF5 1.10 does so too, and leaves the marked one's checksum */
        const uint32_t sum = checksum(bytes);
        for (int i = 0; i < 4; i++)
            bytes[CHECKSUM + i] = (unsigned char)(sum >> 8 * i);
        status = file_write(path, bytes, n);
    } else if (bytes) {
        error_set("%s: HDF5 has not made the format that can grow while it is read", path);
    }
    free(bytes);
    return status;
}

/* ---- growing -----------------------------------------------------------------------------------
 */

/* The mark and the checksum, nothing else, differ from the closed file's superblock. */
static int unmark(struct h5_live *live, const char *path)
{
    unsigned char now[H5_LIVE_SUPERBLOCK];

    if (pread(live->descriptor, now, sizeof now, 0) != sizeof now)
        return error_set("%s: %s", path, strerror(errno));
    if (memcmp(now, live->superblock, sizeof now) == 0)
        return 0;
    now[MARK] = live->superblock[MARK];
    if (memcmp(now, live->superblock, CHECKSUM) != 0)
        return error_set("%s: HDF5 has changed the file's layout", path);
    if (pwrite(live->descriptor, live->superblock, sizeof now, 0) != sizeof now)
        return error_set("%s: %s", path, strerror(errno));
    return 0;
}

int h5_live_open(struct h5_live *live, const char *path)
{
    struct h5_quiet quiet;
    int status = -1;

    *live = (struct h5_live){.file = -1, .descriptor = -1, .synced = clock_seconds()};
    h5_quiet_begin(&quiet);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access >= 0) {
        H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
        H5Pset_metadata_read_attempts(access, READ_ATTEMPTS);
        h5_without_locks(access);
    }
    if ((live->descriptor = open(path, O_RDWR | O_CLOEXEC)) < 0 ||
        pread(live->descriptor, live->superblock, H5_LIVE_SUPERBLOCK, 0) != H5_LIVE_SUPERBLOCK)
        error_set("%s: %s", path, strerror(errno));
    else if (access < 0 ||
             (live->file = H5Fopen(path, H5F_ACC_RDWR | H5F_ACC_SWMR_WRITE, access)) < 0)
        error_set("%s: HDF5 cannot open it for one writer and many readers", path);
    else
        status = unmark(live, path);
    if (access >= 0)
        H5Pclose(access);
    h5_quiet_end(&quiet);
    if (status)
        h5_live_close(live);
    return status;
}

int h5_live_put(hid_t column, hid_t type, size_t row, const void *value)
{
    const hsize_t at = row, one = 1, length = row + 1;
    hsize_t now = 0;
    struct h5_quiet quiet;

    h5_quiet_begin(&quiet);
    hid_t memory = H5Screate_simple(1, &one, NULL);
    hid_t space = H5Dget_space(column);
    int status = space >= 0 && memory >= 0 && H5Sget_simple_extent_dims(space, &now, NULL) == 1 &&
                         (now >= length || H5Dset_extent(column, &length) >= 0)
                     ? 0
                     : -1;
    if (space >= 0)
        H5Sclose(space);
    space = status == 0 ? H5Dget_space(column) : -1;
    if (space < 0 || H5Sselect_hyperslab(space, H5S_SELECT_SET, &at, NULL, &one, NULL) < 0 ||
        H5Dwrite(column, type, memory, space, H5P_DEFAULT, value) < 0)
        status = -1;
    if (space >= 0)
        H5Sclose(space);
    if (memory >= 0)
        H5Sclose(memory);
    h5_quiet_end(&quiet);
    return status ? error_set("HDF5 cannot write row %zu", row) : 0;
}

int h5_live_flush(struct h5_live *live, const char *path)
{
    struct h5_quiet quiet;

    h5_quiet_begin(&quiet);
    const herr_t flushed = H5Fflush(live->file, H5F_SCOPE_GLOBAL);
    h5_quiet_end(&quiet);
    if (flushed < 0)
        return error_set("%s: HDF5 cannot write it", path);
    if (clock_seconds() - live->synced >= sync_seconds) {
        live->synced = clock_seconds();
        if (fdatasync(live->descriptor) != 0)
            return error_set("%s: %s", path, strerror(errno));
    }
    return unmark(live, path);
}

void h5_live_close(struct h5_live *live)
{
    struct h5_quiet quiet;

    h5_quiet_begin(&quiet);
    if (live->file >= 0)
        H5Fclose(live->file);
    h5_quiet_end(&quiet);
    if (live->descriptor >= 0)
        close(live->descriptor);
    live->file = -1;
    live->descriptor = -1;
}

/* ---- reading -----------------------------------------------------------------------------------
 */

hid_t h5_live_read(const char *path)
{
    struct h5_quiet quiet;
    hid_t file = -1;

    h5_quiet_begin(&quiet);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access >= 0) {
        H5Pset_metadata_read_attempts(access, READ_ATTEMPTS);
        h5_without_locks(access);
        file = H5Fopen(path, H5F_ACC_RDONLY | H5F_ACC_SWMR_READ, access);
        H5Pclose(access);
    }
    h5_quiet_end(&quiet);
    return file >= 0 ? file : h5_open(path); /* of an older format: not one of these */
}
