/* bench_shape SHAPE FOLDER [--layers N] [--seed N]
 *
 * Leaves a Hugging Face folder (config.json, model.safetensors) of a Llama with the sizes of a
 * known model (model/shapes.h: llama3-8b ...) and random bf16 weights of standard deviation 0.02,
 * for speed alone: nothing is downloaded, and t2 and its peers load the same files. There is no
 * tokenizer. llama3-8b takes 16 GB of disk; --layers makes a smaller one of fewer layers. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "model/shapes.h"
#include "mpi/error.h"

enum { MAX_TENSORS = 2048, CHUNK = 1 << 20 /* elements */ };

struct tensor_shape {
    char name[80];
    size_t n_rows, n_columns; /* n_rows 0: a vector of ones */
};

static struct tensor_shape tensors[MAX_TENSORS];
static size_t n_tensors;

static void add(const char *name, size_t n_rows, size_t n_columns)
{
    struct tensor_shape *t = &tensors[n_tensors++];

    snprintf(t->name, sizeof t->name, "%s", name);
    t->n_rows = n_rows;
    t->n_columns = n_columns;
}

static void add_layer(const struct model_config *c, size_t layer)
{
    const size_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const struct {
        const char *name;
        size_t n_rows, n_columns;
    } parts[] = {{"input_layernorm", 0, c->hidden_size},
                 {"self_attn.q_proj", q, c->hidden_size},
                 {"self_attn.k_proj", kv, c->hidden_size},
                 {"self_attn.v_proj", kv, c->hidden_size},
                 {"self_attn.o_proj", c->hidden_size, q},
                 {"post_attention_layernorm", 0, c->hidden_size},
                 {"mlp.gate_proj", c->ffn_size, c->hidden_size},
                 {"mlp.up_proj", c->ffn_size, c->hidden_size},
                 {"mlp.down_proj", c->hidden_size, c->ffn_size}};

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char name[80];
        snprintf(name, sizeof name, "model.layers.%zu.%s.weight", layer, parts[i].name);
        add(name, parts[i].n_rows, parts[i].n_columns);
    }
}

static size_t elements(const struct tensor_shape *t)
{
    return (t->n_rows ? t->n_rows : 1) * t->n_columns;
}

/* The safetensors header: its length in 8 bytes, then JSON padded to 8 with spaces. */
static int write_header(FILE *file)
{
    char *text = NULL;
    size_t size = 0, at = 0;
    FILE *out = open_memstream(&text, &size);

    if (!out)
        return error_set("out of memory");
    fputc('{', out);
    for (size_t i = 0; i < n_tensors; i++) {
        const struct tensor_shape *t = &tensors[i];
        const size_t end = at + 2 * elements(t);
        fprintf(out, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[", i ? "," : "", t->name);
        if (t->n_rows)
            fprintf(out, "%zu,", t->n_rows);
        fprintf(out, "%zu],\"data_offsets\":[%zu,%zu]}", t->n_columns, at, end);
        at = end;
    }
    fputc('}', out);
    while (ftell(out) % 8)
        fputc(' ', out);
    if (fclose(out) != 0)
        return error_set("out of memory");
    const uint64_t length = size;
    const bool ok =
        fwrite(&length, sizeof length, 1, file) == 1 && fwrite(text, 1, size, file) == size;
    free(text);
    return ok ? 0 : error_set("the header cannot be written");
}

static uint16_t bf16_of(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u; /* splitmix64 */

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static int write_tensors(FILE *file, uint64_t seed)
{
    uint16_t *values = malloc(65536 * sizeof *values), *chunk = malloc(CHUNK * sizeof *chunk);
    int status = values && chunk ? 0 : error_set("out of memory");

    /* Uniform, of standard deviation 0.02. */
    for (size_t i = 0; status == 0 && i < 65536; i++)
        values[i] = bf16_of(0.034641f * (float)(((double)i + 0.5) / 32768 - 1));
    for (size_t i = 0; status == 0 && i < n_tensors; i++)
        for (size_t left = elements(&tensors[i]); status == 0 && left > 0;) {
            const size_t n = left < CHUNK ? left : CHUNK;
            for (size_t j = 0; j < n; j += 4) {
                const uint64_t bits = next_random(&seed);
                for (size_t k = 0; k < 4 && j + k < n; k++)
                    chunk[j + k] = tensors[i].n_rows ? values[bits >> 16 * k & 0xffff] : 0x3f80;
            }
            if (fwrite(chunk, sizeof *chunk, n, file) != n)
                status = error_set("the weights cannot be written: is the disk full?");
            left -= n;
        }
    free(values);
    free(chunk);
    return status;
}

static FILE *open_in(const char *folder, const char *name)
{
    char path[4096];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    if (!file)
        error_set("%s cannot be made", path);
    return file;
}

static int write_config(const char *folder, const struct model_config *c)
{
    FILE *file = open_in(folder, "config.json");

    if (!file)
        return -1;
    fprintf(file,
            "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\",\n"
            " \"hidden_size\": %zu, \"intermediate_size\": %zu, \"num_hidden_layers\": %zu,\n"
            " \"num_attention_heads\": %zu, \"num_key_value_heads\": %zu, \"head_dim\": %zu,\n"
            " \"vocab_size\": %zu, \"max_position_embeddings\": 8192, \"rms_norm_eps\": 1e-05,\n"
            " \"rope_theta\": 500000.0, \"hidden_act\": \"silu\", \"torch_dtype\": \"bfloat16\",\n"
            " \"tie_word_embeddings\": false, \"bos_token_id\": 0, \"eos_token_id\": 1}\n",
            c->hidden_size, c->ffn_size, c->n_layers, c->n_heads, c->n_kv_heads, c->head_dim,
            c->vocab_size);
    return fclose(file) == 0 ? 0 : error_set("%s/config.json cannot be written", folder);
}

static int write_folder(const char *folder, const struct model_config *c, uint64_t seed)
{
    add("model.embed_tokens.weight", c->vocab_size, c->hidden_size);
    for (size_t i = 0; i < c->n_layers; i++)
        add_layer(c, i);
    add("model.norm.weight", 0, c->hidden_size);
    add("lm_head.weight", c->vocab_size, c->hidden_size);
    mkdir(folder, 0777);
    FILE *file = open_in(folder, "model.safetensors");
    if (!file)
        return -1;
    int status = write_header(file);
    if (status == 0)
        status = write_tensors(file, seed);
    if (fclose(file) != 0 && status == 0)
        status = error_set("the weights cannot be written: is the disk full?");
    return status == 0 ? write_config(folder, c) : status;
}

int main(int argc, char **argv)
{
    struct model_config config;
    uint64_t seed = 1;

    if (argc < 3)
        return fprintf(stderr, "usage: bench_shape SHAPE FOLDER [--layers N] [--seed N]\n"), 2;
    if (shapes_find(argv[1], &config) != 0)
        return fprintf(stderr, "bench_shape: %s\n", error_message()), 2;
    for (int i = 3; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--layers") == 0)
            config.n_layers = (size_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 10);
    }
    if (config.n_layers < 1 || config.n_layers * 9 + 3 > MAX_TENSORS)
        return fprintf(stderr, "bench_shape: --layers is 1 to %d\n", (MAX_TENSORS - 3) / 9), 2;
    if (write_folder(argv[2], &config, seed) != 0)
        return fprintf(stderr, "bench_shape: %s: %s\n", argv[2], error_message()), 1;
    return 0;
}
