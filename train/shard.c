/* A shard's prompts: made, freed, and what belongs to one answer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/items.h"
#include "mpi/error.h"
#include "train/rollout_internal.h"

int32_t shard_end_token(const struct rollout *r)
{
    const struct model_config *c = model_get_config(r->trainer->model);
    const int32_t own = tokenizer_eos(r->trainer->tokenizer);

    return c->n_eos && !config_is_eos(c, own) ? c->eos_ids[0] : own;
}

/* Tokens of text after the prompt's. Where prompt and text together are not encoded as the prompt
 * is, the text is encoded alone in a chat (generation begins there), and otherwise as evaluation
 * does it: blanks at the prompt's end go over to the text, and the prompt is cut there. */
static int encode_after(const struct rollout *r, const struct task_item *item, const char *text,
                        struct tokens *prompt, struct tokens *out)
{
    const struct tokenizer *tokenizer = r->trainer->tokenizer;
    const int flags = item->chat ? TOKENIZER_SPECIAL : TOKENIZER_SPECIAL | TOKENIZER_ADD_BOS;
    struct tokens whole = {0};
    char *both = NULL;
    size_t n_scored, cut = prompt->n;
    int status = -1;

    if (asprintf(&both, "%s%s", item->prompt, text) < 0) {
        both = NULL;
        error_set("out of memory");
        goto done;
    }
    if (tokenizer_encode(tokenizer, both, strlen(both), flags, &whole))
        goto done;
    if (whole.n <= cut || memcmp(whole.ids, prompt->ids, cut * sizeof *whole.ids) != 0) {
        whole.n = 0;
        if (item->chat) {
            cut = 0;
            if (tokenizer_encode(tokenizer, text, strlen(text), TOKENIZER_SPECIAL, &whole))
                goto done;
        } else {
            if (items_encode_pair(tokenizer, item->prompt, text, flags, &whole, &n_scored))
                goto done;
            cut = whole.n - n_scored;
            if (cut > prompt->n || memcmp(whole.ids, prompt->ids, cut * sizeof *whole.ids) != 0) {
                error_set("the answer \"%.40s\" is not cut from its prompt at a token", text);
                goto done;
            }
            prompt->n = cut;
        }
    }
    if (whole.n <= cut) {
        error_set("the answer \"%.40s\" has no tokens", text);
        goto done;
    }
    for (size_t i = cut; i < whole.n; i++)
        if (tokens_push(out, whole.ids[i])) {
            error_set("out of memory");
            goto done;
        }
    status = 0;
done:
    free(both);
    tokens_free(&whole);
    return status;
}

static int make_choices(const struct rollout *r, struct shard_prompt *p)
{
    p->choices = calloc(p->item.n_choices, sizeof *p->choices);
    if (!p->choices)
        return error_set("out of memory");
    for (size_t i = 0; i < p->item.n_choices; i++)
        if (encode_after(r, &p->item, p->item.choices[i], &p->tokens, &p->choices[i]))
            return -1;
    return 0;
}

static int make_given(const struct rollout *r, struct shard_prompt *p, struct answer *answer)
{
    char *text =
        task_target(&r->items->task, &r->items->context, &r->items->data, p->row, &p->item);
    int status = -1;

    if (!text)
        return -1;
    if (encode_after(r, &p->item, text, &p->tokens, &answer->tokens))
        goto done;
    if (options_of(r)->eos_in_loss && r->items->task.score == TASK_GENERATE &&
        tokens_push(&answer->tokens, shard_end_token(r))) {
        error_set("out of memory");
        goto done;
    }
    answer->text = text;
    text = NULL;
    answer->correct = true;
    status = 0;
done:
    free(text);
    return status;
}

static int make_prompt(const struct rollout *r, struct shard *shard, size_t i, size_t row)
{
    struct shard_prompt *p = &shard->prompts[i];
    const struct items *items = r->items;
    const struct model_config *c = model_get_config(r->trainer->model);
    size_t longest = max_new_of(r);

    p->row = row;
    if (task_item_make(&items->task, &items->context, &items->data, row, &p->item))
        return -1;
    if (items_encode(r->trainer->tokenizer, &p->item, &p->tokens))
        goto fail;
    if (by_choice(r)) {
        if (make_choices(r, p))
            goto fail;
        longest = 0;
        for (size_t j = 0; j < p->item.n_choices; j++)
            longest = p->choices[j].n > longest ? p->choices[j].n : longest;
    } else if (options_of(r)->objective == TRAIN_NEXT_TOKEN) {
        if (make_given(r, p, &shard->answers[i]))
            goto fail;
        longest = shard->answers[i].tokens.n;
    }
    if (p->tokens.n + longest > c->max_positions) {
        error_set("prompt and answer take up to %zu tokens, more than the model's %zu positions",
                  p->tokens.n + longest, c->max_positions);
        goto fail;
    }
    if (p->tokens.n + longest > options_of(r)->max_rows) {
        error_set("prompt and answer take up to %zu tokens, more than --max-rows %zu: give more",
                  p->tokens.n + longest, options_of(r)->max_rows);
        goto fail;
    }
    return 0;
fail:
    return error_prefix("task %s: %s:%zu", items->task.name, items->data.path,
                        items->data.lines[row]);
}

int shard_make(struct shard *shard, const struct rollout *rollout, uint64_t step, size_t number,
               const size_t *rows)
{
    const struct train_options *o = options_of(rollout);
    const size_t first = number * o->shard;
    const size_t left = o->batch - first;

    *shard = (struct shard){.step = step,
                            .number = number,
                            .first = first,
                            .n_prompts = left < o->shard ? left : o->shard,
                            .n_answers = o->n_answers};
    shard->prompts = calloc(shard->n_prompts, sizeof *shard->prompts);
    shard->answers = calloc(shard->n_prompts * shard->n_answers, sizeof *shard->answers);
    if (!shard->prompts || !shard->answers)
        return error_set("no memory for %zu prompts", shard->n_prompts);
    for (size_t i = 0; i < shard->n_prompts * shard->n_answers; i++)
        shard->answers[i].choice = -1;
    for (size_t i = 0; i < shard->n_prompts; i++)
        if (make_prompt(rollout, shard, i, rows[first + i]))
            return -1;
    shard->rolled_out = o->objective == TRAIN_NEXT_TOKEN;
    return 0;
}

void answer_clear(struct answer *answer)
{
    tokens_free(&answer->tokens);
    free(answer->text);
    free(answer->logprobs);
    memset(answer, 0, sizeof *answer);
}

void shard_free(struct shard *shard)
{
    if (!shard)
        return;
    for (size_t i = 0; shard->prompts && i < shard->n_prompts; i++) {
        struct shard_prompt *p = &shard->prompts[i];
        for (size_t j = 0; p->choices && j < p->item.n_choices; j++)
            tokens_free(&p->choices[j]);
        free(p->choices);
        tokens_free(&p->tokens);
        task_item_free(&p->item);
    }
    for (size_t i = 0; shard->answers && i < shard->n_prompts * shard->n_answers; i++)
        answer_clear(&shard->answers[i]);
    free(shard->prompts);
    free(shard->answers);
    memset(shard, 0, sizeof *shard);
}

uint64_t shard_stream(const struct shard *shard, const struct rollout *r, size_t answer)
{
    return (shard->step * options_of(r)->batch + shard->first) * shard->n_answers + answer;
}

static void set_grade(const struct rollout *r, struct answer *answer, bool correct)
{
    answer->correct = correct;
    answer->reward = correct ? options_of(r)->reward_right : options_of(r)->reward_wrong;
}

int shard_grade(const struct shard *shard, const struct rollout *r, size_t index)
{
    const struct shard_prompt *p = &shard->prompts[index / shard->n_answers];
    struct answer *answer = &shard->answers[index];
    int predicted = -1;

    if (by_choice(r)) {
        set_grade(r, answer, (size_t)answer->choice == p->item.gold_index);
    } else if (r->items->task.grader == GRADE_PYTHON_TESTS) {
        char *program = task_program(&p->item, answer->text);
        const int status =
            program ? sandbox_submit(r->trainer->evaluate.sandbox, program, index) : -1;
        free(program);
        return status;
    } else {
        set_grade(r, answer, task_grade(&r->items->task, &p->item, answer->text, &predicted));
    }
    return 0;
}

int shard_take_grades(const struct shard *shard, const struct rollout *r)
{
    struct sandbox *sandbox = r->trainer->evaluate.sandbox;
    struct sandbox_result result;
    int status = 0;

    while (sandbox && sandbox_next(sandbox, true, &result)) {
        struct answer *answer = &shard->answers[result.id];
        answer->outcome = result.outcome;
        set_grade(r, answer, result.outcome == SANDBOX_PASSED);
        if (result.outcome == SANDBOX_BROKEN)
            status = error_set("%s", result.output ? result.output : "out of memory");
        sandbox_result_free(&result);
    }
    return status;
}

/* The step, shard and prompts in which something failed, before the message. */
void shard_say_where(const struct shard *shard, const struct rollout *r, size_t first, size_t end)
{
    const size_t *lines = r->items->data.lines;

    error_prefix("step %llu, shard %zu, %s: prompts of lines %zu to %zu",
                 (unsigned long long)shard->step + 1, shard->number, r->items->data.path,
                 lines[shard->prompts[first < end ? first : 0].row],
                 lines[shard->prompts[end - 1].row]);
}
