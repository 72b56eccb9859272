#ifndef T2_MPI_FILE_WRITE_H
#define T2_MPI_FILE_WRITE_H
/* Writes a whole file so that a reader sees the old one or the new one, never a part: without
 * a name where the file system can do that, synced, named beside the target, renamed. Local to a
 * rank; no MPI calls. */
#include <stddef.h>

/* Where the file behind `path` lies or would lie: path itself, or what a link (or a chain of them)
 * leads to, also when nothing is there yet. malloc'ed; NULL with error_set. */
char *file_follow(const char *path);

/* Can a file be put there? For asking before the work; leaves nothing behind. 0, or -1 with
 * error_set. */
int file_check_target(const char *path);

/* 0, or -1 with error_set; then the temporary file is gone and an earlier file untouched (also when
 * the disk is full or a file-size limit is hit). */
int file_write(const char *path, const void *bytes, size_t n_bytes);

#endif
