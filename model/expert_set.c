#include "model/expert_set.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapter_svf.h"
#include "mpi/error.h"

/* ---- names and files ---------------------------------------------------------------------------
 */

/* "dir/add.h5" -> "add"; malloc'ed. */
static char *stem_of(const char *path, size_t n)
{
    size_t first = n;

    while (first > 0 && path[first - 1] != '/')
        first--;
    if (n - first > 3 && memcmp(path + n - 3, ".h5", 3) == 0)
        n -= 3;
    return strndup(path + first, n - first);
}

/* One word of the list, [n] long: a name and the expert's file. */
static int read_one(struct expert_set *set, const char *word, size_t n)
{
    const char *equals = memchr(word, '=', n), *slash = memchr(word, '/', n);
    const bool named = equals && (!slash || equals < slash);
    const char *start = named ? equals + 1 : word;
    const size_t n_path = n - (size_t)(start - word);
    char *path = strndup(start, n_path);
    char *name = named ? strndup(word, (size_t)(equals - word)) : stem_of(start, n_path);
    int status = -1;

    if (!path || !name) {
        error_set("out of memory");
        goto done;
    }
    if (!*path || !*name) {
        error_set("the list of experts has an empty %s", *path ? "name" : "file name");
        goto done;
    }
    if (expert_set_find(set, name) < set->n) {
        error_set("two experts are called %s: give names, as in a=%s", name, path);
        goto done;
    }
    if (expert_read(&set->experts[set->n], path) != 0)
        goto done;
    set->names[set->n++] = name;
    name = NULL;
    status = 0;
done:
    free(path);
    free(name);
    return status;
}

static int read_all(struct expert_set *set, const char *list)
{
    set->names = calloc(EXPERT_SET_MAX, sizeof *set->names);
    set->experts = calloc(EXPERT_SET_MAX, sizeof *set->experts);
    if (!set->names || !set->experts)
        return error_set("out of memory");
    for (const char *word = list;; word++) {
        const size_t n = strcspn(word, ",");
        if (set->n == EXPERT_SET_MAX)
            return error_set("more than %d experts", EXPERT_SET_MAX);
        if (n == 0)
            return error_set("an expert's file name is missing in \"%s\"", list);
        if (read_one(set, word, n) != 0)
            return -1;
        word += n;
        if (!*word)
            return 0;
    }
}

size_t expert_set_find(const struct expert_set *set, const char *name)
{
    size_t k = 0;

    while (k < set->n && strcmp(set->names[k], name) != 0)
        k++;
    return k;
}

static int check_experts(const struct expert_set *set, const char identity[65],
                         const char *model_path)
{
    const struct expert *known = NULL;

    for (size_t k = 0; k < set->n; k++) {
        const struct expert *e = &set->experts[k];
        if (strcmp(e->kind, "svf") != 0)
            return error_set("%s is of the kind %s; experts that are mixed are of the kind svf",
                             e->path, e->kind);
        if (expert_check_model(e, identity, model_path) != 0)
            return -1;
        for (size_t i = 0; i < e->n_matrices; i++)
            if (!expert_vector(&e->matrices[i], "z"))
                return error_set("%s: %s has no vector z of %zu numbers", e->path,
                                 e->matrices[i].module.path, module_rank(&e->matrices[i].module));
        if (!e->factors_identity)
            continue;
        if (known && strcmp(known->factors_identity, e->factors_identity) != 0)
            return error_set("%s and %s were trained with different factors of the model, so their "
                             "numbers mean different things: train both with one factor file",
                             known->path, e->path);
        known = e;
    }
    return 0;
}

/* ---- the union ---------------------------------------------------------------------------------
 */

static int by_place(const void *a, const void *b)
{
    const struct module *x = a, *y = b;

    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    return module_order(x->name) - module_order(y->name);
}

static int join_modules(struct expert_set *set)
{
    size_t n = 0, unique = 0;

    for (size_t k = 0; k < set->n; k++)
        n += set->experts[k].n_matrices;
    set->modules = malloc((n + 1) * sizeof *set->modules);
    set->first = calloc(n + 1, sizeof *set->first);
    set->layer = calloc(n + 1, sizeof *set->layer);
    if (!set->modules || !set->first || !set->layer)
        return error_set("out of memory");
    n = 0;
    for (size_t k = 0; k < set->n; k++)
        for (size_t i = 0; i < set->experts[k].n_matrices; i++)
            set->modules[n++] = set->experts[k].matrices[i].module;
    qsort(set->modules, n, sizeof *set->modules, by_place);
    for (size_t i = 0; i < n; i++) {
        const struct module *m = &set->modules[i], *last = &set->modules[unique - (unique > 0)];
        if (unique > 0 && by_place(m, last) == 0) {
            if (m->n_rows != last->n_rows || m->n_columns != last->n_columns)
                return error_set("%s has another shape in one expert than in another", m->path);
            continue;
        }
        set->modules[unique++] = *m;
    }
    set->n_modules = unique;
    for (size_t i = 0; i < unique; i++) {
        const bool fresh = i == 0 || set->modules[i].layer != set->modules[i - 1].layer;
        set->n_layers += fresh;
        set->layer[i] = set->n_layers - 1;
        set->first[i + 1] = set->first[i] + module_rank(&set->modules[i]);
    }
    set->n_parameters = set->first[unique];
    return 0;
}

static const struct expert_matrix *matrix_of(const struct expert *e, const struct module *module)
{
    for (size_t i = 0; i < e->n_matrices; i++)
        if (by_place(&e->matrices[i].module, module) == 0)
            return &e->matrices[i];
    return NULL;
}

/* Is p there for every matrix of every expert? */
static bool all_sigmoid(const struct expert_set *set)
{
    for (size_t k = 0; k < set->n; k++) {
        const struct expert *e = &set->experts[k];
        if (!e->parametrisation || strcmp(e->parametrisation, "sigmoid") != 0 ||
            e->n_matrices != set->n_modules)
            return false;
        for (size_t i = 0; i < e->n_matrices; i++)
            if (!expert_vector(&e->matrices[i], "p"))
                return false;
    }
    return true;
}

static int gather_vectors(struct expert_set *set, const char *name, float **vectors)
{
    for (size_t k = 0; k < set->n; k++) {
        vectors[k] = malloc((set->n_parameters + 1) * sizeof **vectors);
        if (!vectors[k])
            return error_set("no memory for %zu parameters", set->n_parameters);
        for (size_t i = 0; i < set->n_modules; i++) {
            const struct expert_matrix *m = matrix_of(&set->experts[k], &set->modules[i]);
            float *to = vectors[k] + set->first[i];
            const size_t r = module_rank(&set->modules[i]);
            if (m)
                memcpy(to, expert_vector(m, name), r * sizeof *to);
            for (size_t j = 0; !m && j < r; j++)
                to[j] = 1;
        }
    }
    return 0;
}

int expert_set_open(struct expert_set *set, const char *list, const char identity[65],
                    const char *model_path)
{
    *set = (struct expert_set){0};
    if (read_all(set, list) != 0 || check_experts(set, identity, model_path) != 0 ||
        join_modules(set) != 0)
        return -1;
    for (size_t k = 0; k < set->n && !set->identity; k++)
        if (set->experts[k].factors_identity &&
            !(set->identity = strdup(set->experts[k].factors_identity)))
            return error_set("out of memory");
    set->z = calloc(set->n, sizeof *set->z);
    set->p = all_sigmoid(set) ? calloc(set->n, sizeof *set->p) : NULL;
    if (!set->z || (all_sigmoid(set) && !set->p))
        return error_set("out of memory");
    if (gather_vectors(set, "z", set->z) != 0)
        return -1;
    return set->p ? gather_vectors(set, "p", set->p) : 0;
}

void expert_set_free(struct expert_set *set)
{
    for (size_t k = 0; k < set->n; k++) {
        free(set->names[k]);
        expert_free(&set->experts[k]);
        if (set->z)
            free(set->z[k]);
        if (set->p)
            free(set->p[k]);
    }
    free(set->names);
    free(set->experts);
    free(set->modules);
    free(set->first);
    free(set->layer);
    free(set->z);
    free(set->p);
    free(set->sigma);
    free(set->identity);
    *set = (struct expert_set){0};
}

/* ---- factors and the adapter -------------------------------------------------------------------
 */

int expert_set_take_factors(struct expert_set *set, struct factors *factors)
{
    char fingerprint[65];

    if (factors_fingerprint(factors, fingerprint) != 0)
        return -1;
    if (set->identity && strcmp(fingerprint, set->identity) != 0)
        return error_set("these factors are not those that %s was trained with", set->names[0]);
    free(set->sigma);
    set->sigma = malloc((set->n_parameters + 1) * sizeof *set->sigma);
    if (!set->sigma)
        return error_set("no memory for %zu singular values", set->n_parameters);
    for (size_t i = 0; i < set->n_modules; i++) {
        const struct module *m = &set->modules[i];
        const struct factors_matrix *f = factors_find(factors, m->path);
        if (!f || f->module.n_rows != m->n_rows || f->module.n_columns != m->n_columns)
            return error_set("the factor file has no matrix %s of %zu x %zu, which an expert "
                             "changes",
                             m->path, m->n_rows, m->n_columns);
        memcpy(set->sigma + set->first[i], f->sigma, module_rank(m) * sizeof *set->sigma);
    }
    return 0;
}

struct adapter *expert_set_adapter(const struct expert_set *set, struct model *model,
                                   const struct checkpoint *ck, struct factors *factors)
{
    return adapter_svf_create(model, ck, factors, set->modules, set->n_modules, SVF_DIRECT, false,
                              0);
}

/* ---- mixing ------------------------------------------------------------------------------------
 */

size_t expert_set_n_groups(const struct expert_set *set, enum expert_granularity granularity)
{
    return granularity == EXPERT_PER_EXPERT  ? 1
           : granularity == EXPERT_PER_LAYER ? set->n_layers
                                             : set->n_modules;
}

size_t expert_set_group(const struct expert_set *set, enum expert_granularity granularity,
                        size_t module)
{
    return granularity == EXPERT_PER_EXPERT  ? 0
           : granularity == EXPERT_PER_LAYER ? set->layer[module]
                                             : module;
}

char *expert_set_group_name(const struct expert_set *set, enum expert_granularity granularity,
                            size_t group, char *text, size_t size)
{
    size_t i = 0;

    while (i < set->n_modules && expert_set_group(set, granularity, i) != group)
        i++;
    if (granularity == EXPERT_PER_EXPERT || i == set->n_modules)
        snprintf(text, size, "all");
    else if (granularity == EXPERT_PER_LAYER)
        snprintf(text, size, "layer %zu", set->modules[i].layer);
    else
        snprintf(text, size, "layers.%zu.%s", set->modules[i].layer, set->modules[i].name);
    return text;
}

int expert_set_mix(const struct expert_set *set, enum expert_mix reading, const double *alpha,
                   enum expert_granularity granularity, float *out)
{
    float *const *vectors = reading == EXPERT_MIX_P ? set->p : set->z;
    const double shift = reading == EXPERT_MIX_DELTA ? 1 : 0;

    if (!vectors)
        return error_set("mixing p needs experts of the sigmoid parametrisation which all change "
                         "the same matrices");
    if (reading == EXPERT_MIX_P && !set->sigma)
        return error_set("mixing p needs the factors");
    for (size_t i = 0; i < set->n_modules; i++) {
        const double *a = alpha + expert_set_group(set, granularity, i) * set->n;
        for (size_t j = set->first[i]; j < set->first[i + 1]; j++) {
            double sum = shift;
            for (size_t k = 0; k < set->n; k++)
                sum += a[k] * ((double)vectors[k][j] - shift);
            out[j] = (float)sum;
        }
        const size_t first = set->first[i], r = set->first[i + 1] - first;
        if (reading == EXPERT_MIX_P)
            adapter_svf_sigmoid(set->sigma + first, out + first, r, out + first);
        for (size_t j = set->first[i]; j < set->first[i + 1]; j++)
            if (!isfinite(out[j]))
                return error_set("a mixture of %s is not finite", set->modules[i].path);
    }
    return 0;
}

void expert_set_normalise(double *alpha, size_t n_groups, size_t n)
{
    for (size_t g = 0; g < n_groups; g++) {
        double *a = alpha + g * n, sum = 0;
        for (size_t k = 0; k < n; k++)
            sum += a[k];
        for (size_t k = 0; k < n; k++)
            a[k] = sum > 1e-6 ? a[k] / sum : 1 / (double)n;
    }
}

/* ---- a new expert ------------------------------------------------------------------------------
 */

static char *copy_of(const char *text, bool *failed)
{
    char *copy = text ? strdup(text) : NULL;

    *failed = *failed || (text && !copy);
    return copy;
}

int expert_set_make_expert(const struct expert_set *set, const float *z, struct expert *expert)
{
    const struct expert *like = &set->experts[0];
    bool failed = false;

    expert->kind = copy_of("svf", &failed);
    expert->parametrisation = copy_of("direct", &failed);
    expert->model = copy_of(like->model, &failed);
    expert->factors = copy_of(like->factors, &failed);
    expert->factors_identity = copy_of(set->identity, &failed);
    memcpy(expert->identity, like->identity, sizeof expert->identity);
    expert->matrices = calloc(set->n_modules, sizeof *expert->matrices);
    if (failed || !expert->matrices)
        return error_set("out of memory");
    for (size_t i = 0; i < set->n_modules; i++) {
        struct expert_matrix *m = &expert->matrices[i];
        const size_t r = module_rank(&set->modules[i]);
        m->module = set->modules[i];
        expert->n_matrices = i + 1;
        m->parameters = calloc(1, sizeof *m->parameters);
        if (m->parameters)
            m->n_parameters = 1;
        if (!m->parameters || !(m->parameters->values = malloc(r * sizeof(float))))
            return error_set("out of memory");
        strcpy(m->parameters->name, "z");
        m->parameters->n_rows = r;
        memcpy(m->parameters->values, z + set->first[i], r * sizeof(float));
    }
    return 0;
}
