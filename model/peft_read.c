#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "model/adapter_ia3.h"
#include "model/json_file.h"
#include "model/peft.h"
#include "model/safetensors.h"
#include "mpi/error.h"

enum { MOST_PIECES = 3 };

/* ---- adapter_config.json ----------------------------------------------------------------------
 */

struct settings {
    const struct adapter_kind *kind;
    struct adapter_settings values;
};

static bool is_set(const json_t *value)
{
    return json_is_true(value) || (json_is_array(value) && json_array_size(value) > 0) ||
           (json_is_object(value) && json_object_size(value) > 0);
}

static int read_number(const json_t *config, const char *name, double *value)
{
    const json_t *number = json_object_get(config, name);

    if (!json_is_number(number))
        return error_set("%s is missing or no number", name);
    *value = json_number_value(number);
    return isfinite(*value) ? 0 : error_set("%s is not finite", name);
}

/* Starts of LoRA after which PEFT subtracts B A from the base weights, or quantizes them, also when
 * it loads the trained adapter (peft/tuners/lora/layer.py, update_layer). The others ("gaussian",
 * "eva", "orthogonal", "mica", true, false) leave them alone. */
static int refuse_changed_base(const json_t *config)
{
    static const char *const names[] = {"pissa", "corda", "olora", "loftq", "lora_ga"};
    const char *start = json_string_value(json_object_get(config, "init_lora_weights"));

    for (size_t i = 0; start && i < sizeof names / sizeof *names; i++)
        if (strncasecmp(start, names[i], strlen(names[i])) == 0)
            return error_set("init_lora_weights is '%.40s': PEFT changes the model's weights when "
                             "it loads such an adapter, which t2 does not: save the adapter "
                             "converted to plain LoRA (path_initial_model_for_weight_conversion)",
                             start);
    return 0;
}

/* What would make PEFT compute something else. */
static int refuse_others(const json_t *config)
{
    static const char *const names[] = {"fan_in_fan_out",
                                        "modules_to_save",
                                        "rank_pattern",
                                        "alpha_pattern",
                                        "use_qalora",
                                        "layer_replication",
                                        "lora_bias",
                                        "alora_invocation_tokens",
                                        "use_bdlora",
                                        "target_parameters",
                                        "trainable_token_indices",
                                        "arrow_config",
                                        "kasa_config",
                                        "monteclora_config"};
    const char *bias = json_string_value(json_object_get(config, "bias"));

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (is_set(json_object_get(config, names[i])))
            return error_set("it uses %s, which t2 does not compute: save the adapter without it",
                             names[i]);
    if (bias && strcmp(bias, "none") != 0)
        return error_set("it trains biases (bias = %.40s), which t2 does not", bias);
    return refuse_changed_base(config);
}

static int read_low_rank(const json_t *config, struct settings *s)
{
    double rank, alpha, dropout = 0;

    if (read_number(config, "r", &rank) != 0 || read_number(config, "lora_alpha", &alpha) != 0 ||
        (json_object_get(config, "lora_dropout") &&
         read_number(config, "lora_dropout", &dropout) != 0))
        return -1;
    if (!(rank >= 1 && rank <= 1 << 20 && rank == floor(rank)))
        return error_set("r is %g, which is no rank", rank);
    if (!(dropout >= 0 && dropout < 1))
        return error_set("lora_dropout is %g, which is no share", dropout);
    s->values.rank = (size_t)rank;
    /* rank-stabilised: alpha / sqrt(r) */
    s->values.alpha =
        json_is_true(json_object_get(config, "use_rslora")) ? alpha * sqrt(rank) : alpha;
    s->values.dropout = dropout;
    return 0;
}

static int read_config(const json_t *config, struct settings *s)
{
    const char *type = json_string_value(json_object_get(config, "peft_type"));
    const bool dora = json_is_true(json_object_get(config, "use_dora"));

    if (!type || (strcmp(type, "LORA") != 0 && strcmp(type, "IA3") != 0))
        return error_set("its peft_type is '%.40s'; t2 reads LORA (DoRA among them) and IA3",
                         type ? type : "missing");
    s->kind = adapter_kind_find(strcmp(type, "IA3") == 0 ? "ia3" : dora ? "dora" : "lora");
    if (!s->kind || refuse_others(config) != 0)
        return -1;
    return strcmp(type, "LORA") == 0 ? read_low_rank(config, s) : 0;
}

/* ---- the tensors ------------------------------------------------------------------------------
 */

/* "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight" -> 3, the name, "lora_A". */
static bool parse_name(const char *name, size_t *layer, char module[32], char piece[32])
{
    static const char prefix[] = "base_model.model.model.layers.";
    char *end;

    if (strncmp(name, prefix, sizeof prefix - 1) != 0)
        return false;
    const char *number = name + sizeof prefix - 1;
    if (*number < '0' || *number > '9')
        return false;
    const unsigned long value = strtoul(number, &end, 10);
    if (value > 100000 || *end != '.')
        return false;
    *layer = value;
    /* two words of the module, then the piece */
    const char *first = strchr(end + 1, '.'), *second = first ? strchr(first + 1, '.') : NULL;
    if (!second || (size_t)(second - end - 1) >= 32)
        return false;
    snprintf(module, 32, "%.*s", (int)(second - end - 1), end + 1);
    size_t n = strlen(second + 1);
    if (n > 7 && strcmp(second + 1 + n - 7, ".weight") == 0)
        n -= 7;
    if (n >= 32)
        return false;
    snprintf(piece, 32, "%.*s", (int)n, second + 1);
    return true;
}

static struct expert_matrix *find_matrix(struct expert *e, size_t layer, const char *module)
{
    for (size_t i = 0; i < e->n_matrices; i++)
        if (e->matrices[i].module.layer == layer && strcmp(e->matrices[i].module.name, module) == 0)
            return &e->matrices[i];
    return NULL;
}

/* The shape that a piece must have: n_columns 0 for a vector. */
static bool shape_of(const struct settings *s, const struct module *m, const char *piece,
                     size_t *n_rows, size_t *n_columns)
{
    const size_t r = s->values.rank;

    *n_columns = 0;
    if (strcmp(s->kind->name, "ia3") == 0) {
        *n_rows = adapter_ia3_scales_input(projection_find(m->name)) ? m->n_columns : m->n_rows;
        return strcmp(piece, "ia3_l") == 0;
    }
    if (strcmp(piece, "lora_A") == 0) {
        *n_rows = r;
        *n_columns = m->n_columns;
    } else if (strcmp(piece, "lora_B") == 0) {
        *n_rows = m->n_rows;
        *n_columns = r;
    } else {
        *n_rows = m->n_rows;
        return strcmp(piece, "lora_magnitude_vector") == 0 && strcmp(s->kind->name, "dora") == 0;
    }
    return true;
}

/* (IA)^3 in PEFT: [1, n] scales a projection's n inputs, [n, 1] its n outputs. */
static int check_direction(const struct module *m, const struct tensor *t)
{
    const bool inputs = adapter_ia3_scales_input(projection_find(m->name));

    if (t->n_dims == 2 && t->shape[inputs ? 0 : 1] == 1)
        return 0;
    return error_set("the tensor %.100s does not have the shape %s: t2 scales the %s of %s (with "
                     "other feedforward_modules PEFT does something else)",
                     t->name, inputs ? "[1, n]" : "[n, 1]", inputs ? "inputs" : "outputs", m->name);
}

static int read_tensor(struct expert *e, const struct settings *s, const struct tensor *t)
{
    size_t layer, n_rows, n_columns;
    char module[32], piece[32];

    if (!parse_name(t->name, &layer, module, piece))
        return error_set("the tensor %.100s is none of a decoder's projections", t->name);
    struct expert_matrix *m = find_matrix(e, layer, module);
    if (!m)
        return error_set("the tensor %.100s is of a matrix that the model does not have", t->name);
    if (!shape_of(s, &m->module, piece, &n_rows, &n_columns))
        return error_set("the tensor %.100s has no place in an adapter of the kind '%s'", t->name,
                         s->kind->name);
    if (strcmp(s->kind->name, "ia3") == 0 && check_direction(&m->module, t) != 0)
        return -1;
    const size_t n = n_rows * (n_columns ? n_columns : 1);
    size_t n_there = 1;
    for (size_t d = 0; d < t->n_dims; d++)
        n_there *= t->shape[d]; /* checked against the file */
    if (t->type == TENSOR_TYPE_COUNT || !t->data)
        return error_set("the tensor %.100s has an element type that t2 does not read", t->name);
    if (n_there != n || (n_columns && (t->n_dims != 2 || t->shape[0] != n_rows)))
        return error_set("the tensor %.100s does not have the shape [%zu, %zu] that fits the model "
                         "and r = %zu",
                         t->name, n_rows, n_columns ? n_columns : 1, s->values.rank);
    if (m->n_parameters == MOST_PIECES)
        return error_set("%s has too many pieces", m->module.path);
    for (size_t i = 0; i < m->n_parameters; i++)
        if (strcmp(m->parameters[i].name, piece) == 0)
            return error_set("the tensor %.100s is there twice", t->name);
    if (!m->parameters)
        m->parameters = calloc(MOST_PIECES, sizeof *m->parameters);
    float *values = m->parameters ? malloc(n * sizeof *values) : NULL;
    if (!values)
        return error_set("out of memory");
    struct expert_parameter *p = &m->parameters[m->n_parameters++];
    snprintf(p->name, sizeof p->name, "%s", piece);
    p->n_rows = n_rows;
    p->n_columns = n_columns;
    p->values = values;
    tensor_read_rows(t, 0, tensor_n_rows(t), values);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return error_set("element %zu of the tensor %.100s is not finite", i, t->name);
    return 0;
}

/* Matrices without pieces go; the others must be whole. */
static int drop_empty(struct expert *e, const struct settings *s)
{
    const size_t n_pieces = strcmp(s->kind->name, "ia3") == 0    ? 1
                            : strcmp(s->kind->name, "dora") == 0 ? 3
                                                                 : 2;
    size_t kept = 0;

    for (size_t i = 0; i < e->n_matrices; i++) {
        if (e->matrices[i].n_parameters > 0 && e->matrices[i].n_parameters != n_pieces)
            return error_set("%s lacks a piece: %zu of %zu are there", e->matrices[i].module.path,
                             e->matrices[i].n_parameters, n_pieces);
        if (e->matrices[i].n_parameters > 0) {
            /* Each piece has one owner, also when a later matrix is refused. */
            const struct expert_matrix m = e->matrices[i];
            e->matrices[i] = (struct expert_matrix){0};
            e->matrices[kept++] = m;
        }
    }
    e->n_matrices = kept;
    return kept > 0 ? 0 : error_set("it holds no matrices");
}

/* ---- the folder -------------------------------------------------------------------------------
 */

bool peft_is_folder(const char *path)
{
    char *file = NULL;
    struct stat info;
    const bool is = asprintf(&file, "%s/adapter_config.json", path) >= 0 && stat(file, &info) == 0;

    free(file);
    return is;
}

static int read_folder(struct expert *e, const char *folder, const struct model_config *config)
{
    struct settings s = {0};
    struct module *modules = NULL;
    struct safetensors *st = NULL;
    char *path = NULL;
    json_t *json = NULL;
    size_t n_modules = 0;
    int status = -1;

    if (asprintf(&path, "%s/adapter_config.json", folder) < 0) {
        path = NULL;
        return error_set("out of memory");
    }
    if (!(json = json_object_load(path, TEXT_MAX_BYTES)))
        goto done;
    if (read_config(json, &s) != 0) {
        error_prefix("%s", path);
        goto done;
    }
    free(path);
    if (asprintf(&path, "%s/adapter_model.safetensors", folder) < 0) {
        path = NULL;
        error_set("out of memory");
        goto done;
    }
    if (!(st = safetensors_open(path)) ||
        modules_select(config, "all", NULL, &modules, &n_modules) != 0)
        goto done;
    e->kind = strdup(s.kind->name);
    e->settings = adapter_settings_text(s.kind, &s.values);
    e->path = strdup(folder);
    e->matrices = calloc(n_modules, sizeof *e->matrices);
    if (!e->kind || !e->settings || !e->path || !e->matrices) {
        error_set("out of memory");
        goto done;
    }
    for (; e->n_matrices < n_modules; e->n_matrices++)
        e->matrices[e->n_matrices].module = modules[e->n_matrices];
    for (size_t i = 0; i < safetensors_n_tensors(st); i++)
        if (read_tensor(e, &s, safetensors_tensor(st, i)) != 0) {
            error_prefix("%s", path);
            goto done;
        }
    if (drop_empty(e, &s) != 0) {
        error_prefix("%s", path);
        goto done;
    }
    status = 0;
done:
    free(path);
    free(modules);
    json_decref(json);
    safetensors_free(st);
    return status;
}

int peft_read(struct expert *expert, const char *folder, const struct model_config *config,
              const char identity[65])
{
    memset(expert, 0, sizeof *expert);
    if (read_folder(expert, folder, config) != 0) {
        expert_free(expert);
        return -1;
    }
    snprintf(expert->identity, sizeof expert->identity, "%s", identity);
    return 0;
}
