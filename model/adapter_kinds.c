#include "model/adapter_kinds.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapter_ia3.h"
#include "model/adapter_lora.h"
#include "model/adapter_moslora.h"
#include "model/adapter_svf.h"
#include "model/model_internal.h"
#include "mpi/error.h"

/* ---- svf ------------------------------------------------------------------------------------- */

static struct adapter *svf_create(const struct adapter_source *s)
{
    return adapter_svf_create(s->model, s->ck, s->factors, s->modules, s->n_modules,
                              strcmp(s->settings.parametrisation, "sigmoid") == 0 ? SVF_SIGMOID
                                                                                  : SVF_DIRECT,
                              s->with_backward, s->seed);
}

static size_t svf_count(const struct module *module, const struct adapter_settings *settings,
                        bool first)
{
    (void)settings;
    (void)first;
    return module_rank(module);
}

static struct expert_parameter *add_parameter(struct expert_matrix *m, const char *name,
                                              const char *suffix, size_t n_rows, size_t n_columns)
{
    const size_t n = n_rows * (n_columns ? n_columns : 1);
    struct expert_parameter *all =
        realloc(m->parameters, (m->n_parameters + 1) * sizeof *m->parameters);

    if (all)
        m->parameters = all;
    float *values = malloc(n * sizeof *values);
    if (!all || !values) {
        free(values);
        error_set("out of memory");
        return NULL;
    }
    struct expert_parameter *p = &all[m->n_parameters++];
    *p = (struct expert_parameter){.n_rows = n_rows, .n_columns = n_columns, .values = values};
    snprintf(p->name, sizeof p->name, "%s%s", name, suffix);
    return p;
}

/* z, the effective multipliers, is all that other commands read; p is what was trained. */
static int svf_fill(const struct adapter *adapter, size_t site, const float *parameters,
                    const char *suffix, struct expert_matrix *m)
{
    const struct adapter_site *s = &adapter->sites[site];
    struct expert_parameter *z = add_parameter(m, "z", suffix, s->n_parameters, 0);

    if (!z)
        return -1;
    adapter_svf_multipliers(adapter, site, parameters, z->values);
    if (adapter_svf_parametrisation(adapter) == SVF_DIRECT)
        return 0;
    struct expert_parameter *p = add_parameter(m, "p", suffix, s->n_parameters, 0);
    if (!p)
        return -1;
    memcpy(p->values, parameters + s->first_parameter, s->n_parameters * sizeof *p->values);
    return 0;
}

static const struct adapter_kind svf = {
    .name = "svf",
    .title = "one vector a matrix (SVF)",
    .settings = "parametrisation",
    .needs_factors = true,
    .can_merge = true,
    .defaults = {.parametrisation = "direct"},
    .modules = "mlp",
    .objective = "reinforce",
    .rate = 2e-3,
    .clip_norm = 1e-3,
    .steps = 75,
    .create = svf_create,
    .count = svf_count,
    .fill = svf_fill,
};

/* ---- the table ------------------------------------------------------------------------------- */

const struct adapter_kind *const adapter_kinds[] = {
    &svf, &adapter_kind_lora, &adapter_kind_dora, &adapter_kind_ia3, &adapter_kind_moslora, NULL};

const struct adapter_kind *adapter_kind_find(const char *name)
{
    char names[128] = "";

    for (size_t i = 0; adapter_kinds[i]; i++) {
        if (strcmp(adapter_kinds[i]->name, name) == 0)
            return adapter_kinds[i];
        const size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, "%s%s", i > 0 ? ", " : "", adapter_kinds[i]->name);
    }
    error_set("there is no adapter '%.40s': choose one of %s", name, names);
    return NULL;
}

bool adapter_kind_uses(const struct adapter_kind *kind, const char *setting)
{
    const size_t n = strlen(setting);

    for (const char *at = kind->settings; (at = strstr(at, setting)); at += n)
        if ((at == kind->settings || at[-1] == ' ') && (at[n] == ' ' || !at[n]))
            return true;
    return false;
}

int adapter_kind_check(const struct adapter_kind *kind, const struct adapter_settings *s,
                       const struct module *modules, size_t n_modules)
{
    if (adapter_kind_uses(kind, "rank") && s->rank < 1)
        return error_set("a rank of %zu is not possible: choose 1 or more", s->rank);
    for (size_t i = 0; i < n_modules && adapter_kind_uses(kind, "rank"); i++)
        if (s->rank > module_rank(&modules[i]))
            return error_set("a rank of %zu is not possible for %s of %zu x %zu: choose 1 to %zu",
                             s->rank, modules[i].path, modules[i].n_rows, modules[i].n_columns,
                             module_rank(&modules[i]));
    if (adapter_kind_uses(kind, "dropout") && !(s->dropout >= 0 && s->dropout < 1))
        return error_set("a dropout of %g is not possible: choose 0 or more, and less than 1",
                         s->dropout);
    return kind->check ? kind->check(s) : 0;
}

size_t adapter_kind_count(const struct adapter_kind *kind, const struct adapter_settings *settings,
                          const struct module *modules, size_t n_modules, size_t i)
{
    const struct module *m = &modules[i];
    const enum projection own = projection_find(m->name);
    bool first = true;

    for (size_t k = 0; k < n_modules && own < PROJECTION_COUNT; k++) {
        const enum projection other = projection_find(modules[k].name);
        if (modules[k].layer == m->layer && other < own &&
            projection_group(other) == projection_group(own))
            first = false;
    }
    return kind->count(m, settings, first);
}

struct adapter *adapter_kind_create(const struct adapter_kind *kind,
                                    const struct adapter_source *source)
{
    return adapter_kind_check(kind, &source->settings, source->modules, source->n_modules) == 0
               ? kind->create(source)
               : NULL;
}

/* ---- settings -------------------------------------------------------------------------------- */

/* The members of adapter_settings, by name. */
enum setting_type { SETTING_SIZE, SETTING_REAL, SETTING_TEXT };
static const struct setting {
    const char *name;
    enum setting_type type;
    size_t offset;
} all_settings[] = {
    {"rank", SETTING_SIZE, offsetof(struct adapter_settings, rank)},
    {"alpha", SETTING_REAL, offsetof(struct adapter_settings, alpha)},
    {"dropout", SETTING_REAL, offsetof(struct adapter_settings, dropout)},
    {"parametrisation", SETTING_TEXT, offsetof(struct adapter_settings, parametrisation)},
    {"experts", SETTING_TEXT, offsetof(struct adapter_settings, experts)},
    {"chart", SETTING_TEXT, offsetof(struct adapter_settings, chart)},
    {"router", SETTING_TEXT, offsetof(struct adapter_settings, router)},
    {"router-hidden", SETTING_SIZE, offsetof(struct adapter_settings, router_hidden)},
    {"routing", SETTING_TEXT, offsetof(struct adapter_settings, routing)},
    {"shared-a", SETTING_SIZE, offsetof(struct adapter_settings, shared_a)},
    {"curvature", SETTING_REAL, offsetof(struct adapter_settings, curvature)},
    {"fixed-curvature", SETTING_SIZE, offsetof(struct adapter_settings, fixed_curvature)},
    {"most-curved", SETTING_REAL, offsetof(struct adapter_settings, most_curved)},
    {"curvature-penalty", SETTING_REAL, offsetof(struct adapter_settings, curvature_penalty)},
    {"curvature-rate", SETTING_REAL, offsetof(struct adapter_settings, curvature_rate)},
};
enum { N_SETTINGS = sizeof all_settings / sizeof *all_settings, TEXT_SIZE = 24 };

/* As short as gives the same number back. */
static void put_real(FILE *out, double value)
{
    char text[40];

    snprintf(text, sizeof text, "%.15g", value);
    if (strtod(text, NULL) != value)
        snprintf(text, sizeof text, "%.17g", value);
    fprintf(out, "%s\n", text);
}

char *adapter_settings_text(const struct adapter_kind *kind,
                            const struct adapter_settings *settings)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    for (size_t i = 0; out && i < N_SETTINGS; i++) {
        const void *member = (const char *)settings + all_settings[i].offset;
        if (!adapter_kind_uses(kind, all_settings[i].name))
            continue;
        fprintf(out, "%s = ", all_settings[i].name);
        if (all_settings[i].type == SETTING_SIZE)
            fprintf(out, "%zu\n", *(const size_t *)member);
        else if (all_settings[i].type == SETTING_REAL)
            put_real(out, *(const double *)member);
        else
            fprintf(out, "%s\n", (const char *)member);
    }
    return out && fclose(out) == 0 ? text : NULL;
}

static int read_setting(const struct setting *s, const char *value, size_t n, void *member)
{
    char text[64], *end;

    if (n >= sizeof text || (s->type == SETTING_TEXT && n >= TEXT_SIZE))
        return error_set("the adapter's %s is too long", s->name);
    memcpy(text, value, n);
    text[n] = '\0';
    if (s->type == SETTING_TEXT) {
        strcpy(member, text);
        return 0;
    }
    const double number = strtod(text, &end);
    if (n == 0 || *end || !isfinite(number) ||
        (s->type == SETTING_SIZE && !(number >= 0 && number <= 1 << 24)))
        return error_set("the adapter's %s is '%s', which is no number for it", s->name, text);
    if (s->type == SETTING_SIZE)
        *(size_t *)member = (size_t)number;
    else
        *(double *)member = number;
    return 0;
}

int adapter_settings_read(const struct adapter_kind *kind, const char *text,
                          struct adapter_settings *settings)
{
    *settings = kind->defaults;
    for (const char *next; text && *text; text = next) {
        const size_t n = strcspn(text, "\n");
        const char *equals = memchr(text, '=', n);
        const size_t name = strcspn(text, " =\n");
        size_t i = 0;
        next = text + n + (text[n] == '\n');
        if (n == 0)
            continue;
        while (i < N_SETTINGS && (strlen(all_settings[i].name) != name ||
                                  strncmp(all_settings[i].name, text, name) != 0))
            i++;
        if (!equals || i == N_SETTINGS || !adapter_kind_uses(kind, all_settings[i].name))
            return error_set("'%.*s' is no setting of a %s adapter that this t2 knows",
                             (int)(n < 60 ? n : 60), text, kind->name);
        const char *value = equals + 1;
        value += strspn(value, " ");
        if (read_setting(&all_settings[i], value, (size_t)(text + n - value),
                         (char *)settings + all_settings[i].offset) != 0)
            return -1;
    }
    return 0;
}

/* ---- between vectors and files --------------------------------------------------------------- */

int adapter_fill(const struct adapter_kind *kind, const struct adapter *adapter, size_t site,
                 const float *parameters, const char *suffix, struct expert_matrix *matrix)
{
    struct adapter_piece piece;

    if (kind->fill)
        return kind->fill(adapter, site, parameters, suffix, matrix);
    for (size_t i = 0; adapter->ops->piece(adapter, site, i, &piece); i++) {
        struct expert_parameter *p =
            add_parameter(matrix, piece.name, suffix, piece.n_rows, piece.n_columns);
        if (!p)
            return -1;
        memcpy(p->values, parameters + piece.first,
               piece.n_rows * (piece.n_columns ? piece.n_columns : 1) * sizeof *p->values);
    }
    return 0;
}

static int take_piece(const struct expert *expert, const struct expert_matrix *m,
                      const struct adapter_piece *piece, float *parameters)
{
    const struct expert_parameter *p = expert_piece(m, piece->name);

    if (!p)
        return error_set("%s: %s lacks %s", expert->path, m->module.path, piece->name);
    if (p->n_rows != piece->n_rows || p->n_columns != piece->n_columns)
        return error_set("%s: %s of %s has the shape [%zu, %zu], expected [%zu, %zu]", expert->path,
                         p->name, m->module.path, p->n_rows, p->n_columns, piece->n_rows,
                         piece->n_columns);
    memcpy(parameters + piece->first, p->values,
           p->n_rows * (p->n_columns ? p->n_columns : 1) * sizeof *parameters);
    return 0;
}

struct adapter *adapter_from_expert(const struct expert *expert, struct model *model,
                                    const struct checkpoint *ck, struct factors *factors)
{
    const struct adapter_kind *kind = adapter_kind_find(expert->kind);
    struct adapter_source source = {
        .model = model, .ck = ck, .factors = factors, .n_modules = expert->n_matrices};
    struct module *modules = malloc((expert->n_matrices + 1) * sizeof *modules);
    struct adapter *adapter = NULL;
    struct adapter_piece piece;
    int status = -1;

    if (!kind || !modules) {
        if (kind)
            error_set("out of memory");
        goto done;
    }
    for (size_t i = 0; i < expert->n_matrices; i++)
        modules[i] = expert->matrices[i].module;
    source.modules = modules;
    if (adapter_settings_read(kind, expert->settings, &source.settings) != 0) {
        error_prefix("%s", expert->path);
        goto done;
    }
    /* The multipliers that the file holds are SVF's parameters. */
    strcpy(source.settings.parametrisation, "direct");
    if (!(adapter = adapter_kind_create(kind, &source)))
        goto done;
    for (size_t i = 0; i < adapter->n_sites; i++)
        for (size_t k = 0; adapter->ops->piece(adapter, i, k, &piece); k++)
            if (take_piece(expert, &expert->matrices[i], &piece, adapter->parameters) != 0)
                goto done;
    status = 0;
done:
    free(modules);
    if (status != 0) {
        if (adapter)
            model_attach(model, NULL, NULL);
        adapter_free(adapter);
        return NULL;
    }
    return adapter;
}
