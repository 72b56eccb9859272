/* The tables and figures of Transformer-Squared (arXiv 2501.06252, third version) as sections: from
 * the runs at hand, or with the run that would fill them. Titles are ours. */
#include <math.h>
#include <string.h>

#include "eval/report_internal.h"

enum paper_part {
    PART_TRAINED,     /* experts with a test */
    PART_ABLATION,    /* trained on one task in several ways */
    PART_OTHERS,      /* adapters that are not SVF */
    PART_CURVES,      /* curves of SVF experts */
    PART_LORA_CURVES, /* LoRA by policy gradient */
    PART_SPECTRA,     /* a factor file */
    PART_SECOND_SPECTRA,
    PART_TRANSFER, /* scores of experts that t2 transfer has made */
    PART_STRATEGIES,
    PART_PASSES,
    PART_SEARCHES,
    PART_CONFUSION,
    PART_MIXTURES
};

static const struct {
    const char *id, *title, *hint;
    enum paper_part part;
} parts[] = {
    {"table-1", "Table 1: the tasks that experts are trained on",
     "Filled by experts with a test: t2 train MODEL --task gsm8k --recipe "
     "jobs/recipes/paper-pg-mlp.ini --out gsm8k.h5, and the same for mbpp_hidden and arc_easy.",
     PART_TRAINED},
    {"table-2", "Table 2: unseen tasks, by strategy of adaptation",
     "Filled by t2 eval MODEL --experts gsm8k.h5,mbpp.h5,arc.h5 --adapt prompt (or cls, with "
     "--cls-expert), and by t2 adapt, on math, humaneval and arc_challenge.",
     PART_STRATEGIES},
    {"table-3", "Table 3: time of the first and the second pass",
     "Filled by t2 eval MODEL --experts ... --adapt prompt (or cls), which measures both passes.",
     PART_PASSES},
    {"table-4", "Table 4: ablation of objective, adapter and matrices",
     "Filled by two or more experts of one task: jobs/recipes/paper-pg-*.ini and paper-next-*.ini "
     "with "
     "--task gsm8k.",
     PART_ABLATION},
    {"table-5", "Table 5: experts of one model used in another",
     "Filled by experts of t2 transfer and the results of t2 eval --adapter with them.",
     PART_TRANSFER},
    {"table-7", "Table 7: other adapters",
     "Filled by experts of other kinds, with a test: t2 train MODEL --task gsm8k --recipe "
     "jobs/recipes/compare-lora.ini --out lora.h5, and the same with compare-dora.ini and "
     "compare-ia3.ini.",
     PART_OTHERS},
    {"table-8", "Table 8: by number of shots",
     "Filled by t2 adapt --shots 3, 5 and 10 (cross-entropy method), beside t2 train --adapter ia3 "
     "and "
     "lora on as many rows (--train-limit).",
     PART_SEARCHES},
    {"table-9", "Table 9: transfer on the tasks of training",
     "Filled by experts of t2 transfer and the results of t2 eval --adapter with them on the tasks "
     "that they were trained on.",
     PART_TRANSFER},
    {"table-10", "Table 10: a light search of few shots and generations",
     "Filled by t2 adapt with 3 shots and 10 generations beside a full search.", PART_SEARCHES},
    {"figure-4", "Figure 4: learning curves",
     "Filled by experts of t2 train with --validate-every.", PART_CURVES},
    {"figure-6", "Figure 6: confusion of the first pass",
     "Filled by t2 eval MODEL --experts ... --adapt prompt|classifier over the tasks of the "
     "experts.",
     PART_CONFUSION},
    {"figure-7", "Figure 7: mixing weights found by the search",
     "Filled by t2 adapt, or by t2 eval --adapter with what it has found.", PART_MIXTURES},
    {"figure-9", "Figure 9: learning curves of LoRA with policy gradient",
     "Filled by t2 train MODEL --task gsm8k --recipe jobs/recipes/compare-lora-pg.ini --rate 2e-4 "
     "--out lora-pg.h5, and at other rates up to 5e-2.",
     PART_LORA_CURVES},
    {"figure-10", "Figure 10: top-r shares of the singular values, first model",
     "Filled by the factor file of t2 decompose MODEL --modules all.", PART_SPECTRA},
    {"figure-11", "Figure 11: top-r shares of the singular values, second model",
     "Filled by the factor file of a second model.", PART_SECOND_SPECTRA},
};

struct trained {
    const char *task, *adapter, *objective, *modules;
};

static struct trained trained_of(struct report *r, const struct report_file *f)
{
    const char *settings = report_get(r, f->file, "settings");

    return (struct trained){.task = report_get(r, f->file, "task"),
                            .adapter = report_get(r, f->file, "adapter"),
                            .objective = report_setting(r, settings, "objective"),
                            .modules = report_setting(r, settings, "modules")};
}

/* Is there an expert of the same task made in another way? */
static bool has_contrast(struct report *r, const struct report_file *f)
{
    const struct trained a = trained_of(r, f);

    for (size_t i = 0; i < r->n_files; i++) {
        if (r->files[i].kind != REPORT_EXPERT)
            continue;
        const struct trained b = trained_of(r, &r->files[i]);
        if (strcmp(a.task, b.task) == 0 &&
            (strcmp(a.adapter, b.adapter) != 0 || strcmp(a.objective, b.objective) != 0 ||
             strcmp(a.modules, b.modules) != 0))
            return true;
    }
    return false;
}

static void trained_table(struct report *r, struct page_section *section, enum paper_part part)
{
    struct page_table *table = NULL;

    for (size_t i = 0; i < r->n_files; i++) {
        const struct report_file *f = &r->files[i];
        if (f->kind != REPORT_EXPERT || isnan(report_real(f->file, "test_after")))
            continue;
        const struct trained t = trained_of(r, f);
        if ((part == PART_OTHERS && strcmp(t.adapter, "svf") == 0) ||
            (part == PART_ABLATION && !has_contrast(r, f)))
            continue;
        if (!table)
            table =
                page_table(section, "", "llllllrrr",
                           "model|task|expert|adapter|objective|matrices|parameters|base|after");
        page_cell(table, "%s", report_base(report_get(r, f->file, "model")));
        page_cell(table, "%s", t.task);
        page_cell(table, "%s", f->name);
        page_cell(table, "%s", t.adapter);
        page_cell(table, "%s", t.objective);
        page_cell(table, "%s", t.modules);
        page_number(table, 0, report_real(f->file, "n_parameters"));
        page_number(table, 3, report_real(f->file, "test_before"));
        page_score(table, report_real(f->file, "test_after"), report_real(f->file, "test_error"));
    }
}

struct transfer {
    struct page_section *section;
    struct page_table *table;
    bool own; /* on the task that the expert was trained on, or on others */
};

static void transfer_row(struct report *r, const struct report_file *f, const char *name,
                         hid_t group, void *data)
{
    struct transfer *t = data;
    const char *options = report_get(r, f->file, "options");
    const char *adapter = report_base(report_setting(r, options, "adapter"));
    double value, error;

    for (size_t i = 0; *adapter && i < r->n_files; i++) {
        const struct report_file *e = &r->files[i];
        const char *order = e->kind == REPORT_EXPERT ? report_get(r, e->file, "transfer") : "";
        if (!*order || strcmp(report_base(e->path), adapter) != 0 ||
            (strcmp(report_get(r, e->file, "task"), name) == 0) != t->own)
            continue;
        if (!t->table)
            t->table = page_table(t->section, "", "llllr", "model|expert|order|task|score");
        report_main_score(group, &value, &error);
        page_cell(t->table, "%s", report_base(report_get(r, f->file, "model")));
        page_cell(t->table, "%s (from %s)", e->name, report_base(report_get(r, e->file, "source")));
        page_cell(t->table, "%s", order);
        page_cell(t->table, "%s", name);
        page_score(t->table, value, error);
        return;
    }
}

static void curves_link(struct report *r, struct page_section *section)
{
    for (size_t i = 0; i < r->n_files; i++) {
        const struct report_file *f = &r->files[i];
        if (f->kind == REPORT_EXPERT && H5Lexists(f->file, "curve", H5P_DEFAULT) > 0 &&
            strcmp(report_get(r, f->file, "adapter"), "svf") == 0) {
            page_link(section, "curves", "Learning curves");
            return;
        }
    }
}

void report_paper(struct report *r)
{
    struct page_section *all =
        page_section(r->page, 1, "paper", "The tables and figures of the paper");

    page_text(all, "Transformer-Squared (arXiv 2501.06252), with the runs of this report.");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        struct page_section *section = page_section(r->page, 2, parts[i].id, parts[i].title);
        const enum paper_part part = parts[i].part;
        if (part == PART_TRAINED || part == PART_ABLATION || part == PART_OTHERS)
            trained_table(r, section, part);
        else if (part == PART_TRANSFER)
            report_each_task(
                r, transfer_row,
                &(struct transfer){.section = section, .own = strcmp(parts[i].id, "table-9") == 0});
        else if (part == PART_STRATEGIES)
            report_strategies(r, section);
        else if (part == PART_PASSES)
            report_passes(r, section);
        else if (part == PART_SEARCHES)
            report_searches(r, section);
        else if (part == PART_CONFUSION)
            report_confusion(r, section);
        else if (part == PART_MIXTURES)
            report_mixtures(r, section);
        else if (part == PART_CURVES)
            curves_link(r, section);
        else if (part == PART_LORA_CURVES)
            report_lora_curves(r, section);
        else if (r->analysis.n_factors > (part == PART_SECOND_SPECTRA ? 1 : 0))
            page_link(section, "spectra", "Spectra");
        if (page_section_is_empty(section))
            page_hint(section, "%s", parts[i].hint);
    }
}
