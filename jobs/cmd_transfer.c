/* t2 transfer: an expert of one model made into one for another. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jobs/commands.h"
#include "jobs/output.h"
#include "model/transfer.h"
#include "mpi/error.h"
#include "mpi/h5.h"

struct settings {
    const char *factors, *out, *order, *shape;
    int64_t seed;
    bool quiet;
};

/* What a factor or expert file says; malloc'ed, or NULL. */
static char *text_of(const char *path, const char *name)
{
    char *text = NULL;
    hid_t file = h5_open(path);

    if (file >= 0)
        h5_get_text(file, name, &text);
    h5_close(file);
    return text;
}

static int write_expert(const struct settings *s, const struct expert *from,
                        const struct expert *to, const char *command_line)
{
    hid_t file = h5_create(s->out);
    int status = -1;

    if (file >= 0 && expert_put(file, to) == 0 && h5_put_text(file, "transfer", s->order) == 0 &&
        h5_put_text(file, "transfer_shape", s->shape) == 0 &&
        h5_put_text(file, "source", from->path) == 0 &&
        h5_put_text(file, "source_identity", from->identity) == 0 &&
        h5_put_text(file, "t2_version", T2_VERSION) == 0 &&
        h5_put_int(file, "seed", s->seed) == 0 &&
        (!command_line || h5_put_text(file, "command_line", command_line) == 0))
        status = h5_write(file, s->out);
    h5_close(file);
    return status;
}

static int transfer(const struct settings *s, const char *path, const char *command_line)
{
    const struct transfer_options options = {
        .order = strcmp(s->order, "shuffled") == 0 ? TRANSFER_SHUFFLED : TRANSFER_ORDERED,
        .shape = strcmp(s->shape, "truncate") == 0      ? TRANSFER_TRUNCATE
                 : strcmp(s->shape, "interpolate") == 0 ? TRANSFER_INTERPOLATE
                                                        : TRANSFER_SAME,
        .seed = (uint64_t)s->seed};
    struct expert from = {0}, to = {0};
    struct factors *factors = NULL;
    size_t n_moved;
    int status = -1;

    if (output_check(s->out) != 0 || expert_read(&from, path) != 0)
        return -1;
    if (!(factors = factors_open(s->factors)))
        goto done;
    if (transfer_expert(&from, factors, &options, &to, &n_moved) != 0) {
        error_prefix("%s", path);
        goto done;
    }
    if (!(to.model = text_of(s->factors, "model"))) {
        error_set("%s does not say which model it is of: the file is damaged", s->factors);
        goto done;
    }
    if (!(to.factors = realpath(s->factors, NULL))) {
        error_set("%s: %s", s->factors, strerror(errno));
        goto done;
    }
    if (from.task && !(to.task = strdup(from.task))) {
        error_set("out of memory");
        goto done;
    }
    if (write_expert(s, &from, &to, command_line) != 0)
        goto done;
    if (!s->quiet)
        printf("%s  %zu of %zu matrices, from %zu of the expert's %zu, %s\n", s->out, to.n_matrices,
               factors_n_matrices(factors), n_moved, from.n_matrices, s->order);
    status = 0;
done:
    expert_free(&from);
    expert_free(&to);
    factors_close(factors);
    return status;
}

static int command_run(const struct comm *comm, int argc, char **argv)
{
    struct settings s = {.order = "ordered", .shape = "same"};
    struct option_spec table[] = {
        {"factors", 'f', OPTION_STRING, &s.factors, "FILE.h5",
         .help = "of t2 decompose, of the model that the expert shall be for"},
        {"out", 'o', OPTION_STRING, &s.out, "FILE.h5", .help = "the new expert"},
        {"order", 0, OPTION_CHOICE, &s.order, .choices = "ordered|shuffled",
         .help = "component by component in the order of singular values, or, as a control, "
                 "shuffled within each matrix"},
        {"shape", 0, OPTION_CHOICE, &s.shape, .choices = "same|truncate|interpolate",
         .help = "matrices of another rank and models of other depth: an error; the largest "
                 "components and first layers, the rest as in the base model; linear between "
                 "neighbours in relative position"},
        {"seed", 's', OPTION_INT, &s.seed, "N", .min = 0, .max = 0x1p53, .help = "of the shuffle"},
        {"quiet", 'q', OPTION_FLAG, &s.quiet, .help = "print nothing"},
        {0}};
    const char *path = NULL;
    size_t n_args;
    bool done;
    int code = COMMAND_OK;
    char *command_line = NULL;

    if (options_parse(&command_transfer, table, comm, argc, argv, &path, 1, &n_args, &done) != 0) {
        code = command_fail(&command_transfer, comm, COMMAND_USAGE);
    } else if (!done && (!s.factors || !s.out)) {
        error_set("%s", s.factors ? "--out is missing: the expert to make"
                                  : "--factors is missing: of the model that the expert is for");
        code = command_fail(&command_transfer, comm, COMMAND_USAGE);
    } else if (!done) {
        command_line = output_command_line(argc, argv);
        if (comm_agree(comm, comm->rank == 0 ? transfer(&s, path, command_line) : 0) != 0)
            code = command_fail(&command_transfer, comm, COMMAND_FAILED);
    }
    free(command_line);
    options_free(table);
    return code;
}

const struct command command_transfer = {
    .name = "transfer",
    .summary = "Puts an expert of one model on another.",
    .arguments = "EXPERT",
    .details =
        "What the expert does to the i-th singular component of a matrix is done to the i-th one "
        "of the other model's matrix of the same name. The result is an expert file of the other "
        "model, for eval, generate, export and, beside that model's own experts, adapt.\n\n"
        "examples\n"
        "  t2 decompose OTHER --out other.h5\n"
        "  t2 transfer maths.h5 --factors other.h5 --out other-maths.h5\n"
        "  t2 eval OTHER --tasks gsm8k --adapter other-maths.h5\n"
        "  t2 adapt OTHER --experts own.h5,other-maths.h5 --task arc_challenge --out m.h5",
    .run = command_run,
};
