/* Queries of WikiSQL's form: reading, comparing, writing. Running them is sql_run.c. */
#include "eval/sql.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "eval/jsonl.h"
#include "mpi/error.h"

static const char *const aggregates[] = {"", "MAX", "MIN", "COUNT", "SUM", "AVG"};
enum { N_AGGREGATES = sizeof aggregates / sizeof *aggregates };
static const char operators[] = "=><";

void sql_query_free(struct sql_query *query)
{
    for (size_t i = 0; i < query->n_conditions; i++)
        free(query->conditions[i].value);
    memset(query, 0, sizeof *query);
}

static bool read_int(const json_t *value, json_int_t limit, int *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) >= limit)
        return false;
    *out = (int)json_integer_value(value);
    return true;
}

int sql_query_read(struct sql_query *query, const json_t *sql)
{
    const json_t *conditions = json_object_get(sql, "conds");

    memset(query, 0, sizeof *query);
    if (!read_int(json_object_get(sql, "sel"), SQL_MAX_COLUMNS, &query->column) ||
        !read_int(json_object_get(sql, "agg"), N_AGGREGATES, &query->aggregate) ||
        !json_is_array(conditions) || json_array_size(conditions) > SQL_MAX_CONDITIONS)
        return error_set("the field \"sql\" is not {\"sel\": column, \"agg\": 0 to 5, \"conds\": "
                         "[[column, operator, value], ...]}");
    for (size_t i = 0; i < json_array_size(conditions); i++) {
        const json_t *entry = json_array_get(conditions, i);
        struct sql_condition *c = &query->conditions[i];
        if (json_array_size(entry) != 3 ||
            !read_int(json_array_get(entry, 0), SQL_MAX_COLUMNS, &c->column) ||
            !read_int(json_array_get(entry, 1), 3, &c->op))
            return error_set("condition %zu of the field \"sql\" is not [column, 0 to 2, value]",
                             i + 1);
        c->value = jsonl_scalar_text(json_array_get(entry, 2), "sql.conds");
        if (!c->value)
            return -1;
        query->n_conditions++;
    }
    return 0;
}

/* ---- parsing ------------------------------------------------------------------------------------
 */

static const char *skip(const char *p)
{
    return p + strspn(p, " \t\r\n");
}

static bool is_name_byte(char c)
{
    return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

/* Past the keyword at p, or NULL. */
static const char *keyword(const char *p, const char *word)
{
    const size_t n = strlen(word);

    return strncasecmp(p, word, n) == 0 && !is_name_byte(p[n]) ? p + n : NULL;
}

/* A quoted piece with doubled closing quotes undone, into out (SQL_MAX_TEXT); NULL if it has no
 * end. */
static const char *read_quoted(const char *p, char *out)
{
    const char close = *p == '[' ? ']' : *p;
    size_t n = 0;

    for (p++; *p; p++) {
        if (*p == close && p[1] == close && close != ']')
            p++;
        else if (*p == close)
            return out[n] = '\0', p + 1;
        out[n++] = *p;
    }
    return NULL;
}

static int find_column(const char *name, const json_t *header)
{
    const size_t n_columns = json_array_size(header);
    char *end;

    if (strncasecmp(name, "col", 3) == 0 && isdigit((unsigned char)name[3])) {
        const unsigned long column = strtoul(name + 3, &end, 10);
        if (!*end && column < n_columns)
            return (int)column;
    }
    for (size_t i = 0; i < n_columns && i < SQL_MAX_COLUMNS; i++) {
        const char *text = json_string_value(json_array_get(header, i));
        if (text && strcasecmp(text, name) == 0)
            return (int)i;
    }
    return -1;
}

/* A column, quoted or bare; a bare one of several words is the longest header that stands here. */
static const char *read_column(const char *p, const json_t *header, char *scratch, int *column)
{
    const char *end = NULL;
    size_t longest = 0;

    *column = -1;
    p = skip(p);
    if (*p && strchr("\"`['", *p)) {
        end = read_quoted(p, scratch);
        if (end)
            *column = find_column(scratch, header);
        return *column < 0 ? NULL : end;
    }
    for (size_t i = 0; i < json_array_size(header) && i < SQL_MAX_COLUMNS; i++) {
        const char *text = json_string_value(json_array_get(header, i));
        const size_t n = text ? strlen(text) : 0;
        if (n > longest && strncasecmp(p, text, n) == 0 &&
            !(is_name_byte(text[n - 1]) && is_name_byte(p[n]))) {
            longest = n;
            *column = (int)i;
        }
    }
    if (longest)
        return p + longest;
    size_t n = 0;
    while (is_name_byte(p[n]))
        n++;
    if (n == 0 || n >= 16)
        return NULL;
    memcpy(scratch, p, n);
    scratch[n] = '\0';
    *column = find_column(scratch, header);
    return *column < 0 ? NULL : p + n;
}

/* "value", 'value', or bare to the next AND or the end. */
static const char *read_value(const char *p, char *scratch)
{
    const char *end = p = skip(p);

    if (*p == '\'' || *p == '"')
        return read_quoted(p, scratch);
    while (*end && *end != ';' &&
           !(end > p && isspace((unsigned char)end[-1]) && keyword(end, "AND")))
        end++;
    const char *next = end;
    while (end > p && isspace((unsigned char)end[-1]))
        end--;
    if (end == p)
        return NULL;
    memcpy(scratch, p, (size_t)(end - p));
    scratch[end - p] = '\0';
    return next;
}

static const char *parse_selection(const char *p, const json_t *header, char *scratch,
                                   struct sql_query *query)
{
    p = skip(p);
    for (int i = 1; i < N_AGGREGATES; i++) {
        const char *after = keyword(p, aggregates[i]);
        if (!after || *skip(after) != '(')
            continue;
        query->aggregate = i;
        p = read_column(skip(after) + 1, header, scratch, &query->column);
        if (!p || *skip(p) != ')')
            return NULL;
        return skip(p) + 1;
    }
    return read_column(p, header, scratch, &query->column);
}

static const char *skip_name(const char *p, char *scratch)
{
    p = skip(p);
    if (*p && strchr("\"`['", *p))
        return read_quoted(p, scratch);
    const char *start = p;
    while (is_name_byte(*p))
        p++;
    return p > start ? p : NULL;
}

static bool parse(struct sql_query *query, const char *p, const json_t *header, char *scratch)
{
    const char *after;

    p = keyword(skip(p), "SELECT");
    if (!p || !(p = parse_selection(p, header, scratch, query)))
        return false;
    if ((after = keyword(skip(p), "AS")) && !(p = skip_name(after, scratch)))
        return false;
    if (!(p = keyword(skip(p), "FROM")) || !(p = skip_name(p, scratch)))
        return false;
    after = keyword(skip(p), "WHERE");
    while (after) {
        struct sql_condition *c = &query->conditions[query->n_conditions];
        if (query->n_conditions == SQL_MAX_CONDITIONS ||
            !(p = read_column(after, header, scratch, &c->column)))
            return false;
        p = skip(p);
        const char *op = *p ? strchr(operators, *p) : NULL;
        if (!op || (p[1] == '=' && *op != '=') || p[1] == '>')
            return false;
        c->op = (int)(op - operators);
        p = read_value(p + 1 + (p[1] == '='), scratch);
        if (!p || !(c->value = strdup(scratch)))
            return false;
        query->n_conditions++;
        p = skip(p);
        after = keyword(p, "AND");
    }
    p = skip(p);
    return !*skip(p + (*p == ';'));
}

bool sql_query_parse(struct sql_query *query, const char *text, const json_t *header)
{
    char scratch[SQL_MAX_TEXT];

    memset(query, 0, sizeof *query);
    if (strlen(text) < sizeof scratch && parse(query, text, header, scratch))
        return true;
    sql_query_free(query);
    return false;
}

/* ---- comparing and writing ----------------------------------------------------------------------
 */

static bool is_number(const char *text, double *value)
{
    char *end;

    *value = strtod(text, &end);
    return end != text && !*skip(end) && !isalpha((unsigned char)text[0]) && !strpbrk(text, "xX");
}

static bool conditions_equal(const struct sql_condition *a, const struct sql_condition *b)
{
    double x, y;

    if (a->column != b->column || a->op != b->op)
        return false;
    return strcasecmp(a->value, b->value) == 0 ||
           (is_number(a->value, &x) && is_number(b->value, &y) && x == y);
}

bool sql_query_equal(const struct sql_query *a, const struct sql_query *b)
{
    bool taken[SQL_MAX_CONDITIONS] = {false};

    if (a->column != b->column || a->aggregate != b->aggregate ||
        a->n_conditions != b->n_conditions)
        return false;
    for (size_t i = 0; i < a->n_conditions; i++) {
        size_t j = 0;
        while (j < b->n_conditions &&
               (taken[j] || !conditions_equal(&a->conditions[i], &b->conditions[j])))
            j++;
        if (j == b->n_conditions)
            return false;
        taken[j] = true;
    }
    return true;
}

/* WikiSQL's reading of a number in a "real" column: commas go, else the first number in the text.
 */
static bool real_value(const char *text, double *value)
{
    char digits[64];
    size_t n = 0;

    for (const char *p = text; *p && n + 1 < sizeof digits; p++)
        if (*p != ',')
            digits[n++] = *p;
    digits[n] = '\0';
    if (is_number(digits, value))
        return true;
    for (const char *p = text; *p; p++)
        if (isdigit((unsigned char)*p)) {
            *value = strtod(p > text && p[-1] == '-' ? p - 1 : p, NULL);
            return true;
        }
    return false;
}

static void put_value(FILE *out, const char *value, bool real, bool lower)
{
    double number;

    if (real && real_value(value, &number)) {
        fprintf(out, "%.15g", number);
        return;
    }
    fputc('\'', out);
    for (const char *p = value; *p; p++) {
        if (*p == '\'')
            fputc('\'', out);
        fputc(lower ? tolower((unsigned char)*p) : *p, out);
    }
    fputc('\'', out);
}

char *sql_query_text(const struct sql_query *query, const char *table, const json_t *types,
                     bool lower)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    if (!out) {
        error_set("out of memory");
        return NULL;
    }
    if (query->aggregate)
        fprintf(out, "SELECT %s(col%d) FROM %s", aggregates[query->aggregate], query->column,
                table);
    else
        fprintf(out, "SELECT col%d FROM %s", query->column, table);
    for (size_t i = 0; i < query->n_conditions; i++) {
        const struct sql_condition *c = &query->conditions[i];
        const char *type = json_string_value(json_array_get(types, (size_t)c->column));
        fprintf(out, " %s col%d %c ", i ? "AND" : "WHERE", c->column, operators[c->op]);
        put_value(out, c->value, type && strcmp(type, "real") == 0, lower);
    }
    if (fclose(out)) {
        free(text);
        error_set("out of memory");
        return NULL;
    }
    return text;
}

char *sql_extract(const char *answer)
{
    const char *start = answer, *end;

    while (*start && !(keyword(start, "SELECT") && (start == answer || !is_name_byte(start[-1]))))
        start++;
    if (!*start)
        return NULL;
    char quote = 0;
    for (end = start; *end; end++) {
        if (quote) {
            quote = *end == quote ? 0 : quote;
        } else if (*end == '\'' || *end == '"') {
            quote = *end;
        } else if (*end == ';' || strncmp(end, "```", 3) == 0 || strncmp(end, "\n\n", 2) == 0) {
            break;
        }
    }
    return strndup(start, (size_t)(end - start));
}
