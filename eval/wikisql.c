#include "eval/wikisql.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eval/jsonl.h"
#include "eval/sql.h"
#include "mpi/error.h"

/* PATH.jsonl to PATH + ending. */
static char *beside(const char *path, const char *ending)
{
    const size_t n = strlen(path);
    char *other = NULL;

    if (n < 6 || asprintf(&other, "%.*s%s", (int)(n - 6), path, ending) < 0)
        return NULL;
    return other;
}

/* table_1_10015132_11 of "1-10015132-11"; only letters, digits and _ are let pass into SQL. */
static json_t *table_name(const char *id)
{
    char name[128];
    size_t n = (size_t)snprintf(name, sizeof name, "table_%s", id);

    if (n >= sizeof name)
        return NULL;
    for (char *p = name; *p; p++)
        if (*p == '-')
            *p = '_';
    if (strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != n)
        return NULL;
    return json_string(name);
}

static int add_table(void *context, const struct jsonl *reader, json_t *table)
{
    json_t *tables = context;
    const char *id = json_string_value(json_object_get(table, "id"));
    const json_t *header = json_object_get(table, "header"),
                 *types = json_object_get(table, "types");
    json_t *name = id ? table_name(id) : NULL;

    if (!name || json_array_size(header) == 0 || json_array_size(header) > SQL_MAX_COLUMNS ||
        json_array_size(types) != json_array_size(header)) {
        json_decref(name);
        return error_set(
            "%s:%zu: a table needs \"id\", \"header\" and \"types\" of 1 to %d columns",
            jsonl_name(reader), jsonl_line(reader), SQL_MAX_COLUMNS);
    }
    json_object_del(table, "rows");
    if (json_object_set_new(table, "name", name) || json_object_set(tables, id, table))
        return error_set("%s: out of memory", jsonl_name(reader));
    return 0;
}

/* The tables of a file by id, without their rows. NULL with error_set. */
static json_t *read_tables(const char *path)
{
    json_t *tables = json_object();

    if (jsonl_each(jsonl_open(path), add_table, tables) == 0)
        return tables;
    json_decref(tables);
    return NULL;
}

static json_t *columns_text(const json_t *table)
{
    const json_t *header = json_object_get(table, "header"),
                 *types = json_object_get(table, "types");
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    if (!out)
        return NULL;
    for (size_t i = 0; i < json_array_size(header); i++) {
        const char *name = json_string_value(json_array_get(header, i)),
                   *type = json_string_value(json_array_get(types, i));
        fprintf(out, "%scol%zu: %s (%s)", i ? "\n" : "", i, name ? name : "", type ? type : "text");
    }
    json_t *value = fclose(out) ? NULL : json_string(text);
    free(text);
    return value;
}

static int join_row(json_t *row, json_t *tables, const char *database)
{
    const char *id = json_string_value(json_object_get(row, "table_id"));
    json_t *table = id ? json_object_get(tables, id) : NULL;
    struct sql_query query = {0};
    char *text = NULL;
    int status = -1;

    if (!table)
        return error_set("the table \"%s\" is not among the tables", id ? id : "");
    if (sql_query_read(&query, json_object_get(row, "sql")) == 0)
        text = sql_query_text(&query, json_string_value(json_object_get(table, "name")),
                              json_object_get(table, "types"), false);
    if (!text)
        goto done;
    if (json_object_set(row, "table", table) ||
        json_object_set_new(row, "columns", columns_text(table)) ||
        json_object_set_new(row, "query", json_string(text)) ||
        json_object_set_new(row, "database", json_string(database)))
        error_set("out of memory, or text that is not UTF-8");
    else
        status = 0;
done:
    sql_query_free(&query);
    free(text);
    return status;
}

int wikisql_join(struct dataset *data)
{
    char *path = beside(data->path, ".tables.jsonl"), *database = beside(data->path, ".db");
    json_t *tables = NULL;
    int status = 0;

    if (!path || !database || access(path, F_OK) != 0 || data->n_rows == 0 ||
        !json_object_get(data->rows[0], "table_id"))
        goto done;
    tables = read_tables(path);
    if (!tables)
        status = -1;
    else if (access(database, R_OK) != 0)
        status = error_set("%s: the tables' SQLite file is not there", database);
    for (size_t i = 0; status == 0 && i < data->n_rows; i++)
        if (join_row(data->rows[i], tables, database))
            status = error_prefix("%s:%zu", data->path, data->lines[i]);
done:
    json_decref(tables);
    free(path);
    free(database);
    return status;
}
