#include "eval/mixture_file.h"

#include <stdlib.h>
#include <string.h>

#include "model/expert_set.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"
#include "mpi/text.h"

enum { MAX_GROUPS = 4096 }; /* no model has as many matrices */

/* The group of an open file, negative where there is none. */
static hid_t open_group(hid_t file)
{
    return H5Lexists(file, "mixture", H5P_DEFAULT) > 0 ? H5Gopen2(file, "mixture", H5P_DEFAULT)
                                                       : (hid_t)-1;
}

/* All rows of a column of strings; NULL where one is missing. */
static char **read_texts(hid_t group, const char *name, size_t n)
{
    char **texts = calloc(n + 1, sizeof *texts);

    for (size_t i = 0; texts && i < n; i++) {
        texts[i] = h5_text_at(group, name, i);
        if (!texts[i]) {
            while (i-- > 0)
                free(texts[i]);
            free(texts);
            return NULL;
        }
    }
    return texts;
}

static int read_group(struct mixture *m, hid_t group)
{
    size_t n_groups, n;

    if (!h5_shape(group, "alpha", &n_groups, &n) || n == 0 || n > EXPERT_SET_MAX || n_groups == 0 ||
        n_groups > MAX_GROUPS)
        return -1;
    m->n_groups = n_groups;
    m->n_experts = n;
    m->alpha = malloc(m->n_groups * m->n_experts * sizeof *m->alpha);
    return m->alpha && h5_get_doubles(group, "alpha", m->alpha, m->n_groups, m->n_experts) == 0 &&
                   (m->experts = read_texts(group, "experts", m->n_experts)) &&
                   (m->files = read_texts(group, "files", m->n_experts)) &&
                   (m->groups = read_texts(group, "groups", m->n_groups))
               ? 0
               : -1;
}

int mixture_read(struct mixture *m, const char *path)
{
    struct h5_quiet quiet;
    int status = 0;

    *m = (struct mixture){0};
    h5_quiet_begin(&quiet);
    hid_t file = h5_is_kind(path, "t2 expert") ? h5_open(path) : (hid_t)-1;
    hid_t group = file >= 0 ? open_group(file) : (hid_t)-1;
    if (group >= 0) {
        status = read_group(m, group);
        H5Gclose(group);
        if (status == 0) {
            h5_get_text(file, "task", &m->task);
            h5_get_text(file, "adaptation", &m->method);
            h5_get_text(file, "mix", &m->mix);
            if (!(m->file = strdup(path)))
                status = -1;
        }
    }
    h5_close(file);
    h5_quiet_end(&quiet);
    if (status != 0) {
        mixture_free(m);
        error_set("%s: the coefficients in its group /mixture cannot be read: make it again with "
                  "t2 adapt",
                  path);
    }
    return status;
}

void mixture_free(struct mixture *m)
{
    for (size_t k = 0; k < m->n_experts; k++) {
        free(m->experts ? m->experts[k] : NULL);
        free(m->files ? m->files[k] : NULL);
    }
    for (size_t g = 0; m->groups && g < m->n_groups; g++)
        free(m->groups[g]);
    free(m->experts);
    free(m->files);
    free(m->groups);
    free(m->alpha);
    free(m->file);
    free(m->task);
    free(m->method);
    free(m->mix);
    *m = (struct mixture){0};
}

int mixture_put(hid_t file, const struct mixture *m)
{
    hid_t group = h5_group_create(file, "mixture");

    if (group < 0)
        return -1;
    const int status =
        h5_column_texts(group, "experts", (const char *const *)m->experts, m->n_experts) ||
                h5_put_doubles(group, "alpha", m->alpha, m->n_groups, m->n_experts) ||
                h5_column_texts(group, "files", (const char *const *)m->files, m->n_experts) ||
                h5_column_texts(group, "groups", (const char *const *)m->groups, m->n_groups) ||
                (m->file && h5_put_text(group, "file", m->file)) ||
                (m->task && h5_put_text(group, "task", m->task)) ||
                (m->method && h5_put_text(group, "adaptation", m->method)) ||
                (m->mix && h5_put_text(group, "mix", m->mix))
            ? -1
            : 0;
    H5Gclose(group);
    return status;
}

/* ---- for people --------------------------------------------------------------------------------
 */

/* A name out of the file. */
static void name_cell(struct text_table *table, const char *name)
{
    char shown[61];
    size_t n = 0;

    for (; name[n] && n + 1 < sizeof shown; n++)
        shown[n] = text_printable(name[n], '?');
    shown[n] = '\0';
    text_table_cell(table, "%s", shown);
}

void mixture_describe(hid_t file, FILE *out)
{
    char align[EXPERT_SET_MAX + 2] = "l";
    struct mixture m = {0};
    struct text_table table;
    hid_t group = open_group(file);

    if (group < 0)
        return;
    if (read_group(&m, group) == 0) {
        memset(align + 1, 'r', m.n_experts);
        text_table_begin(&table, align);
        text_table_cell(&table, "coefficients");
        for (size_t k = 0; k < m.n_experts; k++)
            name_cell(&table, m.experts[k]);
        for (size_t g = 0; g < m.n_groups; g++) {
            name_cell(&table, m.groups[g]);
            for (size_t k = 0; k < m.n_experts; k++)
                text_table_cell(&table, "%.4f", m.alpha[g * m.n_experts + k]);
        }
        fputc('\n', out);
        text_table_print(&table, out, 2);
    }
    mixture_free(&m);
    H5Gclose(group);
}
