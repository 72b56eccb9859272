#ifndef T2_EVAL_REPORT_INTERNAL_H
#define T2_EVAL_REPORT_INTERNAL_H
/* What the sections of a report share. */
#include <hdf5.h>

#include "eval/analysis.h"
#include "eval/history.h"
#include "eval/plot.h"
#include "eval/report.h"

enum report_kind {
    REPORT_RESULTS,
    REPORT_EXPERT,
    REPORT_MIXTURE, /* an expert that t2 adapt has mixed */
    REPORT_FACTORS
};

struct report_file {
    const char *path, *name; /* name: without folder and .h5 */
    enum report_kind kind;
    hid_t file;
};

struct report {
    const struct report_options *options;
    struct page *page;
    struct report_file *files;
    size_t n_files;
    struct analysis analysis; /* factor files, and experts that hold z */
    struct history history;
    size_t n_figures;
    char *notice; /* why there are no figures */
    void **kept;  /* freed with the report */
    size_t n_kept;
    bool failed; /* memory ran out */
};

/* Values out of a file, freed with the report. A text is "" where there is none, a number NaN. */
const char *report_get(struct report *report, hid_t object, const char *name);
double report_real(hid_t object, const char *name);
/* A dataset [*n] as doubles; NULL where there is none. */
double *report_column(struct report *report, hid_t group, const char *name, size_t *n);
/* The same of one or two dimensions. */
double *report_grid(struct report *report, hid_t group, const char *name, size_t *n_rows,
                    size_t *n_columns);
/* Row `index` of a dataset of texts; "" where there is none. */
const char *report_text(struct report *report, hid_t group, const char *name, size_t index);
/* A group that may be absent: negative, without a message. */
hid_t report_open(hid_t parent, const char *name);

/* Calls `each` for every task of every results file, in order. */
typedef void (*report_task)(struct report *report, const struct report_file *file, const char *name,
                            hid_t group, void *data);
void report_each_task(struct report *report, report_task each, void *data);
/* What a task is judged by: pass@k where there are samples, else accuracy, normalised where the
 * task asks for it. NaN where there is none. */
void report_main_score(hid_t task, double *value, double *error);
/* Frees `memory` with the report; returns it. NULL is passed on (and noted). */
void *report_keep(struct report *report, void *memory);

/* "dir/SmolLM2.gguf" -> "SmolLM2.gguf". Points into path. */
const char *report_base(const char *path);
/* The value of a key in a text of "key = value" lines, as a run records its settings; "" if none.
 */
const char *report_setting(struct report *report, const char *settings, const char *key);

/* Draws and adds a figure; without gnuplot nothing, and the reason is kept. */
void report_figure(struct report *report, struct page_section *section, const char *title,
                   const struct plot *plot);
/* A heading and a table with n x n cells shaded by value. */
void report_matrix(struct page_section *section, const char *title, const char *const *names,
                   const double *values, size_t n);

/* The sections, in order. */
void report_scores(struct report *report);
void report_items(struct report *report);
void report_curves(struct report *report);
void report_phases(struct report *report);
void report_scaling(struct report *report);
void report_spectra(struct report *report);
void report_similarity(struct report *report);
void report_adaptation(struct report *report);
void report_history(struct report *report);
void report_paper(struct report *report);

/* LoRA by policy gradient, in the paper's section (report_training.c). */
void report_lora_curves(struct report *report, struct page_section *section);

/* Parts of the paper's section that adaptation fills (report_adaptation.c). */
void report_strategies(struct report *report, struct page_section *section);
void report_passes(struct report *report, struct page_section *section);
void report_confusion(struct report *report, struct page_section *section);
void report_mixtures(struct report *report, struct page_section *section);
void report_searches(struct report *report, struct page_section *section);

#endif
