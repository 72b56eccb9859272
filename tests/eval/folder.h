#ifndef T2_TESTS_FOLDER_H
#define T2_TESTS_FOLDER_H
/* A temporary folder with small files, for tests. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder_path[64];

static inline int folder_create(void)
{
    snprintf(folder_path, sizeof folder_path, "/tmp/t2-test-XXXXXX");
    return mkdtemp(folder_path) ? 0 : -1;
}

/* Writes text to FOLDER/name, making name's own folder. Returns the path (static). */
static inline const char *folder_file(const char *name, const char *text)
{
    static char path[256];
    const char *slash = strchr(name, '/');

    if (slash) {
        snprintf(path, sizeof path, "%s/%.*s", folder_path, (int)(slash - name), name);
        mkdir(path, 0700);
    }
    snprintf(path, sizeof path, "%s/%s", folder_path, name);
    FILE *file = fopen(path, "wb");
    if (file) {
        fputs(text, file);
        fclose(file);
    }
    return path;
}

static inline void folder_remove(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder_path);
    if (strncmp(folder_path, "/tmp/t2-test-", 13) == 0 && system(command) != 0)
        fprintf(stderr, "cannot remove %s\n", folder_path);
}

/* The same as a group's setup and teardown. */
static inline int folder_setup(void **state)
{
    (void)state;
    return folder_create();
}

static inline int folder_teardown(void **state)
{
    (void)state;
    folder_remove();
    return 0;
}

#endif
