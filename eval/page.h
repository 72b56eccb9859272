#ifndef T2_EVAL_PAGE_H
#define T2_EVAL_PAGE_H
/* A report before it has a format: sections of paragraphs, tables, figures and items, and the
 * writers for HTML, Markdown, CSV and JSON. Texts are copied as they are; each writer escapes for
 * its format, so that nothing a model has written becomes markup. Running out of memory is noted
 * and told by page_write. Local to a rank. */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum page_format { PAGE_HTML, PAGE_MARKDOWN, PAGE_CSV, PAGE_JSON };

struct page;
struct page_section;
struct page_table;
struct page_items;

/* title may be NULL. */
struct page *page_create(const char *title);
void page_free(struct page *page);

/* id: letters, digits and '-', unique; sections come out in the order they were made. level 1, or 2
 * for a part of the last section of level 1. */
struct page_section *page_section(struct page *page, int level, const char *id, const char *title);
bool page_section_is_empty(const struct page_section *section);

void page_text(struct page_section *section, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* A sentence that says what is missing and which run would make it. */
void page_hint(struct page_section *section, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* "see TITLE", linked to another section. */
void page_link(struct page_section *section, const char *id, const char *title);

/* heads: column titles parted by '|'; align: 'l' or 'r' a column. */
struct page_table *page_table(struct page_section *section, const char *title, const char *align,
                              const char *heads);
void page_cell(struct page_table *table, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* "-" where the value is NaN. */
void page_number(struct page_table *table, int digits, double value);
/* "0.839 +- 0.012"; the error is left out where it is NaN. */
void page_score(struct page_table *table, double value, double error);
/* For the last cell: a link to the items or section of this id; a shade from 0 to 1. */
void page_cell_link(struct page_table *table, const char *id);
void page_cell_shade(struct page_table *table, double shade);

/* svg is taken over and freed; NULL is passed over. */
void page_figure(struct page_section *section, const char *title, char *svg);

/* Items of a task that unfold. */
struct page_items *page_items(struct page_section *section, const char *id, const char *title);
void page_item(struct page_items *items, const char *name, bool right, const char *prompt,
               const char *answer, const char *gold);

/* 0, or -1 with error_set. */
int page_write(const struct page *page, enum page_format format, FILE *out);

#endif
