/* MoSLoRA's row in the table of adapters. */
#include <stdio.h>
#include <string.h>

#include "model/adapter_kinds.h"
#include "model/adapter_moslora.h"
#include "mpi/error.h"

static const char letters[] = "ehsp"; /* in the order of enum moslora_experts' bits */

static int options_from(const struct adapter_settings *s, struct moslora_options *o)
{
    *o = (struct moslora_options){
        .rank = s->rank,
        .alpha = s->alpha,
        .dropout = s->dropout,
        .hyperbolic = strcmp(s->chart, "lorentz") == 0 ? CHART_LORENTZ : CHART_BALL,
        .router_hidden = s->router_hidden,
        .router_per_layer = strcmp(s->router, "layer") == 0,
        .top1 = strcmp(s->routing, "top1") == 0,
        .shared_a = s->shared_a != 0,
        .fixed_curvature = s->fixed_curvature != 0,
        .curvature = s->curvature,
        .most_curved = s->most_curved,
        .penalty = s->curvature_penalty,
        .curvature_rate = s->curvature_rate,
    };
    for (const char *at = s->experts; *at; at++) {
        const char *letter = strchr(letters, *at);
        if (!letter || o->experts >> (letter - letters) & 1)
            return error_set("--experts '%s': letters out of e (euclidean), h (hyperbolic), s "
                             "(spherical) and p (product), each once",
                             s->experts);
        o->experts |= 1u << (letter - letters);
    }
    if ((!o->router_per_layer && strcmp(s->router, "matrix") != 0) ||
        (!o->top1 && strcmp(s->routing, "soft") != 0) ||
        (o->hyperbolic == CHART_BALL && strcmp(s->chart, "ball") != 0))
        return error_set("a MoSLoRA adapter with router = %s, routing = %s, chart = %s: this t2 "
                         "knows matrix and layer, soft and top1, ball and lorentz",
                         s->router, s->routing, s->chart);
    return moslora_check(o);
}

static struct adapter *create(const struct adapter_source *s)
{
    struct moslora_options options;
    if (options_from(&s->settings, &options) != 0)
        return NULL;
    return adapter_moslora_create(s->model, s->modules, s->n_modules, &options, s->with_backward,
                                  s->seed);
}

static int check(const struct adapter_settings *settings)
{
    struct moslora_options options;
    return options_from(settings, &options);
}

/* A shared router is counted with the first projection of those that read one input. */
static size_t count(const struct module *module, const struct adapter_settings *settings,
                    bool first)
{
    struct moslora_options options;

    if (options_from(settings, &options) != 0)
        return 0;
    return adapter_moslora_count(module, &options, first || !options.router_per_layer);
}

const struct adapter_kind adapter_kind_moslora = {
    .name = "moslora",
    .title = "a mixture of low-rank experts in flat, hyperbolic and spherical space (MoSLoRA)",
    .settings = "rank alpha dropout experts chart router router-hidden routing shared-a curvature "
                "fixed-curvature most-curved curvature-penalty curvature-rate",
    .defaults = {.rank = 4,
                 .alpha = 8,
                 .dropout = 0.05,
                 .parametrisation = "direct",
                 .experts = "ehs",
                 .chart = "ball",
                 .router = "matrix",
                 .routing = "soft",
                 .router_hidden = 5,
                 .curvature = 0.5,
                 .most_curved = 1,
                 .curvature_penalty = 1e-5,
                 .curvature_rate = 20},
    .modules = "qv",
    .objective = "next-token",
    .rate = 5e-5,
    .clip_norm = 1,
    .steps = 200,
    .create = create,
    .check = check,
    .count = count,
};
