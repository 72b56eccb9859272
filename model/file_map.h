#ifndef T2_MODEL_FILE_MAP_H
#define T2_MODEL_FILE_MAP_H
/* Read-only maps of model files, with the mistakes people make told apart (a missing path, a
 * folder, a Git LFS pointer, a saved web page).
 *
 * A file that another process shortens while it is mapped raises SIGBUS on access, as with any
 * mapped file; replace models by renaming, not by writing into them. */
#include <stddef.h>
#include <stdint.h>

struct file_map {
    const uint8_t *data;
    size_t n_bytes;
};

/* Maps a regular, non-empty file. 0, or -1 with error_set. */
int file_map_open(struct file_map *map, const char *path);
void file_map_close(struct file_map *map);

/* -1 with error_set when the bytes are plainly no model data: a Git LFS pointer or a web page. */
int file_check_impostor(const void *data, size_t n_bytes, const char *path);

#endif
