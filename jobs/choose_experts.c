#include "jobs/choose_experts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/cls.h"
#include "mpi/error.h"
#include "mpi/text.h"

static const char *expert_name(const struct adapt *adapt, int32_t expert)
{
    return expert < 0 ? "the base model" : adapt->names[expert];
}

static void show_choice(const struct adapt *adapt, const int32_t *chosen, const int32_t *experts,
                        size_t n, const struct adapt_pass *pass)
{
    char took[32];

    text_duration(took, sizeof took, pass->seconds);
    if (n == 1) {
        fprintf(stderr, "adapt %s: ", adapt->strategy);
        if (chosen[0] >= 0)
            fprintf(stderr, "%s, so ", adapt->domains->items[chosen[0]].name);
        fprintf(stderr, "%s answers (chosen in %s)\n", expert_name(adapt, experts[0]), took);
        return;
    }
    fprintf(stderr, "adapt %s:", adapt->strategy);
    for (int32_t k = -1; k < (int32_t)adapt->n_experts; k++) {
        size_t count = 0;
        for (size_t i = 0; i < n; i++)
            count += experts[i] == k;
        if (count > 0)
            fprintf(stderr, " %s %zu,", expert_name(adapt, k), count);
    }
    fprintf(stderr, " chosen in %s\n", took);
}

int choose_experts(const struct comm *comm, const struct adapt *adapt, const struct loaded *loaded,
                   const struct prompts *prompts, const struct scheduler_options *scheduler,
                   bool show, int32_t *experts)
{
    struct evaluate_options options = evaluate_defaults();
    struct dataset rows = {.path = strdup("the prompts")};
    struct adapt_pass pass = {0};
    int32_t *chosen = malloc((prompts->n + 1) * sizeof *chosen);
    size_t capacity = 0;
    char id[32];
    int status = rows.path && chosen ? 0 : error_set("out of memory");

    options.run = scheduler_run;
    options.scheduler = *scheduler;
    options.data_root = "";
    for (size_t i = 0; status == 0 && i < prompts->n; i++) {
        snprintf(id, sizeof id, "%zu", i + 1);
        chosen[i] = -1;
        status = cls_add_row(&rows, &capacity, id, prompts->texts[i], adapt_row_domain(adapt));
    }
    status = comm_agree(comm, status);
    if (status == 0 && adapt->domains)
        status = adapt_classify(adapt, comm, loaded->model, loaded->tokenizer, &loaded->chat,
                                &options, &rows, &capacity, chosen, &pass);
    for (size_t i = 0; status == 0 && i < prompts->n; i++)
        experts[i] = adapt_group(adapt, chosen[i]) - 1;
    if (status == 0 && show && comm->rank == 0)
        show_choice(adapt, chosen, experts, prompts->n, &pass);
    dataset_free(&rows);
    free(chosen);
    return status;
}
