#ifndef T2_JOBS_PROMPTS_H
#define T2_JOBS_PROMPTS_H
/* The prompts of one run of t2 generate: one given text, the standard input, or a file with many.
 */
#include <stdbool.h>
#include <stddef.h>

#include "mpi/comm.h"

struct prompts {
    char **texts; /* [n] */
    size_t n;
    bool jsonl; /* the file was JSON Lines, so the answers are */
};

/* text as the one prompt; "-" reads it from the standard input (less one newline at its end).
 * Collective. */
int prompts_single(const struct comm *comm, const char *text, struct prompts *prompts);

/* One prompt a line, empty lines left out; or, where the name ends in ".jsonl", the field "prompt"
 * of each row. Collective. 0, or -1 on all ranks with error_set. */
int prompts_file(const struct comm *comm, const char *path, struct prompts *prompts);

void prompts_free(struct prompts *prompts);

#endif
