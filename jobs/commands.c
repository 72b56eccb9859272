#include "jobs/options.h"

/* Every command, in the order in which `t2 --help` shows them: a line here and a cmd_NAME.c. */
const struct command *const commands[] = {
    NULL,
};
