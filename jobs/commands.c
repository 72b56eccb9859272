#include "jobs/commands.h"

/* In the order in which `t2 --help` shows them. A new command is a cmd_NAME.c, its declaration in
 * commands.h and a line here. */
/* clang-format off */
const struct command *const commands[] = {
    &command_generate,
    &command_eval,
    &command_decompose,
    &command_train,
    &command_adapt,
    &command_transfer,
    &command_export,
    &command_inspect,
    &command_watch,
    &command_analyze,
    &command_report,
    &command_data,
    NULL,
};
/* clang-format on */
