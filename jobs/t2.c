/* The t2 command: finds the subcommand, starts MPI, runs it on every rank. */
#include <cblas.h>
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utf8proc.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "jobs/options.h"
#include "mpi/error.h"
#include "mpi/text.h"
#include "mpi/threads.h"
#include "solver/blas_kernels.h"
#include "solver/cpu.h"
#include "solver/engine_cuda.h"

static void print_help(FILE *file)
{
    struct text_table table;

    fputs("usage: t2 COMMAND [options] ...\n\n"
          "Adapts and evaluates large language models, on one machine or under mpirun and srun.\n\n"
          "commands\n",
          file);
    text_table_begin(&table, "ll");
    for (size_t i = 0; commands[i]; i++) {
        text_table_cell(&table, "%s", commands[i]->name);
        text_table_cell(&table, "%s", commands[i]->summary);
    }
    text_table_print(&table, file, 2);
    fputs(
        "\n't2 COMMAND --help' lists a command's options, 't2 --version' the libraries in use.\n\n"
        "examples\n"
        "  t2 generate smollm2/SmolLM2-135M-Instruct.Q4_1.gguf \"Why is the sky blue?\"\n"
        "  mpirun -n 4 t2 eval smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --tasks arc_easy,sst2\n",
        file);
}

/* "not built in", "no device", or a line a device. */
static void print_devices(struct text_table *table)
{
    const int n = engine_cuda_count();
    char text[128];

    if (n == 0) {
        text_table_cell(table, "CUDA");
        text_table_cell(table, "%s", device_built() ? "no device" : "not built in");
    }
    for (int i = 0; i < n; i++) {
        text_table_cell(table, "cuda:%d", i);
        text_table_cell(table, "%s",
                        engine_cuda_describe(i, text, sizeof text) == 0 ? text : error_message());
    }
}

static void print_version(void)
{
    const struct comm alone = {.size = 1, .node_size = 1}; /* MPI has not been started */
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING] = "", pcre2[64] = "", cpu[256] = "";
    unsigned major = 0, minor = 0, release = 0;
    int n;

    /* These may be called before MPI_Init. */
    MPI_Get_library_version(mpi, &n);
    mpi[strcspn(mpi, ",\n")] = '\0';
    H5get_libversion(&major, &minor, &release);
    pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
    cpu_describe(cpu, sizeof cpu);
    printf("t2 " T2_VERSION "\n");
    struct text_table table;
    text_table_begin(&table, "ll");
    text_table_cell(&table, "MPI");
    text_table_cell(&table, "%s", mpi);
    text_table_cell(&table, "HDF5");
    text_table_cell(&table, "%u.%u.%u", major, minor, release);
    text_table_cell(&table, "OpenBLAS");
    text_table_cell(&table, "%s", openblas_get_config());
    text_table_cell(&table, "Jansson");
    text_table_cell(&table, "%s", jansson_version_str());
    text_table_cell(&table, "PCRE2");
    text_table_cell(&table, "%s", pcre2);
    text_table_cell(&table, "utf8proc");
    text_table_cell(&table, "%s", utf8proc_version());
    text_table_cell(&table, "compiler");
    text_table_cell(&table, "%s %s", __VERSION__[0] >= '0' && __VERSION__[0] <= '9' ? "gcc" : "",
                    __VERSION__);
    text_table_cell(&table, "processor");
    text_table_cell(&table, "%s", cpu);
    text_table_cell(&table, "threads");
    text_table_cell(&table, "%d", threads_default(&alone));
    print_devices(&table);
    text_table_print(&table, stdout, 2);
}

/* Has a launcher started other ranks too? They may have got another command line (mpirun's and
 * srun's MPMD), so that one that leaves without MPI would let the others wait for it for ever. */
static bool is_one_of_many(void)
{
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");

    if (!size)
        size = getenv("PMI_SIZE");
    if (!size && getenv("PMIX_RANK"))
        size = getenv("SLURM_STEP_NUM_TASKS");
    return size && atoi(size) > 1;
}

/* The rank that a launcher gives this process where MPI is not started: what needs none (help,
 * version, a misspelt command) answers at once, on rank 0 alone. */
static int launcher_rank(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                        "SLURM_PROCID"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i]))
            return atoi(getenv(names[i]));
    return 0;
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; commands[i]; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int fail_unknown(const struct comm *comm, const char *name)
{
    const char *names[64];
    size_t n = 0;

    for (; commands[n] && n < 64; n++)
        names[n] = commands[n]->name;
    const char *near = text_nearest(name, names, n);
    if (comm->rank != 0)
        return COMMAND_USAGE;
    fprintf(stderr, "t2: unknown %s '%s'", name[0] == '-' ? "option" : "command", name);
    if (near)
        fprintf(stderr, ", did you mean '%s'?\n", near);
    else
        fprintf(stderr, "; 't2 --help' lists the commands\n");
    return COMMAND_USAGE;
}

static bool asks_for_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || (i == 1 && strcmp(argv[i], "-h") == 0))
            return true;
    return false;
}

/* A file opened later must not become the standard output of a process that was started without
 * one: its number is taken, by something that fails when it is used. */
static void guard_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            (void)!open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
}

/* Ranks that do different work would wait for one another for ever. */
static int compare_command_lines(const struct comm *comm, int argc, char **argv)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    for (int i = 0; out && i < argc; i++)
        fwrite(argv[i], 1, strlen(argv[i]) + 1, out);
    if (out && fclose(out) != 0)
        size = 0;
    const bool same = comm_same(comm, text, size);
    free(text);
    return same ? 0
                : error_set("the ranks were started with different command lines; give all of "
                            "them the same one");
}

/* comm: started where this is one of many. */
static int run(const struct command *command, struct comm *comm, int argc, char **argv)
{
    if (comm->handle == MPI_COMM_NULL && !asks_for_help(argc, argv) &&
        comm_init(comm, &argc, &argv) != 0)
        return command_fail(command, comm, COMMAND_FAILED);
    return command->run(comm, argc, argv);
}

/* What the command line asks for. */
static int answer(struct comm *comm, int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL;
    char help[] = "--help";

    if (name && strcmp(name, "help") == 0 && argc > 2) {
        argv[1] = argv[2];
        argv[2] = help;
        argc = 3;
        name = argv[1];
    }
    const struct command *command = name ? find_command(name) : NULL;
    if (command)
        return run(command, comm, argc - 1, argv + 1);
    if (!name) {
        if (comm->rank == 0)
            print_help(stderr);
        return COMMAND_USAGE;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        if (comm->rank == 0)
            print_help(stdout);
    } else if (strcmp(name, "--version") == 0) {
        if (comm->rank == 0)
            print_version();
    } else {
        return fail_unknown(comm, name);
    }
    return COMMAND_OK;
}

static bool is_pipe(int fd)
{
    struct stat info;
    return fstat(fd, &info) == 0 && (S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode));
}

int main(int argc, char **argv)
{
    struct comm comm = {
        .handle = MPI_COMM_NULL, .size = 1, .node_size = 1, .rank = launcher_rank()};
    int code;

    blas_choose_kernels(argv);
    guard_descriptors();
    /* A reader that goes away (t2 ... | head) is an error of write(), so that a run can still
     * finish its files; see the end of main. */
    signal(SIGPIPE, SIG_IGN);
    if (is_one_of_many() && (comm_init(&comm, &argc, &argv) != 0 ||
                             compare_command_lines(&comm, argc - 1, argv + 1) != 0)) {
        if (comm.rank == 0)
            fprintf(stderr, "t2: %s\n", error_message());
        code = COMMAND_USAGE;
    } else {
        code = answer(&comm, argc, argv);
    }
    if (comm.handle != MPI_COMM_NULL) {
        fflush(stdout);
        comm_finish(&comm);
    }
    errno = 0;
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == COMMAND_OK) {
        if (errno != EPIPE && !is_pipe(STDOUT_FILENO)) /* a reader may have seen enough */
            fprintf(stderr, "t2: cannot write to the standard output: %s\n",
                    errno ? strerror(errno) : "is the disk full?");
        code = COMMAND_FAILED;
    }
    return code;
}
