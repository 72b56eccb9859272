#ifndef T2_JOBS_LOAD_ADAPTER_H
#define T2_JOBS_LOAD_ADAPTER_H
/* An expert file with the factors that it needs, or a PEFT directory, opened for a model. Local to
 * a rank. */
#include "model/checkpoint.h"
#include "model/expert.h"
#include "model/factors.h"

struct adapter_files {
    struct expert expert;
    struct factors *factors;
    bool has_expert;
};

/* path: the expert, or a directory of PEFT (model/peft.h). factors: a factor file, or NULL: the one
 * that the expert was trained with, at the path that it recorded or beside the expert. identity: of
 * the model, ck. 0, or -1 with error_set;
 * adapter_files_close in any case. */
int adapter_files_open(struct adapter_files *files, const char *path, const char *factors,
                       const char identity[65], const struct checkpoint *ck);
void adapter_files_close(struct adapter_files *files);

#endif
