#include "eval/page.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "eval/page_internal.h"
#include "mpi/error.h"

/* ---- memory ------------------------------------------------------------------------------------
 */

static char *copy(struct page *page, const char *text)
{
    char *s = strdup(text ? text : "");

    if (!s)
        page->failed = true;
    return s;
}

static char *formatted(struct page *page, const char *format, va_list args)
{
    char *text = NULL;

    if (vasprintf(&text, format, args) < 0) {
        page->failed = true;
        return NULL;
    }
    return text;
}

/* Room for one more of `size` bytes; false when there is none. */
static bool grow(struct page *page, void *list, size_t n, size_t *capacity, size_t size)
{
    void **items = list;

    if (n < *capacity)
        return true;
    const size_t wanted = *capacity ? 2 * *capacity : 16;
    void *room = realloc(*items, wanted * size);
    if (!room) {
        page->failed = true;
        return false;
    }
    *items = room;
    *capacity = wanted;
    return true;
}

struct page *page_create(const char *title)
{
    struct page *page = calloc(1, sizeof *page);

    if (page)
        page->title = copy(page, title ? title : "t2 report");
    else
        error_set("out of memory");
    return page;
}

static void table_free(struct page_table *table)
{
    if (!table)
        return;
    for (size_t i = 0; i < table->n_cells; i++) {
        free(table->cells[i].text);
        free(table->cells[i].link);
    }
    for (size_t i = 0; table->heads && i < table->n_columns; i++)
        free(table->heads[i]);
    free(table->heads);
    free(table->cells);
    free(table->title);
    free(table->align);
    free(table);
}

static void items_free(struct page_items *items)
{
    if (!items)
        return;
    for (size_t i = 0; i < items->n; i++) {
        free(items->items[i].name);
        free(items->items[i].prompt);
        free(items->items[i].answer);
        free(items->items[i].gold);
    }
    free(items->items);
    free(items->id);
    free(items->title);
    free(items);
}

static void section_free(struct page_section *section)
{
    for (size_t i = 0; i < section->n; i++) {
        struct page_block *b = &section->blocks[i];
        free(b->text);
        free(b->id);
        free(b->svg);
        table_free(b->table);
        items_free(b->items);
    }
    free(section->blocks);
    free(section->id);
    free(section->title);
    free(section);
}

void page_free(struct page *page)
{
    if (!page)
        return;
    for (size_t i = 0; i < page->n; i++)
        section_free(page->sections[i]);
    free(page->sections);
    free(page->title);
    free(page);
}

/* ---- sections ----------------------------------------------------------------------------------
 */

struct page_section *page_section(struct page *page, int level, const char *id, const char *title)
{
    struct page_section *section = calloc(1, sizeof *section);

    if (!section || !grow(page, &page->sections, page->n, &page->capacity, sizeof section)) {
        page->failed = true;
        free(section);
        return NULL;
    }
    section->page = page;
    section->level = level;
    section->id = copy(page, id);
    section->title = copy(page, title);
    page->sections[page->n++] = section;
    return section;
}

bool page_section_is_empty(const struct page_section *section)
{
    return !section || section->n == 0;
}

/* One more block, zeroed; NULL when there is no memory. */
static struct page_block *add_block(struct page_section *section, int type)
{
    if (!section || !grow(section->page, &section->blocks, section->n, &section->capacity,
                          sizeof *section->blocks))
        return NULL;
    struct page_block *b = &section->blocks[section->n++];
    memset(b, 0, sizeof *b);
    b->type = type;
    return b;
}

void page_text(struct page_section *section, const char *format, ...)
{
    struct page_block *b = add_block(section, BLOCK_TEXT);
    va_list args;

    va_start(args, format);
    if (b)
        b->text = formatted(section->page, format, args);
    va_end(args);
}

void page_hint(struct page_section *section, const char *format, ...)
{
    struct page_block *b = add_block(section, BLOCK_HINT);
    va_list args;

    va_start(args, format);
    if (b)
        b->text = formatted(section->page, format, args);
    va_end(args);
}

void page_link(struct page_section *section, const char *id, const char *title)
{
    struct page_block *b = add_block(section, BLOCK_LINK);

    if (b) {
        b->text = copy(section->page, title);
        b->id = copy(section->page, id);
    }
}

void page_figure(struct page_section *section, const char *title, char *svg)
{
    struct page_block *b = svg ? add_block(section, BLOCK_FIGURE) : NULL;

    if (!b) {
        free(svg);
        return;
    }
    b->text = copy(section->page, title);
    b->svg = svg;
}

/* ---- tables ------------------------------------------------------------------------------------
 */

struct page_table *page_table(struct page_section *section, const char *title, const char *align,
                              const char *heads)
{
    struct page_block *b = add_block(section, BLOCK_TABLE);
    struct page_table *table = b ? calloc(1, sizeof *table) : NULL;

    if (!table) {
        if (section)
            section->page->failed = true;
        return NULL;
    }
    b->table = table;
    table->page = section->page;
    table->title = copy(section->page, title);
    table->align = copy(section->page, align);
    table->n_columns = strlen(align);
    table->heads = calloc(table->n_columns + 1, sizeof *table->heads);
    for (size_t i = 0; table->heads && i < table->n_columns; i++) {
        const size_t n = strcspn(heads, "|");
        table->heads[i] = strndup(heads, n);
        heads += n + (heads[n] == '|');
    }
    if (!table->heads)
        section->page->failed = true;
    return table;
}

static void add_cell(struct page_table *table, char *text)
{
    if (!grow(table->page, &table->cells, table->n_cells, &table->capacity, sizeof *table->cells)) {
        free(text);
        return;
    }
    table->cells[table->n_cells++] = (struct page_cell){.text = text, .shade = -1};
}

void page_cell(struct page_table *table, const char *format, ...)
{
    va_list args;

    if (!table)
        return;
    va_start(args, format);
    add_cell(table, formatted(table->page, format, args));
    va_end(args);
}

void page_number(struct page_table *table, int digits, double value)
{
    if (isnan(value))
        page_cell(table, "-");
    else
        page_cell(table, "%.*f", digits, value);
}

void page_score(struct page_table *table, double value, double error)
{
    if (isnan(value) || isnan(error))
        page_number(table, 3, value);
    else
        page_cell(table, "%.3f ± %.3f", value, error);
}

void page_cell_link(struct page_table *table, const char *id)
{
    if (table && table->n_cells > 0)
        table->cells[table->n_cells - 1].link = copy(table->page, id);
}

void page_cell_shade(struct page_table *table, double shade)
{
    if (table && table->n_cells > 0 && !isnan(shade))
        table->cells[table->n_cells - 1].shade = shade < 0 ? 0 : shade > 1 ? 1 : shade;
}

/* ---- items -------------------------------------------------------------------------------------
 */

struct page_items *page_items(struct page_section *section, const char *id, const char *title)
{
    struct page_block *b = add_block(section, BLOCK_ITEMS);
    struct page_items *items = b ? calloc(1, sizeof *items) : NULL;

    if (!items) {
        if (section)
            section->page->failed = true;
        return NULL;
    }
    b->items = items;
    items->page = section->page;
    items->id = copy(section->page, id);
    items->title = copy(section->page, title);
    return items;
}

void page_item(struct page_items *items, const char *name, bool right, const char *prompt,
               const char *answer, const char *gold)
{
    if (!items ||
        !grow(items->page, &items->items, items->n, &items->capacity, sizeof *items->items))
        return;
    items->items[items->n++] = (struct page_item){.name = copy(items->page, name),
                                                  .prompt = copy(items->page, prompt),
                                                  .answer = copy(items->page, answer),
                                                  .gold = copy(items->page, gold),
                                                  .right = right};
}

/* ---- writing -----------------------------------------------------------------------------------
 */

int page_write(const struct page *page, enum page_format format, FILE *out)
{
    static void (*const writers[])(const struct page *, FILE *) = {
        page_write_html, page_write_markdown, page_write_csv, page_write_json};

    if (page->failed)
        return error_set("out of memory");
    writers[format](page, out);
    return ferror(out) ? error_set("the report cannot be written") : 0;
}
