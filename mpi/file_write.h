#ifndef T2_MPI_FILE_WRITE_H
#define T2_MPI_FILE_WRITE_H
/* Writes a whole file so that a reader sees the old one or the new one, never a part: under a
 * temporary name beside the target, synced, renamed. Local to a rank; no MPI calls. */
#include <stddef.h>

/* 0, or -1 with error_set; then the temporary file is gone and an earlier file untouched (also when
 * the disk is full or a file-size limit is hit). */
int file_write(const char *path, const void *bytes, size_t n_bytes);

#endif
