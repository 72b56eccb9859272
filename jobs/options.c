#include "jobs/options.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "jobs/recipe.h"
#include "mpi/error.h"
#include "mpi/text.h"

enum { MAX_OPTIONS = 128 };

struct option_spec *option_find(struct option_spec *table, const char *name)
{
    for (; table->name; table++)
        if (strcmp(table->name, name) == 0)
            return table;
    return NULL;
}

const char *option_nearest(const struct option_spec *table, const char *word)
{
    const char *names[MAX_OPTIONS] = {"help", "recipe"};
    size_t n = 2;

    for (; table->name && n < MAX_OPTIONS; table++)
        names[n++] = table->name;
    return text_nearest(word, names, n);
}

/* ---- values ---------------------------------------------------------------------------------- */

static bool is_checked(const struct option_spec *o)
{
    return o->min != 0 || o->max != 0;
}

/* Shortest of the forms that read back as the same number. */
static const char *print_double(char *text, size_t size, double value)
{
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, size, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    return text;
}

static int fail_number(const struct option_spec *o, const char *label, const char *text)
{
    const char *kind = o->type == OPTION_INT ? "a whole number" : "a number";
    char low[32], high[32];

    print_double(low, sizeof low, o->min);
    print_double(high, sizeof high, o->max);
    if (!is_checked(o))
        return error_set("%s needs %s, not '%s'", label, kind, text);
    if (isinf(o->max))
        return error_set("%s needs %s of at least %s, not '%s'", label, kind, low, text);
    if (isinf(o->min))
        return error_set("%s needs %s of at most %s, not '%s'", label, kind, high, text);
    return error_set("%s needs %s from %s to %s, not '%s'", label, kind, low, high, text);
}

static bool is_outside(const struct option_spec *o, double value)
{
    return is_checked(o) && (value < o->min || value > o->max);
}

static bool is_number(const char *text, const char *end)
{
    return errno == 0 && end != text && *end == '\0' && strchr(" \t\n", text[0]) == NULL;
}

static int set_number(const struct option_spec *o, const char *text, const char *label)
{
    char *end;

    errno = 0;
    if (o->type == OPTION_INT) {
        const int64_t value = strtoll(text, &end, 10);
        if (!is_number(text, end) || is_outside(o, (double)value))
            return fail_number(o, label, text);
        *(int64_t *)o->value = value;
        return 0;
    }
    const double value = strtod(text, &end);
    if (!is_number(text, end) || !isfinite(value) || is_outside(o, value))
        return fail_number(o, label, text);
    *(double *)o->value = value;
    return 0;
}

static int set_flag(const struct option_spec *o, const char *text, const char *label)
{
    static const char *const words[] = {"no", "yes", "false", "true", "off", "on", "0", "1"};

    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(text, words[i]) == 0) {
            *(bool *)o->value = i % 2;
            return 0;
        }
    return error_set("%s is yes or no, not '%s'", label, text);
}

/* "f32|bf16" as "f32 or bf16". */
static int fail_choice(const struct option_spec *o, const char *label, const char *text)
{
    char list[512];
    size_t n = 0;

    for (const char *c = o->choices; *c && n + 5 < sizeof list; c++) {
        if (*c != '|')
            list[n++] = *c;
        else
            n += (size_t)sprintf(list + n, "%s", strchr(c + 1, '|') ? ", " : " or ");
    }
    list[n] = '\0';
    return error_set("%s is %s, not '%s'", label, list, text);
}

static bool is_choice(const char *choices, const char *text)
{
    const size_t n = strlen(text);

    for (const char *c = choices; c; c = strchr(c, '|') ? strchr(c, '|') + 1 : NULL)
        if (strncmp(c, text, n) == 0 && (c[n] == '|' || c[n] == '\0'))
            return n > 0;
    return false;
}

static int set_string(struct option_spec *o, const char *text)
{
    char *copy = strdup(text);

    if (!copy)
        return error_set("out of memory");
    free(o->owned);
    o->owned = copy;
    *(const char **)o->value = copy;
    return 0;
}

static void clear_list(struct option_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free((void *)(uintptr_t)list->items[i]);
    free(list->items);
    *list = (struct option_list){0};
}

static int add_item(struct option_spec *o, const char *text, const char *source)
{
    /* The command line replaces a recipe's list; lines of one recipe add up. */
    if (o->source && strncmp(o->source, source, strcspn(source, ":")) != 0)
        clear_list(&o->own);
    const char **items = realloc(o->own.items, (o->own.n + 1) * sizeof *items);
    if (items)
        o->own.items = items;
    char *copy = strdup(text);
    if (!items || !copy) {
        free(copy);
        return error_set("out of memory");
    }
    o->own.items[o->own.n++] = copy;
    *(struct option_list *)o->value = o->own;
    return 0;
}

int option_set(struct option_spec *option, const char *text, const char *label, const char *source)
{
    int rc;

    switch (option->type) {
    case OPTION_FLAG:
        rc = set_flag(option, text, label);
        break;
    case OPTION_INT:
    case OPTION_DOUBLE:
        rc = set_number(option, text, label);
        break;
    case OPTION_CHOICE:
        rc = is_choice(option->choices, text) ? set_string(option, text)
                                              : fail_choice(option, label, text);
        break;
    case OPTION_LIST:
        rc = add_item(option, text, source);
        break;
    default:
        rc = set_string(option, text);
    }
    if (rc != 0)
        return rc;
    char *copy = strdup(source);
    if (!copy)
        return error_set("out of memory");
    free(option->source);
    option->source = copy;
    return 0;
}

int option_extend(struct option_spec *option, const char *gap, const char *text, const char *label)
{
    const bool is_list = option->type == OPTION_LIST && option->own.n > 0;
    char *joined = NULL;

    if (!is_list && (option->type != OPTION_STRING || !option->owned))
        return error_set("%s: only texts go on over several lines: take away the space at the "
                         "line's beginning",
                         label);
    const char *old = is_list ? option->own.items[option->own.n - 1] : option->owned;
    if (asprintf(&joined, "%s%s%s", old, gap, text) < 0)
        return error_set("out of memory");
    free((void *)(uintptr_t)old);
    if (is_list) {
        option->own.items[option->own.n - 1] = joined;
    } else {
        option->owned = joined;
        *(const char **)option->value = joined;
    }
    return 0;
}

void options_free(struct option_spec *table)
{
    for (; table->name; table++) {
        free(table->source);
        free(table->owned);
        clear_list(&table->own);
        table->source = table->owned = NULL;
    }
}

/* ---- the command line ------------------------------------------------------------------------ */

/* One walk over argv. Without `assign` it only checks the form and finds --recipe and --help, so
 * that the recipe can be applied first and the command line over it. */
struct walk {
    const struct command *command;
    struct option_spec *table;
    int argc, at;
    char **argv;
    const char **positional;
    size_t max_positional, n_positional;
    const char *recipe;
    bool assign, help;
};

static int fail_unknown(const struct walk *w, const char *name, bool was_short)
{
    const char *near = was_short ? NULL : option_nearest(w->table, name);

    if (was_short)
        return error_set("unknown option -%c", name[0]);
    if (near)
        return error_set("unknown option --%s, did you mean --%s?", name, near);
    return error_set("unknown option --%s", name);
}

/* The word after an option as its value. A word that is itself a long option of the table is a
 * forgotten value. */
static const char *take_next(struct walk *w)
{
    const char *next = w->at + 1 < w->argc ? w->argv[w->at + 1] : NULL;

    if (next && strncmp(next, "--", 2) == 0) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(next + 2, "="), next + 2);
        const bool negated = strncmp(name, "no-", 3) == 0 && option_find(w->table, name + 3);
        if (!name[0] || negated || strcmp(name, "help") == 0 || strcmp(name, "recipe") == 0 ||
            option_find(w->table, name))
            return NULL;
    }
    if (next)
        w->at++;
    return next;
}

static int take_value(struct walk *w, struct option_spec *o, const char *label, const char *value)
{
    if (!value)
        value = take_next(w);
    if (!value) {
        const char *what = o->choices ? o->choices : o->argument ? o->argument : "VALUE";
        return error_set("%s needs a value: %s %s", label, label, what);
    }
    return w->assign ? option_set(o, value, label, "command line") : 0;
}

static int take_recipe(struct walk *w, const char *value)
{
    if (!value)
        value = take_next(w);
    if (!value)
        return error_set("--recipe needs a value: --recipe FILE.ini");
    if (w->recipe && !w->assign)
        return error_set("--recipe is given twice: put all keys in one file");
    w->recipe = value;
    return 0;
}

static int take_long(struct walk *w, const char *word)
{
    const size_t n = strcspn(word, "=");
    const char *value = word[n] ? word + n + 1 : NULL;
    char name[64], label[72];

    snprintf(name, sizeof name, "%.*s", (int)n, word);
    snprintf(label, sizeof label, "--%s", name);
    if (strcmp(name, "help") == 0) {
        w->help = true;
        return 0;
    }
    if (strcmp(name, "recipe") == 0)
        return take_recipe(w, value);
    struct option_spec *o = option_find(w->table, name);
    if (o && (o->type != OPTION_FLAG))
        return take_value(w, o, label, value);
    const bool negated = !o && strncmp(name, "no-", 3) == 0;
    if (negated)
        o = option_find(w->table, name + 3);
    if (!o || (negated && o->type != OPTION_FLAG))
        return fail_unknown(w, name, false);
    if (negated && value)
        return error_set("%s takes no value", label);
    return take_value(w, o, label, value ? value : negated ? "no" : "yes");
}

static int take_short(struct walk *w, const char *letters)
{
    for (; *letters; letters++) {
        const char label[3] = {'-', *letters, '\0'};
        struct option_spec *o = w->table;
        if (*letters == 'h') {
            w->help = true;
            return 0;
        }
        while (o->name && o->letter != *letters)
            o++;
        if (!o->name)
            return fail_unknown(w, letters, true);
        if (o->type != OPTION_FLAG) {
            const char *rest = letters + 1 + (letters[1] == '=');
            return take_value(w, o, label, letters[1] ? rest : NULL);
        }
        if (take_value(w, o, label, "yes") != 0)
            return -1;
    }
    return 0;
}

static int take_positional(struct walk *w, const char *word)
{
    if (w->n_positional == w->max_positional)
        return error_set("unexpected argument '%s' (usage: t2 %s %s)", word, w->command->name,
                         w->command->arguments);
    w->positional[w->n_positional++] = word;
    return 0;
}

static int walk(struct walk *w)
{
    bool ended = false;
    int rc = 0;

    w->n_positional = 0;
    for (w->at = 1; w->at < w->argc && rc == 0 && !w->help; w->at++) {
        const char *word = w->argv[w->at];
        if (ended || word[0] != '-' || word[1] == '\0')
            rc = take_positional(w, word);
        else if (strcmp(word, "--") == 0)
            ended = true;
        else
            rc = word[1] == '-' ? take_long(w, word + 2) : take_short(w, word + 1);
    }
    return rc;
}

/* "MODEL [PROMPT]": MODEL must be there. */
static int check_required(const struct walk *w)
{
    const char *word = w->command->arguments;

    for (size_t i = 0; word && *word && *word != '['; i++) {
        const int n = (int)strcspn(word, " ");
        if (i >= w->n_positional)
            return error_set("%.*s is missing (usage: t2 %s %s)", n, word, w->command->name,
                             w->command->arguments);
        word += n;
        word += strspn(word, " ");
    }
    return 0;
}

int options_parse(const struct command *command, struct option_spec *table, const struct comm *comm,
                  int argc, char **argv, const char **positional, size_t max_positional,
                  size_t *n_positional, bool *done)
{
    struct walk w = {.command = command,
                     .table = table,
                     .argc = argc,
                     .argv = argv,
                     .positional = positional,
                     .max_positional = max_positional};

    *done = false;
    *n_positional = 0;
    if (walk(&w) != 0)
        return -1;
    if (w.help) {
        if (comm->rank == 0)
            options_help(command, table, stdout, text_terminal_width(stdout, 100));
        *done = true;
        return 0;
    }
    if (w.recipe && recipe_apply(w.recipe, command, table, comm) != 0)
        return -1;
    w.assign = true;
    if (walk(&w) != 0 || check_required(&w) != 0)
        return -1;
    *n_positional = w.n_positional;
    return 0;
}

/* ---- the help -------------------------------------------------------------------------------- */

static void print_default(const struct option_spec *o, char *text, size_t size)
{
    char number[32];
    const char *value = NULL;

    text[0] = '\0';
    if (strstr(o->help ? o->help : "", "default"))
        return;
    if (o->type == OPTION_INT) {
        snprintf(number, sizeof number, "%" PRId64, *(const int64_t *)o->value);
        value = number;
    } else if (o->type == OPTION_DOUBLE) {
        value = print_double(number, sizeof number, *(const double *)o->value);
    } else if (o->type == OPTION_FLAG) {
        value = *(const bool *)o->value ? "on" : NULL;
    } else if (o->type != OPTION_LIST) {
        value = *(const char *const *)o->value;
    }
    if (value && value[0])
        snprintf(text, size, " (default: %s)", value);
}

static void print_option(const struct option_spec *o, FILE *file, size_t column, size_t width)
{
    char left[160], value[160];
    const char *argument = o->choices ? o->choices : o->argument ? o->argument : "VALUE";
    const char letter[] = {'-', o->letter, ',', ' ', '\0'};
    char text[1200];

    if (o->type == OPTION_FLAG)
        snprintf(left, sizeof left, "  %s--%s%s", o->letter ? letter : "    ",
                 *(const bool *)o->value ? "[no-]" : "", o->name);
    else
        snprintf(left, sizeof left, "  %s--%s %s", o->letter ? letter : "    ", o->name, argument);
    print_default(o, value, sizeof value);
    snprintf(text, sizeof text, "%s%s", o->help ? o->help : "", value);
    if (text_width(left) + 2 > column)
        fprintf(file, "%s\n%*s", left, (int)column, "");
    else
        fprintf(file, "%-*s", (int)column, left);
    text_wrap(file, text, column, width);
}

void options_help(const struct command *command, const struct option_spec *table, FILE *file,
                  size_t width)
{
    const char *no_recipe = NULL;
    const struct option_spec recipe = {
        .name = "recipe",
        .type = OPTION_STRING,
        .value = &no_recipe,
        .argument = "FILE.ini",
        .help = "take options from this file, one 'name = value' a line; the command line goes "
                "first"};
    enum { NARROW = 28 };

    fprintf(file, "usage: t2 %s [options] %s\n\n", command->name,
            command->arguments ? command->arguments : "");
    text_wrap(file, command->summary, 0, width);
    fprintf(file, "\noptions\n");
    for (const struct option_spec *o = table; o->name; o++)
        print_option(o, file, NARROW, width);
    print_option(&recipe, file, NARROW, width);
    fprintf(file, "%-*s%s\n", NARROW, "  -h, --help", "this text");
    if (command->details) {
        fputc('\n', file);
        text_wrap(file, command->details, 0, width);
    }
}

/* ---- the record ------------------------------------------------------------------------------ */

static void record_text(FILE *file, const char *name, const char *text, const char *source)
{
    fprintf(file, "; %s\n", source);
    recipe_write(file, name, text);
}

static void record_option(FILE *file, const struct option_spec *o)
{
    const char *source = o->source ? o->source : "default";
    char number[32];

    if (o->type == OPTION_LIST) {
        const struct option_list *list = o->value;
        for (size_t i = 0; i < list->n; i++)
            record_text(file, o->name, list->items[i], source);
        if (list->n == 0)
            fprintf(file, "; %s: %s is empty\n", source, o->name);
        return;
    }
    if (o->type == OPTION_STRING || o->type == OPTION_CHOICE) {
        const char *text = *(const char *const *)o->value;
        if (text)
            record_text(file, o->name, text, source);
        else
            fprintf(file, "; %s: %s is not set\n", source, o->name);
        return;
    }
    if (o->type == OPTION_FLAG)
        snprintf(number, sizeof number, "%s", *(const bool *)o->value ? "yes" : "no");
    else if (o->type == OPTION_INT)
        snprintf(number, sizeof number, "%" PRId64, *(const int64_t *)o->value);
    else
        print_double(number, sizeof number, *(const double *)o->value);
    record_text(file, o->name, number, source);
}

char *options_record(const struct command *command, const struct option_spec *table)
{
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);

    if (!file)
        return NULL;
    fprintf(file, "[%s]\n", command->name);
    for (; table->name; table++)
        record_option(file, table);
    if (fclose(file) != 0) {
        free(text);
        text = NULL;
    }
    return text;
}

char *options_settings(const struct option_spec *table, const char *const *without)
{
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);

    if (!file)
        return NULL;
    for (; table->name; table++) {
        size_t i = 0;
        while (without[i] && strcmp(without[i], table->name) != 0)
            i++;
        if (!without[i])
            record_option(file, table);
    }
    if (fclose(file) != 0) {
        free(text);
        return NULL;
    }
    /* Without the comments on sources. */
    char *to = text;
    for (char *line = text, *next; *line; line = next) {
        next = line + strcspn(line, "\n");
        next += *next == '\n';
        if (*line == ';')
            continue;
        memmove(to, line, (size_t)(next - line));
        to += next - line;
    }
    *to = '\0';
    return text;
}

int command_fail(const struct command *command, const struct comm *comm, int code)
{
    if (comm->rank != 0)
        return code;
    fflush(stdout);
    fprintf(stderr, "t2 %s: %s\n", command->name, error_message());
    if (code == COMMAND_USAGE)
        fprintf(stderr, "'t2 %s --help' lists the options\n", command->name);
    return code;
}
