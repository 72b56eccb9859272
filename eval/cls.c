#include "eval/cls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/items.h"
#include "mpi/error.h"
#include "mpi/hash.h"

enum { TEST_OF = 5, VALID_OF = 10 }; /* one of five, one of ten */

struct cls {
    struct task *sources; /* [n] */
    size_t n;
    struct {
        char *name;
        size_t of[CLS_MAX_TASKS]; /* sources, n of them */
        size_t n;
    } domains[DOMAINS_MAX];
    size_t n_domains;
    uint64_t seed;
};

void cls_free(struct cls *cls)
{
    if (!cls)
        return;
    for (size_t i = 0; i < cls->n; i++)
        task_free(&cls->sources[i]);
    for (size_t i = 0; i < cls->n_domains; i++)
        free(cls->domains[i].name);
    free(cls->sources);
    free(cls);
}

/* ---- rows --------------------------------------------------------------------------------------
 */

int cls_add_row(struct dataset *data, size_t *capacity, const char *id, const char *prompt,
                const char *domain)
{
    if (data->n_rows == *capacity) {
        const size_t more = *capacity ? 2 * *capacity : 64;
        json_t **rows = realloc(data->rows, more * sizeof *rows);
        if (rows)
            data->rows = rows;
        size_t *lines = rows ? realloc(data->lines, more * sizeof *lines) : NULL;
        if (!lines)
            return error_set("out of memory");
        data->lines = lines;
        *capacity = more;
    }
    json_t *row = json_pack("{s:s, s:s, s:s}", "id", id, "prompt", prompt, "domain", domain);
    if (!row)
        return error_set("prompt %s cannot be sorted: it is no UTF-8 text", id);
    data->rows[data->n_rows] = row;
    data->lines[data->n_rows] = data->n_rows + 1;
    data->n_rows++;
    return 0;
}

int cls_add_items(struct dataset *data, size_t *capacity, const struct task *task,
                  const char *data_root, const char *split, size_t limit, const char *domain)
{
    const struct items_options options = {.data_root = data_root,
                                          .split = split,
                                          .system = "",
                                          .fewshot = 0,
                                          .max_new = -1,
                                          .limit = limit};
    struct items items;
    int status = items_open(&items, task, NULL, &options);

    for (size_t i = 0; status == 0 && i < items.n; i++) {
        struct task_item item = {0};
        char *id = NULL;
        status = task_item_make(&items.task, &items.context, &items.data, i, &item);
        if (status == 0 && asprintf(&id, "%s/%s", task->name, item.id) < 0)
            status = error_set("out of memory");
        if (status == 0)
            status = cls_add_row(data, capacity, id, item.prompt, domain);
        free(id);
        task_item_free(&item);
    }
    items_close(&items);
    return status;
}

static const char *prompt_of(const json_t *row)
{
    return json_string_value(json_object_get(row, "prompt"));
}

/* The split that a prompt belongs to, by its text alone. */
static const char *split_of(const char *prompt)
{
    const uint64_t hash = hash_mixed(prompt, strlen(prompt));

    if (hash % TEST_OF == 0)
        return "test";
    return hash / TEST_OF % VALID_OF == 0 ? "valid" : "train";
}

/* ---- a split -----------------------------------------------------------------------------------
 */

struct place {
    uint64_t key;
    size_t row;
};

static int compare_places(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* Puts the rows in the order of the seed, and keeps the first `keep`. 0, or -1. */
static int shuffle(struct dataset *data, uint64_t seed, size_t keep)
{
    struct place *places = malloc((data->n_rows + 1) * sizeof *places);
    json_t **rows = malloc((data->n_rows + 1) * sizeof *rows);

    if (!places || !rows) {
        free(places);
        free(rows);
        return error_set("out of memory");
    }
    for (size_t i = 0; i < data->n_rows; i++) {
        const char *prompt = prompt_of(data->rows[i]);
        uint64_t key[2] = {seed, hash_mixed(prompt, strlen(prompt))};
        places[i] = (struct place){hash_mixed(key, sizeof key), i};
    }
    qsort(places, data->n_rows, sizeof *places, compare_places);
    for (size_t i = 0; i < data->n_rows; i++) {
        json_t *row = data->rows[places[i].row];
        if (i < keep)
            rows[i] = row;
        else
            json_decref(row);
    }
    free(places);
    free(data->rows);
    data->rows = rows;
    if (data->n_rows > keep)
        data->n_rows = keep;
    return 0;
}

/* The prompts of one domain that are in `split`. */
static int load_domain(struct dataset *data, const struct cls *cls, size_t domain,
                       const char *data_root, const char *split)
{
    size_t capacity = 0, n = 0;

    for (size_t i = 0; i < cls->domains[domain].n; i++)
        if (cls_add_items(data, &capacity, &cls->sources[cls->domains[domain].of[i]], data_root,
                          "train", 0, cls->domains[domain].name) != 0)
            return -1;
    for (size_t i = 0; i < data->n_rows; i++) {
        if (strcmp(split_of(prompt_of(data->rows[i])), split) == 0)
            data->rows[n++] = data->rows[i];
        else
            json_decref(data->rows[i]);
    }
    data->n_rows = n;
    return n ? 0
             : error_set("task cls: the domain %s has no prompts for the split \"%s\"",
                         cls->domains[domain].name, split);
}

static int join(struct dataset *data, struct dataset *parts, size_t n_parts, size_t each)
{
    data->rows = calloc(n_parts * each + 1, sizeof *data->rows);
    data->lines = calloc(n_parts * each + 1, sizeof *data->lines);
    if (!data->rows || !data->lines)
        return error_set("out of memory");
    for (size_t i = 0; i < n_parts; i++)
        for (size_t j = 0; j < each; j++) {
            data->lines[data->n_rows] = data->n_rows + 1;
            data->rows[data->n_rows++] = json_incref(parts[i].rows[j]);
        }
    return 0;
}

int cls_load(struct dataset *data, const struct cls *cls, const char *data_root, const char *split)
{
    struct dataset parts[DOMAINS_MAX] = {0};
    size_t least = CLS_MAX_ITEMS;
    int status = 0;

    memset(data, 0, sizeof *data);
    if (strcmp(split, "train") != 0 && strcmp(split, "valid") != 0 && strcmp(split, "test") != 0)
        return error_set("task cls has the splits train, valid and test, not \"%s\"", split);
    for (size_t i = 0; status == 0 && i < cls->n_domains; i++) {
        status = load_domain(&parts[i], cls, i, data_root, split);
        if (parts[i].n_rows < least)
            least = parts[i].n_rows;
    }
    for (size_t i = 0; status == 0 && i < cls->n_domains; i++)
        status = shuffle(&parts[i], cls->seed, least);
    if (status == 0)
        status = join(data, parts, cls->n_domains, least);
    if (status == 0)
        status = shuffle(data, cls->seed + 1, data->n_rows);
    data->name = strdup("cls");
    data->split = strdup(split);
    data->path = strdup("cls"); /* what errors about an item call it */
    if (status == 0 && (!data->name || !data->split || !data->path))
        status = error_set("out of memory");
    for (size_t i = 0; i < cls->n_domains; i++)
        dataset_free(&parts[i]);
    return status;
}

/* ---- the task ----------------------------------------------------------------------------------
 */

/* Sorts the sources into their domains, in the file's order; marks those. */
static int sort_sources(const struct domains *domains, struct cls *cls, bool *used)
{
    for (size_t i = 0; i < domains->n; i++) {
        size_t n = 0;
        for (size_t j = 0; j < cls->n; j++) {
            if (domains_of(domains, cls->sources[j].name) != i)
                continue;
            cls->domains[cls->n_domains].of[n++] = j;
        }
        if (n == 0)
            continue;
        used[i] = true;
        cls->domains[cls->n_domains].n = n;
        if (!(cls->domains[cls->n_domains++].name = strdup(domains->items[i].name)))
            return error_set("out of memory");
    }
    return 0;
}

/* A task that nobody has put into a domain would be taught as `others`. */
static int check_sources(const struct domains *domains, const struct cls *cls)
{
    for (size_t i = 0; i < cls->n; i++)
        if (!domains_know(domains, cls->sources[i].name))
            return error_set("%s: the task %s is in none of the domains: name it by the key "
                             "'tasks' of its domain",
                             domains->path, cls->sources[i].name);
    return 0;
}

/* The record of what the rows come from. */
static int describe(struct task *task, const struct cls *cls)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    if (out) {
        fputs("; from", out);
        for (size_t i = 0; i < cls->n; i++)
            fprintf(out, " %s", cls->sources[i].name);
        fprintf(out, "\n%s", task->text);
        for (size_t i = 0; i < cls->n; i++)
            fprintf(out, "\n; %s:\n%s", cls->sources[i].name, cls->sources[i].text);
    }
    if (!out || fclose(out) != 0) {
        free(text);
        return error_set("out of memory");
    }
    free(task->text);
    task->text = text;
    return 0;
}

int cls_task(const struct domains *domains, struct task *sources, size_t n, bool chat,
             struct task *task)
{
    bool used[DOMAINS_MAX] = {false};
    struct cls *cls = calloc(1, sizeof *cls);
    struct task *own = calloc(n + 1, sizeof *own);

    memset(task, 0, sizeof *task);
    if (!cls || !own || n > CLS_MAX_TASKS) {
        for (size_t i = 0; i < n; i++)
            task_free(&sources[i]);
        free(cls);
        free(own);
        return n > CLS_MAX_TASKS
                   ? error_set("task cls: at most %d tasks, not %zu", CLS_MAX_TASKS, n)
                   : error_set("out of memory");
    }
    memcpy(own, sources, n * sizeof *own);
    memset(sources, 0, n * sizeof *sources);
    *cls = (struct cls){.sources = own, .n = n, .seed = domains->seed};
    if (check_sources(domains, cls) != 0 || sort_sources(domains, cls, used) != 0)
        goto fail;
    used[domains->others] = true; /* asked for in pass one as well */
    if (domains_task(domains, used, domains->cls_way, chat, task) != 0)
        goto fail;
    task->cls = cls;
    task->description = strdup("which domain a prompt of other tasks belongs to");
    if (!task->description)
        error_set("out of memory");
    else if (describe(task, cls) == 0)
        return 0;
    task_free(task);
    return -1;
fail:
    cls_free(cls);
    memset(task, 0, sizeof *task);
    return -1;
}
