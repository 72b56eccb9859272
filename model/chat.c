#include "model/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat_family.h"
#include "mpi/error.h"

struct family {
    const char *name;
    int (*read)(struct chat_format *format, const char *template_text);
    int (*write)(const struct chat_format *format, const struct chat_message *messages, size_t n,
                 FILE *out);
    /* Its usual member, when it is named and there is no template to read. */
    bool add_bos;
    int variant;
};

static const struct family families[CHAT_FAMILY_COUNT] = {
    [CHAT_NONE] = {.name = "none"},
    [CHAT_CHATML] = {"chatml", chat_read_chatml, chat_write_chatml, false, 0},
    [CHAT_LLAMA2] = {"llama2", chat_read_llama2, chat_write_llama2, true, 0},
    [CHAT_LLAMA3] = {"llama3", chat_read_llama3, chat_write_llama3, true, CHAT_TRIM},
    [CHAT_MISTRAL] = /* v0.3 */ {"mistral", chat_read_mistral, chat_write_mistral, true,
                                 CHAT_SPACE_AFTER_OPEN | CHAT_SPACE_BEFORE_ANSWER |
                                     CHAT_TRIM_ANSWER | CHAT_SYSTEM_IN_LAST},
    [CHAT_ZEPHYR] = {"zephyr", chat_read_zephyr, chat_write_zephyr, false,
                     CHAT_NEWLINE_AFTER_EOS | CHAT_NEWLINE_AFTER_PROMPT},
    [CHAT_GEMMA] = /* 3 */ {"gemma", chat_read_gemma, chat_write_gemma, true, CHAT_TRIM},
    [CHAT_PLAIN] = {.name = "plain", .write = chat_write_plain},
};

const char *chat_family_name(enum chat_family family)
{
    return family < CHAT_FAMILY_COUNT ? families[family].name : "unknown";
}

/* All that can be asked for, for a message. */
enum { NAMES_SIZE = 128 };
static const char *list_names(char text[NAMES_SIZE])
{
    size_t n = 0;

    for (int i = CHAT_NONE + 1; i < CHAT_FAMILY_COUNT; i++)
        n += (size_t)snprintf(text + n, NAMES_SIZE - n, "%s%s", n ? ", " : "", families[i].name);
    return text;
}

static int family_parse(const char *name, enum chat_family *family)
{
    char names[NAMES_SIZE];

    for (int i = 0; i < CHAT_FAMILY_COUNT; i++)
        if (strcmp(name, families[i].name) == 0) {
            *family = (enum chat_family)i;
            return 0;
        }
    return error_set("chat format \"%s\" is not known; choose %s or none", name, list_names(names));
}

/* The member of its family that is written without a template. */
static void set_usual(struct chat_format *format)
{
    format->add_bos = format->add_bos || families[format->family].add_bos;
    format->variant = families[format->family].variant;
}

int chat_recognise(struct chat_format *format, const char *template_text, const char *name,
                   const char *bos, const char *eos)
{
    char names[NAMES_SIZE];
    int status = -1;
    enum chat_family recognised = template_text ? chat_read_family(template_text) : CHAT_NONE;

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
        set_usual(format);
        status = 0;
        goto done;
    }
    if (!template_text) {
        status = 0;
        goto done;
    }
    if (recognised == CHAT_NONE) {
        error_set("the model's chat template is of no family that is known; name one with "
                  "--chat-format (%s) or use raw text (--raw)",
                  list_names(names));
        goto done;
    }
    format->add_bos = strstr(template_text, "bos_token") != NULL;
    status = families[recognised].read(format, template_text);
    /* Asked for by name, an odd member of the family is written as the usual one. */
    if (status && name) {
        free(format->default_system);
        format->default_system = NULL;
        set_usual(format);
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

char *chat_render(const struct chat_format *format, const struct chat_message *messages, size_t n)
{
    char *text = NULL;
    size_t size = 0;

    if (chat_check_messages(format, messages, n))
        return NULL;
    FILE *out = open_memstream(&text, &size);
    if (!out) {
        error_set("out of memory");
        return NULL;
    }
    int status = families[format->family].write(format, messages, n, out);
    if (fclose(out) && status == 0)
        status = error_set("out of memory");
    if (status) {
        free(text);
        return NULL;
    }
    return text;
}
