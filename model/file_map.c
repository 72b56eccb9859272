#include "model/file_map.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mpi/error.h"

int file_map_open(struct file_map *map, const char *path)
{
    struct stat st;
    void *data;
    int result = -1;

    *map = (struct file_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set("%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0) {
        error_set("%s: cannot be examined: %s", path, strerror(errno));
        goto done;
    }
    if (!S_ISREG(st.st_mode)) {
        error_set("%s: is not a regular file", path);
        goto done;
    }
    if (st.st_size == 0) {
        error_set("%s: is empty; download it again", path);
        goto done;
    }
    data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        error_set("%s: cannot be mapped (%lld bytes): %s", path, (long long)st.st_size,
                  strerror(errno));
        goto done;
    }
    map->data = data;
    map->n_bytes = (size_t)st.st_size;
    result = 0;
done:
    close(fd);
    return result;
}

void file_map_close(struct file_map *map)
{
    if (map->data)
        munmap((void *)map->data, map->n_bytes);
    *map = (struct file_map){0};
}

int file_check_impostor(const void *data, size_t n_bytes, const char *path)
{
    static const char lfs[] = "version https://git-lfs";
    static const char *const web[] = {"<!doctype html", "<html"};

    if (n_bytes >= sizeof lfs - 1 && memcmp(data, lfs, sizeof lfs - 1) == 0)
        return error_set("%s: is a Git LFS pointer, not the data; run `git lfs pull` in its "
                         "repository",
                         path);
    for (size_t i = 0; i < sizeof web / sizeof *web; i++)
        if (n_bytes >= strlen(web[i]) && strncasecmp(data, web[i], strlen(web[i])) == 0)
            return error_set("%s: is a web page, not a model file; download the file itself", path);
    return 0;
}
