#ifndef T2_EVAL_TASK_H
#define T2_EVAL_TASK_H
/* A task: an INI file that says which data set, how a row becomes a prompt, and how the answer is
 * scored. Turns rows into items; runs nothing itself. Stands on dataset.h, grade.h, model/chat.h.
 *
 *   [task]
 *   name = arc_easy               what the results call it (default: the file's name)
 *   description = ...
 *   dataset = arc_easy            folder under T2_DATA
 *   split = test                  what is evaluated
 *   prompt = "Question: {question}\nAnswer:"
 *   prompt_file = mine.txt        in place of prompt: it is in a file beside this one, to the
 *                                 letter (the last line's end does not count)
 *   target = " {answer}"          the right answer's text in few-shot examples (default: the gold
 *                                 choice as scored, or {@gold})
 *   chat = no                     yes: prompt is the user's message in the model's chat format
 *   system = ...                  system message; absent or empty: the template's default
 *   score = choice                choice: log-likelihoods; generate: greedy text + grader
 *   choices = choices.text        a field holding a list of strings, or a fixed list: a | b
 *   choice_labels = choices.label the same for their labels (default: A, B, C, ...)
 *   choice = " {choice}"          the text scored after the prompt
 *   gold = answerKey
 *   gold_form = label             index (from 0) | label | text | number | hashes (after "####")
 *   normalise = chars             second accuracy: none | chars | bytes | tokens
 *   max_new = 256
 *   stop = "\n\n" | "Question:"
 *   grader = last_number          last_number | label | letter | exact | math | sql | python_tests
 *   program = "{@code}\n{test}"   python_tests: what is run; {@code} is the code of the answer
 *   code_prompt = {prompt}        the text that an answer goes on from, if it does (code.h)
 *   entry = {entry_point}         the function that the code must define
 *   fewshot = 0                   examples before the prompt, the same ones for all items
 *   fewshot_split = train
 *   fewshot_separator = "\n\n"    between raw examples
 *   positive = positive           choice for which a two-choice task reports the AUC
 *
 * Values may stand in double quotes, which keeps blanks; \n \t \" \\ \; \| are escapes inside
 * and outside of them. A line that starts with a blank goes on with the value before it: quoted
 * pieces are put together as they are, others with a space. In templates {field} (dotted) is the
 * row's value (a list's texts as lines), {@choices} the choices as lines "A. text", {@gold} the
 * right answer, {{ and }} are braces. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "eval/dataset.h"
#include "eval/grade.h"
#include "model/chat.h"

enum task_score { TASK_CHOICE, TASK_GENERATE };
enum task_gold { GOLD_INDEX, GOLD_LABEL, GOLD_TEXT, GOLD_NUMBER, GOLD_HASHES };
enum task_normalise { NORMALISE_NONE, NORMALISE_CHARS, NORMALISE_BYTES, NORMALISE_TOKENS };

enum { TASK_MAX_LIST = 32 };

/* A list that the file fixes, or the field that holds it in each row. */
struct task_list {
    char *field;
    char *items[TASK_MAX_LIST];
    size_t n_items;
};

struct task {
    char *path; /* of the INI file */
    char *text; /* its contents, for the record */
    char *name, *description, *dataset, *split;
    char *prompt, *prompt_file, *target, *system;
    bool chat;
    enum task_score score;
    struct task_list choices, choice_labels, stops;
    char *choice;
    char *gold;
    enum task_gold gold_form;
    enum task_normalise normalise;
    size_t max_new;
    enum grader grader;
    size_t fewshot;
    char *fewshot_split, *fewshot_separator;
    char *positive;
    char *program, *code_prompt, *entry; /* templates; NULL: none */
    /* No keys; eval/domains.h and eval/cls.h set them. choice_texts: what is scored for each
     * choice, in place of the template `choice`. score_prompt: the prompt's log-likelihood after
     * each choice's text counts, not the choice's after the prompt. cls: the rows are other tasks'
     * prompts. */
    struct task_list choice_texts;
    bool score_prompt;
    struct cls *cls;
};

/* `name` is a task's name, looked for as NAME.ini in $T2_TASKS (folders separated by ':') and then
 * in `folders` (NULL-terminated, may be NULL), or a path ending in ".ini". 0, or -1 with error_set
 * (unknown keys with file, line and the nearest known key). */
int task_load(struct task *task, const char *name, const char *const *folders);
/* From text (fuzzing, tests); path stands for the file in errors. */
int task_from_text(struct task *task, const char *text, const char *path);
void task_free(struct task *task);
/* Takes the prompt (a template as the key's) from a file in place of the task's own. 0, or -1 with
 * error_set. */
int task_set_prompt_file(struct task *task, const char *path);
/* The text of a small file (`what`: "task") for a sentence about it. Malloc'ed, NUL-terminated;
 * NULL with error_set where it is too large, no regular file or no text. */
char *task_file_text(const char *path, const char *what);
/* Names of the tasks that can be found, sorted, joined by ", ". Malloc'ed; NULL if out of memory.
 */
char *task_names(const char *const *folders);

struct task_item {
    size_t index; /* row in the split */
    json_t *row;  /* a reference of the item's own */
    char *id;     /* the row's "id"/"task_id"/"idx", else the line number */
    char *prompt; /* all that the model reads before the answer, chat format included */
    bool chat;    /* prompt is rendered chat text: encode without the tokenizer's BOS */
    size_t n_choices;
    char **choices;    /* [n_choices] as scored */
    char **labels;     /* [n_choices] */
    char **plain;      /* [n_choices] without the `choice` template: what lengths are counted in */
    size_t gold_index; /* where the gold form is about choices */
    char *gold;        /* text of the right answer (the number as the data has it) */
    double gold_number;
    char *program, *code_prompt, *entry; /* GRADE_PYTHON_TESTS: expanded, see task_program() */
};

/* How a run turns rows into prompts, fixed for all items of a task. */
struct task_context {
    const struct chat_format *chat; /* NULL: raw text */
    const char *system;             /* NULL: the task's, else the template's default */
    const struct dataset *examples; /* few-shot source, or NULL */
    const size_t *example_rows;     /* [n_examples] */
    size_t n_examples;              /* may be fewshot + 1: the item itself is then skipped */
    size_t n_shots;
    bool same_split; /* examples come from the split that is evaluated */
};

/* 0, or -1 with error_set that names the data file and line. */
int task_item_make(const struct task *task, const struct task_context *context,
                   const struct dataset *data, size_t row, struct task_item *item);
void task_item_free(struct task_item *item);

/* The right answer as the model should give it after the prompt (the task's `target`): what
 * next-token training learns. Malloc'ed; NULL with error_set. */
char *task_target(const struct task *task, const struct task_context *context,
                  const struct dataset *data, size_t row, const struct task_item *item);

/* The program that passes in a sandbox if the answer is right (GRADE_PYTHON_TESTS). Malloc'ed; NULL
 * with error_set. */
char *task_program(const struct task_item *item, const char *answer);

/* Whether an answer is right; *predicted gets the choice it means, or -1; of
 * GRADE_SQL whether the query's logical form is right too (0 or 1). Tasks with GRADE_PYTHON_TESTS
 * are graded by running task_program() instead. */
bool task_grade(const struct task *task, const struct task_item *item, const char *answer,
                int *predicted);

#endif
