#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat_family.h"
#include "mpi/error.h"

static bool has(const char *text, const char *piece)
{
    return strstr(text, piece) != NULL;
}

/* A string literal's body from `text` to its closing quote (or to `end` if that comes first, when
 * not NULL), with Jinja's escapes undone. quote 0: plain template text, which has no escapes.
 * NULL when it does not end that way. */
static char *literal_copy(const char *text, char quote, const char *end)
{
    size_t size = strlen(text) + 1, n = 0;
    char *copy = malloc(size);

    if (!copy)
        return NULL;
    for (const char *p = text; *p; p++) {
        if (end && strncmp(p, end, strlen(end)) == 0) {
            copy[n] = '\0';
            return copy;
        }
        if (quote && *p == quote) {
            if (end)
                break;
            copy[n] = '\0';
            return copy;
        }
        if (!quote && *p == '{' && (p[1] == '{' || p[1] == '%'))
            break;
        if (quote && *p == '\\' && p[1]) {
            p++;
            copy[n++] = *p == 'n' ? '\n' : *p == 't' ? '\t' : *p;
        } else {
            copy[n++] = *p;
        }
    }
    free(copy);
    return NULL;
}

/* "<|im_start|>system\nTEXT<|im_end|>" with a fixed TEXT, wherever it stands. */
static char *chatml_default_system(const char *text)
{
    static const char opening[] = "<|im_start|>system";

    for (const char *p = strstr(text, opening); p; p = strstr(p + 1, opening)) {
        char quote = p > text && (p[-1] == '\'' || p[-1] == '"') ? p[-1] : '\0';
        const char *body = p + sizeof opening - 1;
        if (*body == '\n')
            body++;
        else if (body[0] == '\\' && body[1] == 'n')
            body += 2;
        else
            continue;
        char *system = literal_copy(body, quote, "<|im_end|>");
        if (system)
            return system;
    }
    return NULL;
}

/* The literal after `before` ("date_string = "), in either quote; NULL if there is none. */
static char *literal_after(const char *text, const char *before)
{
    for (const char *p = strstr(text, before); p; p = strstr(p + 1, before)) {
        const char *body = p + strlen(before);
        if (*body == '"' || *body == '\'')
            return literal_copy(body + 1, *body, NULL);
    }
    return NULL;
}

/* Llama 3.1 and later put two dates before the system text. Later ones ask the clock for the
 * second; we take the date that the template itself falls back to, so that a prompt does not
 * change from day to day. */
static int dated_header(const char *text, char **header)
{
    static const char cutoff[] = "Cutting Knowledge Date: ";
    int status = -1;
    const char *start = strstr(text, cutoff);
    const char *end = start ? strstr(start, "\\n") : NULL;
    char *date = literal_after(text, "date_string = ");

    if (!end || end - start > 100 || !date || !has(text, "\"Today Date: \" + date_string")) {
        error_set("the chat template has a knowledge date in a form that is not known; choose a "
                  "family by name (--chat-format llama3) or use raw text (--raw)");
        goto done;
    }
    if (asprintf(header, "%.*s\nToday Date: %s\n\n", (int)(end - start), start, date) < 0) {
        *header = NULL;
        error_set("out of memory");
        goto done;
    }
    status = 0;
done:
    free(date);
    return status;
}

/* The first {{ expression }} that holds all three pieces, as malloc'ed text. */
static char *find_expression(const char *text, const char *a, const char *b, const char *without)
{
    for (const char *p = strstr(text, "{{"); p; p = strstr(p + 2, "{{")) {
        const char *end = strstr(p, "}}");
        if (!end)
            return NULL;
        char *expression = strndup(p + 2, (size_t)(end - p) - 2);
        if (!expression)
            return NULL;
        if (has(expression, a) && has(expression, b) && !has(expression, without))
            return expression;
        free(expression);
    }
    return NULL;
}

static bool is_trimmed(const char *expression)
{
    return has(expression, "trim") || has(expression, ".strip()");
}

int chat_read_chatml(struct chat_format *format, const char *text)
{
    if (has(text, "<|im_sep|>") || has(text, "Knowledge Cutoff"))
        return error_set("the chat template is a ChatML variant that is not known; choose a family "
                         "by name (--chat-format chatml) or use raw text (--raw)");
    format->default_system = chatml_default_system(text);
    if (has(text, "| trim") || has(text, "|trim"))
        format->variant |= CHAT_TRIM;
    if (has(text, "</think>"))
        format->variant |= CHAT_THINK_DROP;
    if (has(text, "assistant\\n<think>\\n'") || has(text, "assistant\n<think>\n'"))
        format->variant |= CHAT_THINK_OPEN;
    return 0;
}

int chat_read_llama2(struct chat_format *format, const char *text)
{
    format->default_system = literal_after(text, "set system_message = ");
    return 0;
}

int chat_read_llama3(struct chat_format *format, const char *text)
{
    if (has(text, "trim") || has(text, ".strip()"))
        format->variant |= CHAT_TRIM;
    if (has(text, "Cutting Knowledge Date")) {
        format->variant |= CHAT_DATED;
        return dated_header(text, &format->default_system);
    }
    return 0;
}

int chat_read_mistral(struct chat_format *format, const char *text)
{
    char *answer = find_expression(text, "content", "eos_token", "tool");
    int status = -1;

    if (!answer || has(text, "[SYSTEM_PROMPT]")) {
        error_set("the chat template is a Mistral variant that is not known; choose a family by "
                  "name (--chat-format mistral) or use raw text (--raw)");
        goto done;
    }
    if (has(text, "' [INST]") || has(text, "\" [INST]"))
        format->variant |= CHAT_SPACE_BEFORE_OPEN;
    if (has(text, "[INST] '") || has(text, "[INST] \""))
        format->variant |= CHAT_SPACE_AFTER_OPEN;
    if (has(text, "' [/INST]") || has(text, "\" [/INST]"))
        format->variant |= CHAT_SPACE_BEFORE_CLOSE;
    const char *p = answer + strspn(answer, "- \n\t");
    if (strncmp(p, "' ' +", 5) == 0 || strncmp(p, "\" \" +", 5) == 0 ||
        strncmp(p, "' '+", 4) == 0 || strncmp(p, "\" \"+", 4) == 0)
        format->variant |= CHAT_SPACE_BEFORE_ANSWER;
    if (is_trimmed(answer))
        format->variant |= CHAT_TRIM_ANSWER;
    if (has(answer, "eos_token + ' '") || has(answer, "eos_token + \" \"") ||
        has(answer, "eos_token+' '"))
        format->variant |= CHAT_SPACE_AFTER_EOS;
    if (has(text, "loop.last and system_message"))
        format->variant |= CHAT_SYSTEM_IN_LAST;
    if (!has(text, "system"))
        format->variant |= CHAT_NO_SYSTEM;
    status = 0;
done:
    free(answer);
    return status;
}

int chat_read_zephyr(struct chat_format *format, const char *text)
{
    if (has(text, "<|end|>") || !has(text, "eos_token"))
        return error_set("the chat template looks like Zephyr's but ends its turns in a way that "
                         "is not known; choose a family by name (--chat-format zephyr) or use raw "
                         "text (--raw)");
    if (has(text, "eos_token }}\n") || has(text, "eos_token}}\n") || has(text, "eos_token + '\\n'"))
        format->variant |= CHAT_NEWLINE_AFTER_EOS;
    if (has(text, "<|assistant|>' }}\n") || has(text, "<|assistant|>'}}\n") ||
        has(text, "{{ '<|assistant|>\\n' }}"))
        format->variant |= CHAT_NEWLINE_AFTER_PROMPT;
    return 0;
}

int chat_read_gemma(struct chat_format *format, const char *text)
{
    if (is_trimmed(text))
        format->variant |= CHAT_TRIM;
    if (!has(text, "first_user_prefix"))
        format->variant |= CHAT_NO_SYSTEM;
    return 0;
}

enum chat_family chat_read_family(const char *text)
{
    if (has(text, "<|im_start|>"))
        return CHAT_CHATML;
    if (has(text, "<|start_header_id|>"))
        return CHAT_LLAMA3;
    if (has(text, "<start_of_turn>"))
        return CHAT_GEMMA;
    if (has(text, "[INST]"))
        return has(text, "<<SYS>>") ? CHAT_LLAMA2 : CHAT_MISTRAL;
    if (has(text, "<|user|>") && has(text, "<|assistant|>"))
        return CHAT_ZEPHYR;
    return CHAT_NONE;
}
