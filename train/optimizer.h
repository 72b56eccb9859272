#ifndef T2_TRAIN_OPTIMIZER_H
#define T2_TRAIN_OPTIMIZER_H
/* AdamW (Loshchilov & Hutter 2019; Adam: Kingma & Ba 2015) on one vector of f32 parameters,
 * learning-rate schedules and clipping. Plain functions, the same on every rank. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct adam_options {
    double rate, beta1, beta2, epsilon, weight_decay; /* decoupled; towards `origin` */
};
static inline struct adam_options adam_defaults(void)
{
    return (struct adam_options){2e-3, 0.9, 0.999, 1e-8, 0};
}

struct adam {
    size_t n;
    float *m, *v; /* [n] first and second moments */
    uint64_t step;
};
int adam_create(struct adam *adam, size_t n);
void adam_free(struct adam *adam);
/* parameters [n] -= rate * (m^ / (sqrt(v^) + epsilon)) + rate * decay * (parameter - origin).
 * origin NULL: 0 (torch.optim.AdamW). Arithmetic as PyTorch's in f32, so that steps agree to
 * rounding. */
void adam_step(struct adam *adam, const struct adam_options *options, double rate,
               float *parameters, const float *gradient, const float *origin);
/* The same, but parameters first .. first + n - 1 and their moments stay: their step is someone
 * else's. */
void adam_step_beside(struct adam *adam, const struct adam_options *options, double rate,
                      float *parameters, const float *gradient, const float *origin, size_t first,
                      size_t n);

enum schedule { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE };
int schedule_parse(const char *name, enum schedule *schedule);
/* Factor on the learning rate at step (from 0) of n_steps: linear warm-up over the first n_warmup,
 * then constant, down to 0 in a line, or by half a cosine. */
double schedule_factor(enum schedule schedule, size_t step, size_t n_steps, size_t n_warmup);

/* Scales gradient [n] so that its Euclidean norm is at most max_norm (0: leaves it), as PyTorch's
 * clip_grad_norm_ with its 1e-6; returns the norm before. Sums in f64. */
double clip_by_norm(float *gradient, size_t n, double max_norm);
/* The same for the largest absolute value. */
double clip_by_max(float *gradient, size_t n, double largest);

#endif
