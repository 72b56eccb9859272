#ifndef T2_MODEL_EXPERT_H
#define T2_MODEL_EXPERT_H
/* The file of a trained adapter (for SVF: an expert vector), in HDF5 (docs/formats.md): what it
 * changes, its parameters, and where it came from. Training adds its curve and scores (train/), so
 * a file is begun here, filled by whoever has something to add, and written in one go.
 *
 * SVF: one group a matrix as in the factor file, /layers/07/mlp.down_proj, with dataset z f32 [r]
 * (the effective multipliers) and, for other parametrisations, p f32 [r]. Other kinds name their
 * own datasets there. Serial: one rank's own; no MPI. */
#include <hdf5.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "model/adapter.h"

struct expert_parameter {
    char name[32];            /* "z", "p", "lora_A" ... */
    size_t n_rows, n_columns; /* n_columns 0: a vector */
    float *values;
};

struct expert_matrix {
    struct module module;
    struct expert_parameter *parameters;
    size_t n_parameters;
};

struct expert {
    char *path;
    char identity[65];                /* of the model */
    char *kind;                       /* "svf", "lora" ... */
    char *parametrisation;            /* svf: "direct" or "sigmoid" */
    char *model, *task;               /* as given, for people; may be NULL */
    char *factors, *factors_identity; /* svf: the factor file's path at training, and its
                                         factors_fingerprint(); may be NULL */
    char *settings; /* the kind's own constants as INI text (rank, alpha, ...), or NULL */
    struct expert_matrix *matrices;
    size_t n_matrices;
};

/* Reads and checks everything (finite values, shapes, known kinds, no duplicates). 0, or -1 with
 * error_set; then nothing to free. */
int expert_read(struct expert *expert, const char *path);
void expert_free(struct expert *expert);
/* A matrix's piece of this name, or NULL. */
const struct expert_parameter *expert_piece(const struct expert_matrix *matrix, const char *name);
/* A matrix's vector of this name and of the matrix's rank ("z", "p"); NULL: it has none. */
const float *expert_vector(const struct expert_matrix *matrix, const char *name);
/* Is it of the adapter as it is used? (Not what training keeps beside: a last step's "z_last", p
 * beside z.) */
bool expert_parameter_is_used(const struct expert *expert, const struct expert_parameter *p);
/* Numbers that are. */
size_t expert_n_parameters(const struct expert *expert);
/* Puts the expert's groups and attributes into an open file (h5_create, then h5_write). */
int expert_put(hid_t file, const struct expert *expert);
/* -1 with a sentence that names both when the expert is of another model. */
int expert_check_model(const struct expert *expert, const char identity[65],
                       const char *model_path);
bool expert_is_file(const char *path);
/* For t2 inspect: provenance, parameters, how far z lies from 1 by kind of matrix, the curve in
 * short, scores. */
int expert_describe(const char *path, FILE *file, bool verbose);

#endif
