/* Cuts and mutations of small valid files, always the same ones: each must give an error of one
 * line or load, never crash, and never ask for more memory than the file justifies. Large requests
 * fail here (ASan's limit, or that of the address space), which would show as "out of memory". */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "build_files.h"
#include "model/checkpoint.h"
#include "model/describe.h"
#include "model/gguf.h"
#include "model/safetensors.h"
#include "mpi/error.h"

#if defined __SANITIZE_ADDRESS__
#define SANITIZED 1
/* Read by ASan at start. The files here have less than 10 kB. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "max_allocation_size_mb=8:allocator_may_return_null=1";
}
#else
#define SANITIZED 0
#endif

/* xorshift: the same files on every machine. */
static uint32_t next_random(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

/* The n-th hostile version of a file: cuts first, then flips, overwrites with extreme numbers,
 * swaps, repeated and removed pieces. */
static struct bytes mutate(const struct bytes *file, unsigned n, size_t header)
{
    static const uint64_t extremes[] = {0,
                                        1,
                                        0x7f,
                                        0xff,
                                        0x7fff,
                                        0xffff,
                                        0x7fffffff,
                                        0xffffffff,
                                        0x7fffffffffffffff,
                                        0xffffffffffffffff,
                                        0x8000000000000000,
                                        0x0000000100000000};
    static const char digits[] = "0123456789-.e{}[]\",:\\\0\n\xff";
    uint32_t seed = n * 2654435761u + 1;
    struct bytes out = {0};

    bytes_put(&out, file->data, file->n);
    size_t zone = n % 4 == 0 ? out.n : header; /* most faults go to the header */
    size_t at = next_random(&seed) % zone;
    switch (n % 7) {
    case 0:
        out.n = at;
        break;
    case 1:
        out.data[at] ^= (uint8_t)(1u << (next_random(&seed) % 8));
        break;
    case 2: {
        uint64_t x = extremes[next_random(&seed) % (sizeof extremes / sizeof *extremes)];
        size_t width = (size_t)1 << (next_random(&seed) % 4);
        if (at + width <= out.n)
            memcpy(out.data + at, &x, width);
        break;
    }
    case 3:
        out.data[at] = (uint8_t)digits[next_random(&seed) % (sizeof digits - 1)];
        break;
    case 4: { /* a piece twice */
        size_t length = 1 + next_random(&seed) % 64;
        if (at + length > file->n)
            length = file->n - at;
        out.n = at;
        bytes_put(&out, file->data + at, length);
        bytes_put(&out, file->data + at, file->n - at);
        break;
    }
    case 5: { /* a piece gone */
        size_t length = 1 + next_random(&seed) % 64;
        if (at + length > file->n)
            length = file->n - at;
        memmove(out.data + at, out.data + at + length, out.n - at - length);
        out.n -= length;
        break;
    }
    default:
        for (int i = 0; i < 8; i++)
            out.data[next_random(&seed) % zone] = (uint8_t)next_random(&seed);
        break;
    }
    return out;
}

static unsigned n_opened, n_refused;

/* Opens, and uses everything there is when it opens. */
static void open_and_use(const char *path)
{
    char hex[65], *text = NULL;
    size_t n;

    error_clear();
    struct checkpoint *ck = checkpoint_open(path);
    if (!ck) {
        assert_null(strstr(error_message(), "out of memory"));
        assert_true(strlen(error_message()) > 10);
        assert_null(strchr(error_message(), '\n'));
        n_refused++;
        return;
    }
    for (size_t i = 0; i < checkpoint_n_tensors(ck); i++) {
        const struct tensor *t = checkpoint_tensor(ck, i);
        float *row = malloc(tensor_row_elements(t) * sizeof *row);
        for (size_t j = 0; j < tensor_n_rows(t); j++)
            tensor_read_rows(t, j, 1, row);
        free(row);
    }
    assert_int_equal(checkpoint_identity(ck, hex), 0);
    FILE *out = open_memstream(&text, &n);
    assert_int_equal(checkpoint_describe(ck, out, true), 0);
    fclose(out);
    free(text);
    checkpoint_free(ck);
    n_opened++;
}

static void expect_both_outcomes(unsigned n)
{
    assert_int_equal(n_opened + n_refused, n);
    assert_true(n_refused > n / 4); /* the faults are faults */
    n_opened = n_refused = 0;
}

static void hostile_gguf_files_are_refused_or_read(void **state)
{
    (void)state;
    enum { N = 400 };
    char *dir = make_folder(), path[600];
    struct bytes file = tiny_gguf("llama");

    snprintf(path, sizeof path, "%s/m.gguf", dir);
    for (unsigned i = 0; i < N; i++) {
        write_bytes(dir, "m.gguf", mutate(&file, i, 1900));
        open_and_use(path);
    }
    expect_both_outcomes(N);
    bytes_free(&file);
    remove_folder(dir);
}

/* Writes the tiny folder, in two shards, with hostile versions of one of its files. */
static void mutate_in_folder(const char *name, struct bytes valid, unsigned n, size_t header)
{
    char *dir = make_folder();

    write_text(dir, "config.json", TINY_CONFIG);
    write_text(dir, "generation_config.json", "{\"eos_token_id\":[2,7]}");
    write_text(dir, "tokenizer_config.json", "{\"chat_template\":\"<|im_start|>\"}");
    write_bytes(dir, "m-1.safetensors", tiny_safetensors(0));
    write_bytes(dir, "m-2.safetensors", tiny_safetensors(1));
    write_bytes(dir, "model.safetensors.index.json",
                tiny_index("m-1.safetensors", "m-2.safetensors"));
    open_and_use(dir);
    assert_int_equal(n_opened, 1); /* it is valid as it stands */
    n_opened = 0;
    for (unsigned i = 0; i < n; i++) {
        write_bytes(dir, name, mutate(&valid, i, header));
        open_and_use(dir);
    }
    expect_both_outcomes(n);
    bytes_free(&valid);
    remove_folder(dir);
}

static struct bytes text_bytes(const char *text)
{
    struct bytes b = {0};

    bytes_text(&b, text);
    return b;
}

static void hostile_safetensors_are_refused_or_read(void **state)
{
    (void)state;
    mutate_in_folder("m-2.safetensors", tiny_safetensors(1), 400, 700);
}

static void hostile_configs_are_refused_or_read(void **state)
{
    (void)state;
    mutate_in_folder("config.json", text_bytes(TINY_CONFIG), 400, sizeof TINY_CONFIG - 1);
}

static void hostile_indexes_are_refused_or_read(void **state)
{
    (void)state;
    struct bytes index = tiny_index("m-1.safetensors", "m-2.safetensors");

    mutate_in_folder("model.safetensors.index.json", index, 300, index.n);
}

static void hostile_tokenizer_configs_are_refused_or_read(void **state)
{
    (void)state;
    struct bytes text =
        text_bytes("{\"chat_template\":[{\"name\":\"default\",\"template\":\"x\"}]}");

    mutate_in_folder("tokenizer_config.json", text, 200, text.n);
}

/* Large claims in every 4-byte and 8-byte place of the headers. */
static void extreme_numbers_anywhere_allocate_nothing_large(void **state)
{
    (void)state;
    static const uint64_t numbers[] = {0xffffffffffffffff, 0x00000fffffffffff, 0x7fffffff};
    struct bytes file = tiny_gguf("llama");

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        for (size_t at = 8; at + 8 < 2000; at++) {
            struct bytes copy = {0};
            bytes_put(&copy, file.data, file.n);
            memcpy(copy.data + at, &numbers[i], i == 2 ? 4 : 8);
            struct gguf *gguf = gguf_from_memory(copy.data, copy.n, "x.gguf");
            struct model_config c;
            if (gguf && config_parse_gguf(&c, gguf) == 0)
                config_free(&c);
            else
                assert_null(strstr(error_message(), "out of memory"));
            gguf_free(gguf);
            bytes_free(&copy);
        }
    bytes_free(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_gguf_files_are_refused_or_read),
        cmocka_unit_test(hostile_safetensors_are_refused_or_read),
        cmocka_unit_test(hostile_configs_are_refused_or_read),
        cmocka_unit_test(hostile_indexes_are_refused_or_read),
        cmocka_unit_test(hostile_tokenizer_configs_are_refused_or_read),
        cmocka_unit_test(extreme_numbers_anywhere_allocate_nothing_large),
    };

    if (!SANITIZED) {
        /* What the process has mapped at its start (libraries reserve a lot) and 32 MB. */
        unsigned long pages = 0;
        FILE *f = fopen("/proc/self/statm", "r");
        if (f && fscanf(f, "%lu", &pages) == 1) {
            rlim_t limit = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + ((rlim_t)32 << 20);
            setrlimit(RLIMIT_AS, &(struct rlimit){limit, limit});
        }
        if (f)
            fclose(f);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
