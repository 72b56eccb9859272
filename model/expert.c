#include "model/expert.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"

static const char file_kind[] = "t2 expert";
enum { EXPERT_VERSION = 1, MAX_SIDE = 1 << 24 };

/* ---- writing ----------------------------------------------------------------------------------
 */

static int put_optional(hid_t file, const char *name, const char *text)
{
    return text ? h5_put_text(file, name, text) : 0;
}

static int put_matrix(hid_t file, const struct expert_matrix *matrix)
{
    const struct module *m = &matrix->module;
    char layer[32];
    hid_t layers = -1, parent = -1, group = -1;
    int status = -1;

    /* path is "/layers/07/mlp.down_proj" */
    const char *name = strrchr(m->path, '/');
    const size_t n = (size_t)(name - m->path) - strlen("/layers/");
    if (n >= sizeof layer)
        return error_set("%s is no path of a matrix", m->path);
    memcpy(layer, m->path + strlen("/layers/"), n);
    layer[n] = '\0';
    if ((layers = h5_group_create(file, "layers")) < 0 ||
        (parent = h5_group_create(layers, layer)) < 0 ||
        (group = h5_group_create(parent, name + 1)) < 0)
        goto done;
    if (h5_put_text(group, "tensor", m->tensor) || h5_put_int(group, "layer", (int64_t)m->layer) ||
        h5_put_int(group, "n_rows", (int64_t)m->n_rows) ||
        h5_put_int(group, "n_columns", (int64_t)m->n_columns))
        goto done;
    for (size_t i = 0; i < matrix->n_parameters; i++) {
        const struct expert_parameter *p = &matrix->parameters[i];
        if (h5_put_floats(group, p->name, p->values, p->n_rows, p->n_columns))
            goto done;
    }
    status = 0;
done:
    if (group >= 0)
        H5Gclose(group);
    if (parent >= 0)
        H5Gclose(parent);
    if (layers >= 0)
        H5Gclose(layers);
    return status;
}

int expert_put(hid_t file, const struct expert *expert)
{
    if (h5_put_text(file, "kind", file_kind) ||
        h5_put_int(file, "format_version", EXPERT_VERSION) ||
        h5_put_text(file, "identity", expert->identity) ||
        h5_put_text(file, "adapter", expert->kind) ||
        put_optional(file, "parametrisation", expert->parametrisation) ||
        put_optional(file, "model", expert->model) || put_optional(file, "task", expert->task) ||
        put_optional(file, "factors", expert->factors) ||
        put_optional(file, "factors_identity", expert->factors_identity) ||
        put_optional(file, "adapter_settings", expert->settings))
        return -1;
    for (size_t i = 0; i < expert->n_matrices; i++)
        if (put_matrix(file, &expert->matrices[i]) != 0)
            return -1;
    return 0;
}

/* ---- reading -----------------------------------------------------------------------------------
 */

struct reading {
    struct expert *expert;
    struct expert_matrix *matrix;
    size_t capacity;
};

static int read_parameter(struct expert_matrix *matrix, hid_t group, const char *name)
{
    struct expert_parameter p = {0};

    if (strlen(name) >= sizeof p.name)
        return error_set("%s: the dataset name '%.40s' is too long", matrix->module.path, name);
    strcpy(p.name, name);
    if (!h5_shape(group, name, &p.n_rows, &p.n_columns))
        return error_set("%s: %s is not a dataset of real numbers", matrix->module.path, name);
    const size_t width = p.n_columns ? p.n_columns : 1;
    if (p.n_rows == 0 || p.n_rows > MAX_SIDE || width > MAX_SIDE)
        return error_set("%s: %s has the shape [%zu, %zu]", matrix->module.path, name, p.n_rows,
                         p.n_columns);
    /* What the file stores bounds what is allocated for it. */
    hid_t dataset = H5Dopen2(group, name, H5P_DEFAULT);
    const hsize_t stored = dataset >= 0 ? H5Dget_storage_size(dataset) : 0;
    if (dataset >= 0)
        H5Dclose(dataset);
    if (stored / 2 < p.n_rows * width)
        return error_set("%s: %s is not all there: the file is damaged", matrix->module.path, name);
    p.values = malloc(p.n_rows * width * sizeof *p.values);
    struct expert_parameter *all =
        realloc(matrix->parameters, (matrix->n_parameters + 1) * sizeof *all);
    if (all)
        matrix->parameters = all;
    if (!p.values || !all) {
        free(p.values);
        return error_set("out of memory");
    }
    all[matrix->n_parameters++] = p;
    if (h5_get_floats(group, name, p.values, p.n_rows, p.n_columns) != 0)
        return error_prefix("%s", matrix->module.path);
    for (size_t i = 0; i < p.n_rows * width; i++)
        if (!isfinite(p.values[i]))
            return error_set("%s: element %zu of %s is not finite", matrix->module.path, i, name);
    return 0;
}

/* Only what the group itself holds is looked at: no soft or external links. */
static herr_t each_parameter(hid_t group, const char *name, const H5L_info_t *info, void *data)
{
    struct reading *r = data;

    if (info->type != H5L_TYPE_HARD)
        return error_set("%s: %s is a link", r->matrix->module.path, name);
    return read_parameter(r->matrix, group, name);
}

static int read_matrix(struct reading *r, hid_t group, const char *layer, const char *name)
{
    struct expert *e = r->expert;
    int64_t index, n_rows, n_columns;
    char *tensor = NULL;
    int status = -1;

    if (e->n_matrices == r->capacity) {
        const size_t capacity = 2 * r->capacity + 16;
        struct expert_matrix *all = realloc(e->matrices, capacity * sizeof *all);
        if (!all)
            return error_set("out of memory");
        e->matrices = all;
        r->capacity = capacity;
    }
    r->matrix = &e->matrices[e->n_matrices++];
    memset(r->matrix, 0, sizeof *r->matrix);
    struct module *m = &r->matrix->module;
    if (strlen(name) >= sizeof m->name || strlen(layer) > 8)
        return error_set("/layers/%.20s/%.60s is no path of a matrix", layer, name);
    strcpy(m->name, name);
    snprintf(m->path, sizeof m->path, "/layers/%s/%s", layer, name);
    if (!h5_get_text(group, "tensor", &tensor) || strlen(tensor) >= sizeof m->tensor ||
        !h5_get_int(group, "layer", &index) || !h5_get_int(group, "n_rows", &n_rows) ||
        !h5_get_int(group, "n_columns", &n_columns) || index < 0 || index > 100000 || n_rows < 1 ||
        n_columns < 1 || n_rows > MAX_SIDE || n_columns > MAX_SIDE) {
        error_set("%s lacks its layer, tensor or shape", m->path);
        goto done;
    }
    strcpy(m->tensor, tensor);
    m->layer = (size_t)index;
    m->n_rows = (size_t)n_rows;
    m->n_columns = (size_t)n_columns;
    /* One place for each matrix, so that none is there twice. */
    char own_path[sizeof m->path + 32], own_tensor[sizeof m->tensor + 32];
    snprintf(own_path, sizeof own_path, "/layers/%02zu/%s", m->layer, m->name);
    snprintf(own_tensor, sizeof own_tensor, "model.layers.%zu.%s.weight", m->layer, m->name);
    if (projection_find(m->name) == PROJECTION_COUNT || strcmp(own_path, m->path) != 0 ||
        strcmp(own_tensor, m->tensor) != 0) {
        error_set("%s is not where the matrix %.80s of layer %zu belongs", m->path, m->tensor,
                  m->layer);
        goto done;
    }
    if (H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, NULL, each_parameter, r) < 0)
        goto done;
    if (r->matrix->n_parameters == 0) {
        error_set("%s holds no parameters", m->path);
        goto done;
    }
    status = 0;
done:
    free(tensor);
    return status;
}

struct layer_reading {
    struct reading *reading;
    const char *layer;
};

static herr_t each_matrix(hid_t parent, const char *name, const H5L_info_t *info, void *data)
{
    struct layer_reading *l = data;

    if (info->type != H5L_TYPE_HARD)
        return error_set("/layers/%.20s/%.60s is a link", l->layer, name);
    hid_t group = H5Gopen2(parent, name, H5P_DEFAULT);
    if (group < 0)
        return error_set("/layers/%.20s/%.60s is not a group", l->layer, name);
    const int status = read_matrix(l->reading, group, l->layer, name);
    H5Gclose(group);
    return status;
}

static herr_t each_layer(hid_t parent, const char *name, const H5L_info_t *info, void *data)
{
    struct layer_reading l = {data, name};

    if (info->type != H5L_TYPE_HARD)
        return error_set("/layers/%.20s is a link", name);
    hid_t group = H5Gopen2(parent, name, H5P_DEFAULT);
    if (group < 0)
        return error_set("/layers/%.20s is not a group", name);
    const herr_t status = H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, NULL, each_matrix, &l);
    H5Gclose(group);
    return status;
}

static int read_all(struct expert *expert, hid_t file)
{
    struct reading reading = {.expert = expert};
    char *identity = NULL;
    int64_t version = 0;
    hid_t layers = -1;
    int status = -1;

    if (!h5_has_kind(file, file_kind)) {
        error_set("is not an expert file (t2 train makes one)");
        goto done;
    }
    if (!h5_get_int(file, "format_version", &version) || version != EXPERT_VERSION) {
        error_set("has the format version %lld; this t2 reads %d", (long long)version,
                  EXPERT_VERSION);
        goto done;
    }
    if (!h5_get_text(file, "identity", &identity) || strlen(identity) != 64 ||
        !h5_get_text(file, "adapter", &expert->kind)) {
        error_set("does not say which model and adapter it is of");
        goto done;
    }
    strcpy(expert->identity, identity);
    h5_get_text(file, "parametrisation", &expert->parametrisation);
    h5_get_text(file, "model", &expert->model);
    h5_get_text(file, "task", &expert->task);
    h5_get_text(file, "factors", &expert->factors);
    h5_get_text(file, "factors_identity", &expert->factors_identity);
    h5_get_text(file, "adapter_settings", &expert->settings);
    layers =
        H5Lexists(file, "layers", H5P_DEFAULT) > 0 ? H5Gopen2(file, "layers", H5P_DEFAULT) : -1;
    if (layers < 0) {
        error_set("holds no matrices");
        goto done;
    }
    if (H5Literate(layers, H5_INDEX_NAME, H5_ITER_INC, NULL, each_layer, &reading) < 0)
        goto done;
    if (expert->n_matrices == 0) {
        error_set("holds no matrices");
        goto done;
    }
    status = 0;
done:
    if (layers >= 0)
        H5Gclose(layers);
    free(identity);
    return status;
}

int expert_read(struct expert *expert, const char *path)
{
    struct h5_quiet quiet;
    int status = -1;

    memset(expert, 0, sizeof *expert);
    hid_t file = h5_open(path);
    if (file < 0)
        return -1;
    h5_quiet_begin(&quiet);
    error_set("cannot be read: the file is damaged");
    if (read_all(expert, file) != 0)
        error_prefix("%s", path);
    else if (!(expert->path = strdup(path)))
        error_set("out of memory");
    else
        status = 0;
    h5_quiet_end(&quiet);
    h5_close(file);
    if (status != 0)
        expert_free(expert);
    return status;
}

void expert_free(struct expert *expert)
{
    if (!expert)
        return;
    for (size_t i = 0; i < expert->n_matrices; i++) {
        for (size_t j = 0; j < expert->matrices[i].n_parameters; j++)
            free(expert->matrices[i].parameters[j].values);
        free(expert->matrices[i].parameters);
    }
    free(expert->matrices);
    free(expert->path);
    free(expert->kind);
    free(expert->parametrisation);
    free(expert->model);
    free(expert->task);
    free(expert->factors);
    free(expert->factors_identity);
    free(expert->settings);
    memset(expert, 0, sizeof *expert);
}

const struct expert_parameter *expert_piece(const struct expert_matrix *matrix, const char *name)
{
    for (size_t i = 0; i < matrix->n_parameters; i++)
        if (strcmp(matrix->parameters[i].name, name) == 0)
            return &matrix->parameters[i];
    return NULL;
}

const float *expert_vector(const struct expert_matrix *matrix, const char *name)
{
    const struct expert_parameter *p = expert_piece(matrix, name);
    return p && p->n_columns == 0 && p->n_rows == module_rank(&matrix->module) ? p->values : NULL;
}

bool expert_parameter_is_used(const struct expert *expert, const struct expert_parameter *p)
{
    static const char last[] = "_last";
    const size_t n = strlen(p->name), m = sizeof last - 1;

    if (strcmp(expert->kind, "svf") == 0)
        return strcmp(p->name, "z") == 0;
    return n < m || strcmp(p->name + n - m, last) != 0;
}

size_t expert_n_parameters(const struct expert *expert)
{
    size_t n = 0;

    for (size_t i = 0; i < expert->n_matrices; i++)
        for (size_t k = 0; k < expert->matrices[i].n_parameters; k++) {
            const struct expert_parameter *p = &expert->matrices[i].parameters[k];
            if (expert_parameter_is_used(expert, p))
                n += p->n_rows * (p->n_columns ? p->n_columns : 1);
        }
    return n;
}

int expert_check_model(const struct expert *expert, const char identity[65], const char *model_path)
{
    if (strcmp(expert->identity, identity) == 0)
        return 0;
    return error_set(
        "%s was trained on another model than %s (on %s, tensors with SHA-256 %.12s...; "
        "this one has %.12s...): give the model it belongs to",
        expert->path, model_path, expert->model ? expert->model : "an unnamed one",
        expert->identity, identity);
}

bool expert_is_file(const char *path)
{
    return h5_is_kind(path, file_kind);
}
