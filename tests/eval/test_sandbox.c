/* The sandbox against programs that mean harm. Skips, saying why, where bubblewrap cannot run. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "eval/sandbox.h"
#include "mpi/error.h"

static struct sandbox *pool;

/* Limits small enough for a test, wide enough for a machine with other work. */
static struct sandbox_options small(void)
{
    struct sandbox_options options = sandbox_defaults();
    options.workers = 2;
    options.limits.seconds = 10;
    options.limits.cpu_seconds = 2;
    options.limits.memory = (size_t)256 << 20;
    return options;
}

static enum sandbox_outcome run_in(struct sandbox *sandbox, const char *program,
                                   struct sandbox_result *result)
{
    assert_int_equal(sandbox_submit(sandbox, program, 7), 0);
    assert_true(sandbox_next(sandbox, true, result));
    assert_int_equal(result->id, 7);
    return result->outcome;
}

static enum sandbox_outcome outcome_of(const char *program)
{
    struct sandbox_result result;
    const enum sandbox_outcome outcome = run_in(pool, program, &result);
    print_message("  %s, status %d, %.2f s\n", sandbox_outcome_name(outcome), result.status,
                  result.seconds);
    sandbox_result_free(&result);
    return outcome;
}

/* Programs that test whether something is possible inside pass when it is. */
static void assert_passes(const char *program)
{
    struct sandbox_result result;
    if (run_in(pool, program, &result) != SANDBOX_PASSED)
        fail_msg("%s: %s", sandbox_outcome_name(result.outcome), result.output);
    sandbox_result_free(&result);
}

static void assert_not_passed(const char *program)
{
    assert_int_not_equal(outcome_of(program), SANDBOX_PASSED);
}

/* Processes of this machine whose command line has the text. */
static size_t count_processes(const char *text)
{
    DIR *proc = opendir("/proc");
    const struct dirent *entry;
    size_t count = 0;

    assert_non_null(proc);
    while ((entry = readdir(proc))) {
        char path[300], line[4096];
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9' || atoi(entry->d_name) == getpid())
            continue;
        snprintf(path, sizeof path, "/proc/%s/cmdline", entry->d_name);
        FILE *file = fopen(path, "r");
        if (!file)
            continue;
        const size_t n = fread(line, 1, sizeof line, file);
        count += n && memmem(line, n, text, strlen(text));
        fclose(file);
    }
    closedir(proc);
    return count;
}

static void a_program_that_ends_passes(void **state)
{
    (void)state;
    assert_passes("x = 1\nassert x == 1\n");
    assert_passes("from __future__ import annotations\nfrom dataclasses import dataclass\n"
                  "@dataclass\nclass P:\n    x: int\nassert P(3).x == 3\n");
    assert_passes("if __name__ == '__main__':\n    raise SystemExit(1)\n");
    assert_passes("import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\n");
    assert_passes("import subprocess\n"
                  "assert subprocess.run(['/bin/echo', 'a'], capture_output=True).stdout\n");
    assert_passes("assert input_ if (input_ := __import__('sys').stdin.read()) else True\n");
}

static void what_fails_is_failed(void **state)
{
    static const char *const programs[] = {
        "assert 1 == 2\n",
        "raise SystemExit(0)\n",
        "exit(0)\n",
        "import sys\nsys.exit(0)\n",
        "import os\nos._exit(0)\n",
        "def f(:\n",
        "import nothing_of_this_name\n",
        "import os\nos.kill(os.getpid(), 9)\n",
        "import os\nos.abort()\n",
        "import ctypes\nctypes.string_at(0)\n",
        "def f(): f()\nf()\n",
        "import os\nos.execv('/bin/true', ['true'])\n",
        "\xff\xfe\n",
        "input()\n",
    };
    (void)state;
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++)
        assert_int_equal(outcome_of(programs[i]), SANDBOX_FAILED);
}

static void results_keep_their_ids(void **state)
{
    enum { N = 24 };
    bool seen[N] = {false};
    struct sandbox_result result;
    (void)state;

    for (size_t i = 0; i < N; i++)
        assert_int_equal(sandbox_submit(pool, i % 3 ? "pass" : "assert False", i), 0);
    assert_int_equal(sandbox_pending(pool), N);
    for (size_t i = 0; i < N; i++) {
        assert_true(sandbox_next(pool, true, &result));
        assert_true(result.id < N && !seen[result.id]);
        seen[result.id] = true;
        assert_int_equal(result.outcome, result.id % 3 ? SANDBOX_PASSED : SANDBOX_FAILED);
        sandbox_result_free(&result);
    }
    assert_false(sandbox_next(pool, true, &result));
}

static void the_last_output_is_told(void **state)
{
    struct sandbox_result result;
    (void)state;

    assert_int_equal(run_in(pool, "print('x' * 100000)\nraise ValueError('the reason')\n", &result),
                     SANDBOX_FAILED);
    assert_non_null(strstr(result.output, "ValueError: the reason"));
    assert_true(strlen(result.output) <= 2048);
    sandbox_result_free(&result);
}

/* ---- hostile ones ------------------------------------------------------------------------------
 */

static void an_infinite_loop_is_out_of_time(void **state)
{
    (void)state;
    assert_int_equal(outcome_of("while True:\n    pass\n"), SANDBOX_TIME);
    assert_not_passed("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
                      "while True:\n    pass\n");
}

static void sleeping_on_is_out_of_time(void **state)
{
    struct sandbox_options options = small();
    struct sandbox_result result;
    (void)state;

    options.limits.seconds = 5;
    struct sandbox *sandbox = sandbox_open(&options);
    assert_non_null(sandbox);
    assert_int_equal(run_in(sandbox,
                            "import signal, time\n"
                            "for s in set(signal.Signals) - {9, 19}:\n"
                            "    signal.signal(s, signal.SIG_IGN)\n"
                            "while True:\n    time.sleep(1000)\n",
                            &result),
                     SANDBOX_TIME);
    assert_true(result.seconds >= 5);
    sandbox_result_free(&result);
    sandbox_close(sandbox);
}

static void a_fork_bomb_goes_no_further(void **state)
{
    (void)state;
    assert_not_passed("import os\nwhile True:\n    os.fork()\n");
    assert_not_passed("import os\nwhile True:\n    try:\n        os.fork()\n"
                      "    except OSError:\n        pass\n");
    assert_not_passed("import threading, time\nwhile True:\n"
                      "    threading.Thread(target=time.sleep, args=(60,)).start()\n");
    /* How far did it get? Fewer than the limit, in all. */
    assert_passes("import os, time\nn = 0\ntry:\n    while n < 100:\n"
                  "        if os.fork() == 0:\n            time.sleep(60)\n        n += 1\n"
                  "except OSError:\n    pass\nassert n <= 16, n\n");
}

static void memory_ends_at_the_limit(void **state)
{
    (void)state;
    assert_not_passed("x = bytearray(10 << 30)\n");
    assert_not_passed("x = []\nwhile True:\n    x.append(bytearray(1 << 20))\n");
    assert_passes("try:\n    bytearray(10 << 30)\nexcept MemoryError:\n    pass\n"
                  "else:\n    assert False\n");
    /* Each below the limit, all together above. */
    assert_not_passed("import os, time\nfor i in range(12):\n    if os.fork() == 0:\n"
                      "        x = bytearray(b'x' * (90 << 20))\n        time.sleep(60)\n"
                      "time.sleep(60)\n");
    assert_passes("import os\ntry:\n    os.memfd_create('x')\nexcept OSError:\n    pass\n"
                  "else:\n    assert False\n");
}

static void files_are_limited(void **state)
{
    (void)state;
    assert_passes("import os, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
                  "n = 0\ntry:\n    for i in range(100):\n"
                  "        with open('f%d' % i, 'wb') as f:\n            f.write(bytes(8 << 20))\n"
                  "        n += 1\nexcept OSError:\n    pass\nassert n <= 8, n\n");
}

static void nothing_outside_can_be_written(void **state)
{
    char program[2048], folder[] = "/tmp/t2-sandbox-test-XXXXXX", target[64];
    struct stat before, after;
    (void)state;

    assert_non_null(mkdtemp(folder));
    chmod(folder, 0777);
    snprintf(target, sizeof target, "%s/file", folder);
    FILE *file = fopen(target, "w");
    assert_non_null(file);
    fputs("before", file);
    fclose(file);
    chmod(target, 0666);
    stat(target, &before);
    /* By name, by links, by what was opened before; all paths fail. */
    snprintf(program, sizeof program,
             "import os\n"
             "tries = ['%s', '/etc/passwd', '/usr/x', '/x', '/bin/x', '/dev/x', '/hom"
             "e/x', '/roo"
             "t/x',\n"
             "         '/dev/shm/x', '/proc/self/comm', '/sys/x', '/var/tmp/x', '../../x']\n"
             "os.symlink('%s', 'link')\n"
             "os.symlink('/', 'root')\n"
             "os.symlink('../../../../../..', 'up')\n"
             "tries += ['link', 'root/x', 'up/x', 'up%s', 'root%s', '/tmp/link']\n"
             "good = []\n"
             "for t in tries:\n"
             "    for call in (lambda: open(t, 'w'), lambda: open(t, 'a'), lambda: os.mkdir(t),\n"
             "                 lambda: os.unlink(t) if not t.endswith('link') else open(t, 'a'),\n"
             "                 lambda: os.chmod(t, 0), lambda: os.rename(t, 'y')\n"
             "                 if not t.endswith('link') else open(t, 'a')):\n"
             "        try:\n"
             "            call()\n"
             "            good.append(t)\n"
             "        except OSError:\n"
             "            pass\n"
             "assert not good, good\n",
             target, target, target, target);
    assert_passes(program);
    stat(target, &after);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    assert_int_equal(before.st_mode, after.st_mode);
    unlink(target);
    rmdir(folder);
}

static void programs_do_not_see_each_other(void **state)
{
    (void)state;
    assert_passes("open('/tmp/left', 'w').write('x')\nassert open('/tmp/left').read() == 'x'\n");
    assert_passes("import os\nassert os.listdir('/tmp') == [], os.listdir('/tmp')\n");
}

static void there_is_no_network(void **state)
{
    (void)state;
    assert_not_passed("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_STREAM)\n");
    assert_not_passed("import socket\nsocket.socket(socket.AF_UNIX, socket.SOCK_STREAM)\n");
    assert_not_passed("import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)\n");
    assert_not_passed("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:80')\n");
}

static void a_flood_of_output_is_cut(void **state)
{
    (void)state;
    assert_int_equal(outcome_of("while True:\n    print('x' * 65536)\n"), SANDBOX_OUTPUT);
    assert_int_equal(outcome_of("import os\nwhile True:\n    os.write(2, b'x' * 65536)\n"),
                     SANDBOX_OUTPUT);
}

static void others_cannot_be_seen_or_killed(void **state)
{
    (void)state;
    setenv("T2_TEST_SECRET", "of-the-parent", 1);
    assert_passes("import os\nassert not os.path.exists('/proc/self')\n"
                  "assert 'T2_TEST_SECRET' not in os.environ\n"
                  "assert os.getuid() == 65534\n");
    assert_not_passed("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n"
                      "os.kill(-1, signal.SIGKILL)\nos.kill(os.getpid(), signal.SIGKILL)\n");
    char program[256];
    snprintf(program, sizeof program, "import os\nos.kill(%d, 0)\n", (int)getpid());
    if (getpid() > 100)
        assert_not_passed(program);
}

static void no_descriptor_is_inherited(void **state)
{
    const int fd = open("/tmp", O_RDONLY | O_DIRECTORY); /* without O_CLOEXEC */
    const int high = dup2(fd, 300);
    (void)state;

    assert_passes("import os\nfound = []\nfor fd in range(3, 1024):\n    try:\n"
                  "        os.fstat(fd)\n        found.append(fd)\n    except OSError:\n"
                  "        pass\nassert len(found) <= 1, found\n" /* the harness's copy of stdout */
                  "for fd in (0, 1, 2):\n    try:\n        os.ftruncate(fd, 1 << 30)\n"
                  "    except OSError:\n        pass\n    else:\n        assert False\n");
    close(fd);
    close(high);
}

static void dangerous_calls_are_refused(void **state)
{
    (void)state;
    assert_passes(
        "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "def refused(name, *args):\n    ctypes.set_errno(0)\n"
        "    rc = getattr(libc, name)(*args)\n"
        "    assert rc == -1 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS), (name, rc)\n"
        "refused('ptrace', 0, 0, 0, 0)\n"
        "refused('unshare', 0x10000000)\n"
        "refused('mount', b'x', b'/tmp', b'tmpfs', 0, None)\n"
        "refused('umount2', b'/tmp', 2)\n"
        "refused('chroot', b'/tmp')\n"
        "refused('setns', 0, 0)\n"
        "refused('personality', 0x0040000)\n"
        "refused('shmget', 0, 4096, 0o600)\n");
    assert_passes("import os\nfor f in (os.setuid, os.setgid):\n    try:\n        f(0)\n"
                  "    except OSError:\n        pass\n    else:\n        assert False\n");
}

static void daemons_do_not_outlive_their_program(void **state)
{
    (void)state;
    assert_passes("import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork():\n"
                  "        os._exit(0)\n"
                  "    os.execv('/usr/bin/sleep', ['sleep', '31415926'])\n");
    assert_int_equal(count_processes("31415926"), 0);
    assert_not_passed("import os\nif os.fork() == 0:\n    os.setsid()\n"
                      "    os.execv('/usr/bin/sleep', ['sleep', '31415926'])\nassert False\n");
    assert_int_equal(count_processes("31415926"), 0);
}

static void a_killed_caller_leaves_nothing(void **state)
{
    int ready[2];
    (void)state;

    assert_int_equal(pipe(ready), 0);
    const pid_t pid = fork();
    if (pid == 0) {
        struct sandbox_options options = small();
        struct sandbox *sandbox = sandbox_open(&options);
        bool good = sandbox && sandbox_submit(sandbox,
                                              "import os\nos.execv('/usr/bin/sleep',"
                                              " ['sleep', '27182818'])\n",
                                              0) == 0;
        for (int i = 0; good && i < 500 && count_processes("27182818") == 0; i++)
            usleep(20000);
        if (write(ready[1], good ? "y" : "n", 1) != 1)
            _exit(1);
        pause();
        _exit(0);
    }
    char byte = 0;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    assert_true(count_processes("27182818") > 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    size_t left = 1;
    for (int i = 0; i < 500 && left; i++) {
        usleep(20000);
        left = count_processes("27182818");
    }
    assert_int_equal(left, 0);
    close(ready[0]);
    close(ready[1]);
}

static void closing_ends_what_runs(void **state)
{
    struct sandbox_options options = small();
    struct sandbox *sandbox = sandbox_open(&options);
    (void)state;

    assert_non_null(sandbox);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(sandbox_submit(sandbox,
                                        "import os\nos.execv('/usr/bin/sleep',"
                                        " ['sleep', '16180339'])\n",
                                        i),
                         0);
    for (int i = 0; i < 500 && count_processes("16180339") == 0; i++)
        usleep(20000);
    sandbox_close(sandbox);
    assert_int_equal(count_processes("16180339"), 0);
}

static void a_kill_while_jails_are_made_leaves_nothing(void **state)
{
    struct sandbox_options options = small();
    (void)state;

    options.limits.tmp_bytes = 12345677; /* stands in the command line */
    for (int i = 0; i < 20; i++) {
        struct sandbox *sandbox = sandbox_open(&options);
        assert_non_null(sandbox);
        assert_int_equal(sandbox_submit(sandbox, "while True: pass\n", 0), 0);
        assert_int_equal(sandbox_submit(sandbox, "while True: pass\n", 1), 0);
        usleep((useconds_t)(500 * i));
        sandbox_close(sandbox);
    }
    size_t left = 1;
    for (int i = 0; i < 500 && left; i++) {
        left = count_processes("12345677");
        usleep(left ? 20000 : 0);
    }
    assert_int_equal(left, 0);
}

static void what_is_missing_is_told(void **state)
{
    struct sandbox_options options = small();
    (void)state;

    options.bwrap = "/nowhere/bwrap";
    assert_null(sandbox_open(&options));
    assert_non_null(strstr(error_message(), "/nowhere/bwrap is not installed"));
    options.bwrap = "/bin/false";
    assert_null(sandbox_open(&options));
    assert_non_null(strstr(error_message(), "cannot be run safely here"));
    options.bwrap = NULL;
    options.python = "/srv/python3";
    assert_null(sandbox_open(&options));
}

static void unsafe_runs_without_bubblewrap(void **state)
{
    struct sandbox_options options = small();
    struct sandbox_result result;
    (void)state;

    options.bwrap = "/nowhere/bwrap";
    options.unsafe = true;
    struct sandbox *sandbox = sandbox_open(&options);
    assert_non_null(sandbox);
    assert_int_equal(run_in(sandbox, "open('x', 'w').write('1')\n", &result), SANDBOX_PASSED);
    sandbox_result_free(&result);
    assert_int_equal(run_in(sandbox, "assert False\n", &result), SANDBOX_FAILED);
    sandbox_result_free(&result);
    assert_int_equal(run_in(sandbox, "while True: pass\n", &result), SANDBOX_TIME);
    sandbox_result_free(&result);
    sandbox_close(sandbox);
}

int main(void)
{
    const struct CMUnitTest jailed[] = {
        cmocka_unit_test(a_program_that_ends_passes),
        cmocka_unit_test(what_fails_is_failed),
        cmocka_unit_test(results_keep_their_ids),
        cmocka_unit_test(the_last_output_is_told),
        cmocka_unit_test(an_infinite_loop_is_out_of_time),
        cmocka_unit_test(sleeping_on_is_out_of_time),
        cmocka_unit_test(a_fork_bomb_goes_no_further),
        cmocka_unit_test(memory_ends_at_the_limit),
        cmocka_unit_test(files_are_limited),
        cmocka_unit_test(nothing_outside_can_be_written),
        cmocka_unit_test(programs_do_not_see_each_other),
        cmocka_unit_test(there_is_no_network),
        cmocka_unit_test(a_flood_of_output_is_cut),
        cmocka_unit_test(others_cannot_be_seen_or_killed),
        cmocka_unit_test(no_descriptor_is_inherited),
        cmocka_unit_test(dangerous_calls_are_refused),
        cmocka_unit_test(daemons_do_not_outlive_their_program),
        cmocka_unit_test(a_killed_caller_leaves_nothing),
        cmocka_unit_test(closing_ends_what_runs),
        cmocka_unit_test(a_kill_while_jails_are_made_leaves_nothing),
    };
    const struct CMUnitTest anywhere[] = {
        cmocka_unit_test(what_is_missing_is_told),
        cmocka_unit_test(unsafe_runs_without_bubblewrap),
    };
    const struct sandbox_options options = small();

    if (access("/usr/bin/python3", X_OK) != 0) {
        printf("SKIPPED: no /usr/bin/python3\n");
        return 77;
    }
    int failed = cmocka_run_group_tests(anywhere, NULL, NULL);
    pool = sandbox_open(&options);
    if (!pool) {
        printf("SKIPPED, THE SANDBOX IS NOT TESTED HERE: %s\n", error_message());
        return failed ? failed : 77;
    }
    failed += cmocka_run_group_tests(jailed, NULL, NULL);
    sandbox_close(pool);
    return failed;
}
