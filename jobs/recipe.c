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

/* An indented line: more text of a string, another item of a list. */
static int go_on(struct recipe *r, const char *value, const char *label, const char *source)
{
    char *joined = NULL;

    if (r->last->type != OPTION_STRING && r->last->type != OPTION_LIST)
        return fail_at(r, "only strings go on over several lines: take away the space at the "
                          "line's beginning");
    if (r->last->type == OPTION_LIST)
        return option_set(r->last, value, label, source) == 0;
    if (asprintf(&joined, "%s\n%s", *(const char **)r->last->value, value) < 0)
        return fail_at(r, "out of memory");
    const int rc = option_set(r->last, joined, label, source);
    free(joined);
    return rc == 0;
}

static int take_key(void *user, const char *section, const char *name, const char *value)
{
    struct recipe *r = user;
    char label[512], source[512];

    if (r->failed)
        return 0;
    if (section[0] && strcmp(section, r->command->name) != 0)
        return is_command(section) ? 1 : fail_section(r, section);
    struct option_spec *option = option_find(r->table, name);
    if (!option)
        return fail_key(r, name);
    snprintf(label, sizeof label, "%s:%d: %s", r->path, r->line, name);
    snprintf(source, sizeof source, "recipe %s:%d", r->path, r->line);
    if (r->indented && option == r->last) {
        r->failed |= !go_on(r, value ? value : "", label, source);
        return !r->failed;
    }
    if (option->source && option->type != OPTION_LIST) {
        char what[640];
        snprintf(what, sizeof what, "'%s' is set twice (first by %s)", name, option->source);
        return fail_at(r, what);
    }
    r->last = option;
    if (option_set(option, value ? value : "", label, source) != 0)
        r->failed = true;
    return !r->failed;
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
