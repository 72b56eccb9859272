#ifndef T2_TESTS_BUILD_FILES_H
#define T2_TESTS_BUILD_FILES_H
/* Builds small GGUF and safetensors files, valid ones and ones with chosen faults, and folders that
 * hold them. Test code: running out of memory aborts. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct bytes {
    uint8_t *data;
    size_t n, capacity;
};

static inline void bytes_put(struct bytes *b, const void *data, size_t n)
{
    if (b->n + n > b->capacity) {
        b->capacity = (b->n + n) * 2 + 64;
        b->data = realloc(b->data, b->capacity);
        if (!b->data)
            abort();
    }
    if (n > 0)
        memcpy(b->data + b->n, data, n);
    b->n += n;
}

static inline void bytes_u32(struct bytes *b, uint32_t x)
{
    bytes_put(b, &x, sizeof x);
}

static inline void bytes_u64(struct bytes *b, uint64_t x)
{
    bytes_put(b, &x, sizeof x);
}

static inline void bytes_text(struct bytes *b, const char *text)
{
    bytes_put(b, text, strlen(text));
}

static inline void bytes_pad(struct bytes *b, size_t alignment)
{
    while (b->n % alignment != 0)
        bytes_put(b, "", 1);
}

static inline void bytes_free(struct bytes *b)
{
    free(b->data);
    *b = (struct bytes){0};
}

/* ---- GGUF -------------------------------------------------------------------------------------
 */

enum { G_U8, G_I8, G_U16, G_I16, G_U32, G_I32, G_F32, G_BOOL, G_STRING, G_ARRAY, G_U64, G_I64 };

struct gguf_builder {
    struct bytes keys, infos, data;
    uint64_t n_keys, n_tensors;
    size_t alignment; /* of the data's start; 0: 32 */
};

static inline void gguf_string(struct bytes *b, const char *text)
{
    bytes_u64(b, strlen(text));
    bytes_text(b, text);
}

/* The key and its type; the value is to follow. */
static inline struct bytes *gguf_key_of(struct gguf_builder *g, const char *key, uint32_t type)
{
    gguf_string(&g->keys, key);
    bytes_u32(&g->keys, type);
    g->n_keys++;
    return &g->keys;
}

static inline void gguf_put_u32(struct gguf_builder *g, const char *key, uint32_t x)
{
    bytes_u32(gguf_key_of(g, key, G_U32), x);
}

static inline void gguf_put_f32(struct gguf_builder *g, const char *key, float x)
{
    bytes_put(gguf_key_of(g, key, G_F32), &x, sizeof x);
}

static inline void gguf_put_string(struct gguf_builder *g, const char *key, const char *text)
{
    gguf_string(gguf_key_of(g, key, G_STRING), text);
}

static inline void gguf_put_u32s(struct gguf_builder *g, const char *key, const uint32_t *values,
                                 size_t n)
{
    struct bytes *b = gguf_key_of(g, key, G_ARRAY);

    bytes_u32(b, G_U32);
    bytes_u64(b, n);
    bytes_put(b, values, n * sizeof *values);
}

static inline void gguf_put_strings(struct gguf_builder *g, const char *key,
                                    const char *const *texts, size_t n)
{
    struct bytes *b = gguf_key_of(g, key, G_ARRAY);

    bytes_u32(b, G_STRING);
    bytes_u64(b, n);
    for (size_t i = 0; i < n; i++)
        gguf_string(b, texts[i]);
}

/* A tensor's description alone. dims: fastest first, as in the file */
static inline void gguf_put_info(struct gguf_builder *g, const char *name, uint32_t n_dims,
                                 const uint64_t *dims, uint32_t type, uint64_t offset)
{
    gguf_string(&g->infos, name);
    bytes_u32(&g->infos, n_dims);
    bytes_put(&g->infos, dims, n_dims * sizeof *dims);
    bytes_u32(&g->infos, type);
    bytes_u64(&g->infos, offset);
    g->n_tensors++;
}

/* An f32 tensor [rows, columns] (rows 0: a vector) whose values count up from `first`. */
static inline void gguf_put_f32_tensor(struct gguf_builder *g, const char *name, uint64_t rows,
                                       uint64_t columns, float first)
{
    uint64_t dims[2] = {columns, rows};

    bytes_pad(&g->data, 32);
    gguf_put_info(g, name, rows ? 2 : 1, dims, 0, g->data.n);
    for (uint64_t i = 0; i < (rows ? rows : 1) * columns; i++) {
        float x = first + (float)i;
        bytes_put(&g->data, &x, sizeof x);
    }
}

/* The whole file; frees the builder. */
static inline struct bytes gguf_finish(struct gguf_builder *g)
{
    struct bytes file = {0};

    bytes_text(&file, "GGUF");
    bytes_u32(&file, 3);
    bytes_u64(&file, g->n_tensors);
    bytes_u64(&file, g->n_keys);
    bytes_put(&file, g->keys.data, g->keys.n);
    bytes_put(&file, g->infos.data, g->infos.n);
    bytes_pad(&file, g->alignment ? g->alignment : 32);
    bytes_put(&file, g->data.data, g->data.n);
    bytes_free(&g->keys);
    bytes_free(&g->infos);
    bytes_free(&g->data);
    *g = (struct gguf_builder){0};
    return file;
}

/* One layer, 2 query heads and 1 key head of 8 elements. */
enum { TINY_HIDDEN = 16, TINY_HEAD = 8, TINY_FFN = 24, TINY_VOCAB = 10 };

/* Metadata of a tiny model of architecture `arch`, without tokenizer. */
static inline void gguf_put_tiny_keys(struct gguf_builder *g, const char *arch)
{
    char key[100];
    const struct {
        const char *name;
        uint32_t value;
    } sizes[] = {{"block_count", 1},
                 {"context_length", 64},
                 {"embedding_length", TINY_HIDDEN},
                 {"feed_forward_length", TINY_FFN},
                 {"attention.head_count", 2},
                 {"attention.head_count_kv", 1},
                 {"vocab_size", TINY_VOCAB},
                 {"rope.dimension_count", TINY_HEAD}};

    gguf_put_string(g, "general.architecture", arch);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        snprintf(key, sizeof key, "%s.%s", arch, sizes[i].name);
        gguf_put_u32(g, key, sizes[i].value);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    gguf_put_f32(g, key, 1e-5f);
}

static inline void gguf_put_tiny_tensors(struct gguf_builder *g)
{
    gguf_put_f32_tensor(g, "token_embd.weight", TINY_VOCAB, TINY_HIDDEN, 0);
    gguf_put_f32_tensor(g, "blk.0.attn_norm.weight", 0, TINY_HIDDEN, 1);
    gguf_put_f32_tensor(g, "blk.0.attn_q.weight", 2 * TINY_HEAD, TINY_HIDDEN, 0);
    gguf_put_f32_tensor(g, "blk.0.attn_k.weight", TINY_HEAD, TINY_HIDDEN, 0);
    gguf_put_f32_tensor(g, "blk.0.attn_v.weight", TINY_HEAD, TINY_HIDDEN, 0);
    gguf_put_f32_tensor(g, "blk.0.attn_output.weight", TINY_HIDDEN, 2 * TINY_HEAD, 0);
    gguf_put_f32_tensor(g, "blk.0.ffn_norm.weight", 0, TINY_HIDDEN, 1);
    gguf_put_f32_tensor(g, "blk.0.ffn_gate.weight", TINY_FFN, TINY_HIDDEN, 0);
    gguf_put_f32_tensor(g, "blk.0.ffn_up.weight", TINY_FFN, TINY_HIDDEN, 0);
    gguf_put_f32_tensor(g, "blk.0.ffn_down.weight", TINY_HIDDEN, TINY_FFN, 0);
    gguf_put_f32_tensor(g, "output_norm.weight", 0, TINY_HIDDEN, 1);
}

static inline struct bytes tiny_gguf(const char *arch)
{
    static const char *const tokens[TINY_VOCAB] = {"a", "b", "c", "d", "e",
                                                   "f", "g", "h", "i", "j"};
    struct gguf_builder g = {0};

    gguf_put_tiny_keys(&g, arch);
    gguf_put_strings(&g, "tokenizer.ggml.tokens", tokens, TINY_VOCAB);
    gguf_put_u32(&g, "tokenizer.ggml.bos_token_id", 1);
    gguf_put_u32(&g, "tokenizer.ggml.eos_token_id", 2);
    gguf_put_string(&g, "tokenizer.chat_template", "<|im_start|>");
    gguf_put_tiny_tensors(&g);
    return gguf_finish(&g);
}

/* ---- safetensors ------------------------------------------------------------------------------
 */

struct safetensors_builder {
    struct bytes header, data;
};

/* One entry with free choice of everything. */
static inline void safetensors_put_entry(struct safetensors_builder *s, const char *name,
                                         const char *dtype, const char *shape, size_t start,
                                         size_t end)
{
    char text[400];

    snprintf(text, sizeof text,
             "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
             s->header.n ? "," : "", name, dtype, shape, start, end);
    bytes_text(&s->header, text);
}

/* An f32 tensor like gguf_put_f32_tensor's. */
static inline void safetensors_put_f32(struct safetensors_builder *s, const char *name, size_t rows,
                                       size_t columns, float first)
{
    size_t start = s->data.n;
    char shape[64];

    for (size_t i = 0; i < (rows ? rows : 1) * columns; i++) {
        float x = first + (float)i;
        bytes_put(&s->data, &x, sizeof x);
    }
    if (rows)
        snprintf(shape, sizeof shape, "[%zu,%zu]", rows, columns);
    else
        snprintf(shape, sizeof shape, "[%zu]", columns);
    safetensors_put_entry(s, name, "F32", shape, start, s->data.n);
}

/* The whole file; frees the builder. */
static inline struct bytes safetensors_finish(struct safetensors_builder *s)
{
    struct bytes file = {0};

    bytes_u64(&file, s->header.n + 2);
    bytes_text(&file, "{");
    bytes_put(&file, s->header.data, s->header.n);
    bytes_text(&file, "}");
    bytes_put(&file, s->data.data, s->data.n);
    bytes_free(&s->header);
    bytes_free(&s->data);
    return file;
}

#define TINY_CONFIG                                                                                \
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":16,\"intermediate_size\":24,"       \
    "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"                 \
    "\"vocab_size\":10,\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,"                      \
    "\"rope_theta\":10000.0,\"tie_word_embeddings\":true,\"eos_token_id\":2,\"bos_token_id\":1}"

/* Which half of the tiny model's tensors: 0 the embedding and norms, 1 the rest, 2 all. */
static inline void safetensors_put_tiny(struct safetensors_builder *s, int half)
{
    const struct {
        const char *name;
        size_t rows, columns;
        int half;
    } parts[] = {
        {"model.embed_tokens.weight", TINY_VOCAB, TINY_HIDDEN, 0},
        {"model.norm.weight", 0, TINY_HIDDEN, 0},
        {"model.layers.0.input_layernorm.weight", 0, TINY_HIDDEN, 0},
        {"model.layers.0.post_attention_layernorm.weight", 0, TINY_HIDDEN, 0},
        {"model.layers.0.self_attn.q_proj.weight", 2 * TINY_HEAD, TINY_HIDDEN, 1},
        {"model.layers.0.self_attn.k_proj.weight", TINY_HEAD, TINY_HIDDEN, 1},
        {"model.layers.0.self_attn.v_proj.weight", TINY_HEAD, TINY_HIDDEN, 1},
        {"model.layers.0.self_attn.o_proj.weight", TINY_HIDDEN, 2 * TINY_HEAD, 1},
        {"model.layers.0.mlp.gate_proj.weight", TINY_FFN, TINY_HIDDEN, 1},
        {"model.layers.0.mlp.up_proj.weight", TINY_FFN, TINY_HIDDEN, 1},
        {"model.layers.0.mlp.down_proj.weight", TINY_HIDDEN, TINY_FFN, 1},
    };

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (half == 2 || parts[i].half == half)
            safetensors_put_f32(s, parts[i].name, parts[i].rows, parts[i].columns, 0);
}

static inline struct bytes tiny_safetensors(int half)
{
    struct safetensors_builder s = {0};

    safetensors_put_tiny(&s, half);
    return safetensors_finish(&s);
}

/* {"weight_map": ...} of the tiny model over two.safetensors files */
static inline struct bytes tiny_index(const char *first, const char *second)
{
    struct bytes text = {0};
    char line[300];

    bytes_text(&text, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    snprintf(line, sizeof line, "\"model.embed_tokens.weight\":\"%s\",", first);
    bytes_text(&text, line);
    snprintf(line, sizeof line, "\"model.layers.0.mlp.up_proj.weight\":\"%s\"}}", second);
    bytes_text(&text, line);
    return text;
}

/* ---- folders ----------------------------------------------------------------------------------
 */

static inline void write_file(const char *dir, const char *name, const void *data, size_t n)
{
    char path[600];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f) != 0)
        abort();
}

static inline void write_text(const char *dir, const char *name, const char *text)
{
    write_file(dir, name, text, strlen(text));
}

/* Writes and frees. */
static inline void write_bytes(const char *dir, const char *name, struct bytes bytes)
{
    write_file(dir, name, bytes.data, bytes.n);
    bytes_free(&bytes);
}

/* A new, empty folder. */
static inline char *make_folder(void)
{
    const char *base = getenv("TMPDIR");
    char path[500];

    snprintf(path, sizeof path, "%s/t2-test-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(path))
        abort();
    return strdup(path);
}

/* Removes the files in it and the folder, and frees the name. */
static inline void remove_folder(char *dir)
{
    char path[800];
    DIR *d = opendir(dir);
    struct dirent *entry;

    while (d && (entry = readdir(d))) {
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (entry->d_name[0] != '.')
            unlink(path);
    }
    if (d)
        closedir(d);
    rmdir(dir);
    free(dir);
}

#endif
