/* bench_tokenizer MODEL FILE: load time and encoding speed of one text file.
 * bench_tokenizer MODEL --ids FLAGS < STRINGS: for tests/oracle/tokenizer_oracle.py. STRINGS are
 * records of a 32-bit length and bytes; per record the ids (count, then each) and the decoded text
 * with and without special tokens (length, bytes) go to standard output in the same way.
 * MODEL is a folder with tokenizer.json or a GGUF file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/gguf.h"
#include "model/tokenizer.h"
#include "mpi/error.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static char *read_all(FILE *file, size_t *n)
{
    char *data = NULL;
    size_t capacity = 0, got;

    *n = 0;
    do {
        if (*n + 65536 > capacity) {
            capacity = 2 * capacity + 65536;
            data = realloc(data, capacity);
            if (!data)
                exit(1);
        }
        got = fread(data + *n, 1, 65536, file);
        *n += got;
    } while (got > 0);
    return data;
}

static void put(const void *data, size_t size, size_t n)
{
    uint32_t count = (uint32_t)n;
    fwrite(&count, 4, 1, stdout);
    fwrite(data, size, n, stdout);
}

static int print_ids(const struct tokenizer *t, int flags)
{
    struct tokens tokens = {0};
    size_t n;
    char *data = read_all(stdin, &n);

    for (size_t i = 0; i + 4 <= n;) {
        uint32_t length;
        memcpy(&length, data + i, 4);
        tokens.n = 0;
        if (length > n - i - 4 || tokenizer_encode(t, data + i + 4, length, flags, &tokens)) {
            fprintf(stderr, "at %zu: %s\n", i, error_message());
            return 1;
        }
        put(tokens.ids, 4, tokens.n);
        for (int skip = 0; skip < 2; skip++) {
            size_t n_text;
            char *text = tokenizer_decode(t, tokens.ids, tokens.n, skip, &n_text);
            if (!text) {
                fprintf(stderr, "at %zu: %s\n", i, error_message());
                return 1;
            }
            put(text, 1, n_text);
            free(text);
        }
        i += 4 + length;
    }
    tokens_free(&tokens);
    free(data);
    return 0;
}

static int measure(const struct tokenizer *t, const char *path)
{
    FILE *file = fopen(path, "rb");
    struct tokens tokens = {0};
    size_t n;

    if (!file) {
        perror(path);
        return 1;
    }
    char *text = read_all(file, &n);
    fclose(file);
    for (int i = 0; i < 5; i++) {
        double start = now();
        tokens.n = 0;
        if (tokenizer_encode(t, text, n, TOKENIZER_SPECIAL, &tokens)) {
            fprintf(stderr, "%s\n", error_message());
            return 1;
        }
        double seconds = now() - start;
        printf("encode %zu bytes -> %zu tokens in %.4f s, %.2f MB/s\n", n, tokens.n, seconds,
               (double)n / seconds / 1e6);
    }
    double start = now();
    size_t n_text;
    char *back = tokenizer_decode(t, tokens.ids, tokens.n, false, &n_text);
    printf("decode in %.4f s, %s\n", now() - start,
           back && n_text == n && memcmp(back, text, n) == 0 ? "the same text" : "another text");
    free(back);
    free(text);
    tokens_free(&tokens);
    return 0;
}

int main(int argc, char **argv)
{
    struct tokenizer *t = NULL;
    struct gguf *gguf = NULL;
    double start = now();
    int status = 1;

    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL FILE | MODEL --ids FLAGS\n", argv[0]);
        return 2;
    }
    size_t n = strlen(argv[1]);
    if (n > 5 && strcmp(argv[1] + n - 5, ".gguf") == 0) {
        gguf = gguf_open(argv[1]);
        start = now();
        t = gguf ? tokenizer_load_gguf(gguf) : NULL;
    } else {
        t = tokenizer_load_hf(argv[1]);
    }
    if (!t) {
        fprintf(stderr, "%s\n", error_message());
        goto done;
    }
    fprintf(stderr, "%s, %zu ids, loaded in %.1f ms\n", tokenizer_describe(t), tokenizer_size(t),
            1e3 * (now() - start));
    status = argc > 3 ? print_ids(t, atoi(argv[3])) : measure(t, argv[2]);
done:
    tokenizer_free(t);
    gguf_free(gguf);
    return status;
}
