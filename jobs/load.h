#ifndef T2_JOBS_LOAD_H
#define T2_JOBS_LOAD_H
/* A model ready to run, from the options that generate and eval share: checkpoint, tokenizer, chat
 * format and packed weights, on every rank or on none. */
#include "jobs/choose_device.h"
#include "jobs/options.h"
#include "model/chat.h"
#include "model/checkpoint.h"
#include "model/model.h"
#include "model/tokenizer.h"

struct load_options {
    const char *dtype;  /* "bf16", "f32" */
    const char *device; /* choose_device() */
    const char *isa;    /* "auto" or a name of solver/cpu.h */
    int64_t threads;    /* 0: threads_default() */
    bool raw, chat;     /* --raw, --chat */
    const char *chat_format;
    const char *system;
    const char *adapter, *factors; /* expert and factor file, or NULL */
    bool unmerged;
};

static inline struct load_options load_defaults(void)
{
    return (struct load_options){.dtype = "bf16", .device = "auto", .isa = "auto", .chat = true};
}

/* clang-format off */
/* The rows of the option table for a struct load_options o. */
#define LOAD_OPTION_SPECS(o)                                                                       \
    {"dtype", 0, OPTION_CHOICE, &(o).dtype, .choices = "f32|bf16",                                 \
     .help = "numbers of weights and product inputs; f32 is the exact mode"},                      \
    DEVICE_OPTION_SPEC((o).device),                                                                \
    {"isa", 0, OPTION_CHOICE, &(o).isa, .choices = "auto|plain|avx2|avx512|avx512bf16|amx",        \
     .help = "instruction set of the processor's part, the same on all ranks; auto takes the best "\
             "that all have"},                                                                     \
    {"threads", 't', OPTION_INT, &(o).threads, "N", .min = 0, .max = 4096,                         \
     .help = "threads of a rank (default: this node's processors shared among its ranks)"},        \
    {"chat", 0, OPTION_FLAG, &(o).chat,                                                            \
     .help = "wrap prompts in the model's chat format (default: where the model has one)"},        \
    {"raw", 0, OPTION_FLAG, &(o).raw, .help = "prompts as they are, the same as --no-chat"},       \
    {"chat-format", 0, OPTION_CHOICE, &(o).chat_format,                                            \
     .choices = "chatml|llama2|llama3|mistral|zephyr|gemma|plain",                                 \
     .help = "the chat format's family, in place of recognising the model's template"},            \
    {"system", 0, OPTION_STRING, &(o).system, "TEXT",                                              \
     .help = "system message (default: the template's own)"}
#define LOAD_ADAPTER_SPECS(o)                                                                      \
    {"adapter", 'a', OPTION_STRING, &(o).adapter, "FILE.h5|DIR",                                   \
     .help = "an adapter of t2 train or a directory of PEFT, merged into the weights"},                                    \
    {"factors", 0, OPTION_STRING, &(o).factors, "FILE.h5",                                         \
     .help = "of the adapter (default: those that it was trained with)"},                          \
    {"unmerged", 0, OPTION_FLAG, &(o).unmerged,                                                    \
     .help = "run the adapter in the form that is trained, without merged weights"}
/* clang-format on */

struct loaded {
    struct checkpoint *checkpoint; /* its pages have been given back */
    struct tokenizer *tokenizer;
    struct chat_format chat; /* CHAT_NONE: raw */
    struct model *model;
    struct adapter *adapter; /* --unmerged */
    size_t n_trained;        /* parameters of --adapter */
    bool can_merge;          /* --adapter could run either way */
    char identity[65];       /* of the model, where an adapter asked for it; else "" */
    struct model_options model_options;
    char device[160]; /* device_describe(), for records */
    double seconds;
};

/* After options_parse: refuses options that contradict one another. A plain function, the same on
 * every rank. */
int load_check_options(const struct load_options *options, struct option_spec *table);

/* Loads `path` (a folder or GGUF file) on every rank. chat_asked: --chat was given, so a model
 * without a template is an error. All ranks run one instruction set: the one asked for, or the best
 * that all have; and their files must describe the same tensors. Collective. 0, or -1 on all with
 * error_set and nothing to free. */
int load_open(const struct comm *comm, const char *path, const struct load_options *options,
              bool chat_asked, struct loaded *loaded);
void load_free(struct loaded *loaded);

/* Lines for a run's settings that tell computing on a device from computing on another; "" for the
 * CPU, whose `isa` tells all. */
const char *load_device_settings(const struct loaded *loaded, char *text, size_t size);

/* The prompt's tokens: in the chat format (as the user's message after `system`, which may be
 * NULL), or raw with the BOS that the tokenizer adds. Appends to *out. */
int load_encode(const struct loaded *loaded, const char *system, const char *prompt,
                struct tokens *out);

#endif
