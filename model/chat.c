#include "model/chat.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

/* What differs within a family, read off the template's text; bits of chat_format.variant. */
enum variant {
    /* all */
    TRIM = 1, /* contents are stripped of blanks at both ends */
    /* ChatML */
    THINK_DROP = 2, /* earlier answers lose what stands up to </think> (Qwen3) */
    THINK_OPEN = 4, /* the generation prompt opens <think> (Qwen3 Thinking, QwQ) */
    /* Llama 3 */
    DATED = 8, /* a system header with two dates is always there (Llama 3.1 and later) */
    /* Mistral */
    SPACE_BEFORE_OPEN = 16,  /* " [INST]" */
    SPACE_AFTER_OPEN = 32,   /* "[INST] " */
    SPACE_BEFORE_CLOSE = 64, /* " [/INST]" */
    SPACE_BEFORE_ANSWER = 128,
    TRIM_ANSWER = 256,
    SPACE_AFTER_EOS = 512,
    SYSTEM_IN_LAST = 1024, /* the system text goes into the last user message, not the first */
    /* Zephyr */
    NEWLINE_AFTER_EOS = 2048,
    NEWLINE_AFTER_PROMPT = 4096,
    /* Mistral, Gemma */
    NO_SYSTEM = 8192, /* a system message is an error */
};

static const char *const family_names[CHAT_FAMILY_COUNT] = {"none",    "chatml", "llama2", "llama3",
                                                            "mistral", "zephyr", "gemma",  "plain"};

const char *chat_family_name(enum chat_family family)
{
    return family < CHAT_FAMILY_COUNT ? family_names[family] : "unknown";
}

/* ---- reading the template's text ---------------------------------------------------------------
 */

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

static int recognise_chatml(struct chat_format *format, const char *text)
{
    if (has(text, "<|im_sep|>") || has(text, "Knowledge Cutoff"))
        return error_set("the chat template is a ChatML variant that is not known; choose a family "
                         "by name (--chat-format chatml) or use raw text (--raw)");
    format->default_system = chatml_default_system(text);
    if (has(text, "| trim") || has(text, "|trim"))
        format->variant |= TRIM;
    if (has(text, "</think>"))
        format->variant |= THINK_DROP;
    if (has(text, "assistant\\n<think>\\n'") || has(text, "assistant\n<think>\n'"))
        format->variant |= THINK_OPEN;
    return 0;
}

static int recognise_llama2(struct chat_format *format, const char *text)
{
    format->default_system = literal_after(text, "set system_message = ");
    return 0;
}

static int recognise_llama3(struct chat_format *format, const char *text)
{
    if (has(text, "trim") || has(text, ".strip()"))
        format->variant |= TRIM;
    if (has(text, "Cutting Knowledge Date")) {
        format->variant |= DATED;
        return dated_header(text, &format->default_system);
    }
    return 0;
}

static int recognise_mistral(struct chat_format *format, const char *text)
{
    char *answer = find_expression(text, "content", "eos_token", "tool");
    int status = -1;

    if (!answer || has(text, "[SYSTEM_PROMPT]")) {
        error_set("the chat template is a Mistral variant that is not known; choose a family by "
                  "name (--chat-format mistral) or use raw text (--raw)");
        goto done;
    }
    if (has(text, "' [INST]") || has(text, "\" [INST]"))
        format->variant |= SPACE_BEFORE_OPEN;
    if (has(text, "[INST] '") || has(text, "[INST] \""))
        format->variant |= SPACE_AFTER_OPEN;
    if (has(text, "' [/INST]") || has(text, "\" [/INST]"))
        format->variant |= SPACE_BEFORE_CLOSE;
    const char *p = answer + strspn(answer, "- \n\t");
    if (strncmp(p, "' ' +", 5) == 0 || strncmp(p, "\" \" +", 5) == 0 ||
        strncmp(p, "' '+", 4) == 0 || strncmp(p, "\" \"+", 4) == 0)
        format->variant |= SPACE_BEFORE_ANSWER;
    if (is_trimmed(answer))
        format->variant |= TRIM_ANSWER;
    if (has(answer, "eos_token + ' '") || has(answer, "eos_token + \" \"") ||
        has(answer, "eos_token+' '"))
        format->variant |= SPACE_AFTER_EOS;
    if (has(text, "loop.last and system_message"))
        format->variant |= SYSTEM_IN_LAST;
    if (!has(text, "system"))
        format->variant |= NO_SYSTEM;
    status = 0;
done:
    free(answer);
    return status;
}

static int recognise_zephyr(struct chat_format *format, const char *text)
{
    if (has(text, "<|end|>") || !has(text, "eos_token"))
        return error_set("the chat template looks like Zephyr's but ends its turns in a way that "
                         "is not known; choose a family by name (--chat-format zephyr) or use raw "
                         "text (--raw)");
    if (has(text, "eos_token }}\n") || has(text, "eos_token}}\n") || has(text, "eos_token + '\\n'"))
        format->variant |= NEWLINE_AFTER_EOS;
    if (has(text, "<|assistant|>' }}\n") || has(text, "<|assistant|>'}}\n") ||
        has(text, "{{ '<|assistant|>\\n' }}"))
        format->variant |= NEWLINE_AFTER_PROMPT;
    return 0;
}

static int recognise_gemma(struct chat_format *format, const char *text)
{
    if (is_trimmed(text))
        format->variant |= TRIM;
    if (!has(text, "first_user_prefix"))
        format->variant |= NO_SYSTEM;
    return 0;
}

static enum chat_family family_of(const char *text)
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

/* The usual member of each family, when it is named and there is no template to read. */
static void family_defaults(struct chat_format *format)
{
    switch (format->family) {
    case CHAT_LLAMA2:
        format->add_bos = true;
        break;
    case CHAT_LLAMA3:
        format->add_bos = true;
        format->variant = TRIM;
        break;
    case CHAT_MISTRAL: /* v0.3 */
        format->add_bos = true;
        format->variant = SPACE_AFTER_OPEN | SPACE_BEFORE_ANSWER | TRIM_ANSWER | SYSTEM_IN_LAST;
        break;
    case CHAT_ZEPHYR:
        format->variant = NEWLINE_AFTER_EOS | NEWLINE_AFTER_PROMPT;
        break;
    case CHAT_GEMMA: /* 3 */
        format->add_bos = true;
        format->variant = TRIM;
        break;
    default:
        break;
    }
}

static int family_parse(const char *name, enum chat_family *family)
{
    for (int i = 0; i < CHAT_FAMILY_COUNT; i++)
        if (strcmp(name, family_names[i]) == 0) {
            *family = (enum chat_family)i;
            return 0;
        }
    return error_set("chat format \"%s\" is not known; choose chatml, llama2, llama3, mistral, "
                     "zephyr, gemma, plain or none",
                     name);
}

int chat_recognise(struct chat_format *format, const char *template_text, const char *name,
                   const char *bos, const char *eos)
{
    int status = -1;
    enum chat_family recognised = template_text ? family_of(template_text) : CHAT_NONE;

    memset(format, 0, sizeof *format);
    format->bos = strdup(bos ? bos : "");
    format->eos = strdup(eos ? eos : "");
    if (!format->bos || !format->eos) {
        error_set("out of memory");
        goto done;
    }
    format->family = recognised;
    if (name && family_parse(name, &format->family))
        goto done;
    if (name && (format->family != recognised || format->family == CHAT_NONE)) {
        family_defaults(format);
        status = 0;
        goto done;
    }
    if (!template_text) {
        status = 0;
        goto done;
    }
    if (recognised == CHAT_NONE) {
        error_set("the model's chat template is of no family that is known; name one with "
                  "--chat-format (chatml, llama2, llama3, mistral, zephyr, gemma, plain) or use "
                  "raw text (--raw)");
        goto done;
    }
    format->add_bos = has(template_text, "bos_token");
    switch (recognised) {
    case CHAT_CHATML:
        status = recognise_chatml(format, template_text);
        break;
    case CHAT_LLAMA2:
        status = recognise_llama2(format, template_text);
        break;
    case CHAT_LLAMA3:
        status = recognise_llama3(format, template_text);
        break;
    case CHAT_MISTRAL:
        status = recognise_mistral(format, template_text);
        break;
    case CHAT_ZEPHYR:
        status = recognise_zephyr(format, template_text);
        break;
    default:
        status = recognise_gemma(format, template_text);
        break;
    }
    /* Asked for by name, an odd member of the family is written as the usual one. */
    if (status && name) {
        free(format->default_system);
        format->default_system = NULL;
        format->variant = 0;
        family_defaults(format);
        status = 0;
    }
done:
    if (status)
        chat_free(format);
    return status;
}

void chat_free(struct chat_format *format)
{
    if (!format)
        return;
    free(format->default_system);
    free(format->bos);
    free(format->eos);
    memset(format, 0, sizeof *format);
}

/* ---- writing -----------------------------------------------------------------------------------
 */

struct text {
    FILE *file;
    char *bytes;
    size_t n;
};

static void put(struct text *out, const char *s)
{
    fputs(s, out->file);
}

/* Python's str.strip(), for the blanks that occur: ASCII. */
static const char *const blanks = " \t\n\r\v\f\x1c\x1d\x1e\x1f";

static void put_trimmed(struct text *out, const char *s)
{
    s += strspn(s, blanks);
    size_t n = strlen(s);
    while (n && strchr(blanks, s[n - 1]))
        n--;
    fwrite(s, 1, n, out->file);
}

static void put_content(struct text *out, const char *s, bool trim)
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

/* Families whose turns must alternate user, assistant, ... and end with the user's. */
static int check_turns(const struct chat_format *format, const struct chat_message *messages,
                       size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!is_role(&messages[i], i % 2 == 0 ? "user" : "assistant"))
            return error_set("%s chats alternate user and assistant after the system message, but "
                             "message %zu is from \"%s\"",
                             chat_family_name(format->family), i + 1, messages[i].role);
    return 0;
}

static void write_chatml(const struct chat_format *format, const struct chat_message *messages,
                         size_t n, struct text *out)
{
    bool trim = format->variant & TRIM;

    if (format->add_bos)
        put(out, format->bos);
    if (format->default_system && !is_role(&messages[0], "system")) {
        put(out, "<|im_start|>system\n");
        put(out, format->default_system);
        put(out, "<|im_end|>\n");
    }
    for (size_t i = 0; i < n; i++) {
        const char *content = messages[i].content;
        if ((format->variant & THINK_DROP) && is_role(&messages[i], "assistant")) {
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
    if (format->variant & THINK_OPEN)
        put(out, "<think>\n");
}

static int write_llama2(const struct chat_format *format, const struct chat_message *messages,
                        size_t n, struct text *out)
{
    const char *system = format->default_system;
    struct text first = {0};
    int status = -1;

    if (is_role(&messages[0], "system")) {
        system = messages[0].content;
        messages++, n--;
    }
    if (check_turns(format, messages, n))
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
            first.file = open_memstream(&first.bytes, &first.n);
            if (!first.file) {
                error_set("out of memory");
                goto done;
            }
            fprintf(first.file, "<<SYS>>\n%s\n<</SYS>>\n\n%s", system, messages[i].content);
            fclose(first.file);
            put_trimmed(out, first.bytes);
        } else {
            put_trimmed(out, messages[i].content);
        }
        put(out, " [/INST]");
    }
    status = 0;
done:
    free(first.bytes);
    return status;
}

static void write_llama3(const struct chat_format *format, const struct chat_message *messages,
                         size_t n, struct text *out)
{
    bool trim = format->variant & TRIM;

    if (format->add_bos)
        put(out, format->bos);
    if (format->variant & DATED) {
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
}

static int write_mistral(const struct chat_format *format, const struct chat_message *messages,
                         size_t n, struct text *out)
{
    int variant = format->variant;
    const char *system = NULL;

    if (is_role(&messages[0], "system")) {
        if (variant & NO_SYSTEM)
            return error_set("this model's chat template has no place for a system message; put "
                             "the text into the user's");
        system = messages[0].content;
        messages++, n--;
    }
    if (check_turns(format, messages, n))
        return -1;
    if (format->add_bos)
        put(out, format->bos);
    for (size_t i = 0; i < n; i++) {
        if (is_role(&messages[i], "assistant")) {
            put(out, variant & SPACE_BEFORE_ANSWER ? " " : "");
            put_content(out, messages[i].content, variant & TRIM_ANSWER);
            put(out, format->eos);
            put(out, variant & SPACE_AFTER_EOS ? " " : "");
            continue;
        }
        put(out, variant & SPACE_BEFORE_OPEN ? " " : "");
        put(out, variant & SPACE_AFTER_OPEN ? "[INST] " : "[INST]");
        if (system && i == (variant & SYSTEM_IN_LAST ? n - 1 : 0)) {
            put(out, system);
            put(out, "\n\n");
        }
        put(out, messages[i].content);
        put(out, variant & SPACE_BEFORE_CLOSE ? " [/INST]" : "[/INST]");
    }
    return 0;
}

static void write_zephyr(const struct chat_format *format, const struct chat_message *messages,
                         size_t n, struct text *out)
{
    if (format->add_bos)
        put(out, format->bos);
    for (size_t i = 0; i < n; i++) {
        fprintf(out->file, "<|%s|>\n", messages[i].role);
        put(out, messages[i].content);
        put(out, format->eos);
        put(out, format->variant & NEWLINE_AFTER_EOS ? "\n" : "");
    }
    put(out, "<|assistant|>");
    put(out, format->variant & NEWLINE_AFTER_PROMPT ? "\n" : "");
}

static int write_gemma(const struct chat_format *format, const struct chat_message *messages,
                       size_t n, struct text *out)
{
    const char *system = NULL;

    if (is_role(&messages[0], "system")) {
        if (format->variant & NO_SYSTEM)
            return error_set("this model's chat template has no place for a system message; put "
                             "the text into the user's");
        system = messages[0].content;
        messages++, n--;
    }
    if (check_turns(format, messages, n))
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
        put_content(out, messages[i].content, format->variant & TRIM);
        put(out, "<end_of_turn>\n");
    }
    put(out, "<start_of_turn>model\n");
    return 0;
}

static void write_plain(const struct chat_format *format, const struct chat_message *messages,
                        size_t n, struct text *out)
{
    if (format->add_bos)
        put(out, format->bos);
    for (size_t i = 0; i < n; i++)
        fprintf(out->file, "%s: %s\n", messages[i].role, messages[i].content);
    put(out, "assistant:");
}

static int check_messages(const struct chat_format *format, const struct chat_message *messages,
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

char *chat_render(const struct chat_format *format, const struct chat_message *messages, size_t n)
{
    struct text out = {0};
    int status = 0;

    if (check_messages(format, messages, n))
        return NULL;
    out.file = open_memstream(&out.bytes, &out.n);
    if (!out.file) {
        error_set("out of memory");
        return NULL;
    }
    switch (format->family) {
    case CHAT_CHATML:
        write_chatml(format, messages, n, &out);
        break;
    case CHAT_LLAMA2:
        status = write_llama2(format, messages, n, &out);
        break;
    case CHAT_LLAMA3:
        write_llama3(format, messages, n, &out);
        break;
    case CHAT_MISTRAL:
        status = write_mistral(format, messages, n, &out);
        break;
    case CHAT_ZEPHYR:
        write_zephyr(format, messages, n, &out);
        break;
    case CHAT_GEMMA:
        status = write_gemma(format, messages, n, &out);
        break;
    default:
        write_plain(format, messages, n, &out);
        break;
    }
    if (fclose(out.file) && status == 0)
        status = error_set("out of memory");
    if (status) {
        free(out.bytes);
        return NULL;
    }
    return out.bytes;
}
