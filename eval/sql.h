#ifndef T2_EVAL_SQL_H
#define T2_EVAL_SQL_H
/* Grades SQL as WikiSQL does (Zhong, Xiong and Socher 2017): a query is one column, one aggregate
 * and conditions joined by AND on one table. Logical-form accuracy compares these, execution
 * accuracy what SQLite answers.
 *
 * Model-written SQL runs in a connection that can do no harm: the file opened read-only, an
 * authorizer that lets pass SELECT, reading of tables and a list of functions and nothing else (no
 * ATTACH, PRAGMA, load_extension, recursion), limits on length, steps, time and rows. A query that
 * SQLite would answer differently on another machine because of its speed is cut by the steps,
 * which are counted, long before the time is up.
 *
 * Tables and columns are named as in WikiSQL's files: table_1_10015132_11, col0, col1, ... */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum { SQL_MAX_CONDITIONS = 16, SQL_MAX_COLUMNS = 100, SQL_MAX_TEXT = 8192, SQL_MAX_ROWS = 10000 };

struct sql_condition {
    int column, op; /* op: 0 =, 1 >, 2 < */
    char *value;
};

struct sql_query {
    int column, aggregate; /* aggregate: 0 none, 1 MAX, 2 MIN, 3 COUNT, 4 SUM, 5 AVG */
    struct sql_condition conditions[SQL_MAX_CONDITIONS];
    size_t n_conditions;
};

/* From a row's {"sel", "agg", "conds"}. 0, or -1 with error_set; sql_query_free in any case. */
int sql_query_read(struct sql_query *query, const json_t *sql);
/* From SQL text; header holds the columns' names (an array of strings), which may be used in place
 * of col0, ... False if it is not of WikiSQL's form. */
bool sql_query_parse(struct sql_query *query, const char *text, const json_t *header);
void sql_query_free(struct sql_query *query);

/* The same column, aggregate and conditions, these in any order, values without case. */
bool sql_query_equal(const struct sql_query *a, const struct sql_query *b);

/* As SQL text for SQLite. WikiSQL's databases hold text in lower case, so values are lowered where
 * lower is set; types (an array of "text" and "real", or NULL) says which values are numbers.
 * Malloc'ed; NULL with error_set. */
char *sql_query_text(const struct sql_query *query, const char *table, const json_t *types,
                     bool lower);

/* Runs one SELECT on the database file. *result (malloc'ed) has a line per row, sorted, with
 * numbers in one form and text in lower case. 0, or -1 with error_set (forbidden, too long, too
 * many rows, no such column, ...). */
int sql_execute(const char *database, const char *text, char **result);

/* The first SELECT in an answer, without code fences and what follows it. Malloc'ed; NULL if none.
 */
char *sql_extract(const char *answer);

/* Whether the answer's query gives what the row's gold query gives (a row that wikisql_join() has
 * completed). *logical: is it also the same query? */
bool sql_grade(const char *answer, const json_t *row, bool *logical);

#endif
