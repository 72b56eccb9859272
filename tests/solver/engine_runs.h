#ifndef T2_TESTS_ENGINE_RUNS_H
#define T2_TESTS_ENGINE_RUNS_H
/* Runs of the training table's operations on the CPU and on a CUDA device, on the same random
 * numbers, and what came out side by side. */
#include "mpi/error.h"
#include "solver/engine_cuda.h"
#include "tests/solver/train_cases.h"

enum { SKIPPED = 77, MOST_TENSORS = 64, MOST_PARTS = 160 };

/* One run of an operation: its engine, tensors, and the numbers that came out. */
struct run {
    struct engine e;
    const struct engine_train_ops *ops;
    void *tensors[MOST_TENSORS];
    size_t bytes[MOST_TENSORS];
    size_t n_tensors;
    long fail_after; /* of the stand-in, once an operation begins */
    float *out;
    size_t n_out;
    size_t ends[MOST_PARTS]; /* of what was kept at a time */
    double looser[MOST_PARTS];
    size_t n_parts;
};

static inline void start(struct run *run, bool cuda, enum element element)
{
    memset(run, 0, sizeof *run);
    const int status = cuda ? engine_create_cuda(&run->e, element, cpu_best_isa(), 2, 0)
                            : engine_create_cpu(&run->e, element, cpu_best_isa(), 2);
    if (status != 0)
        fail_msg("%s", error_message());
    run->ops = run->e.train;
}

static inline void finish(struct run *run)
{
    run->e.ops->wait(&run->e);
    for (size_t i = 0; i < run->n_tensors; i++)
        memory_give(run->e.memory, run->tensors[i], run->bytes[i], 1);
    free(run->out);
    engine_free(&run->e);
}

/* A tensor with `bytes` from the host (NULL: ones, which no operation may leave). */
static inline void *tensor(struct run *run, const void *from, size_t bytes)
{
    void *p = memory_take(run->e.memory, bytes, 1);
    assert_non_null(p);
    assert_true(run->n_tensors < MOST_TENSORS);
    run->e.ops->wait(&run->e);
    if (from)
        memcpy(p, from, bytes);
    else
        memset(p, 0x7f, bytes);
    run->tensors[run->n_tensors] = p;
    run->bytes[run->n_tensors++] = bytes;
    return p;
}

/* n random numbers as f32, and as elements */
static inline float *floats(struct run *run, size_t n, float offset)
{
    float *values = random_values(n, offset), *x = tensor(run, values, n * sizeof *x);
    free(values);
    return x;
}

static inline void *elements(struct run *run, size_t n)
{
    float *values = random_values(n, 0);
    void *host = elements_of(run->e.element, values, n);
    void *x = tensor(run, host, n * element_size(run->e.element));
    free(values);
    free(host);
    return x;
}

/* Numbers to be compared, within `looser` times what is allowed. */
static inline void keep_loosely(struct run *run, const float *values, size_t n, double looser)
{
    assert_true(run->n_parts < MOST_PARTS);
    run->e.ops->wait(&run->e);
    run->out = realloc(run->out, (run->n_out + n + 1) * sizeof *run->out);
    assert_non_null(run->out);
    memcpy(run->out + run->n_out, values, n * sizeof *values);
    run->n_out += n;
    run->looser[run->n_parts] = looser;
    run->ends[run->n_parts++] = run->n_out;
}

static inline void keep(struct run *run, const float *values, size_t n)
{
    keep_loosely(run, values, n, 1);
}

static inline void keep_elements(struct run *run, const void *x, size_t n)
{
    float *values = malloc((n + 1) * sizeof *values);
    assert_non_null(values);
    run->e.ops->wait(&run->e);
    for (size_t i = 0; i < n; i++)
        values[i] = element_at(run->e.element, x, i);
    keep(run, values, n);
    free(values);
}

typedef void operation(struct run *run, size_t which);

static inline void compare_part(const struct run *cpu, const struct run *cuda, size_t part,
                                double near, const char *what)
{
    const size_t first = part ? cpu->ends[part - 1] : 0, end = cpu->ends[part];
    double squares = 0;
    for (size_t i = first; i < end; i++)
        squares += (double)cpu->out[i] * cpu->out[i];
    const double size = sqrt(squares / (double)(end - first + 1));
    for (size_t i = first; i < end; i++)
        assert_near((double)cuda->out[i], (double)cpu->out[i],
                    near * cpu->looser[part] * (size + fabs((double)cpu->out[i])), what, i);
}

/* Runs an operation on both engines with the same random numbers. Numbers may differ by `near` of
 * their own size and of the root mean square of what was kept with them. */
static inline void compare(operation *f, size_t which, enum element element, double near,
                           const char *what)
{
    const uint32_t state = random_state;
    struct run cpu, cuda;

    start(&cpu, false, element);
    f(&cpu, which);
    random_state = state;
    start(&cuda, true, element);
    f(&cuda, which);
    assert_int_equal(cpu.n_out, cuda.n_out);
    for (size_t i = 0; i < cpu.n_parts; i++)
        compare_part(&cpu, &cuda, i, near, what);
    finish(&cpu);
    finish(&cuda);
}

static inline void compare_both(operation *f, size_t n_cases, double near_f32, double near_bf16,
                                const char *what)
{
    for (size_t which = 0; which < n_cases; which++) {
        compare(f, which, ELEMENT_F32, near_f32, what);
        compare(f, which, ELEMENT_BF16, near_bf16, what);
    }
}

#endif
