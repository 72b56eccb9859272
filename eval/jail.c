#include "eval/jail.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mpi/error.h"

/* Reads the token, the number of processes and the program from its standard input. The program
 * runs as a module of its own, so that it sees none of these names, and `if __name__ ==
 * "__main__"` is not run. The token goes to a copy of stdout that the program cannot close by
 * accident. posix, not os: a millisecond less. */
static const char harness[] = "def run():\n"
                              "    import posix, sys, resource\n"
                              "    data = sys.stdin.buffer.read()\n"
                              "    token, processes, program = data.split(b'\\n', 2)\n"
                              "    out = posix.dup(1)\n"
                              "    null = posix.open('/dev/null', posix.O_RDONLY)\n"
                              "    posix.dup2(null, 0)\n"
                              "    posix.close(null)\n"
                              "    n = int(processes)\n"
                              "    if n:\n"
                              "        resource.setrlimit(resource.RLIMIT_NPROC, (n, n))\n"
                              "    module = type(sys)('program')\n"
                              "    sys.modules['program'] = module\n"
                              "    exec(compile(program, 'program', 'exec'), module.__dict__)\n"
                              "    try:\n"
                              "        sys.stdout.flush()\n"
                              "    except Exception:\n"
                              "        pass\n"
                              "    posix.write(out, token)\n"
                              "    posix._exit(0)\n"
                              "run()\n";

/* ---- the command -------------------------------------------------------------------------------
 */

static void add(struct jail *jail, const char *argument)
{
    if (jail->n_arguments + 1 < JAIL_MAX_ARGUMENTS)
        jail->arguments[jail->n_arguments++] = argument;
}

static void add_words(struct jail *jail, const char *const *words)
{
    for (; *words; words++)
        add(jail, *words);
}

/* Keeps a malloc'ed text and adds it; NULL counts as out of memory at the end. */
static int add_own(struct jail *jail, char *text)
{
    if (!text)
        return error_set("out of memory");
    jail->texts[jail->n_texts++] = text;
    add(jail, text);
    return 0;
}

static char *find_program(const char *name)
{
    const char *path = getenv("PATH");
    char *found = NULL;

    if (strchr(name, '/'))
        return access(name, X_OK) == 0 ? strdup(name) : NULL;
    if (!path || !*path)
        path = "/usr/bin:/bin";
    for (const char *p = path; *p; p += *p == ':') {
        const size_t n = strcspn(p, ":");
        if (n && *p == '/' && asprintf(&found, "%.*s/%s", (int)n, p, name) >= 0) {
            if (access(found, X_OK) == 0)
                return found;
            free(found);
        }
        p += n;
    }
    return NULL;
}

/* Is this ID known in our user namespace? Containers often map a part of them. */
static bool id_is_mapped(const char *map, unsigned long id)
{
    FILE *file = fopen(map, "r");
    unsigned long inside, outside, count;
    bool mapped = false;

    while (file && fscanf(file, "%lu %lu %lu", &inside, &outside, &count) == 3)
        mapped = mapped || (id >= inside && id - inside < count);
    if (file)
        fclose(file);
    return mapped;
}

/* Root's limits do not count, and root's files are its own: leave all that behind. */
static int add_step_down(struct jail *jail)
{
    char *setpriv = find_program("setpriv"), *user = NULL, *group = NULL;
    int id = SANDBOX_UID;

    if (!setpriv)
        return error_set("root needs setpriv (util-linux) to run programs as somebody else: "
                         "install it, or run as an ordinary user");
    if (!id_is_mapped("/proc/self/uid_map", SANDBOX_UID) ||
        !id_is_mapped("/proc/self/gid_map", SANDBOX_UID))
        id = 65534;
    if (asprintf(&user, "--reuid=%d", id) < 0)
        user = NULL;
    if (asprintf(&group, "--regid=%d", id) < 0)
        group = NULL;
    int status = add_own(jail, setpriv);
    status |= add_own(jail, user);
    status |= add_own(jail, group);
    add(jail, "--clear-groups");
    add_words(jail, (const char *[]){"--no-new-privs", "--pdeathsig", "KILL", NULL});
    return status;
}

/* The folders of the root that hold programs and libraries: links into /usr, or real. */
static int add_root_folders(struct jail *jail)
{
    static const char *const folders[] = {"/lib", "/lib64", "/lib32", "/bin", "/sbin"};

    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        struct stat info;
        char target[256];
        if (lstat(folders[i], &info) != 0)
            continue;
        if (S_ISLNK(info.st_mode)) {
            const ssize_t n = readlink(folders[i], target, sizeof target - 1);
            if (n < 0)
                continue;
            target[n] = '\0';
            add(jail, "--symlink");
            if (add_own(jail, strdup(target)))
                return -1;
        } else {
            add_words(jail, (const char *[]){"--ro-bind", folders[i], NULL});
        }
        add(jail, folders[i]);
    }
    if (access("/etc/ld.so.cache", R_OK) == 0)
        add_words(jail,
                  (const char *[]){"--ro-bind", "/etc/ld.so.cache", "/etc/ld.so.cache", NULL});
    return 0;
}

static int add_bwrap(struct jail *jail, const struct sandbox_options *options)
{
    static const char *const isolation[] = {"--unshare-user",
                                            "--unshare-ipc",
                                            "--unshare-pid",
                                            "--unshare-net",
                                            "--unshare-uts",
                                            "--unshare-cgroup-try",
                                            "--uid",
                                            "65534",
                                            "--gid",
                                            "65534",
                                            "--die-with-parent",
                                            "--new-session",
                                            "--cap-drop",
                                            "ALL",
                                            "--clearenv",
                                            "--ro-bind",
                                            "/usr",
                                            "/usr",
                                            NULL};
    static const char *const devices[] = {"--dev-bind",   "/dev/null", "/dev/null",  "--dev-bind",
                                          "/dev/zero",    "/dev/zero", "--dev-bind", "/dev/urandom",
                                          "/dev/urandom", NULL};
    static const char *const environment[] = {
        "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME",           "/tmp",
        "--setenv", "LANG", "C.UTF-8",       "--setenv", "PYTHONHASHSEED", "0",
        "--chdir",  "/tmp", "--remount-ro",  "/",        "--info-fd",      "4",
        NULL};
    char *size = NULL, *bwrap = find_program(options->bwrap ? options->bwrap : "bwrap");

    if (!bwrap)
        return error_set("%s is not installed: install bubblewrap",
                         options->bwrap ? options->bwrap : "bwrap");
    if (add_own(jail, bwrap))
        return -1;
    add_words(jail, isolation);
    if (add_root_folders(jail))
        return -1;
    add_words(jail, devices);
    if (asprintf(&size, "%zu", options->limits.tmp_bytes) < 0)
        size = NULL;
    add(jail, "--size");
    if (add_own(jail, size))
        return -1;
    add_words(jail, (const char *[]){"--tmpfs", "/tmp", NULL});
    add_words(jail, environment);
    if (jail->filter)
        add_words(jail, (const char *[]){"--seccomp", "3", NULL});
    return 0;
}

int jail_make(struct jail *jail, const struct sandbox_options *options)
{
    const char *python = options->python ? options->python : "/usr/bin/python3";

    memset(jail, 0, sizeof *jail);
    jail->limits = options->limits;
    jail->unsafe = options->unsafe;
    if (access(python, X_OK) != 0)
        return error_set("%s: no Python interpreter there", python);
    if (!jail->unsafe) {
        if (strncmp(python, "/usr/", 5) != 0)
            return error_set("%s: the sandbox sees /usr alone; name an interpreter there", python);
        if (jail_make_filter(jail) || (geteuid() == 0 && add_step_down(jail)) ||
            add_bwrap(jail, options))
            return -1;
    }
    add_words(jail, (const char *[]){python, "-s", "-S", "-B", "-c", harness, NULL});
    jail->arguments[jail->n_arguments] = NULL;
    if (jail->n_arguments + 1 == JAIL_MAX_ARGUMENTS)
        return error_set("the sandbox's command is too long");
    return 0;
}

void jail_free(struct jail *jail)
{
    for (size_t i = 0; i < jail->n_texts; i++)
        free(jail->texts[i]);
    free(jail->filter);
    memset(jail, 0, sizeof *jail);
}

/* ---- starting ----------------------------------------------------------------------------------
 */

enum { FIRST_OWN_FD = 16 }; /* the child's 0 to 4 must not be among ours */

struct start {
    const char *const *arguments;
    const char *const *environment;
    const char *folder;
    const struct sandbox_limits *limits;
    int input, output, filter, info;
};

static void set_limit(int which, uint64_t soft, uint64_t hard)
{
    const struct rlimit limit = {(rlim_t)soft, (rlim_t)hard};

    setrlimit((__rlimit_resource_t)which, &limit);
}

/* Between vfork() and exec: system calls only; memory is the parent's. */
static void become(const struct start *s)
{
    const uint64_t seconds = (uint64_t)s->limits->cpu_seconds + 1;
    sigset_t none;

    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* bubblewrap asks for the same, but later */
    if (dup2(s->input, 0) < 0 || dup2(s->output, 1) < 0 || dup2(s->output, 2) < 0)
        _exit(127);
    /* Without bubblewrap, 3 and 4 are closed below. */
    if (s->filter >= 0)
        dup2(s->filter, 3);
    else
        close(3);
    if (s->info >= 0)
        dup2(s->info, 4);
    else
        close(4);
    if (syscall(SYS_close_range, 5, ~0u, 0) != 0)
        for (int i = 5; i < 65536; i++)
            close(i);
    if (chdir(s->folder) != 0)
        _exit(127);
    umask(022);
    set_limit(RLIMIT_CORE, 0, 0);
    set_limit(RLIMIT_CPU, seconds, seconds + 1);
    set_limit(RLIMIT_AS, s->limits->memory, s->limits->memory);
    set_limit(RLIMIT_FSIZE, s->limits->file_bytes, s->limits->file_bytes);
    set_limit(RLIMIT_NOFILE, 64, 64);
    set_limit(RLIMIT_MEMLOCK, 0, 0);
    set_limit(RLIMIT_MSGQUEUE, 0, 0);
    execve(s->arguments[0], (char *const *)s->arguments, (char *const *)s->environment);
    _exit(127);
}

/* vfork(): a model's page tables are too large to be copied for every program. */
static pid_t spawn(const struct start *s)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const pid_t pid = vfork();
    if (pid == 0)
        become(s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pid;
}

static int move_up(int fd)
{
    if (fd < 0)
        return -1;
    const int higher = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_OWN_FD);
    close(fd);
    return higher;
}

/* Standard input: sealed, or the program could let it grow beyond all limits. */
static int make_input(const struct jail *jail, const char *program, const char *token)
{
    /* One more for bubblewrap, the jail's first process. Unsafe: the limit would count all of the
     * user's processes. */
    const size_t processes = jail->unsafe ? 0 : jail->limits.processes + 1;
    char head[JAIL_TOKEN + 32];
    const int n_head = snprintf(head, sizeof head, "%s\n%zu\n", token, processes);
    int fd = move_up(memfd_create("program", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    size_t n = strlen(program);

    if (fd < 0)
        return -1;
    bool good = write(fd, head, (size_t)n_head) == n_head;
    while (good && n) {
        const ssize_t written = write(fd, program, n);
        good = written > 0;
        program += good ? written : 0;
        n -= good ? (size_t)written : 0;
    }
    good = good && lseek(fd, 0, SEEK_SET) == 0 &&
           fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) == 0;
    if (!good) {
        close(fd);
        return -1;
    }
    return fd;
}

static int make_pipe(int *reader, int *writer)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) != 0)
        return -1;
    *reader = move_up(ends[0]);
    *writer = move_up(ends[1]);
    return *reader < 0 || *writer < 0 ? -1 : 0;
}

static int make_token(char *token)
{
    unsigned char random[JAIL_TOKEN / 2];

    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return -1;
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(token + 2 * i, 3, "%02x", random[i]);
    return 0;
}

static void close_all(int *const *fds, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

int jail_start(const struct jail *jail, const char *program, struct inmate *inmate)
{
    static const char *const empty[] = {"LANG=C.UTF-8", "PYTHONHASHSEED=0", "PATH=/usr/bin:/bin",
                                        NULL};
    struct start s = {jail->arguments, empty, "/", &jail->limits, -1, -1, -1, -1};
    int filter_writer = -1;
    int *const ours[] = {&s.input, &s.output, &s.filter, &s.info, &filter_writer};
    int *const theirs[] = {&inmate->pid_fd, &inmate->output, &inmate->info};
    int status = -1;

    memset(inmate, 0, sizeof *inmate);
    inmate->pid_fd = inmate->init_fd = inmate->output = inmate->info = -1;
    if (make_token(inmate->token) || (s.input = make_input(jail, program, inmate->token)) < 0 ||
        make_pipe(&inmate->output, &s.output))
        goto failed;
    if (jail->unsafe) {
        inmate->folder = strdup("/tmp/t2-program-XXXXXX");
        if (!inmate->folder || !mkdtemp(inmate->folder))
            goto failed;
        s.folder = inmate->folder;
    } else if (make_pipe(&inmate->info, &s.info)) {
        goto failed;
    }
    if (jail->filter) {
        /* Its own pipe each: a shared file would share its position. It fits in a pipe. */
        if (make_pipe(&s.filter, &filter_writer) ||
            write(filter_writer, jail->filter, jail->n_filter) != (ssize_t)jail->n_filter)
            goto failed;
        close(filter_writer);
        filter_writer = -1;
    }
    fcntl(inmate->output, F_SETFL, O_NONBLOCK);
    if (inmate->info >= 0)
        fcntl(inmate->info, F_SETFL, O_NONBLOCK);
    inmate->pid = spawn(&s);
    if (inmate->pid < 0)
        goto failed;
    inmate->pid_fd = (int)syscall(SYS_pidfd_open, inmate->pid, 0);
    if (inmate->pid_fd < 0) {
        error_set("pidfd_open: %s (Linux 5.3 or newer is needed)", strerror(errno));
        kill(inmate->pid, SIGKILL);
        waitpid(inmate->pid, NULL, 0);
        goto done;
    }
    if (jail->unsafe)
        inmate->init = inmate->pid;
    status = 0;
failed:
    if (status)
        error_set("a program could not be started: %s", strerror(errno));
done:
    close_all(ours, sizeof ours / sizeof *ours);
    if (status) {
        close_all(theirs, sizeof theirs / sizeof *theirs);
        if (inmate->folder)
            rmdir(inmate->folder);
        free(inmate->folder);
        inmate->folder = NULL;
    }
    return status;
}

/* ---- while it runs -----------------------------------------------------------------------------
 */

void jail_learn_init(struct inmate *inmate)
{
    static const char key[] = "\"child-pid\":";
    char *text = inmate->told;
    const size_t room = sizeof inmate->told - 1 - inmate->n_told;
    const ssize_t n = room ? read(inmate->info, text + inmate->n_told, room) : 0;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0) { /* it is told in pieces; closing early would kill bubblewrap with SIGPIPE */
        inmate->n_told += (size_t)n;
        return;
    }
    close(inmate->info);
    inmate->info = -1;
    text[inmate->n_told] = '\0';
    const char *at = strstr(text, key);
    const long pid = at ? strtol(at + sizeof key - 1, NULL, 10) : 0;
    if (pid <= 1)
        return;
    const int fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    siginfo_t info = {0};
    /* Bubblewrap has not ended, so the number was still its child's when we took it. */
    if (fd >= 0 && waitid(P_PID, (id_t)inmate->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
        info.si_pid == 0) {
        inmate->init = (pid_t)pid;
        inmate->init_fd = fd;
    } else if (fd >= 0) {
        /* Perhaps somebody else's: wait for nothing. */
        close(fd);
    }
}

/* Adds the process's memory and threads. */
static void measure_process(pid_t pid, size_t *n_bytes, size_t *n_threads)
{
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");
    size_t value;

    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "RssAnon: %zu", &value) == 1 || sscanf(line, "RssShmem: %zu", &value) == 1)
            *n_bytes += value << 10;
        else if (sscanf(line, "Threads: %zu", &value) == 1)
            *n_threads += value;
    }
    if (file)
        fclose(file);
}

enum { MAX_TREE = 1024 };

/* Appends the children of all threads of a process. */
static size_t append_children(pid_t pid, pid_t *tree, size_t n)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    const struct dirent *entry;

    while (tasks && (entry = readdir(tasks))) {
        char children[384];
        int child;
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        snprintf(children, sizeof children, "%s/%s/children", path, entry->d_name);
        FILE *file = fopen(children, "re");
        while (file && n < MAX_TREE && fscanf(file, "%d", &child) == 1)
            tree[n++] = child;
        if (file)
            fclose(file);
    }
    if (tasks)
        closedir(tasks);
    return n;
}

bool jail_measure(const struct inmate *inmate, size_t *n_bytes, size_t *n_processes)
{
    pid_t tree[MAX_TREE];
    size_t n = 1;

    *n_bytes = *n_processes = 0;
    if (inmate->init <= 0)
        return false;
    tree[0] = inmate->init;
    for (size_t i = 0; i < n; i++) {
        measure_process(tree[i], n_bytes, n_processes);
        n = append_children(tree[i], tree, n);
    }
    if (inmate->init != inmate->pid && *n_processes > 0)
        --*n_processes; /* bubblewrap's own */
    return true;
}

void jail_kill(const struct inmate *inmate)
{
    if (inmate->init_fd >= 0)
        syscall(SYS_pidfd_send_signal, inmate->init_fd, SIGKILL, NULL, 0);
    if (inmate->pid_fd >= 0)
        syscall(SYS_pidfd_send_signal, inmate->pid_fd, SIGKILL, NULL, 0);
    /* A jail that is still being made has not asked the kernel yet to end with bubblewrap; until
     * then both are in the session that become() has opened. */
    if (inmate->pid > 0)
        kill(-inmate->pid, SIGKILL);
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    remove(path);
    return 0;
}

int jail_reap(struct inmate *inmate)
{
    int *const fds[] = {&inmate->pid_fd, &inmate->init_fd, &inmate->output, &inmate->info};
    int status = 0;

    kill(-inmate->pid, SIGKILL); /* what is left in its session */
    while (waitpid(inmate->pid, &status, 0) < 0 && errno == EINTR)
        ;
    close_all(fds, sizeof fds / sizeof *fds);
    if (inmate->folder)
        nftw(inmate->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    free(inmate->folder);
    inmate->folder = NULL;
    return status;
}
