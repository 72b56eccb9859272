/* The analysis as an HDF5 file (docs/formats.md). */
#include <stdlib.h>
#include <string.h>

#include "eval/analysis.h"
#include "eval/spectrum.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"

enum { ANALYSIS_VERSION = 1, MAX_NAMES = 16, N_PARTS = 20 };

/* Groups within groups: "layers/07/mlp.down_proj". Close with H5Gclose. */
static hid_t group_path(hid_t parent, const char *path)
{
    char name[64];
    hid_t group = -1, next;

    while (*path) {
        const size_t n = strcspn(path, "/");
        snprintf(name, sizeof name, "%.*s", (int)n, path);
        next = h5_group_create(group >= 0 ? group : parent, name);
        if (group >= 0)
            H5Gclose(group);
        if (next < 0)
            return -1;
        group = next;
        path += n + (path[n] == '/');
    }
    return group;
}

/* ---- similarity --------------------------------------------------------------------------------
 */

static int put_cosines(hid_t group, const char *name, const struct similarity *s, long layer,
                       const char *module)
{
    const size_t n = s->n_experts;
    double *cosines = malloc((n * n + 1) * sizeof *cosines);

    if (!cosines)
        return error_set("out of memory");
    for (size_t a = 0; a < n; a++)
        for (size_t b = 0; b < n; b++)
            cosines[a * n + b] = similarity_cosine(s, a, b, layer, module);
    const int status = h5_put_doubles(group, name, cosines, n, n);
    free(cosines);
    return status;
}

static int put_similarity(hid_t file, const struct analysis *a, const struct similarity *s)
{
    const char *names[MAX_NAMES];
    const char **experts = calloc(a->n_experts + 1, sizeof *experts);
    const size_t n_names = analysis_names(s->modules, s->n_matrices, names, MAX_NAMES);
    hid_t group = group_path(file, "similarity"), kinds = group_path(file, "similarity/kinds");
    int status = experts && group >= 0 && kinds >= 0 ? 0 : error_set("out of memory");

    for (size_t i = 0; status == 0 && i < a->n_experts; i++)
        experts[i] = a->experts[i].name;
    if (status == 0)
        status = h5_column_texts(group, "experts", experts, a->n_experts) ||
                         put_cosines(group, "all", s, -1, NULL)
                     ? -1
                     : 0;
    for (size_t k = 0; status == 0 && k < n_names; k++)
        status = put_cosines(kinds, names[k], s, -1, names[k]);
    for (size_t m = 0; status == 0 && m < s->n_matrices; m++) {
        const struct module *module = &s->modules[m];
        char path[40];
        snprintf(path, sizeof path, "similarity/layers/%02zu", module->layer);
        hid_t layer = group_path(file, path);
        status =
            layer < 0 ? -1 : put_cosines(layer, module->name, s, (long)module->layer, module->name);
        if (status == 0 && (m == 0 || s->modules[m - 1].layer != module->layer))
            status = put_cosines(layer, "all", s, (long)module->layer, NULL);
        if (layer >= 0)
            H5Gclose(layer);
    }
    if (kinds >= 0)
        H5Gclose(kinds);
    if (group >= 0)
        H5Gclose(group);
    free(experts);
    return status;
}

/* ---- experts -----------------------------------------------------------------------------------
 */

static int put_moved(hid_t expert, const struct analysis_expert *e, size_t n)
{
    struct spectrum_moved *moved = calloc(n + 1, sizeof *moved);
    const char **matrices = calloc(n + 1, sizeof *matrices);
    int64_t *index = calloc(n + 1, sizeof *index);
    double *z = calloc(n + 1, sizeof *z), *sigma = calloc(n + 1, sizeof *sigma);
    hid_t group = h5_group_create(expert, "moved");
    int status = -1;

    if (!moved || !matrices || !index || !z || !sigma) {
        error_set("out of memory");
        goto done;
    }
    n = spectrum_most_moved(&e->file, e->factors, n, moved);
    for (size_t i = 0; i < n; i++) {
        matrices[i] = moved[i].module->path;
        index[i] = (int64_t)moved[i].index;
        z[i] = moved[i].z;
        sigma[i] = moved[i].sigma;
    }
    if (group >= 0 && h5_column_texts(group, "matrix", matrices, n) == 0 &&
        h5_column_ints(group, "index", index, n, 0) == 0 &&
        h5_put_doubles(group, "z", z, n, 0) == 0 &&
        (!e->factors || h5_put_doubles(group, "sigma", sigma, n, 0) == 0))
        status = 0;
done:
    if (group >= 0)
        H5Gclose(group);
    free(moved);
    free(matrices);
    free(index);
    free(z);
    free(sigma);
    return status;
}

static int put_truncation(hid_t expert, const struct analysis_expert *e)
{
    struct spectrum_kept kept[N_PARTS];
    double parts[N_PARTS], first[N_PARTS], largest[N_PARTS];
    hid_t group = h5_group_create(expert, "truncation");
    int status = -1;

    for (size_t p = 0; p < N_PARTS; p++)
        parts[p] = (double)(p + 1) / N_PARTS;
    if (group >= 0 && spectrum_truncate(&e->file, e->factors, parts, N_PARTS, kept) == 0) {
        for (size_t p = 0; p < N_PARTS; p++) {
            first[p] = kept[p].first;
            largest[p] = kept[p].largest;
        }
        if (h5_put_doubles(group, "part", parts, N_PARTS, 0) == 0 &&
            h5_put_doubles(group, "kept_first", first, N_PARTS, 0) == 0 &&
            h5_put_doubles(group, "kept_largest", largest, N_PARTS, 0) == 0)
            status = 0;
    }
    if (group >= 0)
        H5Gclose(group);
    return status;
}

static int put_tenths(hid_t expert, const struct analysis_expert *e)
{
    const char *names[MAX_NAMES];
    double rms[SPECTRUM_TENTHS];
    size_t n_names = 0;
    hid_t group = h5_group_create(expert, "tenths");
    int status = group < 0 ? -1 : 0;

    for (size_t i = 0; i < e->file.n_matrices; i++) {
        const char *name = e->file.matrices[i].module.name;
        size_t k = 0;
        while (k < n_names && strcmp(names[k], name) != 0)
            k++;
        if (k < n_names || n_names == MAX_NAMES || status != 0)
            continue;
        names[n_names++] = name;
        spectrum_tenths(&e->file, name, rms);
        status = h5_put_doubles(group, name, rms, SPECTRUM_TENTHS, 0);
    }
    if (group >= 0)
        H5Gclose(group);
    return status;
}

static int put_optional(hid_t object, const char *name, const char *text)
{
    return text ? h5_put_text(object, name, text) : 0;
}

static int put_expert(hid_t file, const struct analysis_expert *e, size_t index, size_t n_moved)
{
    char path[40];

    snprintf(path, sizeof path, "experts/%zu", index);
    hid_t group = group_path(file, path);
    const int status =
        group < 0 || h5_put_text(group, "name", e->name) || h5_put_text(group, "path", e->path) ||
                h5_put_text(group, "model_sha256", e->file.identity) ||
                put_optional(group, "model", e->file.model) ||
                put_optional(group, "task", e->file.task) || put_moved(group, e, n_moved) ||
                put_truncation(group, e) || put_tenths(group, e)
            ? -1
            : 0;
    if (group >= 0)
        H5Gclose(group);
    return status;
}

/* ---- spectra -----------------------------------------------------------------------------------
 */

static int put_shares(hid_t parent, const struct factors_matrix *m)
{
    const size_t r = module_rank(&m->module);
    double *share = malloc(2 * r * sizeof *share);
    hid_t group = group_path(parent, m->module.path + 1);
    int status = -1;

    if (!share)
        error_set("out of memory");
    else if (group >= 0) {
        spectrum_shares(m->sigma, r, share, share + r);
        if (h5_put_doubles(group, "share", share, r, 0) == 0 &&
            h5_put_doubles(group, "energy", share + r, r, 0) == 0)
            status = 0;
    }
    if (group >= 0)
        H5Gclose(group);
    free(share);
    return status;
}

static int put_spectra(hid_t file, const struct analysis_factors *f, size_t index)
{
    char path[40];

    snprintf(path, sizeof path, "spectra/%zu", index);
    hid_t group = group_path(file, path);
    int status = group < 0 || h5_put_text(group, "name", f->name) ||
                         h5_put_text(group, "path", f->path) ||
                         h5_put_text(group, "model_sha256", factors_identity(f->file))
                     ? -1
                     : 0;
    for (size_t i = 0; status == 0 && i < factors_n_matrices(f->file); i++)
        status = put_shares(group, factors_get(f->file, i));
    if (group >= 0)
        H5Gclose(group);
    return status;
}

int analysis_write(const struct analysis *a, const struct similarity *s, size_t n_moved,
                   const char *command_line, const char *path)
{
    hid_t file = h5_create(path);

    if (file < 0)
        return -1;
    int status = h5_put_text(file, "kind", "t2 analysis") ||
                         h5_put_int(file, "format_version", ANALYSIS_VERSION) ||
                         h5_put_text(file, "t2_version", T2_VERSION) ||
                         h5_put_text(file, "command_line", command_line)
                     ? -1
                     : 0;
    if (status == 0 && a->n_experts > 0)
        status = put_similarity(file, a, s);
    for (size_t i = 0; status == 0 && i < a->n_experts; i++)
        status = put_expert(file, &a->experts[i], i, n_moved);
    for (size_t i = 0; status == 0 && i < a->n_factors; i++)
        status = put_spectra(file, &a->factors[i], i);
    if (status == 0)
        status = h5_write(file, path);
    else
        error_prefix("%s", path);
    h5_close(file);
    return status;
}
