#ifndef T2_MODEL_ADAPTER_KINDS_H
#define T2_MODEL_ADAPTER_KINDS_H
/* The one table of adapters: what `t2 train --adapter KIND`, `t2 eval --adapter FILE` and the other
 * commands know of a kind. A new kind is a file of its own with its adapter_ops and one row here.
 * Names, defaults, construction, and the way between parameter vectors and expert files
 * (expert.h). Stands on the kinds and below training. */
#include "model/adapter.h"
#include "model/checkpoint.h"
#include "model/expert.h"
#include "model/factors.h"
#include "model/model.h"

/* What a kind may be asked for; each uses some (adapter_kind.settings). */
struct adapter_settings {
    size_t rank;
    double alpha;
    double dropout;           /* of the input of low-rank parts, in training */
    char parametrisation[24]; /* svf: "direct", "sigmoid" */
    /* moslora (adapter_moslora.h) */
    char experts[24];               /* letters out of e, h, s, p */
    char chart[24];                 /* "ball", "lorentz" */
    char router[24], routing[24];   /* "matrix", "layer"; "soft", "top1" */
    size_t router_hidden, shared_a; /* the second and the next: 0 or 1 */
    size_t fixed_curvature;
    double curvature, most_curved, curvature_penalty, curvature_rate;
};

/* What an adapter is made from. */
struct adapter_source {
    struct model *model;
    const struct checkpoint *ck;
    struct factors *factors; /* where the kind needs_factors */
    const struct module *modules;
    size_t n_modules;
    struct adapter_settings settings;
    uint64_t seed;
    bool with_backward;
};

struct adapter_kind {
    const char *name;
    const char *title;    /* "low-rank matrices (LoRA)" */
    const char *settings; /* the members of adapter_settings that it uses: "rank alpha dropout" */
    bool needs_factors;
    bool can_merge; /* merge.h */
    struct adapter_settings defaults;
    /* What t2 train does when nothing is asked for. */
    const char *modules, *objective;
    double rate, clip_norm;
    size_t steps;
    /* The adapter with its own parameters at the start; not attached (svf: attached with NULL).
     * NULL with error_set. */
    struct adapter *(*create)(const struct adapter_source *source);
    /* Are the settings possible, whatever the model? NULL: nothing to check beyond what
     * adapter_kind_check does. 0, or -1 with error_set. */
    int (*check)(const struct adapter_settings *settings);
    /* Parameters of a module, for plans; `first`: of those that are adapted and read one input, it
     * is the first (parameters that they share are counted there). */
    size_t (*count)(const struct module *module, const struct adapter_settings *settings,
                    bool first);
    /* The site's datasets from a parameter vector, names ending in `suffix`; NULL: by
     * adapter_ops.piece. */
    int (*fill)(const struct adapter *adapter, size_t site, const float *parameters,
                const char *suffix, struct expert_matrix *matrix);
};

/* NULL-terminated. */
extern const struct adapter_kind *const adapter_kinds[];
/* NULL with error_set that lists the kinds. */
const struct adapter_kind *adapter_kind_find(const char *name);
/* Does the kind use this setting ("rank")? */
bool adapter_kind_uses(const struct adapter_kind *kind, const char *setting);

/* Checks the settings, and the rank against the modules (none: before they are known). 0, or -1
 * with error_set. */
int adapter_kind_check(const struct adapter_kind *kind, const struct adapter_settings *settings,
                       const struct module *modules, size_t n_modules);
/* Parameters of modules[i] of those that are to be adapted, for plans; settings are checked. */
size_t adapter_kind_count(const struct adapter_kind *kind, const struct adapter_settings *settings,
                          const struct module *modules, size_t n_modules, size_t i);

/* Checks settings against the modules and modules against the model, and makes the adapter. NULL
 * with error_set; after that the model may have lost weights (SVF) and is good for model_free
 * alone. */
struct adapter *adapter_kind_create(const struct adapter_kind *kind,
                                    const struct adapter_source *source);

/* Settings as an expert file keeps them: "rank = 16\nalpha = 32\n"; malloc'ed, "" for a kind that
 * has none; NULL when out of memory. */
char *adapter_settings_text(const struct adapter_kind *kind,
                            const struct adapter_settings *settings);
/* text NULL: the defaults. 0, or -1 with error_set. */
int adapter_settings_read(const struct adapter_kind *kind, const char *text,
                          struct adapter_settings *settings);

/* Adds a site's pieces from a parameter vector to a matrix of an expert file. 0 or -1. */
int adapter_fill(const struct adapter_kind *kind, const struct adapter *adapter, size_t site,
                 const float *parameters, const char *suffix, struct expert_matrix *matrix);
/* The adapter of an expert file for inference, its own parameters those of the file. */
struct adapter *adapter_from_expert(const struct expert *expert, struct model *model,
                                    const struct checkpoint *ck, struct factors *factors);

#endif
