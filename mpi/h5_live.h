#ifndef T2_MPI_H5_LIVE_H
#define T2_MPI_H5_LIVE_H
/* HDF5 files that grow while others read them: one writer in HDF5's SWMR mode, readers with or
 * without it (h5py with swmr=True follows the growth, everything else sees what was there when it
 * opened the file), and readable by all of them after a kill -9.
 *
 * A SWMR writer marks the file as being written, and a killed one leaves that mark, which every
 * plain reader refuses (h5clear -s takes it off). Ours takes it off itself as soon as it has the
 * file open. That is safe because the file never changes its size or layout while it is written:
 * all rows have their room from the start (chunks allocated early, HDF5's implicit index), so a
 * step changes the rows' bytes and the datasets' extents alone, and the superblock of the closed
 * file stays true. It is written whole (file_write.h) before it is opened to grow; what is
 * appended needs no further room on the disk.
 *
 * Serial: one rank alone calls it. Functions return 0, or -1 with error_set. */
#include <hdf5.h>
#include <stddef.h>

enum { H5_LIVE_SUPERBLOCK = 48 }; /* bytes of version 3 */

struct h5_live {
    hid_t file; /* negative: not open */
    int descriptor;
    double synced; /* clock_seconds() of the last */
    unsigned char superblock[H5_LIVE_SUPERBLOCK];
};

/* A new file in memory in the format that such files need (HDF5 1.10). Negative with error_set. */
hid_t h5_live_create(const char *name);
/* Writes its bytes to path, in place of a file that is there; it stays open in memory. */
int h5_live_write(hid_t file, const char *path);
/* An empty column of that file that can take `room` rows. */
int h5_live_column(hid_t group, const char *name, hid_t type, size_t room);
/* A scalar text of at most size - 1 bytes that can be changed. */
int h5_live_text(hid_t group, const char *name, const char *text, size_t size);

/* Opens a written file to grow. */
int h5_live_open(struct h5_live *live, const char *path);
/* Row `row` (that of an end, or an earlier one) of a column that is open. */
int h5_live_put(hid_t column, hid_t type, size_t row, const void *value);
/* Readers see what was put before; it survives the process. At most every ten seconds it is also
 * sent to the disk, or the file's server, whose other clients see it then. */
int h5_live_flush(struct h5_live *live, const char *path);
/* The caller has closed every object of the file. Accepts one that is not open. */
void h5_live_close(struct h5_live *live);

/* Opens such a file, or any other HDF5 file, for reading; negative with error_set. */
hid_t h5_live_read(const char *path);

#endif
