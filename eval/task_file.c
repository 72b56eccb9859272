/* Reading task files: INI text through inih into struct task, with errors that name line and key.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "eval/cls.h"
#include "eval/task.h"
#include "mpi/error.h"
#include "mpi/ini_text.h"
#include "mpi/text.h"

enum { TASK_MAX_BYTES = 1 << 18, MAX_NAMES = 512 };

enum kind { KIND_TEXT, KIND_BOOL, KIND_SIZE, KIND_LIST, KIND_CHOICE };

/* A key of the file: where its value goes. */
struct key {
    const char *name;
    enum kind kind;
    size_t offset;
    const char *choices; /* "a|b|c", in the order of the enum */
};

#define AT(member) offsetof(struct task, member)
static const struct key keys[] = {
    {"name", KIND_TEXT, AT(name), NULL},
    {"description", KIND_TEXT, AT(description), NULL},
    {"dataset", KIND_TEXT, AT(dataset), NULL},
    {"split", KIND_TEXT, AT(split), NULL},
    {"prompt", KIND_TEXT, AT(prompt), NULL},
    {"prompt_file", KIND_TEXT, AT(prompt_file), NULL},
    {"target", KIND_TEXT, AT(target), NULL},
    {"system", KIND_TEXT, AT(system), NULL},
    {"chat", KIND_BOOL, AT(chat), NULL},
    {"score", KIND_CHOICE, AT(score), "choice|generate"},
    {"choices", KIND_LIST, AT(choices), NULL},
    {"choice_labels", KIND_LIST, AT(choice_labels), NULL},
    {"choice", KIND_TEXT, AT(choice), NULL},
    {"gold", KIND_TEXT, AT(gold), NULL},
    {"gold_form", KIND_CHOICE, AT(gold_form), "index|label|text|number|hashes"},
    {"normalise", KIND_CHOICE, AT(normalise), "none|chars|bytes|tokens"},
    {"max_new", KIND_SIZE, AT(max_new), NULL},
    {"stop", KIND_LIST, AT(stops), NULL},
    {"grader", KIND_CHOICE, AT(grader),
     "none|last_number|label|letter|exact|math|sql|python_tests"},
    {"fewshot", KIND_SIZE, AT(fewshot), NULL},
    {"fewshot_split", KIND_TEXT, AT(fewshot_split), NULL},
    {"fewshot_separator", KIND_TEXT, AT(fewshot_separator), NULL},
    {"positive", KIND_TEXT, AT(positive), NULL},
    {"program", KIND_TEXT, AT(program), NULL},
    {"code_prompt", KIND_TEXT, AT(code_prompt), NULL},
    {"entry", KIND_TEXT, AT(entry), NULL},
};
#undef AT
enum { N_KEYS = sizeof keys / sizeof *keys };

struct reading {
    const char *path;
    int last; /* key of the line before, -1: none */
    struct ini_value values[N_KEYS];
};

/* ---- lines -------------------------------------------------------------------------------------
 */

static int fail_key(const struct ini_line *line)
{
    const char *names[N_KEYS];

    for (size_t i = 0; i < N_KEYS; i++)
        names[i] = keys[i].name;
    const char *near = text_nearest(line->name, names, N_KEYS);
    return ini_fail(line->path, line->number, "unknown key '%.60s'%s%s%s", line->name,
                    near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static int take_key(void *context, const struct ini_line *line)
{
    struct reading *r = context;
    int found = -1;

    if (strcmp(line->section, "task") != 0)
        return ini_fail(line->path, line->number,
                        line->section[0] ? "the only section of a task file is [task]"
                                         : "keys stand under the section [task]");
    for (int i = 0; i < N_KEYS; i++)
        if (strcmp(keys[i].name, line->name) == 0)
            found = i;
    if (found < 0)
        return fail_key(line);
    if (ini_value_take(&r->values[found], line, line->indented && found == r->last) != 0)
        return -1;
    r->last = found;
    return 0;
}

/* ---- values ------------------------------------------------------------------------------------
 */

static int fail_line(const struct reading *r, int key, const char *what)
{
    return ini_fail(r->path, r->values[key].line, "%s", what);
}

static int parse_list(const struct reading *r, int key, struct task_list *list, bool always_items)
{
    bool quoted;

    if (ini_value_list(&r->values[key], r->path, list->items, TASK_MAX_LIST, &list->n_items,
                       &quoted) != 0)
        return -1;
    if (list->n_items == 1 && !quoted && !always_items) {
        list->field = list->items[0];
        list->items[0] = NULL;
        list->n_items = 0;
    }
    return 0;
}

static int parse_choice(const struct reading *r, int key, const char *value, int *out)
{
    const char *p = keys[key].choices;
    char what[256];

    for (int i = 0;; i++) {
        size_t n = strcspn(p, "|");
        if (strlen(value) == n && strncmp(value, p, n) == 0) {
            *out = i;
            return 0;
        }
        if (!p[n])
            break;
        p += n + 1;
    }
    snprintf(what, sizeof what, "%s is '%.60s', but must be one of %s", keys[key].name, value,
             keys[key].choices);
    return fail_line(r, key, what);
}

static int parse_bool(const struct reading *r, int key, const char *value, bool *out)
{
    static const char *const words[] = {"no", "yes", "false", "true", "0", "1", "off", "on"};

    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(value, words[i]) == 0) {
            *out = i % 2;
            return 0;
        }
    return fail_line(r, key, "expected yes or no");
}

static int parse_size(const struct reading *r, int key, const char *value, size_t *out)
{
    char *end;
    errno = 0;
    long long number = strtoll(value, &end, 10);

    if (end == value || *end || errno || number < 0 || number > 1000000)
        return fail_line(r, key, "expected a whole number from 0 to 1000000");
    *out = (size_t)number;
    return 0;
}

static int store(const struct reading *r, int key, struct task *task)
{
    void *place = (char *)task + keys[key].offset;

    if (keys[key].kind == KIND_LIST)
        return parse_list(r, key, place, strcmp(keys[key].name, "stop") == 0);
    char *text = ini_value_text(&r->values[key], r->path);
    if (!text)
        return -1;
    int status = 0, choice = 0;
    switch (keys[key].kind) {
    case KIND_TEXT:
        free(*(char **)place);
        *(char **)place = text;
        return 0;
    case KIND_BOOL:
        status = parse_bool(r, key, text, place);
        break;
    case KIND_SIZE:
        status = parse_size(r, key, text, place);
        break;
    default:
        status = parse_choice(r, key, text, &choice);
        memcpy(place, &choice, sizeof(int)); /* every enum here is an int */
        break;
    }
    free(text);
    return status;
}

/* ---- the whole ---------------------------------------------------------------------------------
 */

static int set_default(char **text, const char *value)
{
    if (!*text)
        *text = strdup(value);
    return *text ? 0 : error_set("out of memory");
}

static bool has_choices(const struct task *task)
{
    return task->choices.field || task->choices.n_items;
}

static const char *what_is_wrong(const struct task *task)
{
    bool counts = task->gold_form == GOLD_NUMBER || task->gold_form == GOLD_HASHES;

    if (!task->dataset || !*task->dataset)
        return "the key 'dataset' is missing";
    if (!task->prompt || !*task->prompt)
        return "the key 'prompt' is missing (or 'prompt_file')";
    if (!task->gold || !*task->gold)
        return "the key 'gold' is missing (the field that holds the right answer)";
    if (!*task->name || strchr(task->name, '/') || strcmp(task->name, ".") == 0)
        return "the task's name may not be empty, \".\" or hold a /";
    if (task->choices.n_items == 1)
        return "'choices' needs two or more";
    if (task->score == TASK_CHOICE && !has_choices(task))
        return "score = choice needs the key 'choices'";
    if (task->score == TASK_CHOICE && counts)
        return "score = choice needs gold_form index, label or text";
    if (task->score == TASK_GENERATE && task->grader == GRADE_NONE)
        return "score = generate needs the key 'grader' (last_number, label, letter, exact, math, "
               "sql or python_tests)";
    if (task->score == TASK_GENERATE && task->max_new == 0)
        return "score = generate needs max_new of 1 or more";
    if ((task->grader == GRADE_LABEL || task->grader == GRADE_LETTER) && !has_choices(task))
        return "the graders label and letter need the key 'choices'";
    if ((task->grader == GRADE_LABEL || task->grader == GRADE_LETTER) && counts)
        return "the graders label and letter need gold_form index, label or text";
    if ((task->gold_form == GOLD_INDEX || task->gold_form == GOLD_LABEL) && !has_choices(task))
        return "gold_form index and label need the key 'choices'";
    if (task->grader == GRADE_PYTHON_TESTS && (!task->program || !strstr(task->program, "{@code}")))
        return "the grader python_tests needs the key 'program' with {@code} in it";
    if (task->grader == GRADE_LAST_NUMBER && !counts)
        return "the grader last_number needs gold_form number or hashes";
    if (task->choice_labels.n_items && task->choice_labels.n_items < task->choices.n_items)
        return "there are fewer 'choice_labels' than 'choices'";
    if (task->positive) {
        if (task->choices.n_items != 2)
            return "'positive' is for tasks with a fixed list of two choices";
        if (strcmp(task->positive, task->choices.items[0]) != 0 &&
            strcmp(task->positive, task->choices.items[1]) != 0)
            return "'positive' is none of the choices";
    }
    return NULL;
}

/* The key prompt_file: a path as seen from the task file's folder. */
static int take_prompt_file(struct task *task)
{
    const char *slash = task->prompt_file[0] == '/' ? NULL : strrchr(task->path, '/');
    char *path = NULL;

    if (task->prompt)
        return error_set("%s: 'prompt' and 'prompt_file' exclude each other", task->path);
    if (asprintf(&path, "%.*s%s", slash ? (int)(slash - task->path) + 1 : 0, task->path,
                 task->prompt_file) < 0)
        return error_set("%s: out of memory", task->path);
    int status = task_set_prompt_file(task, path);
    free(path);
    return status;
}

int task_from_text(struct task *task, const char *text, const char *path)
{
    struct reading r = {.path = path, .last = -1};
    int status = -1;

    memset(task, 0, sizeof *task);
    task->gold_form = GOLD_TEXT;
    task->max_new = 256;
    task->path = strdup(path);
    task->text = strdup(text);
    if (!task->path || !task->text) {
        error_set("%s: out of memory", path);
        goto done;
    }
    if (ini_read(text, path, "'key = value', [task] or a comment", take_key, &r) != 0)
        goto done;
    for (int i = 0; i < N_KEYS; i++)
        if (r.values[i].raw && store(&r, i, task))
            goto done;

    const char *slash = strrchr(path, '/');
    char *stem = strdup(slash ? slash + 1 : path);
    if (stem && strlen(stem) > 4 && strcmp(stem + strlen(stem) - 4, ".ini") == 0)
        stem[strlen(stem) - 4] = '\0';
    int rc = set_default(&task->name, stem ? stem : "task");
    free(stem);
    if (rc || set_default(&task->split, "test") || set_default(&task->choice, "{choice}") ||
        set_default(&task->fewshot_split, "train") || set_default(&task->fewshot_separator, "\n\n"))
        goto done;
    if (task->prompt_file && take_prompt_file(task))
        goto done;
    const char *wrong = what_is_wrong(task);
    if (wrong) {
        error_set("%s: %s", path, wrong);
        goto done;
    }
    status = 0;
done:
    for (int i = 0; i < N_KEYS; i++)
        free(r.values[i].raw);
    if (status)
        task_free(task);
    return status;
}

static void list_free(struct task_list *list)
{
    free(list->field);
    for (size_t i = 0; i < list->n_items; i++)
        free(list->items[i]);
}

void task_free(struct task *task)
{
    if (!task)
        return;
    free(task->path);
    free(task->text);
    free(task->name);
    free(task->description);
    free(task->dataset);
    free(task->split);
    free(task->prompt);
    free(task->prompt_file);
    free(task->target);
    free(task->system);
    free(task->choice);
    free(task->gold);
    free(task->fewshot_split);
    free(task->fewshot_separator);
    free(task->positive);
    free(task->program);
    free(task->code_prompt);
    free(task->entry);
    list_free(&task->choices);
    list_free(&task->choice_labels);
    list_free(&task->stops);
    list_free(&task->choice_texts);
    cls_free(task->cls);
    memset(task, 0, sizeof *task);
}

char *task_file_text(const char *path, const char *what)
{
    struct stat info;
    char *text = NULL;

    errno = 0;
    /* A pipe would wait for its writer. */
    FILE *file = stat(path, &info) == 0 && S_ISFIFO(info.st_mode) ? NULL : fopen(path, "rb");

    if (!file) {
        error_set("%s: cannot read the %s: %s", path, what, errno ? strerror(errno) : "not a file");
        return NULL;
    }
    if (fstat(fileno(file), &info) != 0 || !S_ISREG(info.st_mode) ||
        info.st_size > TASK_MAX_BYTES) {
        error_set("%s: a %s is a text file of at most %d KiB", path, what, TASK_MAX_BYTES >> 10);
        goto done;
    }
    text = malloc((size_t)info.st_size + 1);
    if (!text) {
        error_set("%s: out of memory", path);
        goto done;
    }
    size_t n = fread(text, 1, (size_t)info.st_size, file);
    if (memchr(text, '\0', n)) {
        error_set("%s: not a text file", path);
        free(text);
        text = NULL;
        goto done;
    }
    text[n] = '\0';
done:
    fclose(file);
    return text;
}

int task_set_prompt_file(struct task *task, const char *path)
{
    char *prompt = task_file_text(path, "prompt file"), *text = NULL;

    if (!prompt)
        return -1;
    size_t n = strlen(prompt);
    if (n && prompt[n - 1] == '\n')
        prompt[--n] = '\0';
    if (n == 0) {
        free(prompt);
        return error_set("%s: the prompt file is empty", path);
    }
    /* The record of a run has the prompt, and ranks are compared by it. */
    if (asprintf(&text, "%s\n; prompt_file %s:\n%s\n", task->text, path, prompt) < 0) {
        free(prompt);
        return error_set("%s: out of memory", path);
    }
    free(task->prompt);
    free(task->text);
    task->prompt = prompt;
    task->text = text;
    return 0;
}

static int load_path(struct task *task, const char *path)
{
    char *text = task_file_text(path, "task");
    int status = text ? task_from_text(task, text, path) : -1;

    free(text);
    return status;
}

/* Calls visit(context, folder) for $T2_TASKS's folders, then `folders`, until it returns true. */
static bool each_folder(const char *const *folders, bool (*visit)(void *, const char *),
                        void *context)
{
    const char *p = getenv("T2_TASKS");
    char folder[4096];

    for (; p && *p; p += *p == ':') {
        size_t n = strcspn(p, ":");
        if (n && n < sizeof folder) {
            memcpy(folder, p, n);
            folder[n] = '\0';
            if (visit(context, folder))
                return true;
        }
        p += n;
    }
    for (; folders && *folders; folders++)
        if (visit(context, *folders))
            return true;
    return false;
}

struct search {
    const char *name;
    char *path;
};

static bool visit_search(void *context, const char *folder)
{
    struct search *s = context;

    free(s->path);
    s->path = NULL;
    if (asprintf(&s->path, "%s/%s.ini", folder, s->name) < 0)
        s->path = NULL;
    return s->path && access(s->path, F_OK) == 0;
}

struct names {
    char *items[MAX_NAMES];
    size_t n;
};

static bool visit_names(void *context, const char *folder)
{
    struct names *names = context;
    DIR *dir = opendir(folder);
    const struct dirent *entry;

    while (dir && (entry = readdir(dir)) && names->n < MAX_NAMES) {
        size_t n = strlen(entry->d_name);
        if (n <= 4 || strcmp(entry->d_name + n - 4, ".ini") != 0 || entry->d_name[0] == '.')
            continue;
        char *name = strndup(entry->d_name, n - 4);
        for (size_t i = 0; name && i < names->n; i++)
            if (strcmp(names->items[i], name) == 0) {
                free(name);
                name = NULL;
            }
        if (name)
            names->items[names->n++] = name;
    }
    if (dir)
        closedir(dir);
    return false;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void find_names(struct names *names, const char *const *folders)
{
    memset(names, 0, sizeof *names);
    each_folder(folders, visit_names, names);
    qsort(names->items, names->n, sizeof *names->items, compare_names);
}

static void names_free(struct names *names)
{
    for (size_t i = 0; i < names->n; i++)
        free(names->items[i]);
}

char *task_names(const char *const *folders)
{
    struct names names;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    if (!out)
        return NULL;
    find_names(&names, folders);
    for (size_t i = 0; i < names.n; i++)
        fprintf(out, "%s%s", i ? ", " : "", names.items[i]);
    names_free(&names);
    if (fclose(out)) {
        free(text);
        return NULL;
    }
    return text;
}

static int fail_unknown(const char *name, const char *const *folders)
{
    struct names names;

    find_names(&names, folders);
    const char *near = text_nearest(name, (const char *const *)names.items, names.n);
    char *all = task_names(folders);
    if (names.n == 0)
        error_set("task %s is not known: no task files were found; tell where they lie with "
                  "T2_TASKS, or give the path of an .ini file",
                  name);
    else
        error_set("task %s is not known%s%s%s (tasks: %s; or the path of an .ini file)", name,
                  near ? ", did you mean " : "", near ? near : "", near ? "?" : "", all ? all : "");
    free(all);
    names_free(&names);
    return -1;
}

int task_load(struct task *task, const char *name, const char *const *folders)
{
    size_t n = strlen(name);
    struct search search = {.name = name};
    int status;

    memset(task, 0, sizeof *task);
    if (n > 4 && strcmp(name + n - 4, ".ini") == 0)
        return load_path(task, name);
    if (n == 0 || strchr(name, '/') || !each_folder(folders, visit_search, &search))
        status = fail_unknown(name, folders);
    else
        status = load_path(task, search.path);
    free(search.path);
    return status;
}
