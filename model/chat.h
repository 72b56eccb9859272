#ifndef T2_MODEL_CHAT_H
#define T2_MODEL_CHAT_H
/* Chat formats: turns messages into the prompt text a model was tuned on. The family is recognised
 * from the text of the model's template (a Jinja program, which we do not run); each family is held
 * to the reference renderer by tests. */
#include <stdbool.h>
#include <stddef.h>

enum chat_family {
    CHAT_NONE,    /* no template: raw text only */
    CHAT_CHATML,  /* <|im_start|>role\n...<|im_end|>\n (SmolLM2, Qwen) */
    CHAT_LLAMA2,  /* [INST] <<SYS>> */
    CHAT_LLAMA3,  /* <|start_header_id|>role<|end_header_id|>\n\n...<|eot_id|> */
    CHAT_MISTRAL, /* [INST] ...[/INST] */
    CHAT_ZEPHYR,  /* <|user|>\n...</s>\n */
    CHAT_GEMMA,   /* <start_of_turn>user\n...<end_of_turn>\n */
    CHAT_PLAIN,   /* "role: text" lines; never recognised, only asked for by name */
    CHAT_FAMILY_COUNT
};

struct chat_format {
    enum chat_family family;
    char
        *default_system; /* what the template puts when no system message is given; NULL: nothing */
    bool add_bos;        /* the template itself starts with the BOS text */
    char *bos, *eos;     /* texts of those tokens ("" when absent) */
    int variant;         /* spacing and such within the family, see chat_family.h */
};

struct chat_message {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
};

/* Recognises the family of a template (NULL gives CHAT_NONE). name overrides recognition ("chatml",
 * "llama3", ...; NULL: recognise). bos and eos are the tokenizer's texts of these tokens ("" if
 * none). An unknown template is an error that says how to name a family. */
int chat_recognise(struct chat_format *format, const char *template_text, const char *name,
                   const char *bos, const char *eos);
void chat_free(struct chat_format *format);

const char *chat_family_name(enum chat_family family);

/* The prompt text for n messages, ready for the assistant's answer (generation prompt added), to be
 * encoded with TOKENIZER_SPECIAL and without the tokenizer's own BOS. Malloc'ed; NULL with
 * error_set (roles in an order that the family cannot express, say). */
char *chat_render(const struct chat_format *format, const struct chat_message *messages, size_t n);

#endif
