/* bench_gradient MODEL FILE [--dtype f32|bf16] [--isa LEVEL] [--threads N]
 *
 * The gradients of tests/oracle/svf_gradient_oracle.py's FILE by our own backward pass, element by
 * element beside those of automatic differentiation in f64: how errors are distributed, relative to
 * the element itself and to the root mean square of its matrix, over all singular values and over
 * the smallest tenth; and, where FILE.sums is there, relative to the sum of the absolute values of
 * what the tokens add to the element. */
#include <math.h>

#include "tests/model/gradient_fixture.h"

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Share of the n errors above each limit, the median, and the largest. */
static void print_distribution(const char *name, double *errors, size_t n)
{
    static const double limits[] = {1e-5, 1e-4, 1e-3, 2e-2, 1e-1};
    qsort(errors, n, sizeof *errors, ascending);
    printf("  %-34s median %.1e, 99 %% below %.1e, largest %.1e; above", name, errors[n / 2],
           errors[n * 99 / 100], errors[n - 1]);
    for (size_t k = 0; k < sizeof limits / sizeof *limits; k++) {
        size_t above = 0;
        while (above < n && errors[n - 1 - above] > limits[k])
            above++;
        printf(" %g: %.2f %%", limits[k], 100 * (double)above / (double)n);
    }
    printf("\n");
}

struct errors {
    double *own, *own_small, *rms, *rms_small, *sums;
    const float *contributions; /* FILE.sums, or NULL */
    size_t n, n_small;
};

/* FILE.sums [n], or NULL. */
static float *read_sums(const char *path, size_t n)
{
    char name[4096];
    snprintf(name, sizeof name, "%s.sums", path);
    FILE *file = fopen(name, "rb");
    float *sums = file ? malloc((n + 1) * sizeof *sums) : NULL;
    if (sums && fread(sums, sizeof *sums, n, file) != n) {
        free(sums);
        sums = NULL;
    }
    if (file)
        fclose(file);
    return sums;
}

static void add_matrix(struct errors *all, const struct gradient_fixture *f, size_t i,
                       const float *actual)
{
    const size_t r = gradient_fixture_rank(&f->modules[i]);
    const float *expected = f->gradient[i];
    double square = 0, error_square = 0, tail = 0, tail_error = 0;
    const size_t n_small = r / 10;

    for (size_t k = 0; k < r; k++)
        square += (double)expected[k] * (double)expected[k];
    const double rms = sqrt(square / (double)r);
    for (size_t k = 0; k < r; k++) {
        const double error = fabs((double)actual[k] - (double)expected[k]);
        error_square += error * error;
        if (all->contributions)
            all->sums[all->n] = error / (double)all->contributions[all->n];
        all->own[all->n] = error / fabs((double)expected[k]);
        all->rms[all->n++] = error / rms;
        if (k + n_small >= r) {
            /* Their gradients are small with them: measured against their own size. */
            tail += (double)expected[k] * (double)expected[k];
            tail_error += error * error;
        }
    }
    for (size_t k = r - n_small; k < r; k++) {
        const double error = fabs((double)actual[k] - (double)expected[k]);
        all->own_small[all->n_small] = error / fabs((double)expected[k]);
        all->rms_small[all->n_small++] = error / sqrt(tail / (double)n_small);
    }
    printf("  %-28s sigma %9.3g .. %9.3g: off by %.1e of its norm; smallest tenth by %.1e of its "
           "own\n",
           f->modules[i].path, (double)f->sigma[i][0], (double)f->sigma[i][r - 1],
           sqrt(error_square / square), sqrt(tail_error / tail));
}

int main(int argc, char **argv)
{
    struct model_options options = {ELEMENT_F32, cpu_best_isa(), 2, {0}};
    struct gradient_fixture f = {0};
    float *gradient = NULL;
    double loss;
    int status = 1;

    if (argc < 3)
        return fprintf(stderr, "usage: bench_gradient MODEL FILE [options]\n"), 2;
    for (int i = 3; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--dtype") == 0)
            options.element = strcmp(argv[i + 1], "f32") == 0 ? ELEMENT_F32 : ELEMENT_BF16;
        else if (strcmp(argv[i], "--isa") == 0 && isa_parse(argv[i + 1], &options.isa) != 0)
            return fprintf(stderr, "%s\n", error_message()), 2;
        else if (strcmp(argv[i], "--threads") == 0)
            options.n_threads = atoi(argv[i + 1]);
    }
    struct checkpoint *ck = checkpoint_open(argv[1]);
    struct model *model = ck ? model_load(ck, &options) : NULL;
    if (!model || gradient_fixture_read(&f, argv[2], ck) != 0 ||
        gradient_fixture_run(&f, model, false, &gradient, &loss) != 0) {
        fprintf(stderr, "bench_gradient: %s\n", error_message());
        goto done;
    }
    size_t n = 0;
    for (size_t i = 0; i < f.n_matrices; i++)
        n += gradient_fixture_rank(&f.modules[i]);
    struct errors all = {.own = malloc(n * sizeof(double)),
                         .own_small = malloc(n * sizeof(double)),
                         .rms = malloc(n * sizeof(double)),
                         .sums = malloc(n * sizeof(double)),
                         .contributions = read_sums(argv[2], n),
                         .rms_small = malloc(n * sizeof(double))};
    printf("%s, %zu tokens, %zu matrices: loss %.7f (reference %.7f)\n",
           options.element == ELEMENT_F32 ? "f32" : "bf16", f.n_tokens, f.n_matrices, loss,
           (double)f.loss);
    n = 0;
    for (size_t i = 0; i < f.n_matrices; i++) {
        add_matrix(&all, &f, i, gradient + n);
        n += gradient_fixture_rank(&f.modules[i]);
    }
    print_distribution("relative to the element", all.own, all.n);
    print_distribution("to the matrix's rms", all.rms, all.n);
    if (all.contributions)
        print_distribution("to the sum of its parts' sizes", all.sums, all.n);
    print_distribution("smallest tenth: to the element", all.own_small, all.n_small);
    print_distribution("smallest tenth: to its rms", all.rms_small, all.n_small);
    free(all.own);
    free(all.own_small);
    free(all.rms);
    free(all.rms_small);
    free(all.sums);
    free((void *)all.contributions);
    status = 0;
done:
    free(gradient);
    gradient_fixture_free(&f);
    model_free(model);
    checkpoint_free(ck);
    return status;
}
