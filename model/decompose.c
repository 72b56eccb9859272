#include "model/decompose.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/decompose_work.h"
#include "model/factors_internal.h"
#include "mpi/error.h"
#include "mpi/file_write.h"

void decompose_options_text(const struct decompose_options *options, char *text, size_t size)
{
    const struct svd_options *svd = &options->svd;

    snprintf(text, size, "method=%s precision=%s tolerance=%g check=%s grid-from=%zu",
             svd_method_name(svd->method), svd_precision_name(svd->precision), svd->tolerance,
             svd->check ? "yes" : "no", options->grid_from);
}

/* What one run goes through. */
struct run {
    const struct comm *comm;
    const struct checkpoint *ck;
    const struct module *modules;
    size_t n_modules;
    const struct decompose_options *options;
    const struct factors_origin *origin;
    const char *out;
    unsigned char *done; /* [n_modules] there is a part */
    struct module *rest; /* those without */
    size_t *places;      /* [n_rest] their places among all */
    size_t n_rest;
    struct factors_merge merge; /* without a path where nothing is left to do */
    bool had_parts;             /* the folder was there before */
    int lock;                   /* rank 0's, on the folder; or -1 */
};

/* ---- what is there already -------------------------------------------------------------------
 */

static int parts_exist(const char *out, bool *exist)
{
    struct stat info;
    char *folder = factors_parts_folder(out);

    if (!folder)
        return -1;
    *exist = lstat(folder, &info) == 0;
    const int status =
        *exist && !S_ISDIR(info.st_mode)
            ? error_set("%s: is in the way: the run's part files need a folder of this name",
                        folder)
            : 0;
    free(folder);
    return status;
}

/* Makes the folder and keeps other runs out of it, until this process ends at the latest. Two runs
 * at once would remove each other's parts. */
static int lock_parts(struct run *run)
{
    char *folder = factors_parts_folder(run->out);
    int status = folder ? 0 : -1;

    if (status == 0 && mkdir(folder, 0777) != 0 && errno != EEXIST)
        status = error_set("%s: the folder cannot be made: %s", folder, strerror(errno));
    if (status == 0)
        run->lock = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Not every file system has locks: only one that is taken counts. */
    if (run->lock >= 0 && flock(run->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        status = error_set("%s: another run is at work on this file; wait for it to end, or choose "
                           "another --out",
                           folder);
    free(folder);
    return status;
}

/* A folder that this run has made and left empty goes again. */
static void unlock_parts(struct run *run)
{
    char *folder = run->lock >= 0 && !run->had_parts ? factors_parts_folder(run->out) : NULL;

    if (folder)
        rmdir(folder);
    free(folder);
    if (run->lock >= 0)
        close(run->lock);
}

static bool same_text(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "") == 0;
}

/* Is a complete file of the same origin there? An other model's is an error. */
static int check_out(const struct run *run, const struct factors *f)
{
    const struct factors_about *about = factors_about(f);

    if (factors_check_model(f, run->origin->identity, run->origin->model) != 0)
        return -1;
    if (!same_text(about->options, run->origin->options) || about->type != run->options->type)
        return error_set("%s: was made with other options (%s, factors in %s) than this run's "
                         "(%s, %s); leave --resume out to make it anew",
                         run->out, about->options ? about->options : "none",
                         factors_type_name(about->type), run->origin->options,
                         factors_type_name(run->options->type));
    return 0;
}

static int copy_part(const struct run *run, struct factors *f, const struct module *module)
{
    const struct factors_matrix *found = factors_find(f, module->path);

    if (!found)
        return 0;
    const size_t r = module_rank(module);
    if (found->module.n_rows != module->n_rows || found->module.n_columns != module->n_columns)
        return error_set("%s: %s has another shape than the model's", run->out, module->path);
    float *rows = malloc(r * r * sizeof *rows);
    struct factors_matrix matrix = *found;
    matrix.module = *module;
    matrix.factor = rows;
    int status = rows ? factors_read(f, found, 0, r, rows) : error_set("out of memory");
    if (status == 0)
        status = factors_write_part(run->out, run->origin, run->options->type, &matrix);
    free(rows);
    return status;
}

/* --resume with a complete file: what it has becomes parts again, unless it has everything. */
static int take_over(struct run *run, bool *complete)
{
    struct stat info;
    size_t n = 0;
    int status = -1;

    *complete = false;
    if (stat(run->out, &info) != 0)
        return 0; /* resuming what never began */
    struct factors *f = factors_open(run->out);
    if (!f || check_out(run, f) != 0)
        goto done;
    for (size_t i = 0; i < run->n_modules; i++)
        n += factors_find(f, run->modules[i].path) != NULL;
    *complete = n == run->n_modules;
    status = 0;
    /* Matrices that the file has beyond this run's are not thrown away silently. */
    if (!*complete && factors_n_matrices(f) > n)
        status = error_set("%s: has %zu matrices that --modules and --layers do not name; name "
                           "them as well, or leave --resume out to replace the file",
                           run->out, factors_n_matrices(f) - n);
    for (size_t i = 0; status == 0 && !*complete && i < run->n_modules; i++)
        status = copy_part(run, f, &run->modules[i]);
done:
    factors_close(f);
    return status;
}

/* Rank 0. */
static int look_around(struct run *run, bool *complete)
{
    bool *done = calloc(run->n_modules + 1, sizeof *done);
    int status = done ? parts_exist(run->out, &run->had_parts) : error_set("out of memory");

    *complete = false;
    if (status == 0)
        status = lock_parts(run);
    if (status != 0)
        goto finish;
    if (run->had_parts && !run->options->resume) {
        status = error_set("%s.parts: an unfinished run has left its matrices there: --resume "
                           "goes on with them; to begin anew, remove the folder",
                           run->out);
        goto finish;
    }
    if (run->options->resume && !run->had_parts)
        status = take_over(run, complete);
    if (status == 0 && run->options->resume && !*complete)
        status = factors_parts_done(run->out, run->origin, run->options->type, run->modules,
                                    run->n_modules, done);
    for (size_t i = 0; i < run->n_modules; i++)
        run->done[i] = done[i];
finish:
    free(done);
    return status;
}

/* The modules that are still to do. Collective. */
static int find_rest(struct run *run, bool *complete)
{
    int status;

    run->done = calloc(run->n_modules + 1, 1);
    run->rest = calloc(run->n_modules + 1, sizeof *run->rest);
    run->places = calloc(run->n_modules + 1, sizeof *run->places);
    status = comm_agree(run->comm,
                        run->done && run->rest && run->places ? 0 : error_set("out of memory"));
    if (status == 0)
        status = comm_agree(run->comm, run->comm->rank == 0 ? look_around(run, complete) : 0);
    if (status != 0)
        return status;
    run->done[run->n_modules] = *complete;
    if (run->comm->size > 1) {
        MPI_Bcast(run->done, (int)run->n_modules + 1, MPI_UNSIGNED_CHAR, 0, run->comm->handle);
        *complete = run->done[run->n_modules];
    }
    for (size_t i = 0; i < run->n_modules; i++)
        if (!run->done[i]) {
            run->places[run->n_rest] = i;
            run->rest[run->n_rest++] = run->modules[i];
        }
    return 0;
}

/* ---- the merge -------------------------------------------------------------------------------
 */

/* Do ranks beside rank 0 put their factors into its file? Those of other nodes may see that file
 * late: then rank 0 alone puts its own there, and takes the others' from their parts. */
static bool all_fill(const struct run *run)
{
    return run->comm->node_size == run->comm->size;
}

/* Collective. The file is there before the work: a disk without room for it is noticed now. */
static int begin_merge(struct run *run)
{
    const struct comm *comm = run->comm;
    struct factors_merge *merge = &run->merge;
    long process = (long)getpid();
    int status = 0;

    if (comm->rank == 0)
        status = factors_merge_begin(merge, run->out, run->origin, run->options->type, run->modules,
                                     run->n_modules);
    status = comm_agree(comm, status);
    if (status != 0 || comm->size == 1 || !all_fill(run))
        return status;
    MPI_Bcast(&process, 1, MPI_LONG, 0, comm->handle);
    if (comm->rank != 0)
        status = factors_merge_allocate(merge, run->out, process, run->origin, run->options->type,
                                        run->modules, run->n_modules);
    status = comm_agree(comm, status);
    if (status == 0)
        MPI_Bcast(merge->offsets, (int)merge->n_chunks, MPI_UINT64_T, 0, comm->handle);
    return status;
}

/* Collective. */
static int end_merge(struct run *run)
{
    const struct comm *comm = run->comm;
    struct factors_merge *merge = &run->merge;
    int status = 0;

    if (run->n_rest > 0 && comm->size > 1 && all_fill(run))
        MPI_Allreduce(MPI_IN_PLACE, merge->filled, (int)run->n_modules, MPI_UNSIGNED_CHAR, MPI_BOR,
                      comm->handle);
    if (comm->rank == 0)
        status = run->n_rest > 0 ? factors_merge_end(merge, run->out, run->origin, run->modules)
                                 : factors_merge(run->out, run->origin, run->options->type,
                                                 run->modules, run->n_modules);
    return comm_agree(comm, status);
}

/* ---- the run ---------------------------------------------------------------------------------
 */

/* After a failure: how to go on, or nothing left behind. */
static void explain(const struct run *run, const struct decompose_summary *summary)
{
    const size_t n = summary->n_resumed + summary->n_done;
    char *message = strdup(error_message());

    if (n == 0 && !run->had_parts) {
        if (run->comm->rank == 0)
            factors_parts_remove(run->out);
        error_set("%s", message ? message : "");
    } else {
        error_set("%s; %zu of %zu matrices are finished and kept in %s.parts: the same command "
                  "with --resume does the rest",
                  message ? message : "", n, run->n_modules, run->out);
    }
    free(message);
}

static int ranks_per_node(const struct comm *comm)
{
    int n = comm->node_size;

    if (comm->size > 1)
        MPI_Allreduce(MPI_IN_PLACE, &n, 1, MPI_INT, MPI_MIN, comm->handle);
    return n;
}

static int solve_rest(struct run *run, const struct decompose_costs *costs,
                      struct decompose_summary *summary)
{
    const struct comm *comm = run->comm;
    struct decompose_plan plan = {0};
    struct progress progress = {0};
    const int per_node = ranks_per_node(comm);
    int status = comm_agree(comm, decompose_plan_make(&plan, run->rest, run->n_rest, run->options,
                                                      costs, comm->size, per_node));

    if (status == 0) {
        const struct decompose_work work = {.comm = comm,
                                            .ck = run->ck,
                                            .modules = run->rest,
                                            .options = run->options,
                                            .plan = &plan,
                                            .origin = run->origin,
                                            .out = run->out,
                                            .merge = all_fill(run) || comm->rank == 0 ? &run->merge
                                                                                      : NULL,
                                            .places = run->places,
                                            .n_before = run->n_modules - run->n_rest,
                                            .progress = &progress};
        summary->predicted = plan.seconds;
        progress_begin(&progress, comm, "decompose", run->n_modules, run->options->quiet);
        status = decompose_work(&work, summary);
        progress_end(&progress);
    }
    decompose_plan_free(&plan);
    return status;
}

int decompose_run(const struct comm *comm, const struct checkpoint *ck,
                  const struct module *modules, size_t n_modules,
                  const struct decompose_options *options, const struct decompose_costs *costs,
                  const struct factors_origin *origin, const char *out,
                  struct decompose_summary *summary)
{
    const double start = MPI_Wtime();
    /* A link stays one: the parts lie beside the file that it leads to, on its file system. */
    char *target = file_follow(out);
    struct run run = {.comm = comm,
                      .ck = ck,
                      .modules = modules,
                      .n_modules = n_modules,
                      .options = options,
                      .origin = origin,
                      .out = target,
                      .lock = -1};
    bool complete = false;
    int status;

    *summary = (struct decompose_summary){0};
    status = comm_agree(comm, target ? 0 : -1);
    if (status == 0)
        status = find_rest(&run, &complete);
    if (status != 0)
        goto done;
    summary->n_resumed = n_modules - run.n_rest;
    if (complete) {
        summary->n_resumed = n_modules;
        summary->nothing_to_do = true;
        goto done;
    }
    if (run.n_rest > 0) {
        status = begin_merge(&run);
        if (status == 0)
            status = solve_rest(&run, costs, summary);
    }
    if (status == 0)
        status = end_merge(&run);
    if (comm->rank == 0)
        factors_merge_abort(&run.merge);
    if (status != 0)
        explain(&run, summary);
done:
    summary->seconds = MPI_Wtime() - start;
    unlock_parts(&run);
    free(run.done);
    free(run.rest);
    free(run.places);
    factors_merge_free(&run.merge);
    free(target);
    return status;
}
