#ifndef T2_MODEL_DECOMPOSE_H
#define T2_MODEL_DECOMPOSE_H
/* Decomposes a model's matrices on all ranks into a factor file.
 *
 * Workers are ranks times their threads. Matrices go to crews of workers on one node: most to one
 * worker each, drawn from a shared queue, longest first; those that would leave workers idle at the
 * end are solved first by crews of several (decompose_plan). A crew's size never changes a bit.
 * Matrices that no node holds, or runs with a grid method, take the grid of all ranks
 * (solver/svd_grid.h). Which way a matrix is solved depends on its shape and the options alone. */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "model/checkpoint.h"
#include "model/factors.h"
#include "model/modules.h"
#include "mpi/comm.h"
#include "solver/svd.h"

struct decompose_options {
    struct svd_options svd;
    enum factors_type type;
    int n_threads;    /* workers of a rank */
    size_t grid_from; /* a small side of this or more goes to the grid of all ranks */
    bool resume, quiet;
};

/* Seconds and bytes, by shape: measured on this machine in a second or so, or read from a file that
 * an earlier measurement left. Rates in flop/s of one worker, by size; see decompose_cost_measure.
 */
struct decompose_costs {
    double gram_f32, gram_f64;               /* flop/s of the Gram matrix and quotients */
    double eigen_small_f32, eigen_small_f64; /* nominal flop/s at order 512 */
    double eigen_large_f32, eigen_large_f64; /* nominal flop/s at order 2048 */
    double crew_efficiency; /* share of linear speed-up that a crew of two reaches */
    double write_bytes;     /* bytes/s into part files and merge */
    double fallback_share;  /* share of f32 solves expected to be done again in f64 */
};

/* One line of a plan: who solves matrix i. */
struct decompose_job {
    size_t module;
    int first_worker,
        n_workers; /* within a node's workers when n_workers > 1; 1: from the queue; 0: the grid */
    int node;
    double start, seconds; /* predicted */
    size_t bytes;          /* per rank, at the peak */
};

struct decompose_plan {
    struct decompose_job *jobs; /* [n], in order of start; queue jobs longest first */
    size_t n_jobs;
    double seconds;        /* predicted, whole command */
    size_t bytes_per_rank; /* predicted peak of one rank */
};

/* Plans n_modules matrices on n_ranks ranks of n_threads workers, ranks_per_node of them sharing
 * memory. A plain function of its arguments: also for machines that are not there. */
int decompose_plan_make(struct decompose_plan *plan, const struct module *modules, size_t n_modules,
                        const struct decompose_options *options,
                        const struct decompose_costs *costs, int n_ranks, int ranks_per_node);
void decompose_plan_free(struct decompose_plan *plan);
/* For --plan. */
int decompose_plan_print(const struct decompose_plan *plan, const struct module *modules,
                         FILE *file, bool verbose);

/* Measures with small solves (about a second); the largest of the ranks' times counts. Collective.
 */
int decompose_cost_measure(const struct comm *comm, int n_threads, struct decompose_costs *costs);
/* INI text. 0, or -1 with error_set. */
int decompose_cost_save(const struct decompose_costs *costs, const char *path);
int decompose_cost_load(struct decompose_costs *costs, const char *path);

struct decompose_summary {
    size_t n_done, n_resumed, n_f32, n_f64, n_gesvd, n_repaired;
    double seconds, flops, worst_orthogonality, worst_residual, worst_bound;
};

/* Runs the plan and leaves `out`. Progress on rank 0: matrices done, seconds left, GFLOP/s. Without
 * resume an existing parts folder is an error that names --resume. Finished parts are safe from
 * any signal at any moment. Collective. 0, or -1 on all ranks with
 * error_set. */
int decompose_run(const struct comm *comm, const struct checkpoint *ck,
                  const struct module *modules, size_t n_modules,
                  const struct decompose_options *options, const struct decompose_plan *plan,
                  const struct factors_origin *origin, const char *out,
                  struct decompose_summary *summary);

#endif
