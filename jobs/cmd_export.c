/* t2 export: a model, with or without an expert, as a Hugging Face folder. */
#include <stdio.h>
#include <string.h>

#include "jobs/commands.h"
#include "jobs/load_adapter.h"
#include "model/export.h"
#include "model/identity.h"
#include "model/peft.h"
#include "mpi/error.h"
#include "mpi/text.h"
#include "mpi/threads.h"

struct settings {
    const char *adapter, *factors, *merged, *peft, *dtype;
    int64_t threads;
    bool quiet;
};

static void print_summary(const struct settings *s, const struct export_summary *summary)
{
    char bytes[32];

    fprintf(stderr, "%s: %zu tensors in %s, %zu of them changed, %s in %zu file%s\n", s->merged,
            summary->n_tensors, s->dtype, summary->n_changed,
            text_bytes(bytes, sizeof bytes, (double)summary->n_bytes), summary->n_files,
            summary->n_files == 1 ? "" : "s");
    if (summary->no_tokenizer)
        fprintf(stderr, "%s: no tokenizer.json: %s\n", s->merged, summary->no_tokenizer);
}

/* On rank 0. identity: "" without an adapter. */
static int export(const struct settings *s, const struct checkpoint *ck, const char identity[65],
                  int n_threads)
{
    struct adapter_files files = {0};
    struct merge *merge = NULL;
    struct export_summary summary;
    struct export_options options = {.type = strcmp(s->dtype, "bf16") == 0  ? EXPORT_BF16
                                             : strcmp(s->dtype, "f16") == 0 ? EXPORT_F16
                                                                            : EXPORT_F32};
    struct team *team = team_create(n_threads);
    int status = -1;

    if (!team)
        goto done;
    if (s->adapter) {
        if (adapter_files_open(&files, s->adapter, s->factors, identity, ck) != 0)
            goto done;
        if (s->peft) {
            status = peft_write(&files.expert, checkpoint_config(ck), files.expert.model, s->peft);
            if (status == 0 && !s->quiet)
                fprintf(stderr, "%s: an adapter of PEFT, %zu matrices\n", s->peft,
                        files.expert.n_matrices);
            goto done;
        }
        if (!(merge = merge_create(&files.expert, files.factors, cpu_best_isa(), 0)))
            goto done;
        options.merge = merge;
    }
    if (export_model(ck, &options, team, s->merged, &summary) != 0)
        goto done;
    if (!s->quiet)
        print_summary(s, &summary);
    status = 0;
done:
    merge_free(merge);
    adapter_files_close(&files);
    team_free(team);
    return status;
}

static int command_run(const struct comm *comm, int argc, char **argv)
{
    struct settings s = {.dtype = "f32"};
    struct option_spec table[] = {
        {"merged", 'm', OPTION_STRING, &s.merged, "DIR",
         .help = "the folder to make; it must not be there"},
        {"peft", 'p', OPTION_STRING, &s.peft, "DIR",
         .help = "the directory to make in place of a model: the adapter alone, as PEFT loads it "
                 "(LoRA, DoRA, (IA)^3)"},
        {"adapter", 'a', OPTION_STRING, &s.adapter, "FILE.h5|DIR",
         .help = "an adapter of t2 train or a directory of PEFT, merged into the weights"},
        {"factors", 'f', OPTION_STRING, &s.factors, "FILE.h5",
         .help = "of the adapter (default: those that it was trained with)"},
        {"dtype", 0, OPTION_CHOICE, &s.dtype, .choices = "f32|bf16|f16",
         .help = "numbers of the weights; an adapter's are rounded stochastically in bf16"},
        {"threads", 't', OPTION_INT, &s.threads, "N", .min = 0, .max = 4096,
         .help = "threads (default: this node's processors)"},
        {"quiet", 'q', OPTION_FLAG, &s.quiet, .help = "nothing on stderr"},
        {0}};
    const char *path = NULL;
    struct checkpoint *ck = NULL;
    char identity[65] = "";
    size_t n_args;
    bool done;
    int code = COMMAND_OK;

    if (options_parse(&command_export, table, comm, argc, argv, &path, 1, &n_args, &done) != 0 ||
        (!done && !s.merged && !s.peft &&
         error_set("--merged is missing: the folder to make (or --peft, for an adapter alone)")) ||
        (!done && s.merged && s.peft && error_set("give --merged or --peft, not both")) ||
        (!done && s.peft && !s.adapter && error_set("--peft needs an --adapter")) ||
        (!done && s.factors && !s.adapter && error_set("--factors is about an --adapter")))
        code = command_fail(&command_export, comm, COMMAND_USAGE);
    if (done || code != COMMAND_OK)
        goto finish;
    const int n_threads = s.threads > 0 ? (int)s.threads : threads_default(comm);
    ck = checkpoint_open(path);
    int status = comm_agree(comm, ck ? 0 : -1);
    if (status == 0 && s.adapter)
        status = identity_compute(comm, ck, n_threads, identity);
    if (status == 0)
        status = comm_agree(comm, comm->rank == 0 ? export(&s, ck, identity, n_threads) : 0);
    if (status != 0)
        code = command_fail(&command_export, comm, COMMAND_FAILED);
finish:
    checkpoint_free(ck);
    options_free(table);
    return code;
}

const struct command command_export = {
    .name = "export",
    .summary = "Writes a model with an adapter merged in, or an adapter for PEFT.",
    .arguments = "MODEL",
    .details =
        "MODEL is a Hugging Face folder or a GGUF file. The folder has safetensors files of at "
        "most 4 GB, config.json and the tokenizer's files, and loads with transformers. Without "
        "--adapter the model is converted as it is.\n\n"
        "examples\n"
        "  t2 export MODEL --adapter expert.h5 --merged tuned\n"
        "  t2 export MODEL --adapter lora.h5 --peft folder\n"
        "  t2 export MODEL.gguf --merged folder --dtype bf16",
    .run = command_run,
};
