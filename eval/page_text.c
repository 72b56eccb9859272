/* A page's tables as Markdown, CSV and JSON. Figures and items are for HTML; their data lie in the
 * HDF5 files. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "eval/page_internal.h"
#include "model/utf8.h"
#include "mpi/text.h"

/* ---- Markdown ----------------------------------------------------------------------------------
 */

/* On one line, without meaning for Markdown or the HTML that it may hold. */
static void put_markdown(FILE *out, const char *s)
{
    for (; *s; s++) {
        if (*s == '<')
            fputs("&lt;", out);
        else if (*s == '&')
            fputs("&amp;", out);
        else if (strchr("\\`*_[]|", *s))
            fprintf(out, "\\%c", *s);
        else
            fputc(text_printable(*s, ' '), out);
    }
}

static void markdown_table(const struct page_table *t, FILE *out)
{
    if (*t->title) {
        put_markdown(out, t->title);
        fputs("\n\n", out);
    }
    for (size_t i = 0; i < t->n_columns; i++) {
        fputs("| ", out);
        put_markdown(out, t->heads[i] ? t->heads[i] : "");
        fputc(' ', out);
    }
    fputs("|\n", out);
    for (size_t i = 0; i < t->n_columns; i++)
        fputs(t->align[i] == 'r' ? "|---:" : "|---", out);
    fputs("|\n", out);
    for (size_t i = 0; i < t->n_cells; i++) {
        fputs("| ", out);
        put_markdown(out, t->cells[i].text);
        fputs(i % t->n_columns == t->n_columns - 1 ? " |\n" : " ", out);
    }
    fputc('\n', out);
}

void page_write_markdown(const struct page *page, FILE *out)
{
    fputs("# ", out);
    put_markdown(out, page->title);
    fputs("\n\n", out);
    for (size_t i = 0; i < page->n; i++) {
        const struct page_section *s = page->sections[i];
        fputs(s->level > 1 ? "### " : "## ", out);
        put_markdown(out, s->title);
        fputs("\n\n", out);
        for (size_t k = 0; k < s->n; k++) {
            const struct page_block *b = &s->blocks[k];
            if (b->type == BLOCK_TABLE) {
                markdown_table(b->table, out);
            } else if (b->type == BLOCK_LINK) {
                fputs("See [", out);
                put_markdown(out, b->text);
                fprintf(out, "](#%s).\n\n", b->id);
            } else if (b->type == BLOCK_TEXT || b->type == BLOCK_HINT) {
                put_markdown(out, b->text);
                fputs("\n\n", out);
            }
        }
    }
}

/* ---- CSV ---------------------------------------------------------------------------------------
 */

/* RFC 4180. A spreadsheet must not take a text for a formula: such a cell begins with an
 * apostrophe.
 */
static void put_csv(FILE *out, const char *s)
{
    const bool number = strspn(s, "-+0123456789.eE") == strlen(s);

    fputc('"', out);
    if (!number && *s && strchr("=+-@\t\r", *s) && s[1])
        fputc('\'', out);
    for (; *s; s++) {
        if (*s == '"')
            fputc('"', out);
        fputc(*s, out);
    }
    fputc('"', out);
}

/* One file for all tables: every line begins with its section and table. */
void page_write_csv(const struct page *page, FILE *out)
{
    for (size_t i = 0; i < page->n; i++) {
        const struct page_section *s = page->sections[i];
        for (size_t k = 0; k < s->n; k++) {
            const struct page_table *t = s->blocks[k].table;
            const size_t n_rows = t ? t->n_cells / t->n_columns : 0;
            for (size_t row = 0; t && row <= n_rows; row++) {
                put_csv(out, s->id);
                fputc(',', out);
                put_csv(out, t->title);
                for (size_t c = 0; c < t->n_columns; c++) {
                    fputc(',', out);
                    put_csv(out,
                            row == 0 ? t->heads[c] : t->cells[(row - 1) * t->n_columns + c].text);
                }
                fputs("\r\n", out);
            }
        }
    }
}

/* ---- JSON --------------------------------------------------------------------------------------
 */

/* Numbers stay numbers. */
static json_t *json_cell(const char *s)
{
    char *end;
    const double value = strtod(s, &end);
    struct text text = {0};

    if (*s && *end == '\0' && strspn(s, "-+0123456789.eE") == strlen(s))
        return strpbrk(s, ".eE") ? json_real(value) : json_integer(strtoll(s, NULL, 10));
    if (utf8_append_lossy(&text, s, strlen(s)) != 0)
        return NULL;
    json_t *json = json_stringn(text.data ? text.data : "", text.n);
    text_free(&text);
    return json;
}

static json_t *json_table(const struct page_table *t)
{
    json_t *table = json_object(), *rows = json_array();

    json_object_set_new(table, "title", json_cell(t->title));
    for (size_t i = 0; i + t->n_columns <= t->n_cells; i += t->n_columns) {
        json_t *row = json_object();
        for (size_t c = 0; c < t->n_columns; c++)
            json_object_set_new(row, *t->heads[c] ? t->heads[c] : "name",
                                json_cell(t->cells[i + c].text));
        json_array_append_new(rows, row);
    }
    json_object_set_new(table, "rows", rows);
    return table;
}

void page_write_json(const struct page *page, FILE *out)
{
    json_t *root = json_object(), *sections = json_array();

    json_object_set_new(root, "title", json_cell(page->title));
    for (size_t i = 0; i < page->n; i++) {
        const struct page_section *s = page->sections[i];
        json_t *section = json_object(), *tables = json_array();
        json_object_set_new(section, "id", json_cell(s->id));
        json_object_set_new(section, "title", json_cell(s->title));
        for (size_t k = 0; k < s->n; k++)
            if (s->blocks[k].table)
                json_array_append_new(tables, json_table(s->blocks[k].table));
        json_object_set_new(section, "tables", tables);
        json_array_append_new(sections, section);
    }
    json_object_set_new(root, "sections", sections);
    json_dumpf(root, out, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    fputc('\n', out);
    json_decref(root);
}
