/* Nightly history: what got worse, and every metric over the nights. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "eval/report_internal.h"

void report_history(struct report *r)
{
    const struct history *h = &r->history;

    if (h->n_nights == 0)
        return;
    const size_t last = h->n_nights - 1;
    struct page_section *section = page_section(r->page, 1, "history", "Nightly history");
    page_text(section,
              "%zu nights, the last of %s at %s, compared with the median of up to %d before it.",
              h->n_nights, h->dates[last], h->commits[last], HISTORY_WINDOW);
    struct page_table *table =
        page_table(section, "", "lrrrrl", "metric|last night|median|allowed|nights|");
    for (size_t m = 0; m < h->n_metrics; m++) {
        const struct history_verdict v = history_judge(h, m, last);
        page_cell(table, "%s", h->metrics[m].name);
        if (isnan(v.value))
            page_cell(table, "-");
        else
            page_cell(table, "%.4g", v.value);
        page_cell(table, v.known ? "%.4g" : "-", v.median);
        page_cell(table, v.known ? "± %.2g" : "-", v.allowed);
        page_cell(table, "%zu", v.n);
        page_cell(table, "%s",
                  !v.known   ? "not enough nights"
                  : v.worse  ? "WORSE"
                  : v.better ? "better"
                             : "");
    }
    for (size_t m = 0; m < h->n_metrics; m++) {
        const struct plot_series series = {
            .style = PLOT_LINES_POINTS, .colour = m, .y = h->metrics[m].values, .n = h->n_nights};
        const struct plot plot = {
            .x_label = "night", .y_label = h->metrics[m].name, .series = &series, .n_series = 1};
        report_figure(r, section, h->metrics[m].name, &plot);
    }
}
