#include "eval/spectrum.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/similarity.h"
#include "mpi/error.h"

void spectrum_shares(const double *sigma, size_t r, double *share, double *energy)
{
    double sum = 0, squares = 0, sum_all = 0, squares_all = 0;

    for (size_t i = 0; i < r; i++) {
        sum_all += sigma[i];
        squares_all += sigma[i] * sigma[i];
    }
    for (size_t i = 0; i < r; i++) {
        sum += sigma[i];
        squares += sigma[i] * sigma[i];
        if (share)
            share[i] = sum_all > 0 ? sum / sum_all : 0;
        if (energy)
            energy[i] = squares_all > 0 ? squares / squares_all : 0;
    }
}

size_t spectrum_count_for(const double *share, size_t r, double part)
{
    size_t i = 0;

    while (i < r && share[i] < part)
        i++;
    return i < r ? i + 1 : r;
}

/* The matrix's singular values; NULL where they are not known or of another length. */
static const double *sigma_of(const struct factors *factors, const struct module *module, size_t n)
{
    const struct factors_matrix *m = factors ? factors_find(factors, module->path) : NULL;

    return m && module_rank(&m->module) == n ? m->sigma : NULL;
}

size_t spectrum_most_moved(const struct expert *expert, const struct factors *factors, size_t n,
                           struct spectrum_moved *moved)
{
    size_t n_moved = 0;

    for (size_t k = 0; n > 0 && k < expert->n_matrices; k++) {
        const struct expert_matrix *m = &expert->matrices[k];
        const struct expert_parameter *z = similarity_vector(m);
        const double *sigma = z ? sigma_of(factors, &m->module, z->n_rows) : NULL;
        for (size_t i = 0; z && i < z->n_rows; i++) {
            const double value = (double)z->values[i], distance = fabs(value - 1);
            if (distance == 0 || (n_moved == n && distance <= fabs(moved[n - 1].z - 1)))
                continue;
            size_t at = n_moved < n ? n_moved++ : n - 1;
            for (; at > 0 && fabs(moved[at - 1].z - 1) < distance; at--)
                moved[at] = moved[at - 1];
            moved[at] =
                (struct spectrum_moved){&m->module, i, value, sigma ? sigma[i] : (double)NAN};
        }
    }
    return n_moved;
}

void spectrum_tenths(const struct expert *expert, const char *name, double rms[SPECTRUM_TENTHS])
{
    size_t counts[SPECTRUM_TENTHS] = {0};

    memset(rms, 0, SPECTRUM_TENTHS * sizeof *rms);
    for (size_t k = 0; k < expert->n_matrices; k++) {
        const struct expert_matrix *m = &expert->matrices[k];
        const struct expert_parameter *z = similarity_vector(m);
        if (!z || strcmp(m->module.name, name) != 0)
            continue;
        for (size_t i = 0; i < z->n_rows; i++) {
            const size_t tenth = i * SPECTRUM_TENTHS / z->n_rows;
            const double d = (double)z->values[i] - 1;
            rms[tenth] += d * d;
            counts[tenth]++;
        }
    }
    for (size_t t = 0; t < SPECTRUM_TENTHS; t++)
        rms[t] = counts[t] ? sqrt(rms[t] / (double)counts[t]) : (double)NAN;
}

static int compare_descending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return x < y ? 1 : x > y ? -1 : 0;
}

int spectrum_truncate(const struct expert *expert, const struct factors *factors,
                      const double *parts, size_t n_parts, struct spectrum_kept *kept)
{
    double *squares = NULL, all = 0;
    int status = -1;

    memset(kept, 0, n_parts * sizeof *kept);
    for (size_t k = 0; k < expert->n_matrices; k++) {
        const struct expert_matrix *m = &expert->matrices[k];
        const struct expert_parameter *z = similarity_vector(m);
        if (!z)
            continue;
        const size_t n = z->n_rows;
        const double *sigma = sigma_of(factors, &m->module, n);
        double *room = realloc(squares, n * sizeof *squares);
        if (!room) {
            error_set("out of memory");
            goto done;
        }
        squares = room;
        for (size_t i = 0; i < n; i++) {
            const double d = (sigma ? sigma[i] : 1) * ((double)z->values[i] - 1);
            squares[i] = d * d;
            all += squares[i];
        }
        for (int sorted = 0; sorted < 2; sorted++) {
            if (sorted)
                qsort(squares, n, sizeof *squares, compare_descending);
            for (size_t p = 0; p < n_parts; p++) {
                const size_t count = (size_t)fmin(ceil(parts[p] * (double)n), (double)n);
                double sum = 0;
                for (size_t i = 0; i < count; i++)
                    sum += squares[i];
                *(sorted ? &kept[p].largest : &kept[p].first) += sum;
            }
        }
    }
    for (size_t p = 0; p < n_parts; p++) {
        kept[p].first = all > 0 ? kept[p].first / all : 0;
        kept[p].largest = all > 0 ? kept[p].largest / all : 0;
    }
    status = 0;
done:
    free(squares);
    return status;
}
