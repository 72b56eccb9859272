/* Running a query that nobody has looked at; see sql.h for what is let pass. */
#include <ctype.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "eval/sql.h"
#include "mpi/error.h"

enum {
    STEPS_BETWEEN_CALLS = 1000,
    MAX_CALLS = 5000, /* 5 million steps: 300,000 rows and more */
    MAX_SECONDS = 10,
    MAX_RESULT = 1 << 20,
};

struct watch {
    long calls;
    time_t end;
};

static int watch_progress(void *context)
{
    struct watch *watch = context;
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return ++watch->calls > MAX_CALLS || now.tv_sec > watch->end;
}

static int authorize(void *context, int action, const char *first, const char *second,
                     const char *database, const char *trigger)
{
    static const char *const harmless[] = {
        "abs",   "avg",    "ceil",  "coalesce", "count", "floor", "ifnull", "instr",   "length",
        "like",  "lower",  "ltrim", "max",      "min",   "mod",   "nullif", "replace", "round",
        "rtrim", "substr", "sum",   "total",    "trim",  "upper", NULL};

    (void)context;
    (void)database;
    (void)trigger;
    if (action == SQLITE_SELECT)
        return SQLITE_OK;
    if (action == SQLITE_READ)
        return first && strncasecmp(first, "sqlite_", 7) == 0 ? SQLITE_DENY : SQLITE_OK;
    if (action == SQLITE_FUNCTION)
        for (size_t i = 0; harmless[i]; i++)
            if (second && strcasecmp(second, harmless[i]) == 0)
                return SQLITE_OK;
    return SQLITE_DENY;
}

/* Limits first: whatever the text holds, preparing it is bounded. */
static int open_guarded(const char *database, sqlite3 **db, struct watch *watch)
{
    static const int limits[][2] = {
        {SQLITE_LIMIT_LENGTH, MAX_RESULT}, {SQLITE_LIMIT_SQL_LENGTH, SQL_MAX_TEXT},
        {SQLITE_LIMIT_COLUMN, 128},        {SQLITE_LIMIT_EXPR_DEPTH, 50},
        {SQLITE_LIMIT_COMPOUND_SELECT, 8}, {SQLITE_LIMIT_VDBE_OP, 20000},
        {SQLITE_LIMIT_FUNCTION_ARG, 16},   {SQLITE_LIMIT_ATTACHED, 0},
        {SQLITE_LIMIT_TRIGGER_DEPTH, 1},   {SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 200},
        {SQLITE_LIMIT_VARIABLE_NUMBER, 1}, {SQLITE_LIMIT_WORKER_THREADS, 0},
    };
    struct timespec now;

    if (sqlite3_open_v2(database, db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK)
        return error_set("%s: %s", database, *db ? sqlite3_errmsg(*db) : "out of memory");
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        sqlite3_limit(*db, limits[i][0], limits[i][1]);
    sqlite3_db_config(*db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(*db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(*db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0, NULL);
    if (sqlite3_exec(*db, "PRAGMA temp_store = MEMORY", NULL, NULL, NULL) != SQLITE_OK)
        return error_set("%s: %s", database, sqlite3_errmsg(*db));
    clock_gettime(CLOCK_MONOTONIC, &now);
    watch->end = now.tv_sec + MAX_SECONDS;
    sqlite3_set_authorizer(*db, authorize, NULL);
    sqlite3_progress_handler(*db, STEPS_BETWEEN_CALLS, watch_progress, watch);
    return 0;
}

static char *row_text(sqlite3_stmt *statement)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    if (!out)
        return NULL;
    for (int i = 0; i < sqlite3_column_count(statement); i++) {
        if (i)
            fputc('\t', out);
        switch (sqlite3_column_type(statement, i)) {
        case SQLITE_INTEGER:
        case SQLITE_FLOAT:
            fprintf(out, "%.12g", sqlite3_column_double(statement, i));
            break;
        case SQLITE_NULL:
            fputs("NULL", out);
            break;
        default: {
            const unsigned char *value = sqlite3_column_text(statement, i);
            for (; value && *value; value++)
                fputc(*value == '\n' || *value == '\t' ? ' ' : tolower(*value), out);
        }
        }
    }
    if (fclose(out)) {
        free(text);
        return NULL;
    }
    return text;
}

static int compare_rows(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int join_rows(char **rows, size_t n, size_t bytes, char **result)
{
    char *text = malloc(bytes + n + 1), *p = text;

    if (!text)
        return error_set("out of memory");
    qsort(rows, n, sizeof *rows, compare_rows);
    for (size_t i = 0; i < n; i++) {
        p = stpcpy(p, rows[i]);
        *p++ = '\n';
    }
    *p = '\0';
    *result = text;
    return 0;
}

static int fetch_rows(sqlite3 *db, sqlite3_stmt *statement, char **result)
{
    char **rows = calloc(SQL_MAX_ROWS, sizeof *rows);
    size_t n = 0, bytes = 0;
    int code, status = -1;

    if (!rows)
        return error_set("out of memory");
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        if (n == SQL_MAX_ROWS || bytes > MAX_RESULT) {
            error_set("the query gives more than %d rows or %d KiB", SQL_MAX_ROWS,
                      MAX_RESULT >> 10);
            goto done;
        }
        rows[n] = row_text(statement);
        if (!rows[n]) {
            error_set("out of memory");
            goto done;
        }
        bytes += strlen(rows[n++]);
    }
    if (code != SQLITE_DONE) {
        error_set("the query failed: %s",
                  code == SQLITE_INTERRUPT ? "it takes too many steps" : sqlite3_errmsg(db));
        goto done;
    }
    status = join_rows(rows, n, bytes, result);
done:
    for (size_t i = 0; i < n; i++)
        free(rows[i]);
    free(rows);
    return status;
}

int sql_execute(const char *database, const char *text, char **result)
{
    struct watch watch = {0};
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    const char *rest = NULL;
    int status = -1;

    *result = NULL;
    if (strlen(text) >= SQL_MAX_TEXT)
        return error_set("a query of %zu bytes is too long", strlen(text));
    if (open_guarded(database, &db, &watch))
        goto done;
    if (sqlite3_prepare_v2(db, text, -1, &statement, &rest) != SQLITE_OK || !statement) {
        error_set("the query is wrong: %s", statement ? "" : sqlite3_errmsg(db));
        goto done;
    }
    if (rest[strspn(rest, " \t\r\n;")] || !sqlite3_stmt_readonly(statement) ||
        sqlite3_stmt_isexplain(statement)) {
        error_set("the query is not one SELECT");
        goto done;
    }
    status = fetch_rows(db, statement, result);
done:
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return status;
}

/* A query of WikiSQL's form is run as WikiSQL runs it (values in lower case), any other as written.
 */
static int run_answer(const char *text, bool parsed, const struct sql_query *query,
                      const json_t *table, const char *database, char **result)
{
    const char *name = json_string_value(json_object_get(table, "name"));
    char *own = parsed ? sql_query_text(query, name, json_object_get(table, "types"), true) : NULL;
    int status = parsed && !own ? -1 : sql_execute(database, own ? own : text, result);

    free(own);
    return status;
}

bool sql_grade(const char *answer, const json_t *row, bool *logical)
{
    const json_t *table = json_object_get(row, "table");
    const char *database = json_string_value(json_object_get(row, "database"));
    struct sql_query gold = {0}, query = {0};
    char *text = sql_extract(answer), *wanted = NULL, *got = NULL;
    bool right = false;

    *logical = false;
    if (!text || !database || !json_string_value(json_object_get(table, "name")) ||
        sql_query_read(&gold, json_object_get(row, "sql")))
        goto done;
    const bool parsed = sql_query_parse(&query, text, json_object_get(table, "header"));
    *logical = parsed && sql_query_equal(&query, &gold);
    right = run_answer(NULL, true, &gold, table, database, &wanted) == 0 &&
            run_answer(text, parsed, &query, table, database, &got) == 0 &&
            strcmp(wanted, got) == 0;
done:
    sql_query_free(&gold);
    sql_query_free(&query);
    free(text);
    free(wanted);
    free(got);
    return right;
}
