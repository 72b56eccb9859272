#include "eval/items.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eval/cls.h"
#include "model/blank.h"
#include "model/rng.h"
#include "mpi/error.h"
#include "mpi/hash.h"

enum { STREAM_FEWSHOT = 1 << 30 }; /* apart from items' streams of random numbers */

/* Where the task's data lie: the run's folder, or, for tasks that come with their own, ../data
 * beside the task file. Malloc'ed; NULL when out of memory. */
static char *choose_root(const struct task *task, const char *data_root)
{
    const char *slash = strrchr(task->path, '/');
    int n_folder = slash ? (int)(slash - task->path) + 1 : 0;
    char *given = NULL, *beside = NULL, *root = NULL;

    if (asprintf(&given, "%s/%s", data_root, task->dataset) < 0)
        return NULL;
    if (asprintf(&beside, "%.*s../data/%s", n_folder, task->path, task->dataset) < 0) {
        free(given);
        return NULL;
    }
    if (access(given, F_OK) == 0 || access(beside, F_OK) != 0)
        root = strdup(data_root);
    else
        root = strndup(beside, strlen(beside) - strlen(task->dataset) - 1);
    free(given);
    free(beside);
    return root;
}

static int open_examples(struct items *items, uint64_t seed)
{
    const struct task *task = &items->task;
    struct task_context *context = &items->context;

    if (task->fewshot == 0)
        return 0;
    context->same_split = strcmp(task->fewshot_split, task->split) == 0;
    context->n_shots = task->fewshot;
    context->n_examples = task->fewshot + (context->same_split ? 1 : 0);
    if (!context->same_split &&
        dataset_load(&items->examples, items->data_root, task->dataset, task->fewshot_split))
        return -1;
    context->examples = context->same_split ? &items->data : &items->examples;
    if (context->n_examples > context->examples->n_rows)
        return error_set("task %s: %zu examples are asked for, but the split \"%s\" has %zu rows",
                         task->name, task->fewshot, task->fewshot_split, context->examples->n_rows);
    items->example_rows = malloc(context->examples->n_rows * sizeof *items->example_rows);
    if (!items->example_rows)
        return error_set("out of memory");
    rng_order(seed, STREAM_FEWSHOT, items->example_rows, context->examples->n_rows,
              context->n_examples);
    context->example_rows = items->example_rows;
    return 0;
}

static int load_rows(struct items *items, const struct items_options *options)
{
    const struct task *task = &items->task;

    items->borrowed = options->data != NULL;
    if (options->data)
        items->data = *options->data;
    else if (task->cls)
        return cls_load(&items->data, task->cls, options->data_root, task->split);
    else
        return dataset_load(&items->data, items->data_root, task->dataset, task->split);
    return 0;
}

int items_open(struct items *items, const struct task *task, const struct chat_format *chat,
               const struct items_options *options)
{
    memset(items, 0, sizeof *items);
    items->task = *task;
    if (options->split)
        items->task.split = (char *)options->split;
    if (options->chat >= 0)
        items->task.chat = options->chat > 0;
    if (options->fewshot >= 0)
        items->task.fewshot = (size_t)options->fewshot;
    if (options->max_new > 0)
        items->task.max_new = (size_t)options->max_new;
    if (items->task.chat && (!chat || chat->family == CHAT_NONE))
        return error_set("task %s is asked in chat form, but the model has no chat template; name "
                         "one with --chat-format or use --raw",
                         task->name);
    items->context.chat = items->task.chat ? chat : NULL;
    items->context.system = options->system;
    items->data_root = choose_root(task, options->data_root);
    if (!items->data_root)
        return error_set("out of memory");
    if (load_rows(items, options))
        return -1;
    items->n = items->data.n_rows;
    if (options->limit && options->limit < items->n)
        items->n = options->limit;
    return open_examples(items, options->seed);
}

void items_close(struct items *items)
{
    free(items->example_rows);
    free(items->data_root);
    if (!items->borrowed)
        dataset_free(&items->data);
    dataset_free(&items->examples);
    memset(items, 0, sizeof *items);
}

int items_compare_ranks(const struct comm *comm, const struct items *items)
{
    /* Rows are compared by number and line: the cuts of a split depend on the rows' text. */
    const struct task *task = &items->task;
    const struct dataset *data = &items->data, *examples = &items->examples;
    const bool same_task = comm_same(comm, task->text, strlen(task->text));
    const bool same_rows = comm_same(comm, data->lines, data->n_rows * sizeof *data->lines);
    const bool same_examples =
        comm_same(comm, examples->lines, examples->n_rows * sizeof *examples->lines);

    if (!same_task)
        return error_set("task %s: %s is not the same on all ranks; put one copy where every node "
                         "reads it",
                         task->name, task->path);
    if (!same_rows || !same_examples)
        return error_set("task %s: the data set %s is not the same on all ranks; put one copy "
                         "where every node reads it, and set T2_DATA or --data alike on all",
                         task->name, task->dataset);
    return 0;
}

static int hash_piece(const char *text, size_t n, void *hash)
{
    *(uint64_t *)hash = hash_bytes(*(uint64_t *)hash, text, n);
    return 0;
}

static uint64_t hash_rows(uint64_t hash, const struct dataset *data, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        json_dump_callback(data->rows[i], hash_piece, &hash, JSON_COMPACT);
        hash = hash_value(hash, '\n');
    }
    return hash;
}

uint64_t items_digest(const struct items *items)
{
    const struct dataset *examples = items->context.examples;
    const uint64_t hash = hash_rows(HASH_START, &items->data, items->n);

    return examples ? hash_rows(hash_value(hash, 0), examples, examples->n_rows) : hash;
}

/* ---- tokens ------------------------------------------------------------------------------------
 */

/* A rendered chat has its BOS in the text. */
static int flags_of(const struct task_item *item)
{
    return item->chat ? TOKENIZER_SPECIAL : TOKENIZER_SPECIAL | TOKENIZER_ADD_BOS;
}

int items_encode(const struct tokenizer *tokenizer, const struct task_item *item,
                 struct tokens *out)
{
    const size_t before = out->n;

    if (tokenizer_encode(tokenizer, item->prompt, strlen(item->prompt), flags_of(item), out))
        return -1;
    return out->n > before ? 0 : error_set("the prompt has no tokens");
}

int items_encode_pair(const struct tokenizer *tokenizer, const char *context,
                      const char *continuation, int flags, struct tokens *out, size_t *n_scored)
{
    size_t n_context = strlen(context), n_whole = n_context + strlen(continuation);
    char *whole = malloc(n_whole + 1);
    struct tokens prefix = {0};
    int status = -1;

    if (!whole) {
        error_set("out of memory");
        goto done;
    }
    memcpy(whole, context, n_context);
    strcpy(whole + n_context, continuation);
    for (size_t blank = blank_before(whole, n_context); blank;
         blank = blank_before(whole, n_context))
        n_context -= blank;
    if (tokenizer_encode(tokenizer, whole, n_context, flags, &prefix))
        goto done;
    if (prefix.n == 0) {
        /* Something must stand before the first scored token. */
        int32_t first = tokenizer_bos(tokenizer);
        if (first < 0)
            first = tokenizer_eos(tokenizer);
        if (first < 0) {
            error_set("the context is empty and the tokenizer has no token for a text's beginning");
            goto done;
        }
        if (tokens_push(out, first) || tokens_push(&prefix, first)) {
            error_set("out of memory");
            goto done;
        }
    }
    if (tokenizer_encode(tokenizer, whole, n_whole, flags, out))
        goto done;
    if (out->n <= prefix.n) {
        error_set("\"%.60s\" has no token of its own after its context", continuation);
        goto done;
    }
    *n_scored = out->n - prefix.n;
    status = 0;
done:
    free(whole);
    tokens_free(&prefix);
    return status;
}

int items_encode_choice(const struct tokenizer *tokenizer, const struct task *task,
                        const struct task_item *item, size_t choice, struct tokens *out,
                        size_t *n_scored)
{
    const char *const parts[2] = {item->prompt, item->choices[choice]};
    const bool swapped = task->score_prompt;

    return items_encode_pair(tokenizer, parts[swapped], parts[!swapped], flags_of(item), out,
                             n_scored);
}

int items_check_fit(const struct tokens *tokens, const struct model_config *config,
                    const struct task *task, bool generates)
{
    for (size_t i = 0; config && i < tokens->n; i++)
        if ((size_t)tokens->ids[i] >= config->vocab_size)
            return error_set("token id %d is outside the model's vocabulary of %zu: tokenizer and "
                             "model do not belong together",
                             tokens->ids[i], config->vocab_size);
    if (!config || tokens->n + generates <= config->max_positions)
        return 0;
    return error_set("the item has %zu tokens, more than the model's %zu positions hold%s",
                     tokens->n, config->max_positions,
                     task->fewshot ? ": use fewer examples (--fewshot)"
                                   : ": leave it out, or use a model with more");
}
