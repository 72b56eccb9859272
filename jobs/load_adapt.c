#include "jobs/load_adapt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jobs/load_experts.h"
#include "jobs/task_list.h"
#include "mpi/error.h"

static bool is_file(const char *how)
{
    const size_t n = strlen(how);
    return n > 3 && strcmp(how + n - 3, ".h5") == 0;
}

static bool by_domains(const char *how)
{
    return strcmp(how, "prompt") == 0 || strcmp(how, "cls") == 0;
}

int adapt_check_options(const struct adapt_options *o, const struct load_options *load,
                        const char *tasks)
{
    const bool cls = o->adapt && strcmp(o->adapt, "cls") == 0;

    if (!o->experts && !o->adapt) {
        if (o->cls_expert || o->way)
            return error_set("--cls-expert and --adapt-way are about --adapt, which is missing");
        return 0;
    }
    if (!o->adapt)
        return error_set("--experts needs --adapt: prompt, cls, an expert's name or a file");
    if (!o->experts)
        return error_set("--adapt needs --experts A.h5,B.h5: what is there to choose from?");
    if (load->adapter)
        return error_set("--adapter and --experts exclude each other (a file for all prompts: "
                         "--adapt FILE.h5)");
    if (cls && !o->cls_expert)
        return error_set("--adapt cls needs --cls-expert FILE.h5 (t2 train --task cls makes one)");
    if (!cls && o->cls_expert)
        return error_set("--cls-expert has no meaning without --adapt cls");
    if (o->way && strcmp(o->adapt, "prompt") != 0)
        return error_set("--adapt-way has no meaning without --adapt prompt");
    if (o->domains && !by_domains(o->adapt) && !(tasks && strstr(tasks, "cls")))
        return error_set("--domains has no meaning with --adapt %s: every prompt gets the same",
                         o->adapt);
    return 0;
}

/* The list of experts with what comes beside them at its end. Malloc'ed. */
static char *expert_list(const struct adapt_options *o)
{
    char *list = NULL;
    int n;

    if (o->cls_expert)
        n = asprintf(&list, "%s,cls=%s", o->experts, o->cls_expert);
    else
        n = asprintf(&list, "%s%s%s", o->experts, is_file(o->adapt) ? "," : "",
                     is_file(o->adapt) ? o->adapt : "");
    if (n < 0) {
        error_set("out of memory");
        return NULL;
    }
    return list;
}

/* Without examples a domain would never be chosen, and its expert never be used. */
static int check_examples(const struct adapt *a)
{
    const struct domains *d = a->domains;

    for (size_t i = 0; a->way == DOMAINS_CHANNEL && i < d->n; i++)
        if (a->expert_of[i] >= 0 && !d->items[i].examples)
            return error_set("--adapt-way channel compares examples, but [%s] of %s has no key "
                             "'examples': write it, leave out the expert %s, or take another way",
                             d->items[i].name, d->path, a->names[a->expert_of[i]]);
    return 0;
}

static int match(const struct adapt_options *o, struct adapt_setup *s)
{
    const char *tasks[EXPERT_SET_MAX];
    struct adapt *a = &s->adapt;

    a->domains = &s->domains;
    a->way = s->domains.way;
    a->calibrate = s->domains.calibrate;
    if (o->way)
        for (int way = DOMAINS_GENERATE; way <= DOMAINS_CHANNEL; way++)
            if (strcmp(domains_way_name((enum domains_way)way), o->way) == 0)
                a->way = (enum domains_way)way;
    if (o->cls_expert) {
        a->n_experts--;
        a->classifier = s->set.z[a->n_experts];
        a->way = s->domains.cls_way;
        a->calibrate = false; /* it was trained without */
    }
    for (size_t k = 0; k < a->n_experts; k++)
        tasks[k] = s->set.experts[k].task;
    return adapt_match(a, tasks) != 0 ? -1 : check_examples(a);
}

static int set_up(const struct adapt_options *o, const struct adapter *adapter,
                  struct adapt_setup *s)
{
    struct adapt *a = &s->adapt;

    *a = (struct adapt){.strategy = o->adapt,
                        .adapter = adapter,
                        .n_experts = s->set.n,
                        .names = s->set.names,
                        .vectors = (const float *const *)s->set.z,
                        .fixed = -1};
    if (by_domains(o->adapt))
        return match(o, s);
    const size_t found = is_file(o->adapt) ? s->set.n - 1 : expert_set_find(&s->set, o->adapt);
    if (found == s->set.n && strcmp(o->adapt, "base") != 0)
        return error_set("--adapt %s: none of the experts has that name, and it is none of "
                         "prompt, cls, base and FILE.h5",
                         o->adapt);
    a->fixed = found == s->set.n ? -1 : (int32_t)found;
    return 0;
}

int load_adapt(const struct comm *comm, const char *path, const struct adapt_options *o,
               const struct load_options *load, bool chat_asked, struct loaded *loaded,
               struct adapt_setup *s)
{
    char *list = NULL, *domains = NULL;

    memset(s, 0, sizeof *s);
    if (!o->adapt)
        return load_open(comm, path, load, chat_asked, loaded);
    int status = (list = expert_list(o)) ? 0 : -1;
    if (status == 0 && by_domains(o->adapt))
        status = (domains = task_list_domains(o->domains, path)) &&
                         domains_read(&s->domains, domains) == 0
                     ? 0
                     : -1;
    status = comm_agree(comm, status);
    if (status == 0)
        status = load_experts(comm, path, list, load->factors, load, chat_asked, loaded, &s->set);
    free(list);
    free(domains);
    if (status != 0)
        return -1;
    status = comm_agree(comm, set_up(o, loaded->adapter, s));
    if (status != 0)
        load_free(loaded);
    s->on = status == 0;
    return status;
}

void load_adapt_free(struct adapt_setup *s)
{
    domains_free(&s->domains);
    expert_set_free(&s->set);
    memset(s, 0, sizeof *s);
}
