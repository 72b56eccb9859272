#include "jobs/recipe.h"

#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/ini_text.h"
#include "mpi/share.h"
#include "mpi/text.h"

enum { RECIPE_MAX_BYTES = 1 << 20 };

struct recipe {
    const struct command *command;
    struct option_spec *table;
    struct option_spec *last; /* of the line before, for a value that goes on */
};

static bool is_command(const char *name)
{
    for (size_t i = 0; commands[i]; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return true;
    return false;
}

static int fail_section(const struct recipe *r, const struct ini_line *line)
{
    const char *names[64];
    size_t n = 0;

    names[n++] = r->command->name;
    for (size_t i = 0; commands[i] && n < 64; i++)
        names[n++] = commands[i]->name;
    const char *near = text_nearest(line->section, names, n);
    return ini_fail(line->path, line->number, "section [%.60s] names no command%s%s%s",
                    line->section, near ? ", did you mean [" : "", near ? near : "",
                    near ? "]?" : "");
}

static int fail_key(const struct recipe *r, const struct ini_line *line)
{
    const char *near = option_nearest(r->table, line->name);

    return ini_fail(line->path, line->number, "unknown key '%.60s'%s%s%s", line->name,
                    near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
}

/* Takes quotes and escapes off, in place. *quoted tells whether there were quotes; -1 when they do
 * not end with the text, or a backslash is none of ours. */
static int unquote(char *text, bool *quoted)
{
    static const char letters[] = "nt\"\\;", meanings[] = "\n\t\"\\;";
    char *out = text;
    const char *c = text + 1;

    *quoted = text[0] == '"';
    if (!*quoted)
        return 0;
    for (; *c && *c != '"'; c++) {
        if (*c != '\\') {
            *out++ = *c;
            continue;
        }
        const char *letter = c[1] ? strchr(letters, *++c) : NULL;
        if (!letter)
            return -1;
        *out++ = meanings[letter - letters];
    }
    if (c[0] != '"' || c[1] != '\0')
        return -1;
    *out = '\0';
    return 0;
}

static int take_key(void *context, const struct ini_line *line)
{
    struct recipe *r = context;
    char label[512], source[512], text[256];
    bool quoted;

    if (line->section[0] && strcmp(line->section, r->command->name) != 0)
        return is_command(line->section) ? 0 : fail_section(r, line);
    struct option_spec *option = option_find(r->table, line->name);
    if (!option)
        return fail_key(r, line);
    snprintf(label, sizeof label, "%s:%d: %s", line->path, line->number, line->name);
    snprintf(source, sizeof source, "recipe %s:%d", line->path, line->number);
    snprintf(text, sizeof text, "%s", line->value);
    if (unquote(text, &quoted) != 0)
        return ini_fail(
            line->path, line->number,
            "a value in double quotes ends with one, and knows \\n \\t \\\" \\\\ \\; only");
    if (line->indented && option == r->last)
        return option_extend(option, quoted ? "" : " ", text, label);
    if (option->source && option->type != OPTION_LIST)
        return ini_fail(line->path, line->number, "'%s' is set twice (first by %s)", line->name,
                        option->source);
    r->last = option;
    return option_set(option, text, label, source);
}

void recipe_write(FILE *file, const char *name, const char *text)
{
    enum { PIECE = 60 }; /* at most twice as many bytes with escapes, well within inih's line */
    static const char special[] = "\n\t\"\\;", letters[] = "nt\"\\;";
    const size_t n = strlen(text);

    fprintf(file, "%s = ", name);
    const bool blanks = n > 0 && (strchr(" \r", text[0]) || strchr(" \r", text[n - 1]));
    if (n > 0 && n <= PIECE && !blanks && strcspn(text, special) == n) {
        fprintf(file, "%s\n", text);
        return;
    }
    fputc('"', file);
    for (size_t i = 0; i < n; i++) {
        const char *c = strchr(special, text[i]);
        if (i > 0 && i % PIECE == 0)
            fputs("\"\n    \"", file);
        if (c)
            fprintf(file, "\\%c", letters[c - special]);
        else
            fputc(text[i], file);
    }
    fputs("\"\n", file);
}

int recipe_apply_text(const char *text, const char *path, const struct command *command,
                      struct option_spec *table)
{
    struct recipe r = {.command = command, .table = table};

    return ini_read(text, path, "'name = value', a [section] or a comment", take_key, &r);
}

int recipe_apply(const char *path, const struct command *command, struct option_spec *table,
                 const struct comm *comm)
{
    char *text = NULL;
    size_t n_bytes;
    int rc = share_file(comm, path, "the recipe", RECIPE_MAX_BYTES, &text, &n_bytes);

    if (rc == 0)
        rc = recipe_apply_text(text, path, command, table);
    free(text);
    return rc;
}
