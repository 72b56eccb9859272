#include "jobs/load_adapter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "model/adapter_kinds.h"
#include "model/peft.h"
#include "mpi/error.h"

/* 1: opened; 0: is not there, or not the factors that the expert wants. */
static int try_factors(struct adapter_files *f, const char *path)
{
    char fingerprint[65];

    if (!path || !factors_is_file(path))
        return 0;
    f->factors = factors_open(path);
    if (!f->factors)
        return 0;
    if (factors_fingerprint(f->factors, fingerprint) == 0 &&
        (!f->expert.factors_identity || strcmp(fingerprint, f->expert.factors_identity) == 0))
        return 1;
    factors_close(f->factors);
    f->factors = NULL;
    return 0;
}

/* The folder of `path` with another file name; malloc'ed. */
static char *in_folder_of(const char *path, const char *name)
{
    const char *slash = strrchr(path, '/');
    char *joined = NULL;

    return asprintf(&joined, "%.*s%s", slash ? (int)(slash - path + 1) : 0, path, name) < 0
               ? NULL
               : joined;
}

static int find_factors(struct adapter_files *f)
{
    const struct expert *e = &f->expert;
    const char *slash = e->factors ? strrchr(e->factors, '/') : NULL;
    const char *name = e->factors ? (slash ? slash + 1 : e->factors) : "factors.h5";
    char *beside = in_folder_of(e->path, name);
    int status = -1;

    if (!beside)
        error_set("out of memory");
    else if (try_factors(f, e->factors) || try_factors(f, beside))
        status = 0;
    else
        error_set("%s needs the factors that it was trained with (SHA-256 %.12s...), which are "
                  "neither in %s nor in %s: give them by --factors FILE",
                  e->path, e->factors_identity ? e->factors_identity : "unknown",
                  e->factors ? e->factors : "a recorded place", beside);
    free(beside);
    return status;
}

int adapter_files_open(struct adapter_files *f, const char *path, const char *factors,
                       const char identity[65], const struct checkpoint *ck)
{
    const char *model_path = checkpoint_path(ck);
    struct stat info;

    *f = (struct adapter_files){0};
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode) && !peft_is_folder(path))
        return error_set("%s is a folder without an adapter_config.json, so no adapter of PEFT; "
                         "t2 train's adapters are single files",
                         path);
    if ((peft_is_folder(path) ? peft_read(&f->expert, path, checkpoint_config(ck), identity)
                              : expert_read(&f->expert, path)) != 0)
        return -1;
    f->has_expert = true;
    if (expert_check_model(&f->expert, identity, model_path) != 0)
        return -1;
    const struct adapter_kind *kind = adapter_kind_find(f->expert.kind);
    if (!kind)
        return error_prefix("%s", path);
    if (!kind->needs_factors)
        return factors ? error_set("--factors: %s is of the kind '%s', which has none", path,
                                   kind->name)
                       : 0;
    if (!factors)
        return find_factors(f);
    f->factors = factors_open(factors);
    return f->factors ? factors_check_model(f->factors, identity, model_path) : -1;
}

void adapter_files_close(struct adapter_files *f)
{
    if (f->has_expert)
        expert_free(&f->expert);
    factors_close(f->factors);
    *f = (struct adapter_files){0};
}
