#include "eval/adapt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/cls.h"
#include "eval/metrics.h"
#include "model/model.h"
#include "mpi/error.h"

/* ---- experts and domains -----------------------------------------------------------------------
 */

int adapt_match(struct adapt *a, const char *const *tasks)
{
    const struct domains *d = a->domains;

    for (size_t i = 0; i < d->n; i++)
        a->expert_of[i] = -1;
    for (size_t k = 0; k < a->n_experts; k++) {
        size_t domain = domains_of(d, a->names[k]);
        if (domain == d->others && tasks[k])
            domain = domains_of(d, tasks[k]);
        if (domain == d->others)
            return error_set("the expert %s%s%s belongs to none of the domains of %s: name one as "
                             "DOMAIN=FILE, or give a file of domains by --domains",
                             a->names[k], tasks[k] ? ", trained on " : "", tasks[k] ? tasks[k] : "",
                             d->path);
        if (a->expert_of[domain] >= 0)
            return error_set("the experts %s and %s are both of the domain %s: leave one out, or "
                             "name them as DOMAIN=FILE",
                             a->names[a->expert_of[domain]], a->names[k], d->items[domain].name);
        a->expert_of[domain] = (int32_t)k;
        a->used[domain] = true;
    }
    a->used[d->others] = true;
    return 0;
}

void adapt_attach(const struct adapt *a, struct model *model, int32_t expert)
{
    model_attach(model, a->adapter, expert < 0 ? NULL : a->vectors[expert]);
}

const char *adapt_row_domain(const struct adapt *a)
{
    for (size_t i = 0; a->domains && i < a->domains->n; i++)
        if (a->used[i] && (a->way != DOMAINS_CHANNEL || a->domains->items[i].examples))
            return a->domains->items[i].name;
    return "";
}

/* ---- pass one ----------------------------------------------------------------------------------
 */

/* The likeliest choice, less what the choices have after the prompt that says nothing. */
static int32_t best_choice(const struct item_record *item, const struct item_record *empty)
{
    double scores[TASK_MAX_LIST];

    if (!empty || !item->logprobs)
        return item->predicted;
    for (size_t i = 0; i < item->n_choices; i++)
        scores[i] = item->logprobs[i] - empty->logprobs[i];
    return (int32_t)metrics_argmax(scores, NULL, item->n_choices);
}

static void take_choices(const struct adapt *a, const struct task *task,
                         const struct task_result *result, size_t n, int32_t *chosen)
{
    const struct item_record *empty = result->n_items > n ? &result->items[n] : NULL;

    for (size_t i = 0; i < n; i++) {
        const int32_t best = best_choice(&result->items[i], empty);
        chosen[i] = (int32_t)(best < 0 ? a->domains->others
                                       : domains_of(a->domains, task->choices.items[best]));
    }
}

/* What pass one takes over from the run's options. */
static struct evaluate_options first_options(const struct evaluate_options *options,
                                             const struct dataset *rows)
{
    struct evaluate_options first = *options;

    first.sampling = evaluate_defaults().sampling;
    first.limit = 0;
    first.split = NULL;
    first.chat = -1;
    first.system = NULL;
    first.fewshot = first.max_new = -1;
    first.samples = first.pass_at = 0;
    first.data = rows;
    first.groups = NULL;
    first.answers_only = true;
    return first;
}

int adapt_classify(const struct adapt *a, const struct comm *comm, struct model *model,
                   const struct tokenizer *tokenizer, const struct chat_format *chat,
                   const struct evaluate_options *options, struct dataset *rows, size_t *capacity,
                   int32_t *chosen, struct adapt_pass *pass)
{
    const struct evaluate_options first = first_options(options, rows);
    const size_t n = rows->n_rows;
    const bool in_chat = chat && chat->family != CHAT_NONE && options->chat != 0;
    struct task task = {0};
    struct task_result result;

    int status = domains_task(a->domains, a->used, a->way, in_chat, &task);
    if (status == 0 && a->calibrate && a->way == DOMAINS_RANK)
        status = cls_add_row(rows, capacity, "empty", a->domains->empty, adapt_row_domain(a));
    /* Every rank returns the same: the caller goes on to what is collective. */
    status = comm_agree(comm, status);
    if (status != 0)
        goto done;
    model_attach(model, a->adapter, a->classifier);
    status = evaluate_task(comm, model, tokenizer, chat, &task, &first, &result);
    model_attach(model, a->adapter, NULL);
    if (status != 0 || options->check_only)
        goto done;
    if (comm->rank == 0)
        take_choices(a, &task, &result, n, chosen);
    if (comm->size > 1)
        MPI_Bcast(chosen, (int)n, MPI_INT32_T, 0, comm->handle);
    *pass = (struct adapt_pass){.seconds = result.seconds,
                                .prompt_tokens = result.prompt_tokens,
                                .computed_tokens = result.computed_tokens,
                                .generated_tokens = result.generated_tokens};
    task_result_free(&result);
done:
    task_free(&task);
    return status;
}

/* ---- the record --------------------------------------------------------------------------------
 */

void adapt_record_free(struct adapt_record *r)
{
    if (!r)
        return;
    for (size_t i = 0; r->domains && i < r->n_domains; i++)
        free(r->domains[i]);
    for (size_t i = 0; r->experts && i < r->n_experts; i++)
        free(r->experts[i]);
    free(r->domains);
    free(r->experts);
    free(r->answers);
    free(r->chosen);
    free(r->used);
    free(r->strategy);
    free(r->way);
    free(r->truth);
    free(r);
}

static int name_domains(const struct adapt *a, const int32_t *chosen, size_t n,
                        struct adapt_record *r)
{
    const struct domains *d = a->domains;

    for (size_t i = 0; d && i < d->n; i++) {
        if (!a->used[i])
            continue;
        r->answers[r->n_domains] = a->expert_of[i];
        for (size_t j = 0; j < n; j++)
            r->chosen[r->n_domains] += chosen[j] == (int32_t)i;
        if (!(r->domains[r->n_domains++] = strdup(d->items[i].name)))
            return -1;
    }
    return 0;
}

/* NULL when out of memory. chosen [n]: domains, -1 without a pass one. */
static struct adapt_record *make_record(const struct adapt *a, const struct task *task,
                                        const int32_t *chosen, size_t n)
{
    struct adapt_record *r = calloc(1, sizeof *r);
    const struct domains *d = a->domains;

    if (!r)
        return NULL;
    r->n_experts = a->n_experts;
    r->domains = calloc(DOMAINS_MAX, sizeof *r->domains);
    r->answers = calloc(DOMAINS_MAX, sizeof *r->answers);
    r->chosen = calloc(DOMAINS_MAX, sizeof *r->chosen);
    r->experts = calloc(a->n_experts + 1, sizeof *r->experts);
    r->used = calloc(a->n_experts + 1, sizeof *r->used);
    r->strategy = strdup(a->strategy);
    r->way = strdup(d ? domains_way_name(a->way) : "");
    /* What has no expert is for the base model. */
    const bool known = d && domains_know(d, task->name);
    const size_t domain = known ? domains_of(d, task->name) : 0;
    r->truth = strdup(known ? d->items[a->used[domain] ? domain : d->others].name : "");
    if (!r->domains || !r->answers || !r->chosen || !r->experts || !r->used || !r->strategy ||
        !r->way || !r->truth || name_domains(a, chosen, n, r) != 0)
        goto fail;
    for (size_t k = 0; k < a->n_experts; k++)
        if (!(r->experts[k] = strdup(a->names[k])))
            goto fail;
    for (size_t i = 0; i < n; i++)
        r->used[adapt_group(a, chosen[i])]++;
    return r;
fail:
    adapt_record_free(r);
    return NULL;
}

/* Domains by their number in the record. */
static void mark_items(const struct adapt *a, const int32_t *chosen, struct task_result *result)
{
    int32_t place[DOMAINS_MAX], n = 0;

    for (size_t i = 0; a->domains && i < a->domains->n; i++)
        place[i] = a->used[i] ? n++ : -1;
    for (size_t i = 0; result->items && i < result->n_items; i++) {
        result->items[i].domain = chosen[i] < 0 ? -1 : place[chosen[i]];
        result->items[i].expert = adapt_group(a, chosen[i]) - 1;
    }
}

/* ---- both --------------------------------------------------------------------------------------
 */

struct second {
    const struct adapt *adapt;
    struct model *model;
};

static int begin_group(void *context, size_t group)
{
    const struct second *second = context;

    adapt_attach(second->adapt, second->model, (int32_t)group - 1);
    return 0;
}

int adapt_evaluate(const struct adapt *a, const struct comm *comm, struct model *model,
                   const struct tokenizer *tokenizer, const struct chat_format *chat,
                   const struct task *task, const struct evaluate_options *options,
                   struct task_result *result)
{
    struct dataset rows = {.path = strdup(task->name)};
    struct second second = {.adapt = a, .model = model};
    struct evaluate_groups groups = {
        .n = a->n_experts + 1, .begin = begin_group, .context = &second};
    struct evaluate_options both = *options;
    struct adapt_pass first = {0};
    int32_t *chosen = NULL, *group_of = NULL;
    size_t capacity = 0;

    *result = evaluate_no_result();
    int status = rows.path ? 0 : error_set("out of memory");
    if (status == 0)
        status = cls_add_items(&rows, &capacity, task, options->data_root, options->split,
                               options->limit, adapt_row_domain(a));
    const size_t n = rows.n_rows;
    if (status == 0) {
        chosen = malloc((n + 1) * sizeof *chosen);
        group_of = malloc((n + 1) * sizeof *group_of);
        if (!chosen || !group_of)
            status = error_set("out of memory");
    }
    status = comm_agree(comm, status);
    for (size_t i = 0; status == 0 && i < n; i++)
        chosen[i] = -1;
    if (status == 0 && a->domains)
        status = adapt_classify(a, comm, model, tokenizer, chat, options, &rows, &capacity, chosen,
                                &first);
    if (status != 0)
        goto done;
    for (size_t i = 0; i < n; i++)
        group_of[i] = options->check_only ? 0 : adapt_group(a, chosen[i]);
    groups.of_row = group_of;
    both.groups = &groups;
    status = evaluate_task(comm, model, tokenizer, chat, task, &both, result);
    model_attach(model, a->adapter, NULL);
    if (status != 0 || options->check_only)
        goto done;
    mark_items(a, chosen, result);
    result->adapt = make_record(a, task, chosen, n);
    status = comm_agree(comm, result->adapt ? 0 : error_set("out of memory"));
    if (status != 0) {
        task_result_free(result);
        goto done;
    }
    result->adapt->first = first;
    result->adapt->second = (struct adapt_pass){.seconds = result->seconds,
                                                .prompt_tokens = result->prompt_tokens,
                                                .computed_tokens = result->computed_tokens,
                                                .generated_tokens = result->generated_tokens};
done:
    dataset_free(&rows);
    free(chosen);
    free(group_of);
    return status;
}
