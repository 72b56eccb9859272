#include "eval/domains.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/ini_text.h"
#include "mpi/text.h"

/* ---- the file ----------------------------------------------------------------------------------
 */

enum key {
    KEY_PROMPT,
    KEY_SYSTEM,
    KEY_CHAT,
    KEY_WAY,
    KEY_CALIBRATE,
    KEY_EMPTY,
    KEY_CLS_WAY,
    KEY_CHOICE,
    KEY_MAX_NEW,
    KEY_OTHERS,
    KEY_SEED,
    KEY_CLS_TASKS,
    N_KEYS
};
static const char *const key_names[N_KEYS] = {"prompt",    "system", "chat",    "way",
                                              "calibrate", "empty",  "cls_way", "choice",
                                              "max_new",   "others", "seed",    "cls_tasks"};

enum domain_key { KEY_DESCRIPTION, KEY_TASKS, KEY_EXAMPLES, N_DOMAIN_KEYS };
static const char *const domain_key_names[N_DOMAIN_KEYS] = {"description", "tasks", "examples"};

static const char *const way_names[] = {"generate", "rank", "channel"};
static const char *const bool_names[] = {"no", "yes"};

struct reading {
    struct domains *domains;
    struct ini_value values[N_KEYS];
    struct ini_value domain_values[DOMAINS_MAX][N_DOMAIN_KEYS];
    int lines[DOMAINS_MAX]; /* where a domain begins */
    const struct ini_value *last;
};

const char *domains_way_name(enum domains_way way)
{
    return way_names[way];
}

static size_t find_name(const char *const *names, size_t n, const char *name)
{
    size_t i = 0;

    while (i < n && strcmp(names[i], name) != 0)
        i++;
    return i;
}

static size_t find_domain(const struct domains *domains, const char *name)
{
    size_t i = 0;

    while (i < domains->n && strcmp(domains->items[i].name, name) != 0)
        i++;
    return i;
}

static int begin_domain(struct reading *r, const struct ini_line *line)
{
    struct domains *d = r->domains;

    if (d->n == DOMAINS_MAX)
        return ini_fail(line->path, line->number, "a file has at most %d domains", DOMAINS_MAX);
    if (!(d->items[d->n].name = strdup(line->section)))
        return ini_fail(line->path, line->number, "out of memory");
    r->lines[d->n++] = line->number;
    return 0;
}

static int take_key(void *context, const struct ini_line *line)
{
    struct reading *r = context;
    const bool settings = strcmp(line->section, "adapt") == 0;
    const char *const *names = settings ? key_names : domain_key_names;
    const size_t n_names = settings ? N_KEYS : N_DOMAIN_KEYS;

    if (!line->section[0])
        return ini_fail(line->path, line->number,
                        "keys stand under [adapt] or under the name of a domain");
    const size_t domain = settings ? 0 : find_domain(r->domains, line->section);
    if (!settings && domain == r->domains->n && begin_domain(r, line) != 0)
        return -1;
    const size_t key = find_name(names, n_names, line->name);
    if (key == n_names) {
        const char *near = text_nearest(line->name, names, n_names);
        return ini_fail(line->path, line->number, "unknown key '%.60s' of [%.60s]%s%s%s",
                        line->name, line->section, near ? ", did you mean '" : "", near ? near : "",
                        near ? "'?" : "");
    }
    struct ini_value *value = settings ? &r->values[key] : &r->domain_values[domain][key];
    if (ini_value_take(value, line, line->indented && value == r->last) != 0)
        return -1;
    r->last = value;
    return 0;
}

/* *out: the value's text, or a copy of `otherwise` (which may be NULL) where it is not set. */
static int take_text(const struct ini_value *value, const char *path, const char *otherwise,
                     char **out)
{
    if (!value->raw && !otherwise)
        return 0;
    *out = value->raw ? ini_value_text(value, path) : strdup(otherwise);
    return *out ? 0 : value->raw ? -1 : error_set("%s: out of memory", path);
}

/* *out stays as it is where the value is not set. */
static int take_choice(const struct reading *r, enum key key, const char *const *names,
                       size_t n_names, size_t *out)
{
    const struct ini_value *value = &r->values[key];
    char *text = value->raw ? ini_value_text(value, r->domains->path) : NULL;

    if (!text)
        return value->raw ? -1 : 0;
    const size_t found = find_name(names, n_names, text);
    int status = 0;
    if (found < n_names) {
        *out = found;
    } else {
        char list[64] = ""; /* "a, b or c" */
        for (size_t i = 0; i < n_names; i++)
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s",
                     i == 0             ? ""
                     : i + 1 == n_names ? " or "
                                        : ", ",
                     names[i]);
        status = ini_fail(r->domains->path, value->line, "%s is '%.60s', but must be %s",
                          key_names[key], text, list);
    }
    free(text);
    return status;
}

static int take_number(const struct reading *r, enum key key, size_t *out)
{
    const struct ini_value *value = &r->values[key];
    char *end;

    if (!value->raw)
        return 0;
    *out = strtoul(value->raw, &end, 10);
    if (end == value->raw || *end || value->raw[0] == '-' || *out > 1000000)
        return ini_fail(r->domains->path, value->line, "%s must be a whole number up to 1000000",
                        key_names[key]);
    return 0;
}

static int store_settings(const struct reading *r)
{
    struct domains *d = r->domains;
    const struct ini_value *v = r->values;
    size_t chat = true, calibrate = false, way = DOMAINS_RANK, cls_way = DOMAINS_RANK, seed = 0;
    char *others = NULL;

    d->max_new = 8;
    if (take_text(&v[KEY_PROMPT], d->path, NULL, &d->prompt) ||
        take_text(&v[KEY_SYSTEM], d->path, NULL, &d->system) ||
        take_text(&v[KEY_EMPTY], d->path, "N/A", &d->empty) ||
        take_text(&v[KEY_CHOICE], d->path, "{choice}", &d->choice) ||
        take_choice(r, KEY_CHAT, bool_names, 2, &chat) ||
        take_choice(r, KEY_CALIBRATE, bool_names, 2, &calibrate) ||
        take_choice(r, KEY_WAY, way_names, 3, &way) ||
        take_choice(r, KEY_CLS_WAY, way_names, 2, &cls_way) ||
        take_number(r, KEY_MAX_NEW, &d->max_new) || take_number(r, KEY_SEED, &seed) ||
        take_text(&v[KEY_OTHERS], d->path, "others", &others))
        return -1;
    d->chat = chat;
    d->calibrate = calibrate;
    d->way = (enum domains_way)way;
    d->cls_way = (enum domains_way)cls_way;
    d->seed = seed;
    bool quoted;
    if (v[KEY_CLS_TASKS].raw && ini_value_list(&v[KEY_CLS_TASKS], d->path, d->cls_tasks,
                                               TASK_MAX_LIST, &d->n_cls_tasks, &quoted) != 0) {
        free(others);
        return -1;
    }
    d->others = find_domain(d, others);
    if (d->others < d->n) {
        free(others);
        return 0;
    }
    if (d->n == DOMAINS_MAX) {
        free(others);
        return error_set("%s: a file has at most %d domains, others included", d->path,
                         DOMAINS_MAX);
    }
    d->items[d->n++].name = others;
    return 0;
}

static int store_domain(const struct reading *r, size_t i)
{
    struct domain *domain = &r->domains->items[i];
    const struct ini_value *v = r->domain_values[i];
    const char *path = r->domains->path;
    bool quoted;

    return take_text(&v[KEY_DESCRIPTION], path, NULL, &domain->description) ||
                   take_text(&v[KEY_EXAMPLES], path, NULL, &domain->examples) ||
                   (v[KEY_TASKS].raw && ini_value_list(&v[KEY_TASKS], path, domain->tasks,
                                                       TASK_MAX_LIST, &domain->n_tasks, &quoted))
               ? -1
               : 0;
}

/* What is_wrong with the whole; NULL: nothing. */
static int check(const struct reading *r)
{
    const struct domains *d = r->domains;

    if (!d->prompt || !strstr(d->prompt, "{prompt}"))
        return error_set("%s: [adapt] needs the key 'prompt', with {prompt} in it", d->path);
    if (d->n < 2)
        return error_set(
            "%s: no domain: write a section [NAME] for each (a section needs at least one "
            "key)",
            d->path);
    if (d->max_new == 0)
        return error_set("%s: max_new must be 1 or more", d->path);
    for (size_t i = 0; i < d->n; i++) {
        const struct domain *one = &d->items[i];
        if (d->way == DOMAINS_CHANNEL && i != d->others && !one->examples)
            return ini_fail(d->path, r->lines[i], "way = channel needs the key 'examples' of [%s]",
                            one->name);
        for (size_t j = 0; j < one->n_tasks; j++)
            for (size_t k = 0; k < i; k++)
                for (size_t l = 0; l < d->items[k].n_tasks; l++)
                    if (strcmp(d->items[k].tasks[l], one->tasks[j]) == 0)
                        return ini_fail(d->path, r->domain_values[i][KEY_TASKS].line,
                                        "the task %s is in [%s] and in [%s]", one->tasks[j],
                                        d->items[k].name, one->name);
    }
    return 0;
}

int domains_from_text(struct domains *d, const char *text, const char *path)
{
    struct reading *r = calloc(1, sizeof *r);
    int status = -1;

    memset(d, 0, sizeof *d);
    d->path = strdup(path);
    d->text = strdup(text);
    if (!r || !d->path || !d->text) {
        error_set("%s: out of memory", path);
        goto done;
    }
    r->domains = d;
    if (ini_read(text, path, "'key = value', a [section] or a comment", take_key, r) != 0)
        goto done;
    for (size_t i = 0; i < d->n; i++)
        if (store_domain(r, i) != 0)
            goto done;
    status = store_settings(r) != 0 || check(r) != 0 ? -1 : 0;
done:
    for (size_t i = 0; r && i < N_KEYS; i++)
        free(r->values[i].raw);
    for (size_t i = 0; r && i < DOMAINS_MAX * N_DOMAIN_KEYS; i++)
        free(r->domain_values[i / N_DOMAIN_KEYS][i % N_DOMAIN_KEYS].raw);
    free(r);
    return status;
}

int domains_read(struct domains *d, const char *path)
{
    char *text = task_file_text(path, "file of domains");
    int status = -1;

    if (text)
        status = domains_from_text(d, text, path);
    else
        memset(d, 0, sizeof *d);
    free(text);
    return status;
}

void domains_free(struct domains *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->n; i++) {
        free(d->items[i].name);
        free(d->items[i].description);
        free(d->items[i].examples);
        for (size_t j = 0; j < d->items[i].n_tasks; j++)
            free(d->items[i].tasks[j]);
    }
    for (size_t j = 0; j < d->n_cls_tasks; j++)
        free(d->cls_tasks[j]);
    free(d->path);
    free(d->text);
    free(d->prompt);
    free(d->system);
    free(d->empty);
    free(d->choice);
    memset(d, 0, sizeof *d);
}

/* d->n: none. */
static size_t find_domain_of(const struct domains *d, const char *name)
{
    const size_t domain = find_domain(d, name);

    for (size_t i = 0; domain == d->n && i < d->n; i++)
        for (size_t j = 0; j < d->items[i].n_tasks; j++)
            if (strcmp(d->items[i].tasks[j], name) == 0)
                return i;
    return domain;
}

size_t domains_of(const struct domains *d, const char *name)
{
    const size_t domain = find_domain_of(d, name);
    return domain < d->n ? domain : d->others;
}

bool domains_know(const struct domains *d, const char *name)
{
    return find_domain_of(d, name) < d->n;
}

/* ---- the task that sorts -----------------------------------------------------------------------
 */

/* A name in a template that is expanded again: braces doubled. */
static void put_escaped(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '{' || *text == '}')
            fputc(*text, out);
        fputc(*text, out);
    }
}

static void put_domains(FILE *out, const struct domains *d, const bool *used, bool described)
{
    size_t n = 0, left = 0;

    for (size_t i = 0; i < d->n; i++)
        left += used[i];
    for (size_t i = 0; i < d->n; i++) {
        if (!used[i])
            continue;
        if (n > 0)
            fputs(described ? "\n" : left > 1 ? ", " : " or ", out);
        put_escaped(out, d->items[i].name);
        if (described && d->items[i].description) {
            fputs(": ", out);
            put_escaped(out, d->items[i].description);
        }
        n++;
        left--;
    }
}

/* The prompt with the domains' names in it; the rest is the task's template. Malloc'ed. */
static char *make_prompt(const struct domains *d, const bool *used)
{
    static const char described[] = "{@domains}", names[] = "{@names}";
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    for (const char *p = d->prompt; out && *p;) {
        if (strncmp(p, described, sizeof described - 1) == 0) {
            put_domains(out, d, used, true);
            p += sizeof described - 1;
        } else if (strncmp(p, names, sizeof names - 1) == 0) {
            put_domains(out, d, used, false);
            p += sizeof names - 1;
        } else {
            fputc(*p++, out);
        }
    }
    if (!out || fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

static int fill_choices(const struct domains *d, const bool *used, enum domains_way way,
                        struct task *task)
{
    for (size_t i = 0; i < d->n; i++) {
        const struct domain *one = &d->items[i];
        /* Without examples nothing can be likelier after them: that is only `others`. */
        if (!used[i] || (way == DOMAINS_CHANNEL && !one->examples))
            continue;
        if (!(task->choices.items[task->choices.n_items++] = strdup(one->name)))
            return -1;
        if (way == DOMAINS_CHANNEL &&
            !(task->choice_texts.items[task->choice_texts.n_items++] = strdup(one->examples)))
            return -1;
    }
    return 0;
}

/* What decides the task's results, for the record and for ranks to compare. */
static char *describe(const struct domains *d, const struct task *task, enum domains_way way)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    if (out) {
        fprintf(out, "; sorts prompts by %s, %s: way = %s, names =", d->path,
                task->chat ? "chat" : "raw", domains_way_name(way));
        for (size_t i = 0; i < task->choices.n_items; i++)
            fprintf(out, " %s", task->choices.items[i]);
        fprintf(out, "\n%s", d->text);
    }
    if (!out || fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

int domains_task(const struct domains *d, const bool *used, enum domains_way way, bool chat,
                 struct task *task)
{
    const bool channel = way == DOMAINS_CHANNEL;

    *task = (struct task){.score = way == DOMAINS_GENERATE ? TASK_GENERATE : TASK_CHOICE,
                          .grader = way == DOMAINS_GENERATE ? GRADE_LABEL : GRADE_NONE,
                          .gold_form = GOLD_TEXT,
                          .max_new = d->max_new,
                          .score_prompt = channel,
                          .chat = chat && d->chat && !channel,
                          .path = strdup(d->path),
                          .name = strdup("cls"),
                          .dataset = strdup("cls"),
                          .split = strdup("test"),
                          .prompt = channel ? strdup("{prompt}") : make_prompt(d, used),
                          .system = d->system && !channel ? strdup(d->system) : NULL,
                          .choice = strdup(d->choice),
                          .gold = strdup("domain"),
                          .fewshot_split = strdup("train"),
                          .fewshot_separator = strdup("\n\n")};
    if (!task->path || !task->name || !task->dataset || !task->split || !task->prompt ||
        !task->choice || !task->gold || !task->fewshot_split || !task->fewshot_separator ||
        fill_choices(d, used, way, task) != 0 || !(task->text = describe(d, task, way))) {
        task_free(task);
        return error_set("out of memory");
    }
    if (task->choices.n_items < 2) {
        task_free(task);
        return error_set("%s: %s", d->path,
                         channel ? "way = channel needs examples of two domains or more"
                                 : "there are less than two domains to choose from");
    }
    return 0;
}
