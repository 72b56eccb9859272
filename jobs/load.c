#include "jobs/load.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "jobs/load_adapter.h"
#include "model/adapter_kinds.h"
#include "model/identity.h"
#include "model/merge.h"
#include "mpi/error.h"
#include "mpi/threads.h"

/* t2 train has a --factors of its own. */
static bool names_factors(const struct load_options *options, struct option_spec *table)
{
    return options->factors && option_find(table, "adapter") &&
           !(option_find(table, "experts") && option_find(table, "experts")->source);
}

int load_check_options(const struct load_options *options, struct option_spec *table)
{
    const bool raw = options->raw || !options->chat;
    struct device wish;

    if (device_parse(options->device, &wish) != 0)
        return error_prefix("--device");
    if (options->raw && options->chat && option_find(table, "chat")->source)
        return error_set("--chat and --raw exclude each other");
    if (raw && options->chat_format)
        return error_set("--chat-format has no meaning with --raw");
    if (raw && options->system)
        return error_set("--system needs the chat format: leave --raw out");
    if (!options->adapter && (options->unmerged || names_factors(options, table)))
        return error_set("--factors and --unmerged are about an --adapter, which is missing");
    return 0;
}

/* The instruction set of the run, the same on all ranks. */
static int choose_isa(const struct comm *comm, const char *asked, enum isa *isa)
{
    char cpu[256], host[HOST_NAME_MAX + 1] = "";
    int mine = (int)cpu_best_isa(), lowest = mine, rc = 0;

    if (comm->size > 1)
        MPI_Allreduce(&mine, &lowest, 1, MPI_INT, MPI_MIN, comm->handle);
    if (strcmp(asked, "auto") == 0) {
        *isa = (enum isa)lowest;
        return 0;
    }
    rc = isa_parse(asked, isa);
    if (rc == 0 && (int)*isa > mine) {
        cpu_describe(cpu, sizeof cpu);
        gethostname(host, sizeof host - 1);
        rc = error_set("--isa %s: %s has only %s (%s); choose that or auto", asked, host,
                       isa_name((enum isa)mine), cpu);
    }
    return comm_agree(comm, rc);
}

static int compare_ranks(const struct comm *comm, const struct checkpoint *ck, const char *path)
{
    if (comm->size == 1)
        return 0;
    const uint64_t mine = checkpoint_fingerprint(ck);
    if (!comm_same(comm, &mine, sizeof mine))
        return error_set("%s: the model is not the same on all ranks; put one copy where every "
                         "node reads it",
                         path);
    return 0;
}

static char *special_text(const struct tokenizer *tokenizer, int32_t id)
{
    size_t n;

    return id < 0 ? strdup("") : tokenizer_decode(tokenizer, &id, 1, false, &n);
}

static int recognise_chat(const struct load_options *options, bool chat_asked, const char *path,
                          struct loaded *l)
{
    const char *template_text = checkpoint_chat_template(l->checkpoint);
    const struct model_config *config = checkpoint_config(l->checkpoint);
    int32_t bos_id = tokenizer_bos(l->tokenizer), eos_id = tokenizer_eos(l->tokenizer);
    char *bos = NULL, *eos = NULL;
    int rc = -1;

    if (options->raw || !options->chat || (!template_text && !options->chat_format)) {
        if (chat_asked && options->chat && !options->raw)
            return error_set("%s: the model has no chat template; name a family with "
                             "--chat-format, or use --raw",
                             path);
        return 0;
    }
    if (bos_id < 0)
        bos_id = config->bos_id;
    if (eos_id < 0 && config->n_eos > 0)
        eos_id = config->eos_ids[0];
    bos = special_text(l->tokenizer, bos_id);
    eos = bos ? special_text(l->tokenizer, eos_id) : NULL;
    if (bos && eos)
        rc = chat_recognise(&l->chat, template_text, options->chat_format, bos, eos);
    if (rc != 0)
        error_prefix("%s", path);
    free(bos);
    free(eos);
    return rc;
}

/* Tokens without a row in the model's tables are known from real models (a padding token that was
 * added and never used) and do no harm until they are met; many of them are another model's
 * tokenizer. */
static int check_tokenizer(const struct loaded *l, const char *path)
{
    const size_t n = tokenizer_size(l->tokenizer);
    const size_t rows = checkpoint_config(l->checkpoint)->vocab_size;

    if (n <= rows + rows / 16 + 8)
        return 0;
    return error_set("%s: the tokenizer has %zu tokens, the model a vocabulary of %zu: they do not "
                     "belong together; download both again from one place",
                     path, n, rows);
}

static int load_plain(struct loaded *l)
{
    l->model = model_load(l->checkpoint, &l->model_options);
    return l->model ? 0 : -1;
}

static int load_merged(struct loaded *l, const struct adapter_files *files)
{
    struct merge *merge = merge_create(&files->expert, files->factors, l->model_options.isa, 0);

    if (merge)
        l->model = model_load_merged(l->checkpoint, &l->model_options, merge);
    merge_free(merge);
    return l->model ? 0 : -1;
}

/* The adapter beside the base weights (SVF: in its training form). */
static int load_unmerged(struct loaded *l, const struct adapter_files *files)
{
    if (load_plain(l) != 0)
        return -1;
    l->adapter = adapter_from_expert(&files->expert, l->model, l->checkpoint, files->factors);
    if (!l->adapter)
        return -1;
    model_attach(l->model, l->adapter, l->adapter->parameters);
    return 0;
}

static int load_with_adapter(const struct load_options *options, struct loaded *l)
{
    struct adapter_files files;
    int status =
        adapter_files_open(&files, options->adapter, options->factors, l->identity, l->checkpoint);

    if (status == 0) {
        l->can_merge = adapter_kind_find(files.expert.kind)->can_merge;
        status =
            options->unmerged || !l->can_merge ? load_unmerged(l, &files) : load_merged(l, &files);
    }
    if (status == 0)
        l->n_trained = expert_n_parameters(&files.expert);
    adapter_files_close(&files);
    return status;
}

static int open_local(const char *path, const struct load_options *options, bool chat_asked,
                      struct loaded *l)
{
    const struct gguf *gguf = checkpoint_gguf(l->checkpoint);

    l->tokenizer = gguf ? tokenizer_load_gguf(gguf) : tokenizer_load_hf(path);
    if (!l->tokenizer || check_tokenizer(l, path) != 0 ||
        recognise_chat(options, chat_asked, path, l) != 0)
        return -1;
    return options->adapter ? load_with_adapter(options, l) : load_plain(l);
}

int load_open(const struct comm *comm, const char *path, const struct load_options *options,
              bool chat_asked, struct loaded *loaded)
{
    const double start = MPI_Wtime();
    int rc;

    memset(loaded, 0, sizeof *loaded);
    loaded->model_options.element = strcmp(options->dtype, "f32") == 0 ? ELEMENT_F32 : ELEMENT_BF16;
    loaded->model_options.n_threads =
        options->threads > 0 ? (int)options->threads : threads_default(comm);
    rc = choose_device(comm, options->device, &loaded->model_options.device);
    if (rc == 0)
        rc = choose_isa(comm, options->isa, &loaded->model_options.isa);
    if (rc != 0)
        return rc;
    device_describe(&loaded->model_options.device, loaded->device, sizeof loaded->device);
    loaded->checkpoint = checkpoint_open(path);
    rc = comm_agree(comm, loaded->checkpoint ? 0 : -1);
    if (rc == 0)
        rc = compare_ranks(comm, loaded->checkpoint, path);
    if (rc == 0 && options->adapter)
        rc = identity_compute(comm, loaded->checkpoint, loaded->model_options.n_threads,
                              loaded->identity);
    if (rc == 0)
        rc = comm_agree(comm, open_local(path, options, chat_asked, loaded));
    if (rc != 0)
        load_free(loaded);
    loaded->seconds = MPI_Wtime() - start;
    return rc;
}

void load_free(struct loaded *loaded)
{
    if (loaded->model)
        model_attach(loaded->model, NULL, NULL);
    adapter_free(loaded->adapter);
    model_free(loaded->model);
    tokenizer_free(loaded->tokenizer);
    chat_free(&loaded->chat);
    checkpoint_free(loaded->checkpoint);
    memset(loaded, 0, sizeof *loaded);
}

const char *load_device_settings(const struct loaded *loaded, char *text, size_t size)
{
    text[0] = '\0';
    if (loaded->model_options.device.kind == DEVICE_CUDA)
        snprintf(text, size, "device = cuda\norder = %s\n", model_order(loaded->model));
    return text;
}

int load_encode(const struct loaded *loaded, const char *system, const char *prompt,
                struct tokens *out)
{
    struct chat_message messages[2];
    size_t n = 0;

    if (loaded->chat.family == CHAT_NONE)
        return tokenizer_encode(loaded->tokenizer, prompt, strlen(prompt),
                                TOKENIZER_SPECIAL | TOKENIZER_ADD_BOS, out);
    if (system)
        messages[n++] = (struct chat_message){"system", system};
    messages[n++] = (struct chat_message){"user", prompt};
    char *text = chat_render(&loaded->chat, messages, n);
    if (!text)
        return -1;
    const int rc = tokenizer_encode(loaded->tokenizer, text, strlen(text), TOKENIZER_SPECIAL, out);
    free(text);
    return rc;
}
