#include "model/json_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/file_map.h"
#include "mpi/error.h"

char *text_file_read(const char *path, size_t max_bytes, size_t *n_bytes)
{
    struct stat st;
    char *text = NULL;
    size_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        error_set("%s: cannot be opened: %s", path, strerror(errno));
        return NULL;
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        error_set("%s: is not a regular file", path);
        goto done;
    }
    if (st.st_size < 0 || (size_t)st.st_size > max_bytes) {
        error_set("%s: has %lld bytes, more than the %zu that such a file can sensibly have", path,
                  (long long)st.st_size, max_bytes);
        goto done;
    }
    text = malloc((size_t)st.st_size + 1);
    if (!text) {
        error_set("%s: out of memory", path);
        goto done;
    }
    while (n < (size_t)st.st_size) {
        ssize_t got = read(fd, text + n, (size_t)st.st_size - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            error_set("%s: cannot be read: %s", path,
                      got < 0 ? strerror(errno) : "it became shorter");
            free(text);
            text = NULL;
            goto done;
        }
        n += (size_t)got;
    }
    text[n] = '\0';
    *n_bytes = n;
done:
    close(fd);
    return text;
}

/* Depth of brackets outside strings. The parser behind recurses, so this looks first. */
static size_t find_depth(const char *text, size_t n)
{
    size_t depth = 0, deepest = 0;
    bool in_string = false;

    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            depth++;
            deepest = depth > deepest ? depth : deepest;
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return deepest;
}

json_t *json_object_parse(const char *text, size_t n_bytes, const char *name)
{
    json_error_t error;

    if (file_check_impostor(text, n_bytes, name) != 0)
        return NULL;
    if (n_bytes == 0) {
        error_set("%s: is empty; download it again", name);
        return NULL;
    }
    if (find_depth(text, n_bytes) > JSON_MAX_DEPTH) {
        error_set("%s: is nested deeper than %d levels", name, JSON_MAX_DEPTH);
        return NULL;
    }
    json_t *json = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!json && json_error_code(&error) == json_error_numeric_overflow)
        json = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &error);
    if (!json) {
        error_set("%s: is not valid JSON (line %d, column %d: %s)", name, error.line, error.column,
                  error.text);
        return NULL;
    }
    if (!json_is_object(json)) {
        error_set("%s: holds no JSON object", name);
        json_decref(json);
        return NULL;
    }
    return json;
}

json_t *json_object_load(const char *path, size_t max_bytes)
{
    size_t n;
    char *text = text_file_read(path, max_bytes, &n);

    if (!text)
        return NULL;
    json_t *json = json_object_parse(text, n, path);
    free(text);
    return json;
}
