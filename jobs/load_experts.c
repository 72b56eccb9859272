#include "jobs/load_experts.h"

#include "jobs/load_adapter.h"
#include "model/identity.h"
#include "mpi/error.h"

/* An expert that says which factors it needs, if there is one. */
static const char *one_with_factors(const struct expert_set *set)
{
    for (size_t k = 0; k < set->n; k++)
        if (set->experts[k].factors_identity)
            return set->experts[k].path;
    return set->experts[0].path;
}

static int open_local(const char *path, const char *list, const char *factors_path,
                      struct loaded *l, struct expert_set *set, struct factors **factors)
{
    struct adapter_files files = {0};
    int status = -1;

    if (expert_set_open(set, list, l->identity, path) != 0 ||
        adapter_files_open(&files, one_with_factors(set), factors_path, l->identity,
                           l->checkpoint) != 0)
        goto done;
    if (expert_set_take_factors(set, files.factors) != 0) {
        error_prefix("%s", factors_path ? factors_path : "the experts' factors");
        goto done;
    }
    *factors = files.factors;
    files.factors = NULL;
    status = 0;
done:
    adapter_files_close(&files);
    return status;
}

int load_experts_plain(const struct comm *comm, const char *path, const char *list,
                       const char *factors_path, const struct load_options *options,
                       bool chat_asked, struct loaded *loaded, struct expert_set *set,
                       struct factors **factors)
{
    *set = (struct expert_set){0};
    *factors = NULL;
    if (load_open(comm, path, options, chat_asked, loaded) != 0)
        return -1;
    int status = identity_compute(comm, loaded->checkpoint, loaded->model_options.n_threads,
                                  loaded->identity);
    if (status == 0)
        status = comm_agree(comm, open_local(path, list, factors_path, loaded, set, factors));
    if (status != 0) {
        factors_close(*factors);
        *factors = NULL;
        expert_set_free(set);
        load_free(loaded);
    }
    return status;
}

int load_experts(const struct comm *comm, const char *path, const char *list, const char *factors,
                 const struct load_options *options, bool chat_asked, struct loaded *loaded,
                 struct expert_set *set)
{
    struct factors *opened = NULL;

    if (load_experts_plain(comm, path, list, factors, options, chat_asked, loaded, set, &opened) !=
        0)
        return -1;
    loaded->adapter = expert_set_adapter(set, loaded->model, loaded->checkpoint, opened);
    const int status = comm_agree(comm, loaded->adapter ? 0 : -1);
    factors_close(opened);
    if (status != 0) {
        expert_set_free(set);
        load_free(loaded);
    }
    return status;
}
