#include "eval/dataset.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eval/jsonl.h"
#include "eval/phrases.h"
#include "eval/wikisql.h"
#include "mpi/error.h"
#include "mpi/hash.h"
#include "mpi/text.h"

const struct dataset_facts dataset_catalog[] = {
    {"gsm8k",
     "grade-school word problems; answers end in \"#### number\"",
     "https://github.com/openai/grade-school-math",
     {{"train.jsonl", 7473}, {"test.jsonl", 1319}},
     {"question", "answer"},
     .phrase_field = NULL},
    {"arc_easy",
     "science questions with choices, the easy part",
     "https://allenai.org/data/arc",
     {{"train.jsonl", 2251}, {"test.jsonl", 2376}},
     {"id", "question", "choices.text", "choices.label", "answerKey"},
     .phrase_field = NULL},
    {"arc_challenge",
     "science questions with choices, the hard part",
     "https://allenai.org/data/arc",
     {{"train.jsonl", 1119}, {"test.jsonl", 1172}},
     {"id", "question", "choices.text", "choices.label", "answerKey"},
     .phrase_field = NULL},
    {"sst2",
     "film review phrases, label 1 positive, 0 negative (GLUE SST-2's training file or a part)",
     "https://huggingface.co/datasets/nyu-mll/glue",
     {{"train.jsonl", 60614}},
     {"sentence", "label"},
     .phrase_field = "sentence"},
    {"mawps",
     "arithmetic word problems with a number as answer",
     "https://github.com/sroy9/mawps",
     {{"train.jsonl", 1898}, {"valid.jsonl", 237}, {"test.jsonl", 238}},
     {"id", "question", "answer"},
     .phrase_field = NULL},
    {"math500",
     "500 competition problems with LaTeX answers",
     "https://huggingface.co/datasets/HuggingFaceH4/MATH-500",
     {{"test.jsonl", 500}},
     {"problem", "answer"},
     .phrase_field = NULL},
    {"humaneval",
     "Python functions to complete, with tests",
     "https://github.com/openai/human-eval",
     {{"test.jsonl", 164}},
     {"task_id", "prompt", "canonical_solution", "test", "entry_point"},
     .note =
         "its authors made it for testing alone. Code is trained on mbpp, whose split \"train\" is "
         "the problems 601 to 974; t2 adapt --shot-split test takes its shots out of the test"},
    {"mbpp",
     "short Python problems with tests (ids 11-510 test, 511-600 valid, 601-974 train)",
     "https://github.com/google-research/google-research/tree/master/mbpp",
     {{"mbpp.jsonl", 974}},
     {"task_id", "text", "code", "test_list", "test_setup_code"},
     .number_field = "task_id",
     .ranges = {{"prompts", 1, 10}, {"test", 11, 510}, {"valid", 511, 600}, {"train", 601, 974}}},
    {"wikisql",
     "questions on tables with their SQL (dev.tables.jsonl and dev.db lie beside dev.jsonl)",
     "https://github.com/salesforce/WikiSQL",
     {{"train.jsonl", 56355}, {"dev.jsonl", 8421}, {"test.jsonl", 15878}},
     {"table_id", "question", "sql.sel", "sql.agg", "sql.conds"},
     .phrase_field = NULL},
    {0},
};

const struct dataset_facts *dataset_find(const char *name)
{
    for (const struct dataset_facts *f = dataset_catalog; f->name; f++)
        if (strcmp(f->name, name) == 0)
            return f;
    return NULL;
}

char *dataset_root(const char *given)
{
    const char *data = getenv("T2_DATA"), *xdg = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    char *root = NULL;
    int n;

    if (!given || !*given)
        given = data;
    if (given && *given)
        n = asprintf(&root, "%s", given);
    else if (xdg && *xdg)
        n = asprintf(&root, "%s/t2", xdg);
    else if (home && *home)
        n = asprintf(&root, "%s/.local/share/t2", home);
    else {
        error_set("where do the data sets lie? Set T2_DATA (or HOME)");
        return NULL;
    }
    if (n < 0) {
        error_set("out of memory");
        return NULL;
    }
    return root;
}

static char *split_path(const char *root, const char *name, const char *split)
{
    char *path = NULL;

    if (asprintf(&path, "%s/%s/%s.jsonl", root, name, split) < 0) {
        error_set("out of memory");
        return NULL;
    }
    /* Some call it dev. */
    if (strcmp(split, "valid") == 0 && access(path, F_OK) != 0) {
        char *dev = split_path(root, name, "dev");
        if (dev && access(dev, F_OK) == 0) {
            free(path);
            return dev;
        }
        free(dev);
    }
    return path;
}

static bool split_exists(const char *root, const char *name, const char *split)
{
    char *path = split_path(root, name, split);
    bool exists = path && access(path, F_OK) == 0;

    free(path);
    return exists;
}

/* ---- splits that are cut from the training file -------------------------------------------------
 */

enum part { PART_TRAIN, PART_VALID, PART_TEST };

/* The general rule. */
static enum part part_of_row(const char *text, size_t n, bool has_valid, bool has_test)
{
    unsigned draw = (unsigned)(hash_mixed(text, n) % 100);
    if (draw < 5)
        return has_valid ? PART_TRAIN : PART_VALID;
    if (draw < 15)
        return has_test ? PART_TRAIN : PART_TEST;
    return PART_TRAIN;
}

/* Which rows of a file go where. */
struct cut {
    bool cut, has_valid, has_test;
    enum part part; /* the part that is kept when cut */
    struct dataset *data;
    size_t capacity; /* of data->rows and lines */
};

static int add_row(void *context, const struct jsonl *reader, json_t *row)
{
    struct cut *cut = context;
    struct dataset *data = cut->data;
    size_t n;
    const char *text = jsonl_text(reader, &n);

    if (cut->cut && part_of_row(text, n, cut->has_valid, cut->has_test) != cut->part)
        return 0;
    if (data->n_rows == cut->capacity) {
        size_t wanted = cut->capacity ? 2 * cut->capacity : 256;
        json_t **rows = realloc(data->rows, wanted * sizeof *rows);
        if (rows)
            data->rows = rows;
        size_t *lines = rows ? realloc(data->lines, wanted * sizeof *lines) : NULL;
        if (!lines)
            return error_set("%s: out of memory", data->path);
        data->lines = lines;
        cut->capacity = wanted;
    }
    data->rows[data->n_rows] = json_incref(row);
    data->lines[data->n_rows++] = jsonl_line(reader);
    return 0;
}

/* Keeps the rows of one part of phrases_split(). */
static int keep_phrases(struct dataset *data, const char *field, enum phrase_split wanted)
{
    const char **texts = calloc(data->n_rows + 1, sizeof *texts);
    unsigned char *splits = calloc(data->n_rows + 1, 1);
    int status = -1;

    if (!texts || !splits) {
        error_set("%s: out of memory", data->path);
        goto done;
    }
    for (size_t i = 0; i < data->n_rows; i++) {
        texts[i] = json_string_value(jsonl_field(data->rows[i], field));
        if (!texts[i]) {
            error_set("%s:%zu: the field \"%s\" is not there or not a text", data->path,
                      data->lines[i], field);
            goto done;
        }
    }
    if (phrases_split(texts, data->n_rows, splits))
        goto done;
    size_t n = 0;
    for (size_t i = 0; i < data->n_rows; i++) {
        if (splits[i] == wanted) {
            data->rows[n] = data->rows[i];
            data->lines[n++] = data->lines[i];
        } else {
            json_decref(data->rows[i]);
        }
    }
    data->n_rows = n;
    status = 0;
done:
    free(texts);
    free(splits);
    return status;
}

/* Keeps the rows whose number is in the split's range. */
static void keep_range(struct dataset *data, const struct dataset_facts *facts, size_t range)
{
    size_t n = 0;

    for (size_t i = 0; i < data->n_rows; i++) {
        const json_t *number = jsonl_field(data->rows[i], facts->number_field);
        const int64_t value = json_integer_value(number);
        if (json_is_integer(number) && value >= facts->ranges[range].first &&
            value <= facts->ranges[range].last) {
            data->rows[n] = data->rows[i];
            data->lines[n++] = data->lines[i];
        } else {
            json_decref(data->rows[i]);
        }
    }
    data->n_rows = n;
}

/* The range of a split that has no file of its own; DATASET_MAX_RANGES: none. */
static size_t find_range(const struct dataset_facts *facts, const char *split)
{
    for (size_t i = 0; facts && facts->number_field && i < DATASET_MAX_RANGES; i++)
        if (facts->ranges[i].split && strcmp(facts->ranges[i].split, split) == 0)
            return i;
    return DATASET_MAX_RANGES;
}

static int fail_absent(const char *root, const char *name, const char *split)
{
    const struct dataset_facts *facts = dataset_find(name);
    const char *names[32];
    size_t n = 0;

    if (facts && facts->note && dataset_present(facts, root))
        return error_set("data set %s has no split \"%s\": %s", name, split, facts->note);
    if (facts && dataset_present(facts, root))
        return error_set("data set %s has no split \"%s\": %s/%s/%s.jsonl is not there, and no "
                         "train.jsonl to cut it from",
                         name, split, root, name, split);
    if (facts)
        return error_set("data set %s is not there: put it at %s/%s/%s (see %s), or tell where the "
                         "data sets lie with --data or T2_DATA",
                         name, root, name, facts->files[0].file, facts->source);
    for (const struct dataset_facts *f = dataset_catalog; f->name && n < 32; f++)
        names[n++] = f->name;
    const char *near = text_nearest(name, names, n);
    return error_set("data set %s is not there: %s/%s/%s.jsonl does not exist%s%s%s", name, root,
                     name, split, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

int dataset_load(struct dataset *data, const char *root, const char *name, const char *split)
{
    const struct dataset_facts *facts = dataset_find(name);
    const char *field = facts ? facts->phrase_field : NULL;
    bool is_train = strcmp(split, "train") == 0, is_valid = strcmp(split, "valid") == 0,
         is_test = strcmp(split, "test") == 0;
    struct cut cut = {.data = data};
    int status = -1;

    memset(data, 0, sizeof *data);
    if (strchr(split, '/') || strchr(name, '/') || !*name || !*split || name[0] == '.')
        return error_set("\"%s\" with split \"%s\" is not the name of a data set and its split",
                         name, split);
    cut.has_valid = split_exists(root, name, "valid");
    cut.has_test = split_exists(root, name, "test");
    bool has_file = split_exists(root, name, split);
    bool cut_from_train = !has_file && (is_valid || is_test) && split_exists(root, name, "train");
    const size_t range = has_file || cut_from_train ? DATASET_MAX_RANGES : find_range(facts, split);
    const bool by_range = range < DATASET_MAX_RANGES && dataset_present(facts, root);
    if (!has_file && !cut_from_train && !by_range) {
        fail_absent(root, name, split);
        goto done;
    }
    data->name = strdup(name);
    data->split = strdup(split);
    /* The one file of a data set with ranges has its name: NAME/NAME.jsonl. */
    data->path = split_path(root, name, by_range ? name : cut_from_train ? "train" : split);
    if (!data->name || !data->split || !data->path) {
        error_set("out of memory");
        goto done;
    }
    cut.cut =
        !field && !by_range && (cut_from_train || (is_train && (!cut.has_valid || !cut.has_test)));
    cut.part = is_test ? PART_TEST : is_valid ? PART_VALID : PART_TRAIN;
    if (jsonl_each(jsonl_open(data->path), add_row, &cut))
        goto done;
    if (by_range)
        keep_range(data, facts, range);
    if (field && (cut_from_train || is_train) &&
        keep_phrases(data, field,
                     is_test    ? PHRASE_TEST
                     : is_valid ? PHRASE_VALID
                                : PHRASE_TRAIN))
        goto done;
    if (data->n_rows == 0) {
        error_set("%s: no rows for the split \"%s\"", data->path, split);
        goto done;
    }
    if (wikisql_join(data))
        goto done;
    status = 0;
done:
    if (status)
        dataset_free(data);
    return status;
}

void dataset_free(struct dataset *data)
{
    if (!data)
        return;
    for (size_t i = 0; i < data->n_rows; i++)
        json_decref(data->rows[i]);
    free(data->rows);
    free(data->lines);
    free(data->name);
    free(data->split);
    free(data->path);
    memset(data, 0, sizeof *data);
}

/* ---- checking ----------------------------------------------------------------------------------
 */

static char *file_path(const struct dataset_facts *facts, const char *root, size_t i)
{
    char *path = NULL;

    if (asprintf(&path, "%s/%s/%s", root, facts->name, facts->files[i].file) < 0)
        return NULL;
    return path;
}

bool dataset_present(const struct dataset_facts *facts, const char *root)
{
    bool present = false;

    for (size_t i = 0; i < DATASET_MAX_FILES && facts->files[i].file; i++) {
        char *path = file_path(facts, root, i);
        present = present || (path && access(path, F_OK) == 0);
        free(path);
    }
    return present;
}

struct check {
    const struct dataset_facts *facts;
    size_t n_rows;
};

static int check_row(void *context, const struct jsonl *reader, json_t *row)
{
    struct check *check = context;
    const char *const *fields = check->facts->fields;

    check->n_rows++;
    for (size_t i = 0; i < DATASET_MAX_FIELDS && fields[i]; i++)
        if (!jsonl_field(row, fields[i]))
            return error_set("%s:%zu: the field \"%s\" is missing", jsonl_name(reader),
                             jsonl_line(reader), fields[i]);
    return 0;
}

/* Reads one file; -1 with error_set if it is not as published. */
static int check_file(const struct dataset_facts *facts, const char *path, size_t expected)
{
    struct check check = {.facts = facts};

    if (jsonl_each(jsonl_open(path), check_row, &check))
        return -1;
    return check.n_rows == expected
               ? 0
               : error_set("%s: %zu rows, expected %zu", path, check.n_rows, expected);
}

enum dataset_state dataset_check(const struct dataset_facts *facts, const char *root, FILE *out)
{
    if (!dataset_present(facts, root)) {
        fprintf(out, "%s: absent, expected at %s/%s/%s (%s)\n", facts->name, root, facts->name,
                facts->files[0].file, facts->source);
        return DATASET_ABSENT;
    }
    for (size_t i = 0; i < DATASET_MAX_FILES && facts->files[i].file; i++) {
        char *path = file_path(facts, root, i);
        int rc =
            path ? check_file(facts, path, facts->files[i].n_rows) : error_set("out of memory");
        free(path);
        if (rc) {
            fprintf(out, "%s: wrong: %s\n", facts->name, error_message());
            return DATASET_WRONG;
        }
    }
    fprintf(out, "%s: ok,", facts->name);
    for (size_t i = 0; i < DATASET_MAX_FILES && facts->files[i].file; i++)
        fprintf(out, "%s %.*s %zu", i ? "," : "", (int)strcspn(facts->files[i].file, "."),
                facts->files[i].file, facts->files[i].n_rows);
    fprintf(out, "\n");
    return DATASET_GOOD;
}
