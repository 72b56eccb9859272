/* ELPA behind grid.h, where the build found it. P. Kus et al., Optimizations of the eigensolvers in
 * the ELPA library, Parallel Computing 85 (2019). */
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/grid.h"

#ifdef T2_HAVE_ELPA
#include <elpa/elpa.h>

enum { API_VERSION = 20171201 }; /* the oldest that has what is used here */

bool grid_elpa_built(void)
{
    return true;
}

/* Returns the ELPA error. values has c's element type. Collective over comm. */
static int solve(MPI_Comm comm, int row, int column, int stages, int block, struct grid_matrix *c,
                 struct grid_matrix *z, void *values)
{
    int error = elpa_init(API_VERSION);
    if (error != ELPA_OK)
        return error;
    const elpa_t handle = elpa_allocate(&error);
    if (error != ELPA_OK)
        return error;
    const struct {
        const char *name;
        int value;
    } settings[] = {
        {"na", (int)c->n_rows},
        {"nev", (int)c->n_rows},
        {"local_nrows", c->descriptor[8]},
        {"local_ncols", (int)c->local_columns},
        {"nblk", block},
        {"mpi_comm_parent", (int)MPI_Comm_c2f(comm)},
        {"process_row", row},
        {"process_col", column},
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings && error == ELPA_OK; i++)
        elpa_set_integer(handle, settings[i].name, settings[i].value, &error);
    if (error == ELPA_OK)
        error = elpa_setup(handle);
    if (error == ELPA_OK)
        elpa_set_integer(handle, "solver", stages == 1 ? ELPA_SOLVER_1STAGE : ELPA_SOLVER_2STAGE,
                         &error);
    if (error == ELPA_OK && c->f64)
        elpa_eigenvectors_a_h_a_d(handle, c->data, values, z->data, &error);
    else if (error == ELPA_OK)
        elpa_eigenvectors_a_h_a_f(handle, c->data, values, z->data, &error);
    int ignored;
    elpa_deallocate(handle, &ignored);
    elpa_uninit(&ignored);
    return error;
}

bool grid_elpa_has_f32(void)
{
    float a[4] = {1, 0, 0, 2}, q[4], values[2];
    struct grid_matrix c = {.n_rows = 2, .local_columns = 2, .data = a}, z = {.data = q};

    c.descriptor[8] = 2;
    return solve(MPI_COMM_SELF, 0, 0, 1, 2, &c, &z, values) == ELPA_OK;
}

/* ELPA reads both triangles: the upper is filled in from the lower. */
static void fill_upper(struct grid_matrix *c, struct grid_matrix *scratch)
{
    const struct grid *g = c->grid;
    const size_t rows = c->local_rows;

    grid_transpose(c, scratch);
    for (size_t j = 0; j < c->local_columns; j++) {
        const size_t column = grid_global(j, g->block, g->column, g->n_columns);
        for (size_t i = 0; i < rows; i++) {
            if (grid_global(i, g->block, g->row, g->n_rows) >= column)
                continue;
            if (c->f64)
                ((double *)c->data)[j * rows + i] = ((double *)scratch->data)[j * rows + i];
            else
                ((float *)c->data)[j * rows + i] = ((float *)scratch->data)[j * rows + i];
        }
    }
}

int grid_elpa_solve(int stages, struct grid_matrix *c, struct grid_matrix *z, double *values)
{
    const struct grid *g = c->grid;
    const size_t n = c->n_rows;
    float *narrow = NULL;
    int rc = 0;

    if (!c->f64 && !(narrow = malloc(n * sizeof *narrow)))
        rc = error_set("no memory for %zu eigenvalues", n);
    if ((rc = comm_agree(&g->comm, rc)))
        goto done;
    fill_upper(c, z);
    const int error = solve(g->comm.handle, g->row, g->column, stages, g->block, c, z,
                            c->f64 ? (void *)values : narrow);
    if (error != ELPA_OK)
        rc = error_set("ELPA failed on a matrix of order %zu in %s: %s", n, c->f64 ? "f64" : "f32",
                       elpa_strerr(error));
    else if (!c->f64)
        for (size_t i = 0; i < n; i++)
            values[i] = narrow[i];
    rc = grid_agree_solved(g, rc);
done:
    free(narrow);
    return rc;
}

#else

bool grid_elpa_built(void)
{
    return false;
}

bool grid_elpa_has_f32(void)
{
    return false;
}

int grid_elpa_solve(int stages, struct grid_matrix *c, struct grid_matrix *z, double *values)
{
    (void)stages, (void)c, (void)z, (void)values;
    return error_set("t2 was built without ELPA; use the method scalapack");
}

#endif
