#ifndef T2_EVAL_DATASET_H
#define T2_EVAL_DATASET_H
/* A data set's split in memory: rows of ROOT/NAME/SPLIT.jsonl, and the splits that are cut from
 * others where their authors published no file for them. All cuts depend on the rows' text alone.
 *
 *   NAME/SPLIT.jsonl exists    its rows, less what is cut from it for other splits
 *   no valid.jsonl, or no      a fixed part of train.jsonl by a hash of the row's text: 5 % of the
 *   test.jsonl                 rows for `valid`, 10 % for `test`, each only where it has no file;
 *                              `train` is then the rest
 *   no valid.jsonl but dev.jsonl   that is `valid`
 *   SPLIT.tables.jsonl         rows are joined with their tables (wikisql.h)
 *   mbpp                       one file, split by its rows' task_id as its authors say
 *   sst2 (phrases.h)           phrases of the same sentences must stay together
 *
 * Stands on jsonl.h. Knows nothing about prompts. */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct dataset {
    char *name, *split, *path; /* path: the file that the rows come from */
    json_t **rows;             /* [n_rows] objects */
    size_t *lines;             /* [n_rows] line numbers in path */
    size_t n_rows;
};

/* The folder that data sets lie in: `given`, else $T2_DATA, else $XDG_DATA_HOME/t2, else
 * ~/.local/share/t2. Malloc'ed; NULL with error_set. */
char *dataset_root(const char *given);

/* 0, or -1 with error_set (a missing data set says where it is published). */
int dataset_load(struct dataset *data, const char *root, const char *name, const char *split);
void dataset_free(struct dataset *data);

/* ---- the data sets we know --------------------------------------------------------------------
 */

enum { DATASET_MAX_FILES = 3, DATASET_MAX_FIELDS = 5, DATASET_MAX_RANGES = 4 };

struct dataset_facts {
    const char *name, *what, *source; /* source: where it is published */
    struct {
        const char *file; /* "train.jsonl" */
        size_t n_rows;
    } files[DATASET_MAX_FILES];
    const char *fields[DATASET_MAX_FIELDS]; /* dotted paths that every row has */
    const char *note;         /* for who asks for a split that it has not; NULL: nothing */
    const char *phrase_field; /* split by phrases.h over this field; NULL: the general rule */
    const char *number_field; /* one file for all splits: a row's split follows from this field */
    struct {
        const char *split; /* NULL: no more */
        int64_t first, last;
    } ranges[DATASET_MAX_RANGES];
};

/* Table ending in a NULL name. */
extern const struct dataset_facts dataset_catalog[];
/* NULL if we do not know it. */
const struct dataset_facts *dataset_find(const char *name);

enum dataset_state { DATASET_ABSENT, DATASET_GOOD, DATASET_WRONG };
/* Reads all files of a known data set under root: row counts, fields. Prints one line to `out`
 * ("sst2: ok, train 60614" or what is wrong). */
enum dataset_state dataset_check(const struct dataset_facts *facts, const char *root, FILE *out);
/* Whether any of its files is there. */
bool dataset_present(const struct dataset_facts *facts, const char *root);

#endif
