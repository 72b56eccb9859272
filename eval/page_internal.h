#ifndef T2_EVAL_PAGE_INTERNAL_H
#define T2_EVAL_PAGE_INTERNAL_H
/* What the writers see of a page. */
#include "eval/page.h"

struct page_cell {
    char *text, *link;
    double shade; /* negative: none */
};

struct page_table {
    struct page *page;
    char *title, *align;
    char **heads;
    struct page_cell *cells;
    size_t n_columns, n_cells, capacity;
};

struct page_item {
    char *name, *prompt, *answer, *gold;
    bool right;
};

struct page_items {
    struct page *page;
    char *id, *title;
    struct page_item *items;
    size_t n, capacity;
};

struct page_block {
    enum { BLOCK_TEXT, BLOCK_HINT, BLOCK_LINK, BLOCK_TABLE, BLOCK_FIGURE, BLOCK_ITEMS } type;
    char *text, *id; /* id: a link's target; text: also a figure's title */
    char *svg;
    struct page_table *table;
    struct page_items *items;
};

struct page_section {
    struct page *page;
    int level;
    char *id, *title;
    struct page_block *blocks;
    size_t n, capacity;
};

struct page {
    char *title;
    struct page_section **sections;
    size_t n, capacity;
    bool failed; /* memory ran out */
};

void page_write_html(const struct page *page, FILE *out);
void page_write_markdown(const struct page *page, FILE *out);
void page_write_csv(const struct page *page, FILE *out);
void page_write_json(const struct page *page, FILE *out);

#endif
