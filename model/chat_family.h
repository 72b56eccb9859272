#ifndef T2_MODEL_CHAT_FAMILY_H
#define T2_MODEL_CHAT_FAMILY_H
/* How each family of chat.h reads its templates and writes messages; chat.c has the table of the
 * families. Internal to chat*.c. */
#include <stdio.h>

#include "model/chat.h"

/* What differs within a family, read off the template's text; bits of chat_format.variant. */
enum chat_variant {
    /* all */
    CHAT_TRIM = 1, /* contents are stripped of blanks at both ends */
    /* ChatML */
    CHAT_THINK_DROP = 2, /* earlier answers lose what stands up to </think> (Qwen3) */
    CHAT_THINK_OPEN = 4, /* the generation prompt opens <think> (Qwen3 Thinking, QwQ) */
    /* Llama 3 */
    CHAT_DATED = 8, /* a system header with two dates is always there (Llama 3.1 and later) */
    /* Mistral */
    CHAT_SPACE_BEFORE_OPEN = 16,  /* " [INST]" */
    CHAT_SPACE_AFTER_OPEN = 32,   /* "[INST] " */
    CHAT_SPACE_BEFORE_CLOSE = 64, /* " [/INST]" */
    CHAT_SPACE_BEFORE_ANSWER = 128,
    CHAT_TRIM_ANSWER = 256,
    CHAT_SPACE_AFTER_EOS = 512,
    CHAT_SYSTEM_IN_LAST = 1024, /* the system text goes into the last user message, not the first */
    /* Zephyr */
    CHAT_NEWLINE_AFTER_EOS = 2048,
    CHAT_NEWLINE_AFTER_PROMPT = 4096,
    /* Mistral, Gemma */
    CHAT_NO_SYSTEM = 8192, /* a system message is an error */
};

/* ---- chat_read.c --------------------------------------------------------------------------------
 */

/* The family a template is of; CHAT_NONE: none that is known. */
enum chat_family chat_read_family(const char *text);

/* What varies within the family, off the template's text into format->variant and
 * format->default_system. 0, or -1 with error_set for a variant that is not known. */
int chat_read_chatml(struct chat_format *format, const char *text);
int chat_read_llama2(struct chat_format *format, const char *text);
int chat_read_llama3(struct chat_format *format, const char *text);
int chat_read_mistral(struct chat_format *format, const char *text);
int chat_read_zephyr(struct chat_format *format, const char *text);
int chat_read_gemma(struct chat_format *format, const char *text);

/* ---- chat_write.c -------------------------------------------------------------------------------
 */

/* Are these messages a chat, of whatever family? 0, or -1 with error_set. */
int chat_check_messages(const struct chat_format *format, const struct chat_message *messages,
                        size_t n);

/* The prompt for n checked messages. 0, or -1 with error_set for what the family cannot express. */
int chat_write_chatml(const struct chat_format *format, const struct chat_message *messages,
                      size_t n, FILE *out);
int chat_write_llama2(const struct chat_format *format, const struct chat_message *messages,
                      size_t n, FILE *out);
int chat_write_llama3(const struct chat_format *format, const struct chat_message *messages,
                      size_t n, FILE *out);
int chat_write_mistral(const struct chat_format *format, const struct chat_message *messages,
                       size_t n, FILE *out);
int chat_write_zephyr(const struct chat_format *format, const struct chat_message *messages,
                      size_t n, FILE *out);
int chat_write_gemma(const struct chat_format *format, const struct chat_message *messages,
                     size_t n, FILE *out);
int chat_write_plain(const struct chat_format *format, const struct chat_message *messages,
                     size_t n, FILE *out);

#endif
