/* Singular spectra, what experts do to them, and how alike experts are. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/report_internal.h"
#include "eval/spectrum.h"
#include "mpi/error.h"

enum { MAX_NAMES = 16, N_MOVED = 5 };

/* ---- spectra -----------------------------------------------------------------------------------
 */

/* One kind of matrix: the means over its layers, by place in the spectrum. */
struct profile {
    const char *name;
    size_t r, n_layers;
    double *x, *share, *sigma; /* [r]: part of the spectrum; top-r share; sigma over the largest */
};

static bool profile_make(struct report *r, const struct factors *f, const char *name,
                         struct profile *p)
{
    double *share = NULL;

    memset(p, 0, sizeof *p);
    p->name = name;
    for (size_t i = 0; i < factors_n_matrices(f); i++) {
        const struct factors_matrix *m = factors_get(f, i);
        const size_t n = module_rank(&m->module);
        if (strcmp(m->module.name, name) != 0 || (p->r > 0 && n != p->r))
            continue;
        if (p->r == 0) {
            p->r = n;
            p->x = report_keep(r, calloc(n, sizeof(double)));
            p->share = report_keep(r, calloc(n, sizeof(double)));
            p->sigma = report_keep(r, calloc(n, sizeof(double)));
            share = report_keep(r, calloc(n, sizeof(double)));
            if (!p->x || !p->share || !p->sigma || !share)
                return false;
        }
        spectrum_shares(m->sigma, n, share, NULL);
        for (size_t k = 0; k < n; k++) {
            p->share[k] += share[k];
            p->sigma[k] += m->sigma[0] > 0 ? m->sigma[k] / m->sigma[0] : 0;
        }
        p->n_layers++;
    }
    for (size_t k = 0; k < p->r; k++) {
        p->x[k] = (double)(k + 1) / (double)p->r;
        p->share[k] /= (double)p->n_layers;
        p->sigma[k] /= (double)p->n_layers;
    }
    return p->r > 0;
}

/* "factors of SmolLM2.gguf" */
static const char *label_of(struct report *r, const struct analysis_factors *f)
{
    char *label = NULL;

    for (size_t i = 0; i < r->n_files; i++)
        if (strcmp(r->files[i].path, f->path) == 0 &&
            asprintf(&label, "%.80s of %.80s", r->files[i].name,
                     report_base(report_get(r, r->files[i].file, "model"))) >= 0)
            break;
    const char *kept = label ? report_keep(r, label) : NULL;
    return kept ? kept : f->name;
}

static void spectra_of(struct report *r, struct page_section *section,
                       const struct analysis_factors *f)
{
    const char *label = label_of(r, f);
    struct module *modules =
        report_keep(r, calloc(factors_n_matrices(f->file) + 1, sizeof *modules));
    const char *names[MAX_NAMES];
    struct plot_series shares[MAX_NAMES] = {0}, sigmas[MAX_NAMES] = {0};
    char title[256];
    size_t n = 0;

    for (size_t i = 0; modules && i < factors_n_matrices(f->file); i++)
        modules[i] = factors_get(f->file, i)->module;
    const size_t n_names =
        modules ? analysis_names(modules, factors_n_matrices(f->file), names, MAX_NAMES) : 0;
    snprintf(title, sizeof title, "%.170s: share of the sum held by the largest r values", label);
    struct page_table *table =
        page_table(section, title, "lrrrrrrrrr",
                   "matrices|layers|r|top 10 %|top 20 %|top 50 %|for 50 %|for 90 %|for 99 %|"
                   "smallest / largest");
    for (size_t k = 0; k < n_names; k++) {
        struct profile p;
        if (!profile_make(r, f->file, names[k], &p))
            continue;
        page_cell(table, "%s", p.name);
        page_cell(table, "%zu", p.n_layers);
        page_cell(table, "%zu", p.r);
        page_number(table, 3, p.share[(p.r + 9) / 10 - 1]);
        page_number(table, 3, p.share[(p.r + 4) / 5 - 1]);
        page_number(table, 3, p.share[(p.r + 1) / 2 - 1]);
        page_cell(table, "%zu", spectrum_count_for(p.share, p.r, 0.5));
        page_cell(table, "%zu", spectrum_count_for(p.share, p.r, 0.9));
        page_cell(table, "%zu", spectrum_count_for(p.share, p.r, 0.99));
        page_cell(table, "%.1e", p.sigma[p.r - 1]);
        shares[n] = (struct plot_series){.colour = n, .x = p.x, .y = p.share, .n = p.r};
        sigmas[n] = (struct plot_series){.colour = n, .x = p.x, .y = p.sigma, .n = p.r};
        snprintf(shares[n].label, sizeof shares[n].label, "%s", p.name);
        snprintf(sigmas[n].label, sizeof sigmas[n].label, "%s", p.name);
        n++;
    }
    const struct plot top = {.x_label = "r, part of all singular values",
                             .y_label = "share of their sum",
                             .y_max = 1,
                             .series = shares,
                             .n_series = n};
    const struct plot fall = {.x_label = "place, part of all singular values",
                              .y_label = "sigma / largest",
                              .log_y = true,
                              .series = sigmas,
                              .n_series = n};
    snprintf(title, sizeof title, "%.170s: top-r shares, means over layers", label);
    report_figure(r, section, title, &top);
    snprintf(title, sizeof title, "%.170s: singular values, means over layers", label);
    report_figure(r, section, title, &fall);
}

void report_spectra(struct report *r)
{
    struct page_section *section = NULL;

    for (size_t i = 0; i < r->analysis.n_factors; i++) {
        if (!section)
            section = page_section(r->page, 1, "spectra", "Spectra");
        spectra_of(r, section, &r->analysis.factors[i]);
    }
}

/* ---- similarity --------------------------------------------------------------------------------
 */

static void pair_matrix(struct report *r, struct page_section *section, const struct similarity *s)
{
    const size_t n = s->n_experts;
    double *cosines = report_keep(r, calloc(n * n + 1, sizeof *cosines));
    const char **names = report_keep(r, calloc(n + 1, sizeof *names));

    if (!cosines || !names)
        return;
    for (size_t a = 0; a < n; a++) {
        names[a] = r->analysis.experts[a].name;
        for (size_t b = 0; b < n; b++)
            cosines[a * n + b] = similarity_cosine(s, a, b, -1, NULL);
    }
    report_matrix(section, "cosine of z - 1 between experts, all matrices", names, cosines, n);
}

/* A line a kind of matrix: the mean cosine over all pairs, by layer. */
static void layer_figure(struct report *r, struct page_section *section, const struct similarity *s)
{
    const char *names[MAX_NAMES];
    const size_t n_names = analysis_names(s->modules, s->n_matrices, names, MAX_NAMES);
    const size_t n_layers = s->n_matrices ? s->modules[s->n_matrices - 1].layer + 1 : 0;
    struct plot_series series[MAX_NAMES] = {0};
    size_t n = 0;

    double *x = report_keep(r, calloc(n_layers + 1, sizeof *x));
    for (size_t i = 0; x && i < n_layers; i++)
        x[i] = (double)i;
    for (size_t k = 0; x && k < n_names; k++) {
        double *y = report_keep(r, calloc(n_layers + 1, sizeof *y));
        for (size_t layer = 0; y && layer < n_layers; layer++) {
            double sum = 0;
            size_t pairs = 0;
            for (size_t a = 0; a < s->n_experts; a++)
                for (size_t b = 0; b < a; b++) {
                    const double cosine = similarity_cosine(s, a, b, (long)layer, names[k]);
                    sum += isnan(cosine) ? 0 : cosine;
                    pairs += !isnan(cosine);
                }
            y[layer] = pairs ? sum / (double)pairs : (double)NAN;
        }
        if (!y)
            return;
        series[n] = (struct plot_series){
            .style = PLOT_LINES_POINTS, .colour = n, .x = x, .y = y, .n = n_layers};
        snprintf(series[n].label, sizeof series[n].label, "%s", names[k]);
        n++;
    }
    const struct plot plot = {
        .x_label = "layer", .y_label = "cosine, mean over pairs", .series = series, .n_series = n};
    report_figure(r, section, "similarity of experts by layer", &plot);
}

static void moved_table(struct report *r, struct page_section *section)
{
    struct page_table *table = page_table(section, "singular values that the experts move most",
                                          "llrrrr", "expert|matrix|index|sigma|z|sigma z");

    for (size_t i = 0; i < r->analysis.n_experts; i++) {
        const struct analysis_expert *e = &r->analysis.experts[i];
        struct spectrum_moved moved[N_MOVED];
        const size_t n = spectrum_most_moved(&e->file, e->factors, N_MOVED, moved);
        for (size_t k = 0; k < n; k++) {
            page_cell(table, "%s", e->name);
            page_cell(table, "%s", moved[k].module->path);
            page_cell(table, "%zu", moved[k].index);
            page_number(table, 4, moved[k].sigma);
            page_number(table, 4, moved[k].z);
            page_number(table, 4, moved[k].sigma * moved[k].z);
        }
    }
}

void report_similarity(struct report *r)
{
    struct similarity similarity;

    if (r->analysis.n_experts == 0)
        return;
    struct page_section *section = page_section(r->page, 1, "similarity", "Experts side by side");
    if (r->analysis.n_experts > 1) {
        if (analysis_similarity(&r->analysis, r->options->mismatch, &similarity) == 0) {
            pair_matrix(r, section, &similarity);
            layer_figure(r, section, &similarity);
            similarity_free(&similarity);
        } else {
            page_hint(section, "No similarity: %s.", error_message());
        }
    }
    moved_table(r, section);
}
