/* What each operation of a backward pass costs at SmolLM2-135M's shapes, beside the products of
 * the same rows: one layer's, forward and backward, and the head's.
 *
 *   bench_backward [--dtype f32|bf16] [--threads N] [--reps N]
 *
 * Rows: a prefix of 40 with 32 sequences of 25 on it, and 4 sequences of 512. Times are the
 * fastest of the repetitions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mpi/error.h"
#include "solver/engine_train.h"

enum {
    HIDDEN = 576,
    HEADS = 9,
    KV_HEADS = 3,
    HEAD_DIM = 64,
    FFN = 1536,
    VOCAB = 49152,
    QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM,
    MOST_POSITIONS = 512,
    MOST_SEQUENCES = 32,
};

/* With one thread its processor time, which leaves out what others had of the core. */
static double seconds(const struct engine *e)
{
    struct timespec t;
    clock_gettime(e->team ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *allocate(size_t bytes)
{
    void *p = aligned_alloc(64, round_up(bytes, 64));
    if (!p) {
        fprintf(stderr, "bench_backward: no memory\n");
        exit(1);
    }
    return p;
}

static float *values(size_t n)
{
    static uint32_t state = 1;
    float *x = allocate(n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) / (1 << 23) - 1;
    }
    return x;
}

struct bench {
    struct engine e;
    size_t n_rows;
    struct attention_layer a;
    struct attention_sequence sequences[MOST_SEQUENCES];
    size_t n_sequences;
    int32_t rows[MOST_SEQUENCES][MOST_POSITIONS];
    struct matrix qkv_m, out_m, gate_up_m, down_m, head, head_t, transposed;
    float *wide, *wide2, *narrow, *narrow2, *weight; /* f32 rows of 2 FFN and of QKV */
    void *x, *x0;                                    /* elements, rows of 2 FFN */
    struct head_term *terms;
    struct head_term_result *results;
    struct head_result *forward;
};

static void random_matrix(struct matrix *m, enum element element, size_t n, size_t k)
{
    float *w = values(n * k);
    for (size_t i = 0; i < n * k; i++)
        w[i] *= 0.05f;
    if (matrix_create(m, element, n, k) != 0)
        exit(1);
    matrix_pack_rows(m, 0, n, w);
    free(w);
}

static void product(struct bench *b, const struct matrix *m)
{
    b->e.ops->product(&b->e, b->wide2, 2 * FFN, b->x, 2 * FFN, b->n_rows, m, NULL, false);
}

/* A layer's products; backward has as many with transposed matrices. */
static void run_products(struct bench *b)
{
    for (int i = 0; i < 2; i++) {
        product(b, &b->qkv_m);
        product(b, &b->out_m);
        product(b, &b->gate_up_m);
        product(b, &b->down_m);
    }
}

static void run_norm(struct bench *b)
{
    engine_train_cpu.norm_backward(&b->e, b->narrow2, QKV, b->wide, 2 * FFN, b->narrow, QKV,
                                   b->n_rows, b->weight, HIDDEN, 1e-5f);
}

static void run_swiglu(struct bench *b)
{
    engine_train_cpu.swiglu_backward(&b->e, b->x, 2 * FFN, b->wide2, 2 * FFN, b->wide, 2 * FFN, FFN,
                                     b->n_rows, FFN);
}

static void run_attention(struct bench *b)
{
    if (engine_train_cpu.attention_backward(&b->e, &b->a, b->sequences, b->n_sequences, b->n_rows,
                                            b->narrow, QKV, b->wide, 2 * FFN, b->narrow2, QKV) != 0)
        exit(1);
}

static void run_to_elements(struct bench *b)
{
    engine_train_cpu.to_elements(&b->e, b->x, 2 * FFN, b->wide, 2 * FFN, b->n_rows, HIDDEN);
}

static void run_scale_columns(struct bench *b)
{
    engine_train_cpu.scale_columns(&b->e, b->x, 2 * FFN, b->wide, 2 * FFN, b->weight, b->n_rows,
                                   HIDDEN);
}

static void run_multiply_sum(struct bench *b)
{
    engine_train_cpu.multiply_sum(&b->e, b->wide2, b->narrow, QKV, b->wide, 2 * FFN, b->n_rows,
                                  HIDDEN);
}

static void run_outer_sum(struct bench *b)
{
    if (engine_train_cpu.outer_sum(&b->e, b->wide2, 2 * FFN, b->x, 2 * FFN, 16, b->x, 2 * FFN,
                                   HIDDEN, b->n_rows) != 0)
        exit(1);
}

static void run_head_forward(struct bench *b)
{
    if (b->e.ops->head(&b->e, b->forward, NULL, 0, b->x, 2 * FFN, b->n_rows, &b->head, NULL) != 0)
        exit(1);
}

static void run_head_products(struct bench *b)
{
    static float *logits;
    enum { ROWS = 64 };
    if (!logits)
        logits = values((size_t)ROWS * VOCAB);
    for (size_t r = 0; r < b->n_rows; r += ROWS) {
        const size_t n = b->n_rows - r < ROWS ? b->n_rows - r : ROWS;
        b->e.ops->product(&b->e, logits, VOCAB, b->x, 2 * FFN, n, &b->head, NULL, false);
        b->e.ops->product(&b->e, b->wide2, 2 * FFN, logits, VOCAB, n, &b->head_t, NULL, false);
    }
}

static void run_head(struct bench *b)
{
    if (engine_train_cpu.head_backward(&b->e, b->narrow2, QKV, b->x, NULL, 2 * FFN, b->n_rows,
                                       &b->head, &b->head_t, b->terms, b->results) != 0)
        exit(1);
}

static void run_head_kl(struct bench *b)
{
    if (engine_train_cpu.head_backward(&b->e, b->narrow2, QKV, b->x, b->x0, 2 * FFN, b->n_rows,
                                       &b->head, &b->head_t, b->terms, b->results) != 0)
        exit(1);
}

static void run_transpose(struct bench *b)
{
    matrix_free(&b->transposed);
    if (matrix_transpose(&b->transposed, &b->head, b->e.team) != 0)
        exit(1);
}

static void report(struct bench *b, int reps)
{
    static const struct {
        const char *name;
        void (*run)(struct bench *b);
    } operations[] = {
        {"products of a layer", run_products},
        {"norm_backward", run_norm},
        {"swiglu_backward", run_swiglu},
        {"attention_backward", run_attention},
        {"to_elements 576", run_to_elements},
        {"scale_columns 576", run_scale_columns},
        {"multiply_sum 576", run_multiply_sum},
        {"outer_sum 16 x 576", run_outer_sum},
        {"head forward", run_head_forward},
        {"head's two products", run_head_products},
        {"head_backward", run_head},
        {"head_backward with KL", run_head_kl},
        {"transpose of the head", run_transpose},
    };
    enum { N = sizeof operations / sizeof *operations, FIRST_HEAD = 8 };
    double best[N];
    for (size_t i = 0; i < N; i++)
        best[i] = 1e9;
    for (int rep = 0; rep < reps; rep++)
        for (size_t i = 0; i < N; i++) {
            /* the elements that the head gets are a norm's, whatever ran before */
            engine_train_cpu.to_elements(&b->e, b->x, 2 * FFN, b->wide, 2 * FFN, b->n_rows, HIDDEN);
            if (b->n_rows > 1024 && i >= FIRST_HEAD)
                continue; /* the same by row */
            const double start = seconds(&b->e);
            operations[i].run(b);
            const double time = seconds(&b->e) - start;
            best[i] = time < best[i] ? time : best[i];
        }
    for (size_t i = 0; i < N && best[i] < 1e9; i++)
        printf("  %-24s %8.3f ms  %6.2f of a layer's products\n", operations[i].name, 1e3 * best[i],
               best[i] / best[0]);
}

static void cut_rows(struct bench *b, size_t n_sequences, size_t prefix, size_t own)
{
    b->n_sequences = n_sequences;
    b->n_rows = prefix;
    for (size_t s = 0; s < n_sequences; s++) {
        for (size_t p = 0; p < prefix + own; p++)
            b->rows[s][p] = (int32_t)(p < prefix ? p : b->n_rows++);
        b->sequences[s] =
            (struct attention_sequence){b->rows[s], prefix + own, s == 0 ? 0 : prefix};
    }
}

int main(int argc, char **argv)
{
    static struct bench b;
    enum element element = ELEMENT_BF16;
    enum { MOST_ROWS = 2048 };
    int threads = 2, reps = 5;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--dtype") == 0)
            element = strcmp(argv[i + 1], "f32") == 0 ? ELEMENT_F32 : ELEMENT_BF16;
        else if (strcmp(argv[i], "--threads") == 0)
            threads = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--reps") == 0)
            reps = atoi(argv[i + 1]);
    }
    if (engine_create_cpu(&b.e, element, cpu_best_isa(), threads) != 0) {
        fprintf(stderr, "bench_backward: %s\n", error_message());
        return 1;
    }
    random_matrix(&b.qkv_m, element, QKV, HIDDEN);
    random_matrix(&b.out_m, element, HIDDEN, HIDDEN);
    random_matrix(&b.gate_up_m, element, 2 * FFN, HIDDEN);
    random_matrix(&b.down_m, element, HIDDEN, FFN);
    random_matrix(&b.head, element, VOCAB, HIDDEN);
    if (matrix_transpose(&b.head_t, &b.head, b.e.team) != 0)
        return 1;
    b.wide = values((size_t)MOST_ROWS * 2 * FFN);
    b.wide2 = values((size_t)MOST_ROWS * 2 * FFN);
    b.narrow = values((size_t)MOST_ROWS * QKV);
    b.narrow2 = values((size_t)MOST_ROWS * QKV);
    b.weight = values(HIDDEN);
    b.x = allocate((size_t)MOST_ROWS * 2 * FFN * element_size(element));
    b.x0 = allocate((size_t)MOST_ROWS * 2 * FFN * element_size(element));
    b.terms = allocate(MOST_ROWS * sizeof *b.terms);
    b.results = allocate(MOST_ROWS * sizeof *b.results);
    b.forward = allocate(MOST_ROWS * sizeof *b.forward);
    for (size_t r = 0; r < MOST_ROWS; r++)
        b.terms[r] = (struct head_term){(int32_t)r, 1, 0.1f, 0};
    engine_train_cpu.to_elements(&b.e, b.x0, 2 * FFN, b.wide2, 2 * FFN, MOST_ROWS, HIDDEN);
    b.a = (struct attention_layer){.n_heads = HEADS,
                                   .n_kv_heads = KV_HEADS,
                                   .head_dim = HEAD_DIM,
                                   .k_offset = HEADS * HEAD_DIM,
                                   .v_offset = (HEADS + KV_HEADS) * HEAD_DIM,
                                   .scale = 0.125f,
                                   .rope_cos = values((size_t)MOST_POSITIONS * HEAD_DIM / 2),
                                   .rope_sin = values((size_t)MOST_POSITIONS * HEAD_DIM / 2)};

    cut_rows(&b, 32, 40, 25);
    printf("%zu rows: 32 sequences of 25 on a prefix of 40, %s, %d threads\n", b.n_rows,
           element == ELEMENT_F32 ? "f32" : "bf16", threads);
    report(&b, reps);
    cut_rows(&b, 4, 0, 512);
    printf("%zu rows: 4 sequences of 512\n", b.n_rows);
    report(&b, reps);
    return 0;
}
