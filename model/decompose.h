#ifndef T2_MODEL_DECOMPOSE_H
#define T2_MODEL_DECOMPOSE_H
/* Decomposes a model's matrices on all ranks into a factor file.
 *
 * Workers are ranks times their threads. Matrices go to crews of workers on one node: most to one
 * worker each, drawn from a shared queue, longest first; those that would leave workers idle at the
 * end, or whose work all workers' memory does not hold side by side, are solved first by crews of
 * several (decompose_plan). A crew's size never changes a bit. Runs with a grid method, and
 * matrices whose small side is grid_from or more, take the grid of all ranks (solver/svd_grid.h).
 * Which way a matrix is solved depends on its shape and the options alone. */
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
    size_t memory;    /* bytes that the work of a rank may take; 0: no bound */
    bool resume, quiet;
};

/* ---- costs ----------------------------------------------------------------------------------- */

enum { DECOMPOSE_COST_ORDERS = 8 };
/* 64, 128, ... 8192. */
size_t decompose_cost_order(size_t i);

/* Seconds by shape, of one worker while its neighbours work as well: a table over the order of
 * square matrices, and what rows beyond a square cost. The defaults are measurements of one
 * machine; decompose_cost_measure scales them to this one. */
struct decompose_costs {
    double f32[DECOMPOSE_COST_ORDERS], f64[DECOMPOSE_COST_ORDERS]; /* seconds, order x order */
    double rows_f32, rows_f64; /* flop/s on the rows beyond the order, 4 r^2 flops each */
    double crew_efficiency;    /* share of linear speed-up that a crew of two reaches */
    double grid_efficiency;    /* the same of a grid, over all ranks */
    /* A CUDA device: flop/s of the eigenproblem (14/3 r^3) and of products; elements/s on the way
     * from the file to the device. Guesses. */
    double cuda_eigen, cuda_products, cuda_read;
    double fallback_attention, fallback_mlp; /* share of f32 solves that are done again in f64 */
    double write_bytes;                  /* bytes/s of one rank into part files, and of the merge */
    double write_seconds, start_seconds; /* per part file; of the whole command */
};
struct decompose_costs decompose_cost_defaults(void);

/* Seconds of one worker, or of a device, for a matrix (without writing). */
double decompose_cost_seconds(const struct decompose_costs *costs, const struct module *module,
                              const struct svd_options *options);
/* By how much a crew of `size` is faster than one worker on it. */
double decompose_cost_speedup(const struct decompose_costs *costs, const struct module *module,
                              int size);

/* Measures with small solves on all workers (about a second); the slowest counts. Collective. 0, or
 * -1 on all ranks with error_set. */
int decompose_cost_measure(const struct comm *comm, int n_threads, struct decompose_costs *costs);
/* INI text. 0, or -1 with error_set. */
int decompose_cost_save(const struct decompose_costs *costs, const char *path);
int decompose_cost_load(struct decompose_costs *costs, const char *path);

/* ---- plans ----------------------------------------------------------------------------------- */

/* One line of a plan: who solves matrix i. */
struct decompose_job {
    size_t module;
    /* Workers are numbered node by node, rank by rank. n_workers > 1: within a node, from
     * first_worker; 1: whoever draws it from the queue (first_worker is a prediction); 0: the grid
     * of all ranks */
    int first_worker, n_workers;
    int node;              /* of a crew, else -1 */
    double start, seconds; /* predicted */
    size_t bytes;          /* of a crew's or worker's memory, at the peak */
};

struct decompose_plan {
    struct decompose_job *jobs; /* [n_jobs], in order of start: grid, crews, queue longest first */
    size_t n_jobs;
    int n_ranks, n_threads, ranks_per_node;
    double seconds;        /* predicted, whole command */
    double work;           /* of it, one worker's seconds for everything */
    size_t bytes_per_rank; /* predicted peak of one rank */
    size_t file_bytes;
    bool needs_crews; /* options->memory does not hold all matrices side by side */
};

/* Plans n_modules matrices on n_ranks ranks of options->n_threads workers, ranks_per_node of them
 * sharing memory (ranks beyond whole nodes have a smaller one, and no crews). A plain function of
 * its arguments: also for machines that are not there. 0, or -1 with error_set. */
int decompose_plan_make(struct decompose_plan *plan, const struct module *modules, size_t n_modules,
                        const struct decompose_options *options,
                        const struct decompose_costs *costs, int n_ranks, int ranks_per_node);
/* Accepts a zeroed struct. */
void decompose_plan_free(struct decompose_plan *plan);
/* For --plan. verbose: a line for every matrix, too. */
void decompose_plan_print(const struct decompose_plan *plan, const struct module *modules,
                          FILE *file, bool verbose);

/* ---- runs ------------------------------------------------------------------------------------ */

struct decompose_summary {
    size_t n_done, n_resumed, n_f32, n_f64, n_gesvd, n_repaired;
    double seconds, predicted; /* the whole run, and what its plan said */
    double flops;              /* nominal */
    double worst_orthogonality, worst_residual, worst_bound;
    bool nothing_to_do; /* the complete file was there already */
};

/* Plans and runs and leaves `out`. Progress on rank 0: matrices done, seconds left, GFLOP/s.
 * Without resume an existing parts folder is an error that names --resume. With it, what the parts
 * folder or else a complete `out` of the same origin holds is taken over. Finished parts are safe
 * from any signal at any moment. Collective. 0, or -1 on all ranks with error_set. */
int decompose_run(const struct comm *comm, const struct checkpoint *ck,
                  const struct module *modules, size_t n_modules,
                  const struct decompose_options *options, const struct decompose_costs *costs,
                  const struct factors_origin *origin, const char *out,
                  struct decompose_summary *summary);

/* What decides the numbers, in one line, for factors_origin.options. */
void decompose_options_text(const struct decompose_options *options, char *text, size_t size);

#endif
