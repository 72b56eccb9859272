/* t2 decompose: the singular values and small factors of a model's matrices, over all ranks. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cblas.h>

#include "jobs/commands.h"
#include "jobs/decompose_device.h"
#include "jobs/output.h"
#include "model/decompose.h"
#include "model/identity.h"
#include "model/shapes.h"
#include "mpi/error.h"
#include "mpi/node_memory.h"
#include "mpi/text.h"
#include "mpi/threads.h"
#include "solver/cpu.h"
#include "solver/svd_cuda.h"
#include "solver/svd_grid.h"

struct settings {
    const char *out, *modules, *layers, *method, *precision, *type, *costs, *shape, *device;
    double tolerance, memory;
    int64_t threads, grid_from, ranks, ranks_per_node;
    bool resume, check, plan, verbose, quiet;
};

struct run {
    const struct comm *comm;
    const struct settings *settings;
    const char *model; /* NULL: --model-shape */
    struct decompose_options options;
    struct device device;
    struct decompose_costs costs;
    struct module *modules;
    size_t n_modules;
    struct checkpoint *ck;
    char *command_line, *recipe;
};

/* ---- options ---------------------------------------------------------------------------------
 */

static int check_grid_method(enum svd_method method)
{
    if (method == SVD_ELPA && !svd_grid_has_elpa())
        return error_set("--method elpa: this t2 was built without ELPA; install it and build "
                         "again, or use scalapack");
    return 0;
}

static int check_settings(const struct settings *s, struct option_spec *table, const char *model)
{
    struct device wish;

    if (device_parse(s->device, &wish) != 0)
        return error_prefix("--device");
    if (s->shape && !s->plan)
        return error_set("--model-shape is for --plan; a run needs MODEL");
    if (!s->shape && !model)
        return error_set("MODEL is missing (usage: t2 decompose MODEL --out FILE.h5)");
    if (s->shape && model)
        return error_set("give MODEL or --model-shape, not both");
    if (!s->plan && !s->out)
        return error_set("--out is missing: the factor file to make");
    if (!s->plan &&
        (option_find(table, "ranks")->source || option_find(table, "ranks-per-node")->source))
        return error_set("--ranks and --ranks-per-node are for --plan; a run's ranks come from "
                         "mpirun or srun");
    return 0;
}

static int read_options(struct run *run)
{
    const struct settings *s = run->settings;
    struct decompose_options *o = &run->options;

    *o = (struct decompose_options){
        .svd = svd_defaults(),
        .type = strcmp(s->type, "bf16") == 0 ? FACTORS_BF16 : FACTORS_F32,
        .n_threads = s->threads > 0 ? (int)s->threads : threads_default(run->comm),
        .grid_from = (size_t)s->grid_from,
        .resume = s->resume,
        .quiet = s->quiet};
    o->svd.tolerance = s->tolerance;
    o->svd.check = s->check;
    if (svd_method_parse(s->method, &o->svd.method) != 0 ||
        svd_precision_parse(s->precision, &o->svd.precision) != 0)
        return -1;
    return check_grid_method(o->svd.method);
}

/* Collective. */
static int choose(struct run *run)
{
    const struct settings *s = run->settings;
    struct decompose_options *o = &run->options;

    if (decompose_choose_device(run->comm, s->device, s->plan, &o->svd, &run->device) != 0)
        return -1;
    if (o->svd.method == SVD_CUSOLVER && s->threads == 0)
        o->n_threads = DECOMPOSE_DEVICE_WORKERS;
    return s->plan ? 0 : decompose_open_device(run->comm, &run->device, &o->svd);
}

/* Ranks must agree on their threads and memory: plans are made on each. */
static void agree_on_limits(struct run *run)
{
    const struct comm *comm = run->comm;
    const struct settings *s = run->settings;
    const size_t available = node_memory_available();
    /* A tenth stays for what the system caches. */
    uint64_t mine[2] = {(uint64_t)run->options.n_threads,
                        (uint64_t)(0.9 * (double)available / comm->node_size)};

    if (s->memory > 0)
        mine[1] = (uint64_t)(s->memory * 0x1p30);
    if (comm->size > 1)
        MPI_Allreduce(MPI_IN_PLACE, mine, 2, MPI_UINT64_T, MPI_MIN, comm->handle);
    run->options.n_threads = (int)mine[0];
    run->options.memory = s->plan && s->ranks && s->memory <= 0 ? 0 : (size_t)mine[1];
}

/* ---- the plan --------------------------------------------------------------------------------
 */

/* Workers of this rank that are measured side by side. A plan for other ranks may name more threads
 * than this machine has processors for: they would only wait for each other. */
static int threads_to_measure(const struct run *run)
{
    const int n = run->options.n_threads, here = threads_default(run->comm);

    return run->settings->plan && run->settings->ranks && n > here ? here : n;
}

/* --costs FILE is read, or made where it is not there. */
static int get_costs(struct run *run)
{
    const struct comm *comm = run->comm;
    const char *path = run->settings->costs;
    struct stat info;
    int there = path && comm->rank == 0 && stat(path, &info) == 0;

    if (comm->size > 1)
        MPI_Bcast(&there, 1, MPI_INT, 0, comm->handle);
    if (there) {
        int status = comm->rank == 0 ? decompose_cost_load(&run->costs, path) : 0;
        status = comm_agree(comm, status);
        if (status == 0 && comm->size > 1)
            MPI_Bcast(&run->costs, sizeof run->costs, MPI_BYTE, 0, comm->handle);
        return status;
    }
    run->costs = decompose_cost_defaults();
    if (!path && run->options.svd.method == SVD_CUSOLVER)
        return 0; /* of the processor, which is not what counts */
    if (decompose_cost_measure(comm, threads_to_measure(run), &run->costs) != 0)
        return -1;
    return comm_agree(comm, path && comm->rank == 0 ? decompose_cost_save(&run->costs, path) : 0);
}

static int print_plan(struct run *run)
{
    const struct settings *s = run->settings;
    const struct comm *comm = run->comm;
    struct decompose_plan plan = {0};
    int per_node = comm->node_size;

    if (get_costs(run) != 0)
        return -1;
    if (comm->size > 1)
        MPI_Allreduce(MPI_IN_PLACE, &per_node, 1, MPI_INT, MPI_MIN, comm->handle);
    const int n_ranks = s->ranks ? (int)s->ranks : comm->size;
    if (s->ranks_per_node)
        per_node = (int)s->ranks_per_node;
    else if (s->ranks)
        per_node = n_ranks;
    const int status =
        comm_agree(comm, decompose_plan_make(&plan, run->modules, run->n_modules, &run->options,
                                             &run->costs, n_ranks, per_node));
    if (status == 0 && comm->rank == 0)
        decompose_plan_print(&plan, run->modules, stdout, s->verbose);
    if (status == 0 && comm->rank == 0 && run->options.svd.method == SVD_CUSOLVER)
        puts("  a device's times are rough guesses; --costs FILE with cuda_eigen and others "
             "replaces them");
    decompose_plan_free(&plan);
    return status;
}

/* ---- the run ---------------------------------------------------------------------------------
 */

static void print_summary(const struct run *run, const struct decompose_summary *s, double seconds)
{
    const char *out = run->settings->out;
    char took[32], bytes[32] = "?";
    struct stat info;

    if (s->nothing_to_do) {
        printf("%s: complete already, all %zu matrices; nothing to do\n", out, run->n_modules);
        return;
    }
    if (stat(out, &info) == 0)
        text_bytes(bytes, sizeof bytes, (double)info.st_size);
    if (run->device.kind == DEVICE_CUDA) {
        char device[160];
        device_describe(&run->device, device, sizeof device);
        printf("device    %s\n", device);
    }
    printf("matrices  %zu", s->n_done + s->n_resumed);
    if (s->n_resumed)
        printf(" (%zu of them from before)", s->n_resumed);
    if (s->n_done)
        printf(": %zu ended in f32, %zu in f64, %zu by gesvd; %zu repaired", s->n_f32, s->n_f64,
               s->n_gesvd, s->n_repaired);
    if (s->n_done)
        printf("\nworst     orthogonality %.1e, residual %.1e, error bound of a singular value "
               "%.1e",
               s->worst_orthogonality, s->worst_residual, s->worst_bound);
    printf("\ntime      %s", text_duration(took, sizeof took, seconds));
    if (s->flops > 0 && s->seconds > 0)
        printf(", %.3g GFLOP/s", s->flops / s->seconds / 1e9);
    printf("\nfile      %s, %s\n", out, bytes);
}

static int run_all(struct run *run, double start)
{
    const struct settings *s = run->settings;
    const struct comm *comm = run->comm;
    struct decompose_summary summary;
    char cpu[256], device[160], options[256];
    struct factors_origin origin = {.model = run->model,
                                    .options = options,
                                    .recipe = run->recipe,
                                    .command_line = run->command_line,
                                    .cpu = cpu,
                                    .device = device,
                                    .n_ranks = comm->size};

    if (comm_agree(comm, comm->rank == 0 ? output_check(s->out) : 0) != 0 ||
        identity_compute(comm, run->ck, run->options.n_threads, origin.identity) != 0)
        return -1;
    snprintf(origin.architecture, sizeof origin.architecture, "%s",
             checkpoint_config(run->ck)->architecture);
    decompose_options_text(&run->options, options, sizeof options);
    device_describe(&run->device, device, sizeof device);
    cpu_describe(cpu, sizeof cpu);
    const size_t n_cpu = strlen(cpu);
    snprintf(cpu + n_cpu, sizeof cpu - n_cpu, ", OpenBLAS for %s", openblas_get_corename());
    run->costs = decompose_cost_defaults();
    if (s->costs && get_costs(run) != 0)
        return -1;
    if (decompose_run(comm, run->ck, run->modules, run->n_modules, &run->options, &run->costs,
                      &origin, s->out, &summary) != 0)
        return -1;
    if (comm->rank == 0)
        print_summary(run, &summary, MPI_Wtime() - start);
    return 0;
}

static int open_model(struct run *run)
{
    const struct settings *s = run->settings;
    struct model_config shape;
    const struct model_config *config = &shape;

    if (run->model) {
        run->ck = checkpoint_open(run->model);
        if (!run->ck)
            return -1;
        config = checkpoint_config(run->ck);
    } else if (shapes_find(s->shape, &shape) != 0) {
        return error_prefix("--model-shape");
    }
    return modules_select(config, s->modules, s->layers, &run->modules, &run->n_modules);
}

static int command_run(const struct comm *comm, int argc, char **argv)
{
    struct settings s = {.modules = "mlp",
                         .device = "auto",
                         .method = "auto",
                         .precision = "auto",
                         .type = "f32",
                         .tolerance = svd_defaults().tolerance,
                         .grid_from = 32768};
    struct option_spec table[] = {
        {"out", 'o', OPTION_STRING, &s.out, "FILE.h5",
         .help = "the factor file; FILE.h5.parts holds finished matrices until it is complete"},
        {"modules", 'm', OPTION_STRING, &s.modules, "WHAT",
         .help = "mlp, attention, qv, all, a projection (down_proj), several joined by '+', or "
                 "re:PATTERN, searched in 'layers.7.mlp.down_proj'"},
        {"layers", 0, OPTION_STRING, &s.layers, "LIST",
         .help = "such as 0-15 or 3,5,7 or 0-31/2 (default: all)"},
        {"method", 0, OPTION_CHOICE, &s.method,
         .choices = "auto|lapack|one-stage|two-stage|scalapack|elpa|gesvd|cusolver",
         .help = "how the eigenproblem is solved: by a worker or a node's crew (auto, lapack, "
                 "one-stage, two-stage), on a grid of all ranks, or on a CUDA device (cusolver; "
                 "auto takes it with --device cuda); gesvd: the reference, on the matrix itself"},
        DEVICE_OPTION_SPEC(s.device),
        {"precision", 0, OPTION_CHOICE, &s.precision, .choices = "auto|f32|f64",
         .help = "auto: f32, and f64 where the error bounds call for it"},
        {"tolerance", 0, OPTION_DOUBLE, &s.tolerance, "X", .min = 1e-14, .max = 1,
         .help = "relative error of each singular value that auto accepts"},
        {"factor-type", 0, OPTION_CHOICE, &s.type, .choices = "f32|bf16",
         .help = "numbers of the factors in the file"},
        {"check", 0, OPTION_FLAG, &s.check,
         .help = "check orthogonality and residuals in full, not by random probes"},
        {"resume", 'r', OPTION_FLAG, &s.resume, .help = "go on with what an earlier run has left"},
        {"threads", 't', OPTION_INT, &s.threads, "N", .min = 0, .max = 4096,
         .help =
             "workers of a rank (default: this node's processors shared among its ranks; 2 with "
             "a device)"},
        {"memory", 0, OPTION_DOUBLE, &s.memory, "GIB", .min = 0, .max = 1e6,
         .help = "what the work of a rank may take (default: what its node has free)"},
        {"grid-from", 0, OPTION_INT, &s.grid_from, "N", .min = 1, .max = 1e9,
         .help = "matrices whose small side is N or more go to the grid of all ranks"},
        {"plan", 'p', OPTION_FLAG, &s.plan, .help = "show who would do what and how long it takes"},
        {"ranks", 0, OPTION_INT, &s.ranks, "N", .min = 0, .max = 1 << 20,
         .help = "plan for N ranks (default: those that are there)"},
        {"ranks-per-node", 0, OPTION_INT, &s.ranks_per_node, "N", .min = 0, .max = 4096,
         .help = "of them on a node (default: all)"},
        {"model-shape", 0, OPTION_STRING, &s.shape, "NAME",
         .help = "plan for a known model, such as llama3-70b, without its files"},
        {"costs", 0, OPTION_STRING, &s.costs, "FILE",
         .help = "times that a plan is made with; measured and left there if FILE is not there"},
        {"verbose", 'v', OPTION_FLAG, &s.verbose, .help = "--plan: a line for every matrix"},
        {"quiet", 'q', OPTION_FLAG, &s.quiet, .help = "no progress line"},
        {0}};
    const char *path = NULL;
    size_t n_args;
    bool done;
    int code = COMMAND_OK;
    struct run run = {.comm = comm, .settings = &s};

    if (options_parse(&command_decompose, table, comm, argc, argv, &path, 1, &n_args, &done) != 0 ||
        (!done && check_settings(&s, table, path) != 0))
        code = command_fail(&command_decompose, comm, COMMAND_USAGE);
    if (done || code != COMMAND_OK)
        goto finish;
    const double start = MPI_Wtime();
    run.model = path;
    run.command_line = output_command_line(argc, argv);
    run.recipe = options_record(&command_decompose, table);
    int status = run.command_line && run.recipe ? read_options(&run) : error_set("out of memory");
    status = comm_agree(comm, status);
    if (status == 0)
        status = choose(&run);
    if (status == 0)
        status = comm_agree(comm, open_model(&run));
    if (status == 0) {
        agree_on_limits(&run);
        status = s.plan ? print_plan(&run) : run_all(&run, start);
    }
    if (status != 0)
        code = command_fail(&command_decompose, comm, COMMAND_FAILED);
finish:
    svd_cuda_free(run.options.svd.cuda);
    checkpoint_free(run.ck);
    free(run.modules);
    free(run.command_line);
    free(run.recipe);
    options_free(table);
    return code;
}

const struct command command_decompose = {
    .name = "decompose",
    .summary = "Finds the singular values and vectors of a model's matrices.",
    .arguments = "[MODEL]",
    .details =
        "MODEL is a Hugging Face folder or a GGUF file. For each matrix the file holds all "
        "singular values and the small square factor (V if the matrix is tall, U if wide): what "
        "training expert vectors needs. Matrices are shared among ranks and threads; the bits do "
        "not depend on how many there are. A run that was killed goes on with --resume.\n\n"
        "examples\n"
        "  mpirun -n 2 t2 decompose MODEL --out factors.h5 && t2 inspect factors.h5\n"
        "  t2 decompose MODEL --plan\n"
        "  t2 decompose --plan --model-shape llama3-70b --ranks 512 --ranks-per-node 64 -t 1",
    .run = command_run,
};
