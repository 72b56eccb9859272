#ifndef T2_MPI_H5_DISK_H
#define T2_MPI_H5_DISK_H
/* HDF5 files that are too large to be built in memory (h5.h): written piece by piece under a
 * temporary name, then renamed. HDF5 cannot close a file whose last bytes find no room, so the room
 * is taken before HDF5 sees the file: a full disk or a file-size limit is an error of
 * h5_disk_create. Serial: one rank alone calls it. */
#include <hdf5.h>
#include <stdbool.h>
#include <stddef.h>

/* A new, empty HDF5 file with room for n_bytes (more are written where the disk has them).
 * `path` is the temporary name; a file that is there is replaced. Negative with error_set, then
 * nothing is left. */
hid_t h5_disk_create(const char *path, size_t n_bytes);

/* Opens a closed one again to go on, with room for n_bytes in all. Negative with error_set; the
 * file stays. */
hid_t h5_disk_reopen(const char *path, size_t n_bytes);

/* Closes it, gives back room that was not used, and with `sync` waits until the bytes are on the
 * disk. The caller has closed every object of the file. 0, or -1 with error_set; then the file is
 * removed. */
int h5_disk_close(hid_t file, const char *path, bool sync);

/* Closes and removes it. */
void h5_disk_abort(hid_t file, const char *path);

/* Renames a closed file onto its name; with `sync` waits until the name is on the disk. 0, or -1
 * with error_set; then `from` is removed and `to` as it was. */
int h5_disk_rename(const char *from, const char *to, bool sync);

#endif
