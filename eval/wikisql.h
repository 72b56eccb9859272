#ifndef T2_EVAL_WIKISQL_H
#define T2_EVAL_WIKISQL_H
/* WikiSQL's files as published: SPLIT.jsonl has the questions, SPLIT.tables.jsonl their tables,
 * SPLIT.db the tables' rows in SQLite. */
#include "eval/dataset.h"

/* Where rows have a "table_id" and SPLIT.tables.jsonl lies beside the rows' file, gives each row
 * what prompts and the grader `sql` need: "table" ({"name": "table_1_...", "header", "types",
 * ...}), "columns" (a line per column: "col0: Player (text)"), "query" (the gold query as SQL text)
 * and "database" (the path of SPLIT.db). Other data sets are left as they are. 0, or -1 with
 * error_set. */
int wikisql_join(struct dataset *data);

#endif
