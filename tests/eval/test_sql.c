#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "eval/dataset.h"
#include "eval/jsonl.h"
#include "eval/sql.h"
#include "eval/task.h"
#include "mpi/error.h"
#include "tests/eval/folder.h"

static const char database[] = T2_FIXTURES "/wikisql/test.db";

static struct dataset data;

static int load_data(void **state)
{
    (void)state;
    return dataset_load(&data, T2_FIXTURES, "wikisql", "test");
}

static int free_data(void **state)
{
    (void)state;
    dataset_free(&data);
    return 0;
}

static void rows_are_joined_with_their_tables(void **state)
{
    (void)state;
    assert_int_equal(30, data.n_rows);
    assert_string_equal("table_1_90001_1",
                        json_string_value(jsonl_field(data.rows[0], "table.name")));
    assert_string_equal("SELECT col3 FROM table_1_90001_1 WHERE col0 = 'Gull Rock'",
                        json_string_value(jsonl_field(data.rows[0], "query")));
    assert_string_equal("SELECT AVG(col2) FROM table_1_90001_1 WHERE col1 = 1902",
                        json_string_value(jsonl_field(data.rows[6], "query")));
    assert_string_equal("SELECT col0 FROM table_1_90001_1 WHERE col3 = 'Tom O''Dell'",
                        json_string_value(jsonl_field(data.rows[7], "query")));
    const char *columns = json_string_value(jsonl_field(data.rows[0], "columns"));
    assert_non_null(strstr(columns, "col0: Name (text)\ncol1: Built (real)\n"));
}

static void every_gold_query_gives_what_wikisql_gives(void **state)
{
    (void)state;
    struct jsonl *reader = jsonl_open(T2_FIXTURES "/wikisql/expected.jsonl");

    assert_non_null(reader);
    for (size_t i = 0; i < data.n_rows; i++) {
        json_t *expected = NULL;
        char *result = NULL, *text;
        struct sql_query query;
        assert_int_equal(0, jsonl_next(reader, &expected));
        const json_t *list = json_object_get(expected, "result");
        assert_int_equal(0, sql_query_read(&query, json_object_get(data.rows[i], "sql")));
        text = sql_query_text(&query, json_string_value(jsonl_field(data.rows[i], "table.name")),
                              jsonl_field(data.rows[i], "table.types"), true);
        if (sql_execute(database, text, &result))
            fail_msg("%s: %s", text, error_message());
        size_t n = 0;
        for (const char *p = result; *p; p++)
            n += *p == '\n';
        assert_int_equal(json_array_size(list), n);
        for (size_t j = 0; j < n; j++) { /* rows are sorted, so each is looked for */
            const json_t *value = json_array_get(list, j);
            char line[256];
            if (json_is_number(value))
                snprintf(line, sizeof line, "%.12g\n", json_number_value(value));
            else
                snprintf(line, sizeof line, "%s\n", json_string_value(value));
            if (!strstr(result, line))
                fail_msg("%s gives %s, not %s", text, result, line);
        }
        json_decref(expected);
        sql_query_free(&query);
        free(result);
        free(text);
    }
    jsonl_close(reader);
}

static void gold_queries_are_graded_right_and_others_wrong(void **state)
{
    (void)state;
    for (size_t i = 0; i < data.n_rows; i++) {
        bool logical;
        assert_true(sql_grade(json_string_value(jsonl_field(data.rows[i], "query")), data.rows[i],
                              &logical));
        assert_true(logical);
        assert_false(sql_grade("SELECT COUNT(*) FROM nowhere", data.rows[i], &logical));
        assert_false(logical);
        assert_false(sql_grade("I do not know.", data.rows[i], &logical));
    }
}

static void queries_are_read_as_models_write_them(void **state)
{
    (void)state;
    static const struct {
        const char *answer;
        bool right, logical;
        size_t row;
    } cases[] = {
        {"```sql\nSELECT col3 FROM table_1_90001_1 WHERE col0 = 'Gull Rock';\n```", true, true, 0},
        {"Here it is:\nselect Keeper from t where Name = \"GULL ROCK\"", true, true, 0},
        {"SELECT `Keeper` FROM x WHERE [Name] = 'gull rock'\n\nThis gives the keeper.", true, true,
         0},
        {"SELECT col0 FROM t WHERE col1 < 1900 AND col4 = 'red'", true, true, 5},
        {"SELECT Name FROM t WHERE Light = red AND Built < 1900", true, true, 5},
        /* Another way to the same rows. */
        {"SELECT col0 FROM table_1_90001_1 WHERE col1 < 1850", true, false, 5},
        {"SELECT COUNT(*) FROM table_1_90001_1 WHERE col3 = 'ada brook'", true, false, 2},
        {"SELECT MAX(\"Height (m)\") FROM t WHERE Light = 'White'", true, true, 3},
        {"SELECT Height (m) FROM t WHERE Light = 'White'", false, false, 3},
        {"SELECT MIN(Height (m)) FROM t WHERE Light = 'White'", false, false, 3},
        {"SELECT col0 FROM t WHERE col2 >= 25", false, false, 4},
        {"SELECT col9 FROM t", false, false, 0},
        {"SELECT", false, false, 0},
        {"SELECT col3 FROM t WHERE col0 = 'Gull", false, false, 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool logical;
        if (sql_grade(cases[i].answer, data.rows[cases[i].row], &logical) != cases[i].right)
            fail_msg("\"%s\" is graded %d: %s", cases[i].answer, !cases[i].right, error_message());
        if (logical != cases[i].logical)
            fail_msg("\"%s\" is%s the same query", cases[i].answer, logical ? "" : " not");
    }
}

static void hostile_sql_fails_and_changes_nothing(void **state)
{
    (void)state;
    static const char *const hostile[] = {
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
        "ATTACH DATABASE 'attached.db' AS a",
        "PRAGMA writable_schema = 1",
        "PRAGMA table_info(table_1_90001_1)",
        "SELECT load_extension('libm.so.6')",
        "SELECT * FROM pragma_database_list",
        "SELECT sql FROM sqlite_master",
        "SELECT 1; DROP TABLE table_1_90001_1",
        "DROP TABLE table_1_90001_1",
        "DELETE FROM table_1_90001_1",
        "UPDATE table_1_90001_1 SET col0 = 'x'",
        "INSERT INTO table_1_90001_1 VALUES (1, 2, 3, 4, 5)",
        "CREATE TABLE t (a)",
        "CREATE TEMP TABLE t (a)",
        "VACUUM INTO 'copy.db'",
        "SELECT writefile('out', 'x')",
        "SELECT readfile('/etc/passwd')",
        "SELECT randomblob(1000000000)",
        "SELECT zeroblob(1000000000)",
        "SELECT printf('%1000000000d', 1)",
        "SELECT group_concat(a.col0) FROM table_1_90001_1 a",
        "SELECT count(*) FROM table_1_90001_1 a, table_1_90001_1 b, table_1_90001_1 c, "
        "table_1_90001_1 d, table_1_90001_1 e, table_1_90001_1 f, table_1_90001_1 g, "
        "table_1_90001_1 h, table_1_90001_1 i",
        "SELECT a.col0 FROM table_1_90001_1 a, table_1_90001_1 b, table_1_90001_1 c, "
        "table_1_90001_1 d, table_1_90001_1 e, table_1_90001_1 f ORDER BY a.col0, b.col1, c.col2",
        "SELECT replace(replace(replace(replace(hex(zeroblob(1000)), '0', '0000000000'), '0', "
        "'0000000000'), '0', '0000000000'), '0', '0000000000')",
        "SELECT "
        "((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((1))))))))))))))))))))))",
        "SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION "
        "SELECT 7 UNION SELECT 8 UNION SELECT 9 UNION SELECT 10",
        "",
        "SELECT '",
        "EXPLAIN SELECT 1",
        "BEGIN EXCLUSIVE",
    };
    struct stat before, after;

    assert_int_equal(0, stat(database, &before));
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        char *result = NULL;
        if (sql_execute(database, hostile[i], &result) == 0)
            fail_msg("\"%s\" gives \"%.200s\"", hostile[i], result);
        assert_null(result);
    }
    assert_int_equal(0, stat(database, &after));
    assert_int_equal(before.st_size, after.st_size);
    assert_int_equal(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
    assert_int_not_equal(0, stat("attached.db", &after));
    assert_int_not_equal(0, stat("copy.db", &after));
    assert_int_equal(-1, sql_execute("/no/such.db", "SELECT 1", &(char *){NULL}));

    char *deep = calloc(1, 200000), *result = NULL;
    strcpy(deep, "SELECT ");
    memset(deep + 7, '(', 190000);
    assert_int_equal(-1, sql_execute(database, deep, &result));
    deep[8000] = '\0';
    assert_int_equal(-1, sql_execute(database, deep, &result));
    free(deep);
}

static void broken_files_name_the_place(void **state)
{
    (void)state;
    struct dataset other;
    static const char row[] =
        "{\"table_id\":\"1-1\",\"question\":\"q\",\"sql\":{\"sel\":0,\"agg\":0,"
        "\"conds\":[[0,0,\"a\"]]}}\n";

    assert_int_equal(0, folder_create());
    folder_file("w/test.jsonl", row);
    folder_file("w/test.tables.jsonl", "{\"id\":\"1-1\",\"header\":[\"A\"],\"types\":[]}\n");
    assert_int_equal(-1, dataset_load(&other, folder_path, "w", "test"));
    assert_non_null(strstr(error_message(), "test.tables.jsonl:1:"));
    folder_file("w/test.tables.jsonl",
                "{\"id\":\"1-1\",\"header\":[\"A\"],\"types\":[\"text\"]}\n");
    assert_int_equal(-1, dataset_load(&other, folder_path, "w", "test"));
    assert_non_null(strstr(error_message(), "test.db"));
    folder_file("w/test.db", "no database");
    folder_file("w/test.tables.jsonl",
                "{\"id\":\"1-2\",\"header\":[\"A\"],\"types\":[\"text\"]}\n");
    assert_int_equal(-1, dataset_load(&other, folder_path, "w", "test"));
    assert_non_null(strstr(error_message(), "test.jsonl:1: the table \"1-1\""));
    /* A name is part of SQL text. */
    folder_file("w/test.tables.jsonl",
                "{\"id\":\"1; DROP\",\"header\":[\"A\"],\"types\":[\"text\"]}\n");
    assert_int_equal(-1, dataset_load(&other, folder_path, "w", "test"));
    folder_remove();
}

static void the_wikisql_task_makes_items_and_grades_them(void **state)
{
    (void)state;
    struct task task;
    struct task_context context = {0};

    assert_int_equal(0, task_load(&task, T2_DATA_DIR "/tasks/wikisql.ini", NULL));
    for (size_t i = 0; i < data.n_rows; i++) {
        struct task_item item;
        int predicted;
        assert_int_equal(0, task_item_make(&task, &context, &data, i, &item));
        assert_true(task_grade(&task, &item, item.gold, &predicted));
        assert_int_equal(1, predicted);
        if (i == 0)
            assert_non_null(strstr(item.prompt, "table_1_90001_1 has these columns:\ncol0: Name"));
        task_item_free(&item);
    }
    task_free(&task);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_joined_with_their_tables),
        cmocka_unit_test(every_gold_query_gives_what_wikisql_gives),
        cmocka_unit_test(gold_queries_are_graded_right_and_others_wrong),
        cmocka_unit_test(queries_are_read_as_models_write_them),
        cmocka_unit_test(hostile_sql_fails_and_changes_nothing),
        cmocka_unit_test(broken_files_name_the_place),
        cmocka_unit_test(the_wikisql_task_makes_items_and_grades_them),
    };
    return cmocka_run_group_tests(tests, load_data, free_data);
}
