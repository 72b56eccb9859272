#include "jobs/output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "mpi/error.h"
#include "mpi/file_write.h"

char *output_command_line(int argc, char **argv)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "-_=+.,/:@%";
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    if (!out)
        return NULL;
    fputs("t2", out);
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        fputc(' ', out);
        if (*word && word[strspn(word, plain)] == '\0') {
            fputs(word, out);
            continue;
        }
        fputc('\'', out);
        for (; *word; word++) {
            if (*word == '\'')
                fputs("'\\''", out);
            else
                fputc(*word, out);
        }
        fputc('\'', out);
    }
    if (fclose(out)) {
        free(text);
        return NULL;
    }
    return text;
}

int output_check(const char *path)
{
    struct stat info;
    const char *slash = strrchr(path, '/');

    if (!*path)
        return error_set("--out needs the name of a file");
    char *folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    int status = 0;

    if (!folder)
        return error_set("out of memory");
    if (stat(folder, &info) != 0)
        status = error_set("--out %s: the folder %s does not exist", path, folder);
    else if (file_check_target(path))
        status = error_prefix("--out");
    free(folder);
    return status;
}

char *output_beside(const char *path, const char *suffix)
{
    const size_t n = strlen(path);
    const size_t stem = n > 3 && strcmp(path + n - 3, ".h5") == 0 ? n - 3 : n;
    char *name = NULL;

    return asprintf(&name, "%.*s%s", (int)stem, path, suffix) < 0 ? NULL : name;
}

bool output_is_there(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

void output_time(char text[32])
{
    const time_t now = time(NULL);
    struct tm utc;

    gmtime_r(&now, &utc);
    strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &utc);
}
