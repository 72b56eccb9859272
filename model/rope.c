#include "model/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

static const double pi = 3.14159265358979323846;

static void scale_llama3(float *inverse, size_t half, const struct rope_config *r)
{
    const double low_wavelength = r->original_max_positions / r->low_freq_factor;
    const double high_wavelength = r->original_max_positions / r->high_freq_factor;
    for (size_t i = 0; i < half; i++) {
        const double wavelength = 2 * pi / inverse[i];
        if (wavelength < high_wavelength)
            continue;
        if (wavelength > low_wavelength) {
            inverse[i] = (float)(inverse[i] / r->factor);
            continue;
        }
        const double smooth = (r->original_max_positions / wavelength - r->low_freq_factor) /
                              (r->high_freq_factor - r->low_freq_factor);
        inverse[i] = (float)((1 - smooth) * inverse[i] / r->factor + smooth * inverse[i]);
    }
}

/* The dimension whose wave makes n rotations over the original context. */
static double yarn_dimension(double n, double dim, const struct rope_config *r)
{
    return dim * log(r->original_max_positions / (n * 2 * pi)) / (2 * log(r->theta));
}

static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static void scale_yarn(struct rope_table *table, const struct rope_config *r)
{
    const double dim = 2 * (double)table->half;
    double low = yarn_dimension(r->beta_fast, dim, r), high = yarn_dimension(r->beta_slow, dim, r);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, dim - 1);
    if (low == high)
        high += 0.001;
    for (size_t i = 0; i < table->half; i++) {
        const double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
        const double kept = table->inverse_frequencies[i];
        table->inverse_frequencies[i] = (float)(kept / r->factor * ramp + kept * (1 - ramp));
    }
    if (r->attention_factor > 0)
        table->amplitude = (float)r->attention_factor;
    else if (r->mscale != 0 && r->mscale_all_dim != 0)
        table->amplitude =
            (float)(yarn_mscale(r->factor, r->mscale) / yarn_mscale(r->factor, r->mscale_all_dim));
    else
        table->amplitude = (float)yarn_mscale(r->factor, 1);
}

int rope_create(struct rope_table *table, const struct model_config *config,
                const struct memory *memory)
{
    const struct rope_config *r = &config->rope;

    *table = (struct rope_table){.half = config->head_dim / 2, .amplitude = 1, .memory = memory};
    table->inverse_frequencies = malloc((table->half + 1) * sizeof(float));
    if (!table->inverse_frequencies)
        return error_set("no memory for position tables");
    for (size_t i = 0; i < table->half; i++)
        table->inverse_frequencies[i] =
            1.0f / (float)pow(r->theta, (double)(float)(2 * i) / (double)config->head_dim);
    if (r->frequency_factors)
        for (size_t i = 0; i < table->half; i++)
            table->inverse_frequencies[i] /= r->frequency_factors[i];
    switch (r->kind) {
    case ROPE_DEFAULT:
        break;
    case ROPE_LINEAR:
        for (size_t i = 0; i < table->half; i++)
            table->inverse_frequencies[i] = (float)(table->inverse_frequencies[i] / r->factor);
        break;
    case ROPE_LLAMA3:
        scale_llama3(table->inverse_frequencies, table->half, r);
        break;
    case ROPE_YARN:
        scale_yarn(table, r);
        break;
    }
    return 0;
}

static void give_tables(struct rope_table *table)
{
    memory_give(table->memory, table->cos, table->n_positions * table->half, sizeof(float));
    memory_give(table->memory, table->sin, table->n_positions * table->half, sizeof(float));
}

int rope_extend(struct rope_table *table, size_t n)
{
    const size_t filled = table->n_positions * table->half;

    if (n <= table->n_positions)
        return 0;
    n = (n + 255) / 256 * 256;
    float *cosines = memory_take(table->memory, n * table->half, sizeof(float));
    float *sines = memory_take(table->memory, n * table->half, sizeof(float));
    if (!cosines || !sines) {
        memory_give(table->memory, cosines, n * table->half, sizeof(float));
        memory_give(table->memory, sines, n * table->half, sizeof(float));
        return error_set("no memory for the position tables of %zu tokens", n);
    }
    if (filled > 0) {
        memcpy(cosines, table->cos, filled * sizeof(float));
        memcpy(sines, table->sin, filled * sizeof(float));
    }
    for (size_t p = table->n_positions; p < n; p++)
        for (size_t i = 0; i < table->half; i++) {
            const float angle = table->inverse_frequencies[i] * (float)p;
            cosines[p * table->half + i] = (float)cos(angle) * table->amplitude;
            sines[p * table->half + i] = (float)sin(angle) * table->amplitude;
        }
    give_tables(table);
    table->cos = cosines;
    table->sin = sines;
    table->n_positions = n;
    return 0;
}

void rope_free(struct rope_table *table)
{
    if (!table)
        return;
    free(table->inverse_frequencies);
    if (table->memory)
        give_tables(table);
    memset(table, 0, sizeof *table);
}
