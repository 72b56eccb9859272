#ifndef T2_SOLVER_ENGINE_TRAIN_INTERNAL_H
#define T2_SOLVER_ENGINE_TRAIN_INTERNAL_H
/* The parts of the CPU's training table, one file each. */
#include "solver/engine_train.h"

/* dh [width] += the backward of RMSNorm on one row. */
void engine_norm_backward_row(const struct engine *e, float *dh, const float *dx, const float *h,
                              const float *weight, size_t width, float eps);

/* engine_adapters_cpu.c */
void adapters_cpu_to_floats(const struct engine *e, float *values, size_t ldv, const void *x,
                            size_t ldx, size_t n, size_t width);
void adapters_cpu_scale_add(const struct engine *e, float *y, size_t ldy, const float *t,
                            size_t ldt, const float *z, const float *bias, size_t n, size_t width,
                            bool accumulate);
void adapters_cpu_drop(const struct engine *e, void *y, size_t ldy, const void *x, size_t ldx,
                       size_t n, size_t width, const struct dropout *dropout);
void adapters_cpu_add_dropped(const struct engine *e, float *dx, size_t lddx, const float *t,
                              size_t ldt, size_t n, size_t width, const struct dropout *dropout);

/* spaces_cpu.c */
void spaces_cpu_norms(const struct engine *e, double *norms, size_t n_norms, const void *x,
                      size_t ldx, size_t n, size_t n_in);
void spaces_cpu_long(const struct engine *e, const struct spaces *s, float *h, size_t ldh,
                     const struct matrix *in, const void *x, size_t ldx, const double *norms,
                     size_t n);
void spaces_cpu_forward(const struct engine *e, const struct spaces *s, float *u, size_t ldu,
                        float *h, size_t ldh, const double *norms, size_t n);
int spaces_cpu_backward(const struct engine *e, const struct spaces *s, double *sums,
                        double *factors, float *dh, float *u, size_t ldu, const float *h,
                        size_t ldh, size_t n);
void spaces_cpu_input(const struct engine *e, float *dx, size_t lddx, const double *factors,
                      size_t n_norms, const void *x, size_t ldx, size_t n, size_t n_in);

int attention_cpu_backward(const struct engine *e, const struct attention_layer *a,
                           const struct attention_sequence *sequences, size_t n_sequences,
                           size_t n_rows, const float *qkv, size_t ldqkv, const float *dout,
                           size_t ldo, float *dqkv, size_t lddqkv);

int head_cpu_backward(const struct engine *e, float *dx, size_t lddx, const void *x, const void *x0,
                      size_t ldx, size_t n, const struct matrix *m, const struct matrix *m_t,
                      const struct head_term *terms, struct head_term_result *results);

#endif
