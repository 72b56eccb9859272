#ifndef T2_JOBS_COMMANDS_H
#define T2_JOBS_COMMANDS_H
/* The commands, each defined in its cmd_NAME.c and listed in commands.c. */
#include "jobs/options.h"

extern const struct command command_generate;
extern const struct command command_decompose;
extern const struct command command_train;
extern const struct command command_adapt;
extern const struct command command_transfer;
extern const struct command command_export;
extern const struct command command_eval;
extern const struct command command_inspect;
extern const struct command command_watch;
extern const struct command command_analyze;
extern const struct command command_report;
extern const struct command command_data;

#endif
