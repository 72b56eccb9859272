#ifndef T2_EVAL_REPORT_H
#define T2_EVAL_REPORT_H
/* What runs have left, as one page: scores with their items, learning curves, spectra, similarity
 * of experts, time, scaling, nightly history, and the tables and figures of Transformer-Squared
 * (arXiv 2501.06252) as sections that say which run would fill them. Rank 0 alone. */
#include <stddef.h>

#include "eval/page.h"
#include "eval/similarity.h"

struct report_options {
    const char *title;   /* NULL: "t2 report" */
    const char *history; /* of nightly runs (history.h), or NULL */
    size_t n_items;      /* items shown of each task */
    bool figures;        /* SVG, with gnuplot */
    enum similarity_mismatch mismatch;
};

/* Results, experts and factor files in any order. NULL with error_set when one of them cannot be
 * read. Where gnuplot is missing the page has a sentence in place of its figures, and *notice
 * (malloc'ed) says so; else *notice is NULL. */
struct page *report_build(const char *const *paths, size_t n_paths,
                          const struct report_options *options, char **notice);

#endif
