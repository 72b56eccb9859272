/* From rows to items: templates, choices, gold answers, few-shot examples. */
#include "eval/task.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/code.h"
#include "eval/jsonl.h"
#include "eval/sql.h"
#include "mpi/error.h"

/* ---- templates ---------------------------------------------------------------------------------
 */

/* What a template may name besides the row's fields. */
struct names {
    const json_t *row;
    const char *choice;           /* {choice} */
    const struct task_item *item; /* {@choices}, {@gold}; may be NULL */
    const char *code;             /* {@code} */
};

static int put_lines(FILE *out, const char *name, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        char *text = jsonl_scalar_text(json_array_get(list, i), name);
        if (!text)
            return -1;
        fprintf(out, "%s%s", i ? "\n" : "", text);
        free(text);
    }
    return 0;
}

static int put_name(FILE *out, const char *name, const struct names *names)
{
    if (strcmp(name, "choice") == 0 && names->choice) {
        fputs(names->choice, out);
        return 0;
    }
    if (strcmp(name, "@choices") == 0 && names->item && names->item->n_choices) {
        for (size_t i = 0; i < names->item->n_choices; i++)
            fprintf(out, "%s%s. %s", i ? "\n" : "", names->item->labels[i], names->item->plain[i]);
        return 0;
    }
    if (strcmp(name, "@gold") == 0 && names->item && names->item->gold) {
        fputs(names->item->gold, out);
        return 0;
    }
    if (strcmp(name, "@code") == 0 && names->code) {
        fputs(names->code, out);
        return 0;
    }
    if (name[0] == '@')
        return error_set("{%s} is not known here ({@choices} and {@gold} are)", name);
    const json_t *value = jsonl_field(names->row, name);
    if (json_is_array(value))
        return put_lines(out, name, value);
    char *text = jsonl_scalar_text(value, name);
    if (!text)
        return -1;
    fputs(text, out);
    free(text);
    return 0;
}

/* Malloc'ed; NULL with error_set. */
static char *expand(const char *template_text, const struct names *names)
{
    char *text = NULL;
    size_t size = 0;
    int status = 0;
    FILE *out = open_memstream(&text, &size);

    if (!out) {
        error_set("out of memory");
        return NULL;
    }
    for (const char *p = template_text; *p && status == 0; p++) {
        if ((*p == '{' || *p == '}') && p[1] == *p) {
            fputc(*p++, out);
        } else if (*p == '{') {
            size_t n = strcspn(p + 1, "{}");
            char name[128];
            if (p[1 + n] != '}' || n == 0 || n >= sizeof name) {
                status = error_set("the template \"%.80s\" has a { without its field and }; write "
                                   "{{ for a brace",
                                   template_text);
                break;
            }
            memcpy(name, p + 1, n);
            name[n] = '\0';
            status = put_name(out, name, names);
            p += n + 1;
        } else if (*p == '}') {
            status = error_set("the template \"%.80s\" has a } without its {; write }} for a brace",
                               template_text);
        } else {
            fputc(*p, out);
        }
    }
    if (fclose(out) && status == 0)
        status = error_set("out of memory");
    if (status) {
        free(text);
        return NULL;
    }
    return text;
}

/* ---- choices and gold --------------------------------------------------------------------------
 */

/* Fills texts (malloc'ed strings) from the fixed list or the row's field. */
static int list_texts(const struct task_list *list, const json_t *row, char ***texts, size_t *n)
{
    const json_t *field = list->field ? jsonl_field(row, list->field) : NULL;
    size_t count = list->field ? json_array_size(field) : list->n_items;

    if (list->field && (!json_is_array(field) || count == 0 || count > TASK_MAX_LIST))
        return error_set("the field \"%s\" is not a list of 1 to %d texts", list->field,
                         TASK_MAX_LIST);
    *texts = calloc(count, sizeof **texts);
    if (!*texts)
        return error_set("out of memory");
    *n = count;
    for (size_t i = 0; i < count; i++) {
        (*texts)[i] = list->field ? jsonl_scalar_text(json_array_get(field, i), list->field)
                                  : strdup(list->items[i]);
        if (!(*texts)[i])
            return list->field ? -1 : error_set("out of memory");
    }
    return 0;
}

static void texts_free(char **texts, size_t n)
{
    for (size_t i = 0; texts && i < n; i++)
        free(texts[i]);
    free(texts);
}

static int default_labels(size_t n, char ***labels)
{
    *labels = calloc(n, sizeof **labels);
    if (!*labels)
        return error_set("out of memory");
    for (size_t i = 0; i < n; i++) {
        /* A ... Z, then AA, AB, ... */
        char text[3] = {(char)('A' + i % 26), '\0', '\0'};
        if (i >= 26) {
            text[1] = text[0];
            text[0] = 'A';
        }
        (*labels)[i] = strdup(text);
        if (!(*labels)[i])
            return error_set("out of memory");
    }
    return 0;
}

static int make_choices(const struct task *task, const json_t *row, struct task_item *item)
{
    size_t n_labels = 0;

    if (!task->choices.field && !task->choices.n_items)
        return 0;
    if (list_texts(&task->choices, row, &item->plain, &item->n_choices))
        return -1;
    bool named = task->choice_labels.field || task->choice_labels.n_items;
    char **labels = NULL;
    int rc = named ? list_texts(&task->choice_labels, row, &labels, &n_labels)
                   : default_labels(item->n_choices, &labels);
    if (!named)
        n_labels = item->n_choices;
    if (rc == 0 && n_labels < item->n_choices)
        rc = error_set("there are %zu choices but %zu labels", item->n_choices, n_labels);
    if (rc) {
        texts_free(labels, named ? n_labels : item->n_choices);
        return -1;
    }
    for (size_t i = item->n_choices; i < n_labels; i++)
        free(labels[i]);
    item->labels = labels;
    item->choices = calloc(item->n_choices, sizeof *item->choices);
    if (!item->choices)
        return error_set("out of memory");
    for (size_t i = 0; i < item->n_choices; i++) {
        struct names names = {row, item->plain[i], NULL, NULL};
        item->choices[i] = i < task->choice_texts.n_items ? strdup(task->choice_texts.items[i])
                                                          : expand(task->choice, &names);
        if (!item->choices[i])
            return i < task->choice_texts.n_items ? error_set("out of memory") : -1;
        if (!*item->plain[i] || !*item->choices[i])
            return error_set("choice %zu is empty", i + 1);
    }
    return 0;
}

static int find_text(char **texts, size_t n, const char *wanted, size_t *index)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(texts[i], wanted) == 0) {
            *index = i;
            return 0;
        }
    return -1;
}

static int parse_index(const char *text, size_t n, size_t *index)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);

    if (end == text || *end || errno || *text == '-' || value >= n)
        return -1;
    *index = (size_t)value;
    return 0;
}

/* Of the text after the last "####". */
static char *after_hashes(const char *text)
{
    const char *last = NULL;

    for (const char *p = strstr(text, "####"); p; p = strstr(p + 4, "####"))
        last = p + 4;
    if (!last)
        return NULL;
    last += strspn(last, " \t");
    return strndup(last, strcspn(last, "\r\n"));
}

/* Exactly one number and nothing else. */
static int whole_number(const char *text, double *value)
{
    const char *end;

    if (!grade_read_number(text, value, &end) || end[strspn(end, " \t.%")])
        return -1;
    return 0;
}

static int make_gold(const struct task *task, const json_t *row, struct task_item *item)
{
    char *text = jsonl_scalar_text(jsonl_field(row, task->gold), task->gold);
    bool by_choice = false;
    int status = -1;

    item->gold_index = 0;
    item->gold_number = NAN;
    if (!text)
        return -1;
    switch (task->gold_form) {
    case GOLD_INDEX:
        by_choice = true;
        if (parse_index(text, item->n_choices, &item->gold_index)) {
            error_set("the gold answer \"%.60s\" is not an index from 0 to %zu", text,
                      item->n_choices - 1);
            goto done;
        }
        break;
    case GOLD_LABEL:
        by_choice = true;
        if (find_text(item->labels, item->n_choices, text, &item->gold_index)) {
            error_set("the gold answer \"%.60s\" is none of the choice labels", text);
            goto done;
        }
        break;
    case GOLD_TEXT:
        by_choice = item->n_choices > 0;
        if (by_choice && find_text(item->plain, item->n_choices, text, &item->gold_index)) {
            error_set("the gold answer \"%.60s\" is none of the choices", text);
            goto done;
        }
        break;
    case GOLD_NUMBER:
    case GOLD_HASHES:
        if (task->gold_form == GOLD_HASHES) {
            char *number = after_hashes(text);
            free(text);
            text = number;
        }
        if (!text || whole_number(text, &item->gold_number)) {
            error_set("the field \"%s\" holds no number%s: \"%.60s\"", task->gold,
                      task->gold_form == GOLD_HASHES ? " after ####" : "", text ? text : "");
            goto done;
        }
        break;
    }
    item->gold = strdup(by_choice ? item->plain[item->gold_index] : text);
    if (!item->gold) {
        error_set("out of memory");
        goto done;
    }
    status = 0;
done:
    free(text);
    return status;
}

static char *make_id(const struct dataset *data, size_t row)
{
    static const char *const fields[] = {"id", "task_id", "idx"};
    char *text = NULL;

    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const json_t *value = json_object_get(data->rows[row], fields[i]);
        if (json_is_string(value) || json_is_integer(value))
            return jsonl_scalar_text(value, fields[i]);
    }
    if (asprintf(&text, "%zu", data->lines[row]) < 0) {
        error_set("out of memory");
        return NULL;
    }
    return text;
}

/* ---- prompts -----------------------------------------------------------------------------------
 */

/* The few-shot examples and the question as user/assistant turns. */
struct turns {
    char **user, **answer; /* answer: one fewer */
    size_t n;
};

static void turns_free(struct turns *turns, size_t capacity)
{
    texts_free(turns->user, capacity);
    texts_free(turns->answer, capacity);
}

/* The right answer as a model would give it; NULL with error_set. */
static char *make_target(const struct task *task, const json_t *row, const struct task_item *item,
                         bool chat)
{
    struct names names = {row, NULL, item, NULL};

    if (!task->target && task->score == TASK_CHOICE) {
        char *text = strdup(item->choices[item->gold_index]);
        if (!text)
            error_set("out of memory");
        return text;
    }
    return expand(task->target ? task->target : chat ? "{@gold}" : " {@gold}", &names);
}

static int add_turn(const struct task *task, const json_t *row, const struct task_item *item,
                    bool chat, bool with_answer, struct turns *turns)
{
    struct names names = {row, NULL, item, NULL};

    turns->user[turns->n] = expand(task->prompt, &names);
    if (!turns->user[turns->n])
        return -1;
    if (with_answer && !(turns->answer[turns->n] = make_target(task, row, item, chat)))
        return -1;
    turns->n++;
    return 0;
}

static int add_example(const struct task *task, const struct task_context *context, size_t row,
                       struct turns *turns)
{
    const json_t *json = context->examples->rows[row];
    struct task_item item = {0};
    int status = -1;

    if (make_choices(task, json, &item) == 0 && make_gold(task, json, &item) == 0)
        status = add_turn(task, json, &item, context->chat != NULL, true, turns);
    if (status)
        error_prefix("%s:%zu", context->examples->path, context->examples->lines[row]);
    task_item_free(&item);
    return status;
}

static const char *system_text(const struct task *task, const struct task_context *context)
{
    const char *system = context->system ? context->system : task->system;
    return system && *system ? system : NULL;
}

static char *render_chat(const struct task_context *context, const char *system,
                         const struct turns *turns)
{
    struct chat_message *messages = calloc(2 * turns->n + 1, sizeof *messages);
    size_t n = 0;

    if (!messages) {
        error_set("out of memory");
        return NULL;
    }
    if (system)
        messages[n++] = (struct chat_message){"system", system};
    for (size_t i = 0; i < turns->n; i++) {
        messages[n++] = (struct chat_message){"user", turns->user[i]};
        if (i + 1 < turns->n)
            messages[n++] = (struct chat_message){"assistant", turns->answer[i]};
    }
    char *text = chat_render(context->chat, messages, n);
    free(messages);
    return text;
}

static char *render_raw(const struct task *task, const char *system, const struct turns *turns)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    if (!out) {
        error_set("out of memory");
        return NULL;
    }
    if (system)
        fprintf(out, "%s%s", system, task->fewshot_separator);
    for (size_t i = 0; i < turns->n; i++) {
        fputs(turns->user[i], out);
        if (i + 1 < turns->n)
            fprintf(out, "%s%s", turns->answer[i], task->fewshot_separator);
    }
    if (fclose(out)) {
        error_set("out of memory");
        free(text);
        return NULL;
    }
    return text;
}

static int make_prompt(const struct task *task, const struct task_context *context,
                       const struct dataset *data, size_t row, struct task_item *item)
{
    size_t capacity = context->n_shots + 1;
    struct turns turns = {calloc(capacity, sizeof(char *)), calloc(capacity, sizeof(char *)), 0};
    const char *system = system_text(task, context);
    int status = -1;

    if (!turns.user || !turns.answer) {
        error_set("out of memory");
        goto done;
    }
    for (size_t i = 0; i < context->n_examples && turns.n < context->n_shots; i++) {
        if (context->same_split && context->example_rows[i] == row)
            continue;
        if (add_example(task, context, context->example_rows[i], &turns))
            goto done;
    }
    if (add_turn(task, data->rows[row], item, context->chat != NULL, false, &turns))
        goto done;
    item->chat = context->chat != NULL;
    item->prompt =
        context->chat ? render_chat(context, system, &turns) : render_raw(task, system, &turns);
    if (!item->prompt)
        goto done;
    if (!*item->prompt) {
        error_set("the prompt is empty");
        goto done;
    }
    status = 0;
done:
    turns_free(&turns, capacity);
    return status;
}

static int check_tables(const struct task *task, const json_t *row)
{
    if (task->grader == GRADE_SQL && !json_object_get(row, "database"))
        return error_set("the grader sql needs WikiSQL's files: rows with \"table_id\", and beside "
                         "them SPLIT.tables.jsonl and SPLIT.db");
    return 0;
}

/* Stands for the code of an answer that is not there yet; no text of a data set holds it. */
static const char code_mark[] = "\x01{@code}\x01";

static int make_program(const struct task *task, const json_t *row, struct task_item *item)
{
    const struct names names = {row, NULL, item, code_mark};

    if (task->grader != GRADE_PYTHON_TESTS)
        return 0;
    item->program = expand(task->program, &names);
    item->code_prompt = expand(task->code_prompt ? task->code_prompt : "", &names);
    item->entry = expand(task->entry ? task->entry : "", &names);
    return item->program && item->code_prompt && item->entry ? 0 : -1;
}

char *task_program(const struct task_item *item, const char *answer)
{
    char *code = code_complete(item->code_prompt, answer, item->entry), *text = NULL;
    size_t size = 0;

    if (!code)
        return NULL;
    FILE *out = open_memstream(&text, &size);
    if (out) {
        const char *p = item->program, *mark;
        for (; (mark = strstr(p, code_mark)); p = mark + sizeof code_mark - 1) {
            fwrite(p, 1, (size_t)(mark - p), out);
            fputs(code, out);
        }
        fputs(p, out);
    }
    free(code);
    if (!out || fclose(out)) {
        free(text);
        error_set("out of memory");
        return NULL;
    }
    return text;
}

int task_item_make(const struct task *task, const struct task_context *context,
                   const struct dataset *data, size_t row, struct task_item *item)
{
    memset(item, 0, sizeof *item);
    item->index = row;
    item->row = json_incref(data->rows[row]);
    item->id = make_id(data, row);
    if (!item->id || check_tables(task, item->row) || make_choices(task, item->row, item) ||
        make_gold(task, item->row, item) || make_program(task, item->row, item) ||
        make_prompt(task, context, data, row, item)) {
        task_item_free(item);
        return error_prefix("task %s: %s:%zu", task->name, data->path, data->lines[row]);
    }
    return 0;
}

void task_item_free(struct task_item *item)
{
    if (!item)
        return;
    json_decref(item->row);
    free(item->id);
    free(item->prompt);
    free(item->gold);
    free(item->program);
    free(item->code_prompt);
    free(item->entry);
    texts_free(item->choices, item->n_choices);
    texts_free(item->labels, item->n_choices);
    texts_free(item->plain, item->n_choices);
    memset(item, 0, sizeof *item);
}

bool task_grade(const struct task *task, const struct task_item *item, const char *answer,
                int *predicted)
{
    double number;
    bool logical, right;

    *predicted = -1;
    switch (task->grader) {
    case GRADE_LAST_NUMBER:
        return grade_last_number(answer, &number) && grade_numbers_equal(number, item->gold_number);
    case GRADE_LABEL:
        *predicted = grade_first_label(answer, (const char *const *)item->plain, item->n_choices);
        return *predicted >= 0 && (size_t)*predicted == item->gold_index;
    case GRADE_LETTER:
        *predicted = grade_letter(answer, (const char *const *)item->labels, item->n_choices);
        return *predicted >= 0 && (size_t)*predicted == item->gold_index;
    case GRADE_EXACT:
        return grade_exact(answer, item->gold);
    case GRADE_MATH:
        return grade_math(answer, item->gold);
    case GRADE_SQL:
        right = sql_grade(answer, item->row, &logical);
        *predicted = logical;
        return right;
    default:
        return false;
    }
}

char *task_target(const struct task *task, const struct task_context *context,
                  const struct dataset *data, size_t row, const struct task_item *item)
{
    char *text = make_target(task, data->rows[row], item, context->chat != NULL);

    if (!text)
        error_prefix("%s:%zu", data->path, data->lines[row]);
    return text;
}
