/* What the matrix products of a whole step of SmolLM2-135M cost, weights streamed (every layer has
 * its own), against oneDNN and OpenBLAS in the same run, and how far that is from what the machine
 * can do at all (arithmetic in registers, memory bandwidth).
 *
 *   bench_products [--isa LEVEL] [--rows 1,16,...] [--threads 1,2] [--reps N] [--openblas 0|1]
 *
 * oneDNN is capped by its own variable: ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 bench_products --isa
 * avx512bf16. The contenders take turns, step by step. A step's time is the sum over its layers of
 * the fastest time of each layer, since on a shared machine no whole step is undisturbed; with one
 * thread it is the thread's processor time, which leaves out what others had of the core. */
#include <cblas.h>
#include <omp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef T2_HAVE_DNNL
#include <dnnl.h>
#endif

#include "mpi/error.h"
#include "solver/engine_product.h"
#include "solver/vecmath.h"

void openblas_set_num_threads(int n);

enum { LAYERS = 30, PER_LAYER = 4, PRODUCTS = LAYERS * PER_LAYER + 1, SLOTS = LAYERS + 1 };
enum { MAX_ROWS = 4096, MAX_K = 1536, MAX_N = 49152, MAX_LIST = 16 };

/* outputs, inputs: QKV, attention output, gate and up, down; the head */
static const size_t layer_shapes[PER_LAYER][2] = {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}};
static const size_t head_shape[2] = {49152, 576};

static const size_t *shape_of(size_t product)
{
    return product < LAYERS * PER_LAYER ? layer_shapes[product % PER_LAYER] : head_shape;
}

/* This thread's processor time. */
static double thread_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double seconds(int threads)
{
    struct timespec t;
    if (threads == 1)
        return thread_seconds();
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "bench_products: %s\n", what);
    exit(1);
}

static void *allocate(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p)
        die("no memory");
    return p;
}

/* One way to run a step. */
struct contender {
    char name[40];
    void (*run)(struct contender *c, size_t product, size_t rows, struct team *team);
    const struct kernels *kernels;
    struct matrix *matrices; /* [PRODUCTS], shared by the contenders of one element type */
    double slots[SLOTS];     /* fastest so far */
};

static struct {
    float *x_f32, *y;
    uint16_t *x_bf16;
    float **weights; /* [PRODUCTS], f32 [n, k] */
} data;

static void run_own(struct contender *c, size_t product, size_t rows, struct team *team)
{
    const struct matrix *m = c->matrices + product;
    const void *x = m->element == ELEMENT_F32 ? (void *)data.x_f32 : (void *)data.x_bf16;
    matrix_product(c->kernels, data.y, m->n, x, m->k, rows, m, 0, m->n_panels, false, team);
}

static void run_openblas(struct contender *c, size_t product, size_t rows, struct team *team)
{
    const size_t *s = shape_of(product);
    (void)c;
    (void)team;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)s[0], (int)s[1], 1,
                data.x_f32, (int)s[1], data.weights[product], (int)s[1], 0, data.y, (int)s[0]);
}

#ifdef T2_HAVE_DNNL
static struct {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t matmul[PER_LAYER + 1];
    dnnl_memory_t x[PER_LAYER + 1], y[PER_LAYER + 1], weights[PRODUCTS];
} onednn;

static void check_dnnl(dnnl_status_t status)
{
    if (status != dnnl_success)
        die("a call of oneDNN failed");
}

/* bf16 x bf16 -> f32, weights in whatever order oneDNN wants for this number of rows. */
static void onednn_prepare(size_t rows)
{
    const dnnl_memory_desc_t *wanted[PER_LAYER + 1];
    dnnl_primitive_desc_t descriptions[PER_LAYER + 1];

    if (!onednn.engine) {
        check_dnnl(dnnl_engine_create(&onednn.engine, dnnl_cpu, 0));
        check_dnnl(dnnl_stream_create(&onednn.stream, onednn.engine, dnnl_stream_in_order));
    }
    for (size_t i = 0; i <= PER_LAYER; i++) {
        const size_t *s = i < PER_LAYER ? layer_shapes[i] : head_shape;
        const dnnl_dims_t xd = {(dnnl_dim_t)rows, (dnnl_dim_t)s[1]};
        const dnnl_dims_t wd = {(dnnl_dim_t)s[1], (dnnl_dim_t)s[0]};
        const dnnl_dims_t yd = {(dnnl_dim_t)rows, (dnnl_dim_t)s[0]};
        dnnl_memory_desc_t x, w, y;
        dnnl_matmul_desc_t matmul;
        check_dnnl(dnnl_memory_desc_init_by_tag(&x, 2, xd, dnnl_bf16, dnnl_ab));
        check_dnnl(dnnl_memory_desc_init_by_tag(&w, 2, wd, dnnl_bf16, dnnl_format_tag_any));
        check_dnnl(dnnl_memory_desc_init_by_tag(&y, 2, yd, dnnl_f32, dnnl_ab));
        check_dnnl(dnnl_matmul_desc_init(&matmul, &x, &w, NULL, &y));
        check_dnnl(
            dnnl_primitive_desc_create(descriptions + i, &matmul, NULL, onednn.engine, NULL));
        check_dnnl(dnnl_primitive_create(onednn.matmul + i, descriptions[i]));
        wanted[i] = dnnl_primitive_desc_query_md(descriptions[i], dnnl_query_weights_md, 0);
        check_dnnl(dnnl_memory_create(onednn.x + i, &x, onednn.engine, data.x_bf16));
        check_dnnl(dnnl_memory_create(onednn.y + i, &y, onednn.engine, data.y));
    }
    for (size_t p = 0; p < PRODUCTS; p++) {
        const size_t i = p < LAYERS * PER_LAYER ? p % PER_LAYER : PER_LAYER, *s = shape_of(p);
        const dnnl_dims_t wd = {(dnnl_dim_t)s[1], (dnnl_dim_t)s[0]};
        dnnl_memory_desc_t plain;
        dnnl_memory_t from;
        dnnl_primitive_desc_t description;
        dnnl_primitive_t reorder;
        check_dnnl(dnnl_memory_desc_init_by_tag(&plain, 2, wd, dnnl_f32, dnnl_ba));
        check_dnnl(dnnl_memory_create(&from, &plain, onednn.engine, data.weights[p]));
        check_dnnl(
            dnnl_memory_create(onednn.weights + p, wanted[i], onednn.engine, DNNL_MEMORY_ALLOCATE));
        check_dnnl(dnnl_reorder_primitive_desc_create(&description, &plain, onednn.engine,
                                                      wanted[i], onednn.engine, NULL));
        check_dnnl(dnnl_primitive_create(&reorder, description));
        const dnnl_exec_arg_t args[2] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, onednn.weights[p]}};
        check_dnnl(dnnl_primitive_execute(reorder, onednn.stream, 2, args));
        check_dnnl(dnnl_stream_wait(onednn.stream));
        dnnl_primitive_destroy(reorder);
        dnnl_primitive_desc_destroy(description);
        dnnl_memory_destroy(from);
    }
    for (size_t i = 0; i <= PER_LAYER; i++) {
        const char *name = NULL;
        dnnl_primitive_desc_query(descriptions[i], dnnl_query_impl_info_str, 0, &name);
        if (i == 0)
            printf("  (oneDNN's implementation: %s)\n", name ? name : "?");
        dnnl_primitive_desc_destroy(descriptions[i]);
    }
}

static void onednn_release(void)
{
    for (size_t i = 0; i <= PER_LAYER; i++) {
        dnnl_primitive_destroy(onednn.matmul[i]);
        dnnl_memory_destroy(onednn.x[i]);
        dnnl_memory_destroy(onednn.y[i]);
    }
    for (size_t p = 0; p < PRODUCTS; p++)
        dnnl_memory_destroy(onednn.weights[p]);
}

static void run_onednn(struct contender *c, size_t product, size_t rows, struct team *team)
{
    const size_t i = product < LAYERS * PER_LAYER ? product % PER_LAYER : PER_LAYER;
    const dnnl_exec_arg_t args[3] = {{DNNL_ARG_SRC, onednn.x[i]},
                                     {DNNL_ARG_WEIGHTS, onednn.weights[product]},
                                     {DNNL_ARG_DST, onednn.y[i]}};
    (void)c;
    (void)rows;
    (void)team;
    check_dnnl(dnnl_primitive_execute(onednn.matmul[i], onednn.stream, 3, args));
    check_dnnl(dnnl_stream_wait(onednn.stream));
}
#endif

static void time_step(struct contender *c, size_t rows, struct team *team)
{
    /* OpenMP's threads spin for milliseconds after their last job: let the one before calm down. */
    nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
    for (size_t slot = 0; slot < SLOTS; slot++) {
        const size_t first = slot * PER_LAYER;
        const size_t end = slot < LAYERS ? first + PER_LAYER : first + 1;
        const double start = seconds(team_size(team));
        for (size_t p = first; p < end; p++)
            c->run(c, p, rows, team);
        const double time = seconds(team_size(team)) - start;
        if (time < c->slots[slot])
            c->slots[slot] = time;
    }
}

static double step_seconds(const struct contender *c)
{
    double sum = 0;
    for (size_t i = 0; i < SLOTS; i++)
        sum += c->slots[i];
    return sum;
}

/* ---- the machine's limits ---- */

#if defined(__x86_64__)
#define REPEAT_12(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11)
#define LOOP(name, instruction)                                                                    \
    static void name(long n)                                                                       \
    {                                                                                              \
        __asm__ volatile("vzeroall\n1:\n" REPEAT_12(instruction) "dec %0\njnz 1b\nvzeroupper\n"    \
                         : "+r"(n)                                                                 \
                         :                                                                         \
                         : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                           "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "cc");                      \
    }
#define FMA_256(i) "vfmadd231ps %%ymm12, %%ymm13, %%ymm" #i "\n"
#define FMA_512(i) "vfmadd231ps %%zmm12, %%zmm13, %%zmm" #i "\n"
#define DOT_512(i) "vdpbf16ps %%zmm12, %%zmm13, %%zmm" #i "\n"
LOOP(loop_fma_256, FMA_256)
LOOP(loop_fma_512, FMA_512)
LOOP(loop_dot_512, DOT_512)
#if __has_include(<amxbf16intrin.h>)
#define HAVE_AMX_LOOP
static void loop_amx(long n)
{
    uint8_t config[64] = {1};
    for (int t = 0; t < 8; t++) {
        config[16 + 2 * t] = 64;
        config[48 + t] = 16;
    }
    __asm__ volatile("ldtilecfg %1\n"
                     "1:\n"
                     "tdpbf16ps %%tmm7, %%tmm6, %%tmm0\ntdpbf16ps %%tmm7, %%tmm6, %%tmm1\n"
                     "tdpbf16ps %%tmm7, %%tmm6, %%tmm2\ntdpbf16ps %%tmm7, %%tmm6, %%tmm3\n"
                     "tdpbf16ps %%tmm7, %%tmm6, %%tmm4\ntdpbf16ps %%tmm7, %%tmm6, %%tmm5\n"
                     "dec %0\njnz 1b\ntilerelease\n"
                     : "+r"(n)
                     : "m"(config)
                     : "cc");
}
#endif

/* GFLOP/s of a loop whose one round does `flops`. */
static double peak(void (*loop)(long), double flops, int threads)
{
    enum { ROUNDS = 20000, TRIES = 60 };
    double rates[256] = {0};
#pragma omp parallel num_threads(threads)
    for (int i = 0; i < TRIES; i++) {
        const double start = thread_seconds();
        loop(ROUNDS);
        const double rate = ROUNDS * flops / (thread_seconds() - start) / 1e9;
        if (rate > rates[omp_get_thread_num()])
            rates[omp_get_thread_num()] = rate;
    }
    double sum = 0;
    for (int i = 0; i < threads; i++)
        sum += rates[i];
    return sum;
}
#endif

struct limits {
    double read, triad;            /* GB/s */
    double avx2, avx512, dot, amx; /* GFLOP/s */
};

/* Each thread reads, and runs a triad over, memory of its own; the rates are added. Of every piece
 * the fastest of several passes counts, with other pieces in between so that caches are cold. */
static struct limits measure_limits(int threads)
{
    enum { PIECES = 48, TRIES = 5, PIECE = 3 << 18 };
    const struct vecmath *v = vecmath_find(cpu_best_isa());
    struct limits limits = {0};
    double read_rate = 0, triad_rate = 0;

#pragma omp parallel num_threads(threads) reduction(+ : read_rate, triad_rate)
    {
        float *a = allocate((size_t)PIECES * PIECE * sizeof *a);
        double best_read[PIECES], best_triad[PIECES], read = 0, triad = 0;
        volatile float sink = 0;
        for (size_t i = 0; i < (size_t)PIECES * PIECE; i++)
            a[i] = 1;
        for (int p = 0; p < PIECES; p++)
            best_read[p] = best_triad[p] = 1e9;
        for (int t = 0; t < TRIES; t++)
            for (int p = 0; p < PIECES; p++) {
                float *x = a + (size_t)p * PIECE, sum = 0;
                double start = thread_seconds();
                for (size_t i = 0; i < PIECE; i += 1024)
                    sum += v->sum(x + i, 1024);
                double time = thread_seconds() - start;
                best_read[p] = time < best_read[p] ? time : best_read[p];
                sink = sink + sum;
                float *y = a + (size_t)((p + PIECES / 2) % PIECES) * PIECE;
                start = thread_seconds();
#pragma omp simd
                for (size_t i = 0; i < PIECE / 3; i++)
                    y[i] = y[PIECE / 3 + i] + 0.5f * y[2 * (PIECE / 3) + i];
                time = thread_seconds() - start;
                best_triad[p] = time < best_triad[p] ? time : best_triad[p];
            }
        for (int p = 0; p < PIECES; p++) {
            read += best_read[p];
            triad += best_triad[p];
        }
        read_rate += 4.0 * PIECES * PIECE / read / 1e9;
        triad_rate += 4.0 * PIECES * PIECE / triad / 1e9;
        free(a);
    }
    limits.read = read_rate;
    limits.triad = triad_rate;
#if defined(__x86_64__)
    if (cpu_best_isa() >= ISA_AVX2)
        limits.avx2 = peak(loop_fma_256, 12 * 16, threads);
    if (cpu_best_isa() >= ISA_AVX512)
        limits.avx512 = peak(loop_fma_512, 12 * 32, threads);
    if (cpu_best_isa() >= ISA_AVX512_BF16)
        limits.dot = peak(loop_dot_512, 12 * 64, threads);
#ifdef HAVE_AMX_LOOP
    if (cpu_best_isa() >= ISA_AMX)
        limits.amx = peak(loop_amx, 6.0 * 16 * 16 * 64, threads);
#endif
#endif
    printf("\n%d thread%s: reading %.1f GB/s, triad %.1f GB/s; GFLOP/s in registers: FMA 256 %.0f, "
           "FMA 512 %.0f, vdpbf16ps %.0f, AMX %.0f\n",
           threads, threads > 1 ? "s" : "", limits.read, limits.triad, limits.avx2, limits.avx512,
           limits.dot, limits.amx);
    return limits;
}

static double limit_of(const struct contender *c, const struct limits *limits)
{
    if (!c->kernels)
        return 0;
    if (strcmp(c->kernels->order, "tile32") == 0)
        return limits->amx;
    if (c->kernels->isa == ISA_AVX512_BF16)
        return limits->dot;
    return c->kernels->isa == ISA_AVX2 ? limits->avx2 : limits->avx512;
}

/* ---- the table ---- */

static size_t parse_list(const char *text, size_t *list)
{
    size_t n = 0;
    while (*text && n < MAX_LIST) {
        char *end;
        list[n++] = strtoul(text, &end, 10);
        if (end == text || list[n - 1] == 0 || list[n - 1] > MAX_ROWS)
            die("a list is numbers with commas between them, at most 4096");
        text = *end == ',' ? end + 1 : end;
    }
    return n;
}

static void print_table(const struct contender *list, size_t n, size_t rows,
                        const struct limits *limits)
{
    double weights = 0, peer = 0;
    for (size_t p = 0; p < PRODUCTS; p++)
        weights += (double)shape_of(p)[0] * (double)shape_of(p)[1];
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i].name, "oneDNN bf16") == 0)
            peer = step_seconds(list + i);
    for (size_t i = 0; i < n; i++) {
        const double time = step_seconds(list + i), limit = limit_of(list + i, limits);
        const bool f32 = !strstr(list[i].name, "bf16");
        const double rate = 2 * weights * (double)rows / time / 1e9;
        const double stream = weights * (f32 ? 4 : 2) / time / 1e9;
        printf("%6zu  %-16s %9.0f tok/s %8.0f GFLOP/s", rows, list[i].name, (double)rows / time,
               rate);
        printf(limit > 0 ? " (%3.0f %% of peak)" : "                ", 100 * rate / limit);
        printf(" %6.1f GB/s (%3.0f %%)", stream, 100 * stream / limits->read);
        if (peer > 0)
            printf("  %5.2f x oneDNN", peer / time);
        printf("\n");
    }
    fflush(stdout);
}

static void prepare_data(struct matrix **bf16, struct matrix **f32)
{
    uint32_t seed = 1;
    data.x_f32 = allocate(MAX_ROWS * MAX_K * sizeof *data.x_f32);
    data.x_bf16 = allocate(MAX_ROWS * MAX_K * sizeof *data.x_bf16);
    data.weights = allocate(PRODUCTS * sizeof *data.weights);
    *bf16 = allocate(PRODUCTS * sizeof **bf16);
    *f32 = allocate(PRODUCTS * sizeof **f32);
    for (size_t i = 0; i < MAX_ROWS * MAX_K; i++) {
        seed = seed * 1664525u + 1013904223u;
        data.x_f32[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
        data.x_bf16[i] = bf16_from_f32(data.x_f32[i]);
    }
    for (size_t p = 0; p < PRODUCTS; p++) {
        const size_t n = shape_of(p)[0], k = shape_of(p)[1];
        data.weights[p] = allocate(n * k * sizeof(float));
        for (size_t i = 0; i < n * k; i++) {
            seed = seed * 1664525u + 1013904223u;
            data.weights[p][i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
        }
        if (matrix_create(*bf16 + p, ELEMENT_BF16, n, k) != 0 ||
            matrix_create(*f32 + p, ELEMENT_F32, n, k) != 0)
            die(error_message());
        matrix_pack_rows(*bf16 + p, 0, n, data.weights[p]);
        matrix_pack_rows(*f32 + p, 0, n, data.weights[p]);
    }
}

static size_t list_contenders(struct contender *list, bool chosen, enum isa isa, bool openblas,
                              struct matrix *bf16, struct matrix *f32)
{
    size_t n = 0;
    for (size_t i = 0; kernels_listed(i); i++) {
        const struct kernels *k = kernels_listed(i);
        if (chosen ? k != kernels_find(k->element, isa)
                   : k->isa == ISA_PLAIN || k->isa > cpu_best_isa())
            continue;
        list[n] = (struct contender){.run = run_own, .kernels = k};
        list[n].matrices = k->element == ELEMENT_BF16 ? bf16 : f32;
        snprintf(list[n++].name, sizeof list->name, "%s", k->name);
    }
#ifdef T2_HAVE_DNNL
    list[n++] = (struct contender){.name = "oneDNN bf16", .run = run_onednn};
#endif
    if (openblas)
        list[n++] = (struct contender){.name = "OpenBLAS sgemm", .run = run_openblas};
    return n;
}

int main(int argc, char **argv)
{
    size_t rows[MAX_LIST] = {1, 16, 64, 256, 2048}, threads[MAX_LIST] = {1, 2};
    size_t n_rows = 5, n_threads = 2, reps = 7;
    enum isa isa = ISA_PLAIN;
    bool chosen = false, openblas = true;
    struct matrix *bf16, *f32;
    struct contender list[MAX_LIST];

    for (int i = 1; i < argc; i++) {
        if (i + 1 == argc)
            die("options: --isa LEVEL --rows A,B --threads A,B --reps N --openblas 0|1");
        const char *option = argv[i++];
        if (strcmp(option, "--isa") == 0) {
            if (isa_parse(argv[i], &isa) != 0)
                die(error_message());
            if (isa > cpu_best_isa())
                die("this processor does not have that level");
            chosen = true;
        } else if (strcmp(option, "--rows") == 0)
            n_rows = parse_list(argv[i], rows);
        else if (strcmp(option, "--threads") == 0)
            n_threads = parse_list(argv[i], threads);
        else if (strcmp(option, "--openblas") == 0)
            openblas = argv[i][0] != '0';
        else if (strcmp(option, "--reps") == 0)
            reps = strtoul(argv[i], NULL, 10);
        else
            die("options: --isa LEVEL --rows A,B --threads A,B --reps N --openblas 0|1");
    }
    char cpu[200];
    cpu_describe(cpu, sizeof cpu);
    printf("%s\n", cpu);
    prepare_data(&bf16, &f32);
    size_t most = 1;
    for (size_t r = 0; r < n_rows; r++)
        most = rows[r] > most ? rows[r] : most;
    data.y = allocate(most * MAX_N * sizeof *data.y);
    memset(data.y, 0, most * MAX_N * sizeof *data.y);
    const size_t n = list_contenders(list, chosen, isa, openblas, bf16, f32);

    for (size_t t = 0; t < n_threads; t++) {
        struct team *team = team_create((int)threads[t]);
        if (!team)
            die(error_message());
        omp_set_num_threads((int)threads[t]);
        openblas_set_num_threads((int)threads[t]);
        const struct limits limits = measure_limits((int)threads[t]);
        for (size_t r = 0; r < n_rows; r++) {
            const size_t rounds = rows[r] > 512 && reps > 3 ? 3 : reps;
            for (size_t i = 0; i < n; i++)
                for (size_t s = 0; s < SLOTS; s++)
                    list[i].slots[s] = 1e9;
#ifdef T2_HAVE_DNNL
            onednn_prepare(rows[r]);
#endif
            for (size_t round = 0; round < rounds; round++)
                for (size_t i = 0; i < n; i++)
                    time_step(list + i, rows[r], team);
            print_table(list, n, rows[r], &limits);
#ifdef T2_HAVE_DNNL
            onednn_release();
#endif
        }
        team_free(team);
    }
    return 0;
}
