#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

int adam_create(struct adam *adam, size_t n)
{
    *adam = (struct adam){.n = n};
    adam->m = calloc(n ? n : 1, sizeof *adam->m);
    adam->v = calloc(n ? n : 1, sizeof *adam->v);
    if (!adam->m || !adam->v) {
        adam_free(adam);
        return error_set("no memory for the optimizer's state of %zu parameters", n);
    }
    return 0;
}

void adam_free(struct adam *adam)
{
    if (!adam)
        return;
    free(adam->m);
    free(adam->v);
    memset(adam, 0, sizeof *adam);
}

/* The order of operations of torch.optim.AdamW (single tensor): decay, moments, bias corrections in
 * f64, then p -= (rate / correction1) * m / (sqrt(v) / sqrt(correction2) + epsilon). */
static void adam_range(struct adam *adam, const struct adam_options *options, double rate,
                       float *parameters, const float *gradient, const float *origin, size_t first,
                       size_t end)
{
    const double correction1 = 1 - pow(options->beta1, (double)adam->step);
    const double correction2 = 1 - pow(options->beta2, (double)adam->step);
    const float c1 = (float)(1 - options->beta1);
    const float b2 = (float)options->beta2, c2 = (float)(1 - options->beta2);
    const float step = (float)(rate / correction1), root = (float)sqrt(correction2);
    const float epsilon = (float)options->epsilon;
    const float decay = (float)(rate * options->weight_decay);

    for (size_t i = first; i < end; i++) {
        const float g = gradient[i];
        if (decay != 0)
            parameters[i] -= decay * (parameters[i] - (origin ? origin[i] : 0));
        adam->m[i] += c1 * (g - adam->m[i]); /* PyTorch's lerp */
        adam->v[i] = b2 * adam->v[i] + c2 * g * g;
        parameters[i] -= step * (adam->m[i] / (sqrtf(adam->v[i]) / root + epsilon));
    }
}

void adam_step_beside(struct adam *adam, const struct adam_options *options, double rate,
                      float *parameters, const float *gradient, const float *origin, size_t first,
                      size_t n)
{
    adam->step++;
    adam_range(adam, options, rate, parameters, gradient, origin, 0, first);
    adam_range(adam, options, rate, parameters, gradient, origin, first + n, adam->n);
}

void adam_step(struct adam *adam, const struct adam_options *options, double rate,
               float *parameters, const float *gradient, const float *origin)
{
    adam_step_beside(adam, options, rate, parameters, gradient, origin, 0, 0);
}

int schedule_parse(const char *name, enum schedule *schedule)
{
    static const char *const names[] = {"constant", "linear", "cosine"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            *schedule = (enum schedule)i;
            return 0;
        }
    return error_set("there is no schedule '%s': choose constant, linear or cosine", name);
}

double schedule_factor(enum schedule schedule, size_t step, size_t n_steps, size_t n_warmup)
{
    if (step < n_warmup)
        return (double)(step + 1) / (double)(n_warmup + 1);
    if (schedule == SCHEDULE_CONSTANT || n_steps <= n_warmup)
        return 1;
    const double done = (double)(step - n_warmup) / (double)(n_steps - n_warmup);
    const double left = done < 1 ? 1 - done : 0;
    return schedule == SCHEDULE_LINEAR ? left : 0.5 * (1 - cos(acos(-1.0) * left));
}

static void scale(float *x, size_t n, double factor)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= (float)factor;
}

double clip_by_norm(float *gradient, size_t n, double max_norm)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)gradient[i] * gradient[i];
    const double norm = sqrt(sum);
    if (max_norm > 0 && max_norm / (norm + 1e-6) < 1)
        scale(gradient, n, max_norm / (norm + 1e-6));
    return norm;
}

double clip_by_max(float *gradient, size_t n, double largest)
{
    double max = 0;

    for (size_t i = 0; i < n; i++)
        max = fmax(max, fabs((double)gradient[i]));
    if (largest > 0 && max > largest)
        scale(gradient, n, largest / max);
    return max;
}
