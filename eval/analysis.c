#include "eval/analysis.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi/error.h"

/* "dir/sst2.h5" -> "sst2"; with `folder` "dir/sst2". */
static char *name_of(const char *path, bool folder)
{
    const char *slash = strrchr(path, '/');
    const char *start = slash ? slash + 1 : path;

    if (folder && slash) {
        for (start = slash; start > path && start[-1] != '/';)
            start--;
    }
    const size_t n = strlen(start);
    return strndup(start, n > 3 && strcmp(start + n - 3, ".h5") == 0 ? n - 3 : n);
}

static int add_factors(struct analysis *a, const char *path)
{
    struct analysis_factors *all = realloc(a->factors, (a->n_factors + 1) * sizeof *all);

    if (!all)
        return error_set("out of memory");
    a->factors = all;
    struct analysis_factors *f = &all[a->n_factors];
    memset(f, 0, sizeof *f);
    if (!(f->file = factors_open(path)))
        return -1;
    a->n_factors++;
    f->path = strdup(path);
    f->name = name_of(path, false);
    if (!f->path || !f->name)
        return error_set("out of memory");
    return factors_fingerprint(f->file, f->fingerprint);
}

static int add_expert(struct analysis *a, const char *path)
{
    struct analysis_expert *all = realloc(a->experts, (a->n_experts + 1) * sizeof *all);

    if (!all)
        return error_set("out of memory");
    a->experts = all;
    struct analysis_expert *e = &all[a->n_experts];
    memset(e, 0, sizeof *e);
    if (expert_read(&e->file, path) != 0)
        return -1;
    a->n_experts++;
    e->path = strdup(path);
    e->name = name_of(path, false);
    if (!e->path || !e->name)
        return error_set("out of memory");
    for (size_t i = 0; i < e->file.n_matrices; i++)
        if (!similarity_vector(&e->file.matrices[i]))
            return error_set("%s is a %s adapter, without singular values' multipliers: only SVF "
                             "experts are analysed",
                             path, e->file.kind);
    return 0;
}

int analysis_add(struct analysis *a, const char *path)
{
    if (factors_is_file(path))
        return add_factors(a, path);
    if (expert_is_file(path))
        return add_expert(a, path);
    if (access(path, R_OK) != 0)
        return error_set("%s: %s", path, strerror(errno));
    return error_set("%s: neither an expert of t2 train nor a factor file of t2 decompose; t2 "
                     "inspect says what it is",
                     path);
}

int analysis_join(struct analysis *a)
{
    for (size_t i = 0; i < a->n_experts; i++) {
        struct analysis_expert *e = &a->experts[i];
        for (size_t k = 0; k < a->n_factors && !e->factors; k++)
            if (e->file.factors_identity &&
                strcmp(e->file.factors_identity, a->factors[k].fingerprint) == 0)
                e->factors = a->factors[k].file;
    }
    /* Seeds often lie in folders of their own: seed1/sst2.h5, seed2/sst2.h5. */
    bool twice = false;
    for (size_t i = 0; i < a->n_experts; i++)
        for (size_t k = 0; k < i; k++)
            twice = twice || strcmp(a->experts[i].name, a->experts[k].name) == 0;
    for (size_t i = 0; twice && i < a->n_experts; i++) {
        free(a->experts[i].name);
        if (!(a->experts[i].name = name_of(a->experts[i].path, true)))
            return error_set("out of memory");
    }
    return 0;
}

void analysis_free(struct analysis *a)
{
    if (!a)
        return;
    for (size_t i = 0; i < a->n_experts; i++) {
        expert_free(&a->experts[i].file);
        free(a->experts[i].path);
        free(a->experts[i].name);
    }
    for (size_t i = 0; i < a->n_factors; i++) {
        factors_close(a->factors[i].file);
        free(a->factors[i].path);
        free(a->factors[i].name);
    }
    free(a->experts);
    free(a->factors);
    memset(a, 0, sizeof *a);
}

int analysis_similarity(const struct analysis *a, enum similarity_mismatch mismatch,
                        struct similarity *similarity)
{
    const struct expert **experts = calloc(a->n_experts + 1, sizeof *experts);
    int status = -1;

    if (!experts)
        return error_set("out of memory");
    for (size_t i = 0; i < a->n_experts; i++)
        experts[i] = &a->experts[i].file;
    status = similarity_create(similarity, experts, a->n_experts, mismatch);
    free(experts);
    return status;
}

size_t analysis_names(const struct module *modules, size_t n_modules, const char **names,
                      size_t size)
{
    size_t n = 0;

    for (size_t m = 0; m < n_modules; m++) {
        size_t i = 0, at = 0;
        while (i < n && strcmp(names[i], modules[m].name) != 0)
            i++;
        if (i < n || n == size)
            continue;
        while (at < n && module_order(names[at]) < module_order(modules[m].name))
            at++;
        memmove(names + at + 1, names + at, (n - at) * sizeof *names);
        names[at] = modules[m].name;
        n++;
    }
    return n;
}
