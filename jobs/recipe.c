#include "jobs/recipe.h"

#include <ini.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/share.h"
#include "mpi/text.h"

enum { RECIPE_MAX_BYTES = 1 << 20 };

struct recipe {
    const char *path, *text; /* text: what is left to read */
    const struct command *command;
    struct option_spec *table;
    int line;
    bool indented, failed;
    struct option_spec *last; /* of the line before, for a value that goes on */
};

/* inih's buffer holds a line of limited length and cuts what is longer into two; that would be a
 * wrong value, so it is an error here. */
static char *read_line(char *line, int size, void *stream)
{
    struct recipe *r = stream;
    const size_t n = strcspn(r->text, "\n"), whole = n + (r->text[n] == '\n');

    if (r->failed || whole == 0)
        return NULL;
    r->line++;
    if (whole >= (size_t)size) {
        r->failed = true;
        error_set("%s:%d: the line is longer than %d characters: go on with the value on a new "
                  "line that starts with a space",
                  r->path, r->line, size - 2);
        return NULL;
    }
    memcpy(line, r->text, whole);
    line[whole] = '\0';
    r->indented = line[0] == ' ' || line[0] == '\t';
    r->text += whole;
    return line;
}

static int fail_at(struct recipe *r, const char *what)
{
    r->failed = true;
    error_set("%s:%d: %s", r->path, r->line, what);
    return 0;
}

static bool is_command(const char *name)
{
    for (size_t i = 0; commands[i]; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return true;
    return false;
}

static int fail_section(struct recipe *r, const char *section)
{
    const char *names[64];
    size_t n = 0;
    char what[256];

    names[n++] = r->command->name;
    for (size_t i = 0; commands[i] && n < 64; i++)
        names[n++] = commands[i]->name;
    const char *near = text_nearest(section, names, n);
    snprintf(what, sizeof what, "section [%.60s] names no command%s%s%s", section,
             near ? ", did you mean [" : "", near ? near : "", near ? "]?" : "");
    return fail_at(r, what);
}

static int fail_key(struct recipe *r, const char *name)
{
    const char *near = option_nearest(r->table, name);
    char what[256];

    snprintf(what, sizeof what, "unknown key '%.60s'%s%s%s", name, near ? ", did you mean '" : "",
             near ? near : "", near ? "'?" : "");
    return fail_at(r, what);
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

static int take_key(void *user, const char *section, const char *name, const char *value)
{
    struct recipe *r = user;
    char label[512], source[512], text[256];
    bool quoted;

    if (r->failed)
        return 0;
    if (section[0] && strcmp(section, r->command->name) != 0)
        return is_command(section) ? 1 : fail_section(r, section);
    struct option_spec *option = option_find(r->table, name);
    if (!option)
        return fail_key(r, name);
    snprintf(label, sizeof label, "%s:%d: %s", r->path, r->line, name);
    snprintf(source, sizeof source, "recipe %s:%d", r->path, r->line);
    snprintf(text, sizeof text, "%s", value ? value : "");
    if (unquote(text, &quoted) != 0)
        return fail_at(
            r, "a value in double quotes ends with one, and knows \\n \\t \\\" \\\\ \\; only");
    if (r->indented && option == r->last) {
        if (option_extend(option, quoted ? "" : " ", text, label) != 0)
            r->failed = true;
        return !r->failed;
    }
    if (option->source && option->type != OPTION_LIST) {
        char what[640];
        snprintf(what, sizeof what, "'%s' is set twice (first by %s)", name, option->source);
        return fail_at(r, what);
    }
    r->last = option;
    if (option_set(option, text, label, source) != 0)
        r->failed = true;
    return !r->failed;
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
    struct recipe r = {.path = path, .text = text, .command = command, .table = table};
    const int bad_line = ini_parse_stream(read_line, &r, take_key, &r);

    if (r.failed)
        return -1;
    if (bad_line < 0)
        return error_set("%s: out of memory", path);
    if (bad_line > 0)
        return error_set("%s:%d: expected 'name = value', a [section] or a comment", path,
                         bad_line);
    return 0;
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
