/* t2 inspect: what a model, factor, expert, training state or results file holds, for people. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "eval/results.h"
#include "jobs/adapt_result.h"
#include "jobs/adapt_state.h"
#include "jobs/commands.h"
#include "jobs/watch_view.h"
#include "model/checkpoint.h"
#include "model/describe.h"
#include "model/expert.h"
#include "model/expert_curve.h"
#include "model/factors.h"
#include "model/peft.h"
#include "mpi/error.h"
#include "mpi/text.h"
#include "train/train_result.h"

static int inspect_model(const char *path, bool verbose)
{
    struct checkpoint *ck = checkpoint_open(path);
    const int rc = ck ? checkpoint_describe(ck, stdout, verbose) : -1;

    checkpoint_free(ck);
    return rc;
}

static int inspect_live(const char *path)
{
    const struct watch_place here = watch_place_here();
    const double now = (double)time(NULL);
    struct curve_file curve;

    if (curve_read(&curve, path) != 0)
        return -1;
    printf("%s: live curve of t2 train (t2 watch follows it)\n\n", path);
    watch_print(stdout, &curve, watch_life(&curve, &here, now), now,
                text_terminal_width(stdout, 100), expert_curve_utf8());
    curve_free(&curve);
    return 0;
}

static int inspect(const char *path, bool verbose)
{
    struct stat info;
    char magic[8] = "";

    if (stat(path, &info) != 0)
        return error_set("%s: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode) && peft_is_folder(path))
        return error_set("%s: an adapter of PEFT; t2 eval and t2 generate take it as --adapter, "
                         "t2 inspect does not show it",
                         path);
    if (S_ISDIR(info.st_mode))
        return inspect_model(path, verbose);
    if (!S_ISREG(info.st_mode))
        return error_set("%s: is not a regular file", path);
    FILE *file = fopen(path, "rb");
    if (!file)
        return error_set("%s: %s", path, strerror(errno));
    const size_t n = fread(magic, 1, sizeof magic, file);
    fclose(file);
    if (n >= 4 && memcmp(magic, "GGUF", 4) == 0)
        return inspect_model(path, verbose);
    if (factors_is_file(path))
        return factors_describe(path, stdout, verbose);
    if (expert_is_file(path))
        return expert_describe(path, stdout, verbose) != 0 ? -1
                                                           : adapt_result_describe(path, stdout);
    if (train_state_is_file(path))
        return train_state_describe(path, stdout);
    if (adapt_state_is_file(path))
        return adapt_state_describe(path, stdout);
    if (live_curve_is_file(path))
        return inspect_live(path);
    if (results_is_hdf5(path))
        return results_describe(path, stdout);
    return error_set("%s: neither a model (a Hugging Face folder or a GGUF file) nor a factor, "
                     "expert, state or results file (HDF5)%s",
                     path,
                     strstr(path, ".safetensors") ? "; give the folder that the file is in" : "");
}

static int command_run(const struct comm *comm, int argc, char **argv)
{
    bool verbose = false, done;
    struct option_spec table[] = {
        {"verbose", 'v', OPTION_FLAG, &verbose, .help = "every tensor, key and matrix"}, {0}};
    const char *path;
    size_t n_args;
    int code = COMMAND_OK;

    if (options_parse(&command_inspect, table, comm, argc, argv, &path, 1, &n_args, &done) != 0)
        code = command_fail(&command_inspect, comm, COMMAND_USAGE);
    else if (!done && comm_agree(comm, comm->rank == 0 ? inspect(path, verbose) : 0) != 0)
        code = command_fail(&command_inspect, comm, COMMAND_FAILED);
    options_free(table);
    return code;
}

const struct command command_inspect = {
    .name = "inspect",
    .summary = "Shows what a model, factor, expert or results file holds.",
    .arguments = "FILE|DIR",
    .details = "examples\n"
               "  t2 inspect SmolLM2-135M-Instruct.Q4_1.gguf\n"
               "  t2 inspect factors.h5 --verbose\n"
               "  t2 inspect expert.h5\n"
               "  t2 inspect results.h5",
    .run = command_run,
};
