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

static int open_local(const char *path, const char *list, const char *factors, struct loaded *l,
                      struct expert_set *set)
{
    struct adapter_files files = {0};
    int status = -1;

    if (expert_set_open(set, list, l->identity, path) != 0 ||
        adapter_files_open(&files, one_with_factors(set), factors, l->identity, l->checkpoint) != 0)
        goto done;
    if (expert_set_take_factors(set, files.factors) != 0) {
        error_prefix("%s", factors ? factors : "the experts' factors");
        goto done;
    }
    l->adapter = expert_set_adapter(set, l->model, l->checkpoint, files.factors);
    status = l->adapter ? 0 : -1;
done:
    adapter_files_close(&files);
    return status;
}

int load_experts(const struct comm *comm, const char *path, const char *list, const char *factors,
                 const struct load_options *options, bool chat_asked, struct loaded *loaded,
                 struct expert_set *set)
{
    *set = (struct expert_set){0};
    if (load_open(comm, path, options, chat_asked, loaded) != 0)
        return -1;
    int status = identity_compute(comm, loaded->checkpoint, loaded->model_options.n_threads,
                                  loaded->identity);
    if (status == 0)
        status = comm_agree(comm, open_local(path, list, factors, loaded, set));
    if (status != 0) {
        expert_set_free(set);
        load_free(loaded);
    }
    return status;
}
