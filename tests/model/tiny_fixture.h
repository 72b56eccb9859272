#ifndef T2_TESTS_MODEL_TINY_FIXTURE_H
#define T2_TESTS_MODEL_TINY_FIXTURE_H
/* Reads expected.bin of a folder under tests/fixtures: token sequences and the logits transformers
 * gives for them. tests/oracle/tiny_models.py writes the files and documents the format. For tests
 * alone: a file that does not read is a failed assertion of cmocka. Include after <cmocka.h>.
 *
 *     struct tiny_fixture fixture = tiny_fixture_read(T2_FIXTURES "/tiny/llama/expected.bin");
 *     for (size_t s = 0; s < fixture.n_sequences; s++) {
 *         const struct tiny_sequence *sequence = &fixture.sequences[s];
 *         ... logits[n_tokens, vocab_size] of sequence->ids ...
 *         error = fmaxf(error, tiny_sequence_difference(&fixture, sequence, logits));
 *     }
 *     tiny_fixture_free(&fixture);
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tiny_sequence {
    size_t n_tokens, n_rows;
    const int32_t *ids;   /* [n_tokens] */
    const uint32_t *rows; /* [n_rows] positions whose logits are known, ascending */
    const float *logits;  /* [n_rows, vocab_size] */
};

struct tiny_fixture {
    void *bytes; /* the whole file; everything else points into it */
    size_t vocab_size, n_sequences;
    struct tiny_sequence *sequences;
};

/* Every folder of tests/fixtures/tiny. */
static const char *const tiny_fixture_names[] = {
    "llama",
    "llama-old",
    "llama-f32-untied",
    "llama-f16",
    "llama-sharded",
    "llama-rope-llama3",
    "llama-rope-llama3-old",
    "llama-rope-linear-old",
    "llama-rope-yarn",
    "mistral-rope-yarn-old",
    "mistral-rope-yarn",
    "mistral-window",
    "qwen2",
    "qwen2-window",
    "qwen2-window-old",
    "qwen3",
    "llama-bias",
    "llama-head-dim-24",
    "llama-odd",
};
enum { TINY_FIXTURE_COUNT = sizeof tiny_fixture_names / sizeof *tiny_fixture_names };

static inline struct tiny_fixture tiny_fixture_read(const char *path)
{
    struct tiny_fixture fixture = {0};
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("%s does not open", path);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    long n_bytes = ftell(file);
    assert_true(n_bytes >= 16 && n_bytes % 4 == 0);
    rewind(file);
    fixture.bytes = malloc((size_t)n_bytes);
    assert_non_null(fixture.bytes);
    assert_int_equal(fread(fixture.bytes, 1, (size_t)n_bytes, file), n_bytes);
    fclose(file);
    assert_memory_equal(fixture.bytes, "T2LOGIT1", 8);

    /* Everything after the magic is 4 bytes wide, so plain pointers are aligned. */
    const uint32_t *at = (const uint32_t *)fixture.bytes + 2;
    const uint32_t *end = (const uint32_t *)fixture.bytes + (size_t)n_bytes / 4;
    fixture.vocab_size = *at++;
    fixture.n_sequences = *at++;
    assert_true(fixture.n_sequences < 1000);
    fixture.sequences = calloc(fixture.n_sequences, sizeof *fixture.sequences);
    assert_non_null(fixture.sequences);
    for (size_t s = 0; s < fixture.n_sequences; s++) {
        struct tiny_sequence *sequence = &fixture.sequences[s];
        assert_true(end - at >= 2);
        sequence->n_tokens = *at++;
        sequence->n_rows = *at++;
        assert_true(sequence->n_tokens + sequence->n_rows * (1 + fixture.vocab_size) <=
                    (size_t)(end - at));
        sequence->ids = (const int32_t *)at;
        at += sequence->n_tokens;
        sequence->rows = at;
        at += sequence->n_rows;
        sequence->logits = (const float *)at;
        at += sequence->n_rows * fixture.vocab_size;
    }
    assert_true(at == end);
    return fixture;
}

static inline void tiny_fixture_free(struct tiny_fixture *fixture)
{
    free(fixture->sequences);
    free(fixture->bytes);
    *fixture = (struct tiny_fixture){0};
}

/* Largest absolute difference to logits, f32 [n_tokens, vocab_size], over the known rows; infinite
 * where either is not a number. */
static inline float tiny_sequence_difference(const struct tiny_fixture *fixture,
                                             const struct tiny_sequence *sequence,
                                             const float *logits)
{
    float largest = 0;
    for (size_t r = 0; r < sequence->n_rows; r++) {
        const float *expected = sequence->logits + r * fixture->vocab_size;
        const float *actual = logits + sequence->rows[r] * fixture->vocab_size;
        for (size_t i = 0; i < fixture->vocab_size; i++) {
            float difference = fabsf(expected[i] - actual[i]);
            largest = difference >= 0 ? fmaxf(largest, difference) : INFINITY;
        }
    }
    return largest;
}

#endif
