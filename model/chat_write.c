#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/blank.h"
#include "model/chat_family.h"
#include "mpi/error.h"

static void put(FILE *out, const char *s)
{
    fputs(s, out);
}

/* Python's str.strip(). */
static void put_trimmed(FILE *out, const char *s)
{
    size_t n = strlen(s), blank;

    while ((blank = blank_at(s, n)) > 0) {
        s += blank;
        n -= blank;
    }
    while ((blank = blank_before(s, n)) > 0)
        n -= blank;
    fwrite(s, 1, n, out);
}

static void put_content(FILE *out, const char *s, bool trim)
{
    if (trim)
        put_trimmed(out, s);
    else
        put(out, s);
}

static bool is_role(const struct chat_message *message, const char *role)
{
    return strcmp(message->role, role) == 0;
}

int chat_check_messages(const struct chat_format *format, const struct chat_message *messages,
                        size_t n)
{
    if (format->family == CHAT_NONE)
        return error_set("the model has no chat template; name a family with --chat-format or use "
                         "raw text (--raw)");
    if (n == 0)
        return error_set("a chat needs at least one message");
    for (size_t i = 0; i < n; i++) {
        if (!is_role(&messages[i], "system") && !is_role(&messages[i], "user") &&
            !is_role(&messages[i], "assistant"))
            return error_set("message %zu has the role \"%s\"; roles are system, user, assistant",
                             i + 1, messages[i].role);
        if (i > 0 && is_role(&messages[i], "system"))
            return error_set("message %zu is a system message; only the first may be one", i + 1);
    }
    if (!is_role(&messages[n - 1], "user"))
        return error_set("the last message of a chat must be the user's");
    return 0;
}

/* Of families whose turns must alternate user, assistant, ... and end with the user's: takes the
 * system message off, if there is one, into *system. */
static int split_turns(const struct chat_format *format, const struct chat_message **messages,
                       size_t *n, const char **system)
{
    if (is_role(&(*messages)[0], "system")) {
        if (format->variant & CHAT_NO_SYSTEM)
            return error_set("this model's chat template has no place for a system message; put "
                             "the text into the user's");
        *system = (*messages)[0].content;
        (*messages)++;
        (*n)--;
    }
    for (size_t i = 0; i < *n; i++)
        if (!is_role(&(*messages)[i], i % 2 == 0 ? "user" : "assistant"))
            return error_set("%s chats alternate user and assistant after the system message, but "
                             "message %zu is from \"%s\"",
                             chat_family_name(format->family), i + 1, (*messages)[i].role);
    return 0;
}

int chat_write_chatml(const struct chat_format *format, const struct chat_message *messages,
                      size_t n, FILE *out)
{
    bool trim = format->variant & CHAT_TRIM;

    if (format->add_bos)
        put(out, format->bos);
    if (format->default_system && !is_role(&messages[0], "system")) {
        put(out, "<|im_start|>system\n");
        put(out, format->default_system);
        put(out, "<|im_end|>\n");
    }
    for (size_t i = 0; i < n; i++) {
        const char *content = messages[i].content;
        if ((format->variant & CHAT_THINK_DROP) && is_role(&messages[i], "assistant")) {
            for (const char *p = strstr(content, "</think>"); p; p = strstr(content, "</think>"))
                content = p + strlen("</think>");
            if (content != messages[i].content)
                content += strspn(content, "\n");
        }
        put(out, "<|im_start|>");
        put(out, messages[i].role);
        put(out, "\n");
        put_content(out, content, trim);
        put(out, "<|im_end|>\n");
    }
    put(out, "<|im_start|>assistant\n");
    if (format->variant & CHAT_THINK_OPEN)
        put(out, "<think>\n");
    return 0;
}

int chat_write_llama2(const struct chat_format *format, const struct chat_message *messages,
                      size_t n, FILE *out)
{
    const char *system = format->default_system;
    char *first = NULL;
    int status = -1;

    if (split_turns(format, &messages, &n, &system))
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (is_role(&messages[i], "assistant")) {
            put(out, " ");
            put_trimmed(out, messages[i].content);
            put(out, " ");
            put(out, format->eos);
            continue;
        }
        if (format->add_bos)
            put(out, format->bos);
        put(out, "[INST] ");
        if (i == 0 && system) {
            /* The template strips the joined text, so a blank user message leaves no blank line. */
            if (asprintf(&first, "<<SYS>>\n%s\n<</SYS>>\n\n%s", system, messages[i].content) < 0) {
                first = NULL;
                error_set("out of memory");
                goto done;
            }
            put_trimmed(out, first);
        } else {
            put_trimmed(out, messages[i].content);
        }
        put(out, " [/INST]");
    }
    status = 0;
done:
    free(first);
    return status;
}

int chat_write_llama3(const struct chat_format *format, const struct chat_message *messages,
                      size_t n, FILE *out)
{
    bool trim = format->variant & CHAT_TRIM;

    if (format->add_bos)
        put(out, format->bos);
    if (format->variant & CHAT_DATED) {
        put(out, "<|start_header_id|>system<|end_header_id|>\n\n");
        put(out, format->default_system);
        if (is_role(&messages[0], "system")) {
            put_content(out, messages[0].content, trim);
            messages++, n--;
        }
        put(out, "<|eot_id|>");
    }
    for (size_t i = 0; i < n; i++) {
        put(out, "<|start_header_id|>");
        put(out, messages[i].role);
        put(out, "<|end_header_id|>\n\n");
        put_content(out, messages[i].content, trim);
        put(out, "<|eot_id|>");
    }
    put(out, "<|start_header_id|>assistant<|end_header_id|>\n\n");
    return 0;
}

int chat_write_mistral(const struct chat_format *format, const struct chat_message *messages,
                       size_t n, FILE *out)
{
    int variant = format->variant;
    const char *system = NULL;

    if (split_turns(format, &messages, &n, &system))
        return -1;
    if (format->add_bos)
        put(out, format->bos);
    for (size_t i = 0; i < n; i++) {
        if (is_role(&messages[i], "assistant")) {
            put(out, variant & CHAT_SPACE_BEFORE_ANSWER ? " " : "");
            put_content(out, messages[i].content, variant & CHAT_TRIM_ANSWER);
            put(out, format->eos);
            put(out, variant & CHAT_SPACE_AFTER_EOS ? " " : "");
            continue;
        }
        put(out, variant & CHAT_SPACE_BEFORE_OPEN ? " " : "");
        put(out, variant & CHAT_SPACE_AFTER_OPEN ? "[INST] " : "[INST]");
        if (system && i == (variant & CHAT_SYSTEM_IN_LAST ? n - 1 : 0)) {
            put(out, system);
            put(out, "\n\n");
        }
        put(out, messages[i].content);
        put(out, variant & CHAT_SPACE_BEFORE_CLOSE ? " [/INST]" : "[/INST]");
    }
    return 0;
}

int chat_write_zephyr(const struct chat_format *format, const struct chat_message *messages,
                      size_t n, FILE *out)
{
    if (format->add_bos)
        put(out, format->bos);
    for (size_t i = 0; i < n; i++) {
        fprintf(out, "<|%s|>\n", messages[i].role);
        put(out, messages[i].content);
        put(out, format->eos);
        put(out, format->variant & CHAT_NEWLINE_AFTER_EOS ? "\n" : "");
    }
    put(out, "<|assistant|>");
    put(out, format->variant & CHAT_NEWLINE_AFTER_PROMPT ? "\n" : "");
    return 0;
}

int chat_write_gemma(const struct chat_format *format, const struct chat_message *messages,
                     size_t n, FILE *out)
{
    const char *system = NULL;

    if (split_turns(format, &messages, &n, &system))
        return -1;
    if (format->add_bos)
        put(out, format->bos);
    for (size_t i = 0; i < n; i++) {
        put(out, "<start_of_turn>");
        put(out, is_role(&messages[i], "assistant") ? "model\n" : "user\n");
        if (i == 0 && system) {
            put(out, system);
            put(out, "\n\n");
        }
        put_content(out, messages[i].content, format->variant & CHAT_TRIM);
        put(out, "<end_of_turn>\n");
    }
    put(out, "<start_of_turn>model\n");
    return 0;
}

int chat_write_plain(const struct chat_format *format, const struct chat_message *messages,
                     size_t n, FILE *out)
{
    if (format->add_bos)
        put(out, format->bos);
    for (size_t i = 0; i < n; i++)
        fprintf(out, "%s: %s\n", messages[i].role, messages[i].content);
    put(out, "assistant:");
    return 0;
}
