#include "jobs/prompts.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "eval/jsonl.h"
#include "mpi/error.h"
#include "mpi/share.h"

enum { PROMPTS_MAX_BYTES = 256 << 20 };

/* Takes the text over, also when it fails. */
static int add_prompt(struct prompts *p, char *text)
{
    if ((p->n & (p->n - 1)) == 0) {
        char **texts = realloc(p->texts, (p->n ? 2 * p->n : 1) * sizeof *texts);
        if (!texts) {
            free(text);
            return error_set("out of memory for %zu prompts", p->n + 1);
        }
        p->texts = texts;
    }
    if (!text)
        return error_set("out of memory for %zu prompts", p->n + 1);
    p->texts[p->n++] = text;
    return 0;
}

int prompts_single(const struct comm *comm, const char *text, struct prompts *prompts)
{
    char *copy = NULL;
    size_t n;

    memset(prompts, 0, sizeof *prompts);
    if (strcmp(text, "-") != 0)
        return add_prompt(prompts, strdup(text));
    if (share_file(comm, "-", "the prompt", PROMPTS_MAX_BYTES, &copy, &n) != 0)
        return -1;
    if (n > 0 && copy[n - 1] == '\n')
        copy[n - 1] = '\0';
    return add_prompt(prompts, copy);
}

static int split_lines(char *text, struct prompts *prompts)
{
    for (char *line = text; line && *line;) {
        const size_t n = strcspn(line, "\n");
        char *next = line[n] ? line + n + 1 : NULL;
        const size_t length = n > 0 && line[n - 1] == '\r' ? n - 1 : n;
        if (length > 0 && add_prompt(prompts, strndup(line, length)) != 0)
            return -1;
        line = next;
    }
    return 0;
}

static int add_row(void *context, const struct jsonl *reader, json_t *row)
{
    const json_t *field = json_object_get(row, "prompt");
    const char *prompt = json_string_value(field);

    if (!prompt)
        return error_set("%s:%zu: the row has no text field \"prompt\"", jsonl_name(reader),
                         jsonl_line(reader));
    if (strlen(prompt) != json_string_length(field))
        return error_set("%s:%zu: the prompt holds a NUL character: leave it out",
                         jsonl_name(reader), jsonl_line(reader));
    return add_prompt(context, strdup(prompt));
}

int prompts_file(const struct comm *comm, const char *path, struct prompts *prompts)
{
    const size_t n_path = strlen(path);
    char *text = NULL;
    size_t n_bytes;
    int rc;

    memset(prompts, 0, sizeof *prompts);
    prompts->jsonl = n_path > 6 && strcmp(path + n_path - 6, ".jsonl") == 0;
    if (share_file(comm, path, "the prompts", PROMPTS_MAX_BYTES, &text, &n_bytes) != 0)
        return -1;
    rc = prompts->jsonl ? jsonl_each(jsonl_from_memory(text, n_bytes, path), add_row, prompts)
                        : split_lines(text, prompts);
    if (rc == 0 && prompts->n == 0)
        rc = error_set("%s: there are no prompts in it", path);
    free(text);
    if (rc != 0)
        prompts_free(prompts);
    return rc;
}

void prompts_free(struct prompts *prompts)
{
    for (size_t i = 0; i < prompts->n; i++)
        free(prompts->texts[i]);
    free(prompts->texts);
    memset(prompts, 0, sizeof *prompts);
}
