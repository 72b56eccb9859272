#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "build_files.h"
#include "model/checkpoint.h"
#include "model/gguf.h"
#include "mpi/error.h"

/* Opening fails with a message of one line that holds each of the texts. Frees the file. */
static void expect_error(struct bytes file, const char *first, const char *second)
{
    struct gguf *gguf = gguf_from_memory(file.data, file.n, "x.gguf");

    assert_null(gguf);
    if (!strstr(error_message(), first) || !strstr(error_message(), second) ||
        strchr(error_message(), '\n'))
        fail_msg("\"%s\" does not say \"%s\" and \"%s\"", error_message(), first, second);
    bytes_free(&file);
}

static void values_of_every_type_are_read(void **state)
{
    (void)state;
    struct gguf_builder g = {0};
    const char *const words[] = {"one", "", "three"};
    const uint32_t numbers[] = {7, 8, 9};
    int64_t i, ints[3];
    double d;
    bool truth;
    const char *text, *texts[3];
    size_t n, lengths[3];
    float floats[3];

    bytes_put(gguf_key_of(&g, "u8", G_U8), &(uint8_t){200}, 1);
    bytes_put(gguf_key_of(&g, "i8", G_I8), &(int8_t){-3}, 1);
    bytes_put(gguf_key_of(&g, "u16", G_U16), &(uint16_t){60000}, 2);
    bytes_put(gguf_key_of(&g, "i16", G_I16), &(int16_t){-300}, 2);
    bytes_put(gguf_key_of(&g, "i32", G_I32), &(int32_t){-70000}, 4);
    bytes_put(gguf_key_of(&g, "u64", G_U64), &(uint64_t){UINT64_MAX}, 8);
    bytes_put(gguf_key_of(&g, "i64", G_I64), &(int64_t){INT64_MIN}, 8);
    bytes_put(gguf_key_of(&g, "yes", G_BOOL), &(uint8_t){1}, 1);
    bytes_put(gguf_key_of(&g, "f64", 12), &(double){0.1}, 8);
    gguf_put_f32(&g, "three", 3.0f);
    gguf_put_f32(&g, "half", 0.5f);
    gguf_put_string(&g, "text", "hello");
    gguf_put_strings(&g, "words", words, 3);
    gguf_put_u32s(&g, "numbers", numbers, 3);
    /* An array of two arrays of u8. */
    struct bytes *b = gguf_key_of(&g, "nested", G_ARRAY);
    bytes_u32(b, G_ARRAY);
    bytes_u64(b, 2);
    for (int j = 0; j < 2; j++) {
        bytes_u32(b, G_U8);
        bytes_u64(b, 3);
        bytes_put(b, "abc", 3);
    }
    gguf_put_u32(&g, "last", 5);
    struct bytes file = gguf_finish(&g);
    struct gguf *gguf = gguf_from_memory(file.data, file.n, "x.gguf");
    assert_non_null(gguf);

    assert_true(gguf_get_int(gguf, "u8", &i) && i == 200);
    assert_true(gguf_get_int(gguf, "i8", &i) && i == -3);
    assert_true(gguf_get_int(gguf, "u16", &i) && i == 60000);
    assert_true(gguf_get_int(gguf, "i16", &i) && i == -300);
    assert_true(gguf_get_int(gguf, "i32", &i) && i == -70000);
    assert_true(gguf_get_int(gguf, "i64", &i) && i == INT64_MIN);
    assert_false(gguf_get_int(gguf, "u64", &i)); /* does not fit */
    assert_true(gguf_get_float(gguf, "u64", &d) && d == 0x1p64);
    assert_true(gguf_get_int(gguf, "three", &i) && i == 3);
    assert_false(gguf_get_int(gguf, "half", &i));
    assert_true(gguf_get_float(gguf, "half", &d) && d == 0.5);
    assert_true(gguf_get_float(gguf, "f64", &d) && d == 0.1);
    assert_true(gguf_get_bool(gguf, "yes", &truth) && truth);
    assert_false(gguf_get_bool(gguf, "u8", &truth));
    assert_false(gguf_get_int(gguf, "text", &i));
    assert_true(gguf_get_string(gguf, "text", &text, &n) && n == 5 &&
                memcmp(text, "hello", 5) == 0);
    assert_false(gguf_get_string(gguf, "absent", &text, &n));
    assert_true(gguf_array_size(gguf, "words", &n) && n == 3);
    assert_true(gguf_get_strings(gguf, "words", texts, lengths));
    assert_true(lengths[0] == 3 && lengths[1] == 0 && memcmp(texts[2], "three", 5) == 0);
    assert_true(gguf_get_ints(gguf, "numbers", ints) && ints[0] == 7 && ints[2] == 9);
    assert_true(gguf_get_floats(gguf, "numbers", floats) && floats[1] == 8);
    assert_false(gguf_get_ints(gguf, "words", ints));
    assert_true(gguf_array_size(gguf, "nested", &n) && n == 2);
    assert_true(gguf_get_int(gguf, "last", &i) && i == 5); /* all before it was skipped rightly */

    char line[12];
    assert_int_equal(gguf_n_keys(gguf), 16);
    assert_string_equal(gguf_key(gguf, 11), "text");
    gguf_describe_value(gguf, 11, line, sizeof line);
    assert_string_equal(line, "hello");
    gguf_describe_value(gguf, 12, line, sizeof line);
    assert_string_equal(line, "3 x string");
    gguf_describe_value(gguf, 7, line, sizeof line);
    assert_string_equal(line, "true");
    gguf_describe_value(gguf, 11, line, 5);
    assert_string_equal(line, "h...");
    gguf_free(gguf);
    bytes_free(&file);
}

static void every_cut_of_a_file_is_an_error_of_one_line(void **state)
{
    (void)state;
    struct bytes file = tiny_gguf("llama");

    for (size_t n = 0; n < file.n; n++) {
        assert_null(gguf_from_memory(file.data, n, "x.gguf"));
        assert_non_null(strstr(error_message(), "x.gguf: "));
        assert_null(strchr(error_message(), '\n'));
    }
    bytes_free(&file);
}

static void truncated_gguf_names_the_tensor_and_what_is_missing(void **state)
{
    (void)state;
    struct bytes file = tiny_gguf("llama");

    file.n -= 100;
    expect_error(file, "tensor blk.0.ffn_down.weight is not all there", "(100 are missing)");
}

static void a_damaged_start_is_explained(void **state)
{
    (void)state;
    struct bytes file = {0};

    bytes_text(&file, "version https://git-lfs.github.com/spec/v1\noid sha256:abc\n");
    expect_error(file, "Git LFS pointer", "git lfs pull");
    file = (struct bytes){0};
    bytes_text(&file, "<!DOCTYPE html><title>Sign in</title>");
    expect_error(file, "web page", "x.gguf");
    file = (struct bytes){0};
    bytes_text(&file, "PK\3\4 something else");
    expect_error(file, "not a GGUF file", "x.gguf");
    file = tiny_gguf("llama");
    memcpy(file.data + 4, &(uint32_t){1}, 4);
    expect_error(file, "version 1", "2 and 3");
    file = tiny_gguf("llama");
    memcpy(file.data + 4, &(uint32_t){0x03000000}, 4);
    expect_error(file, "big-endian", "x.gguf");
}

static void impossible_counts_allocate_nothing(void **state)
{
    (void)state;
    for (size_t at = 8; at <= 16; at += 8) {
        struct bytes file = tiny_gguf("llama");
        memcpy(file.data + at, &(uint64_t){UINT64_MAX / 3}, 8);
        expect_error(file, "more than its", "bytes can hold");
    }
    for (int type = G_U8; type <= 12; type++) {
        struct gguf_builder g = {0};
        struct bytes *b = gguf_key_of(&g, "list", G_ARRAY);
        bytes_u32(b, (uint32_t)type);
        bytes_u64(b, UINT64_MAX / 4 + 7);
        expect_error(gguf_finish(&g), "key list", "");
    }
    struct gguf_builder g = {0};
    bytes_u64(gguf_key_of(&g, "text", G_STRING), UINT64_MAX - 5);
    expect_error(gguf_finish(&g), "ends at byte", "key text");
}

static void arrays_nested_too_deeply_are_refused(void **state)
{
    (void)state;
    struct gguf_builder g = {0};
    struct bytes *b = gguf_key_of(&g, "deep", G_ARRAY);

    for (int i = 0; i < 100000; i++) {
        bytes_u32(b, G_ARRAY);
        bytes_u64(b, 1);
    }
    expect_error(gguf_finish(&g), "nested deeper", "key deep");
}

static void names_are_checked(void **state)
{
    (void)state;
    struct gguf_builder g = {0};

    gguf_put_u32(&g, "same", 1);
    gguf_put_u32(&g, "same", 2);
    expect_error(gguf_finish(&g), "key same is there twice", "");
    gguf_put_f32_tensor(&g, "t", 0, 4, 0);
    gguf_put_f32_tensor(&g, "t", 0, 4, 0);
    expect_error(gguf_finish(&g), "tensor t is there twice", "");
    gguf_put_u32(&g, "", 1);
    expect_error(gguf_finish(&g), "name of 0 bytes", "");
    bytes_u64(&g.keys, 3);
    bytes_put(&g.keys, "a\0b\4\0\0\0\0\0\0\0", 11);
    g.n_keys = 1;
    expect_error(gguf_finish(&g), "NUL", "");
}

static void tensors_are_checked_one_by_one(void **state)
{
    (void)state;
    static const struct {
        uint32_t n_dims, type;
        uint64_t dims[4], offset;
        const char *message;
    } faults[] = {
        {0, 0, {4}, 0, "has 0 dimensions"},
        {5, 0, {1, 1, 1, 1}, 0, "has 5 dimensions"},
        {2, 0, {4, 0}, 0, "impossible shape"},
        {2, 0, {1ull << 33, 1ull << 33}, 0, "impossible shape"},
        {1, 0, {1ull << 62}, 0, "impossible shape"},
        {1, 2, {40}, 0, "blocks of 32"},
        {1, 12, {128}, 0, "blocks of 256"},
        {1, 0, {4}, 16, "no multiple of the alignment"},
        {1, 0, {4}, UINT64_MAX - 31, "beyond any file's end"},
        {1, 0, {4}, 1 << 20, "cut off"},
        {1, 20, {32}, 0, "is IQ4_NL, which t2 does not read"},
        {1, 26, {4}, 0, "is I32"},
        {1, 5, {32}, 0, "unknown type 5"},
        {1, 999, {32}, 0, "unknown type 999"},
    };

    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        struct gguf_builder g = {0};
        bytes_put(&g.data, (char[64]){0}, 64);
        uint64_t dims[5] = {1, 1, 1, 1, 1};
        memcpy(dims, faults[i].dims, sizeof faults[i].dims);
        gguf_put_info(&g, "odd", faults[i].n_dims, dims, faults[i].type, faults[i].offset);
        expect_error(gguf_finish(&g), "tensor odd", faults[i].message);
    }
    struct gguf_builder g = {0};
    bytes_put(&g.data, (char[256]){0}, 256);
    gguf_put_info(&g, "b", 1, (uint64_t[]){16}, 0, 32);
    gguf_put_info(&g, "a", 1, (uint64_t[]){16}, 0, 0);
    expect_error(gguf_finish(&g), "tensors a and b overlap", "");
}

static void alignment_is_obeyed_and_checked(void **state)
{
    (void)state;
    struct gguf_builder g = {0};
    struct bytes file;

    for (uint32_t wrong = 0; wrong < 50; wrong += 12) {
        gguf_put_u32(&g, "general.alignment", wrong);
        expect_error(gguf_finish(&g), "general.alignment", "power of two");
    }
    for (size_t alignment = 1; alignment <= 256; alignment *= 4) {
        float row[3];
        gguf_put_u32(&g, "general.alignment", (uint32_t)alignment);
        gguf_put_f32_tensor(&g, "t", 2, 3, 5);
        g.alignment = alignment;
        file = gguf_finish(&g);
        struct gguf *gguf = gguf_from_memory(file.data, file.n, "x.gguf");
        assert_non_null(gguf);
        const struct tensor *t = gguf_tensor(gguf, 0);
        assert_int_equal(t->n_dims, 2);
        assert_int_equal(t->shape[0], 2); /* rows first, the file has columns first */
        assert_int_equal(t->shape[1], 3);
        tensor_read_rows(t, 1, 1, row);
        assert_true(row[0] == 8 && row[2] == 10);
        gguf_free(gguf);
        bytes_free(&file);
    }
}

static void damaged_bools_are_refused(void **state)
{
    (void)state;
    struct gguf_builder g = {0};

    bytes_put(gguf_key_of(&g, "flag", G_BOOL), &(uint8_t){7}, 1);
    expect_error(gguf_finish(&g), "key flag", "no bool");
}

/* ---- models -----------------------------------------------------------------------------------
 */

/* Opens bytes as a model in a file of its own; frees them. */
static struct checkpoint *open_model(struct bytes file)
{
    char *dir = make_folder(), path[600];

    write_bytes(dir, "m.gguf", file);
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    struct checkpoint *ck = checkpoint_open(path);
    remove_folder(dir);
    return ck;
}

static void expect_model_error(struct gguf_builder *g, const char *first, const char *second)
{
    struct checkpoint *ck = open_model(gguf_finish(g));

    assert_null(ck);
    if (!strstr(error_message(), first) || !strstr(error_message(), second))
        fail_msg("\"%s\" does not say \"%s\" and \"%s\"", error_message(), first, second);
}

static void a_tiny_llama_opens_under_hugging_face_names(void **state)
{
    (void)state;
    struct checkpoint *ck = open_model(tiny_gguf("llama"));
    if (!ck)
        fail_msg("%s", error_message());
    const struct model_config *c = checkpoint_config(ck);
    float row[TINY_HIDDEN];

    assert_int_equal(c->family, FAMILY_LLAMA);
    assert_int_equal(c->n_layers, 1);
    assert_int_equal(c->head_dim, TINY_HEAD);
    assert_int_equal(c->n_kv_heads, 1);
    assert_int_equal(c->vocab_size, TINY_VOCAB);
    assert_int_equal(c->max_positions, 64);
    assert_int_equal(c->bos_id, 1);
    assert_int_equal(c->n_eos, 1);
    assert_int_equal(c->eos_ids[0], 2);
    assert_true(c->rope.kind == ROPE_DEFAULT && c->rope.theta == 10000);
    assert_true(c->tied_embeddings && !c->qkv_bias && !c->qk_norm && c->sliding_window == 0);
    assert_string_equal(checkpoint_chat_template(ck), "<|im_start|>");
    assert_int_equal(checkpoint_n_tensors(ck), 11);
    assert_null(checkpoint_find(ck, "lm_head.weight"));
    const struct tensor *q = checkpoint_find(ck, "model.layers.0.self_attn.q_proj.weight");
    assert_int_equal(q->interleaved_heads, 2);
    tensor_read_rows(q, 1, 1, row); /* row 1 of head 0 is the file's row 2 */
    assert_true(row[0] == 2 * TINY_HIDDEN);
    assert_int_equal(
        checkpoint_find(ck, "model.layers.0.self_attn.k_proj.weight")->interleaved_heads, 1);
    assert_int_equal(
        checkpoint_find(ck, "model.layers.0.self_attn.v_proj.weight")->interleaved_heads, 0);
    checkpoint_release(ck, q); /* what comes back is the same */
    tensor_read_rows(q, 1, 1, row);
    assert_true(row[0] == 2 * TINY_HIDDEN);
    checkpoint_free(ck);
}

static void qwen_models_have_biases_and_norms_and_no_interleaving(void **state)
{
    (void)state;
    struct gguf_builder g = {0};

    gguf_put_tiny_keys(&g, "qwen2");
    gguf_put_tiny_tensors(&g);
    gguf_put_f32_tensor(&g, "blk.0.attn_q.bias", 0, 2 * TINY_HEAD, 0);
    gguf_put_f32_tensor(&g, "blk.0.attn_k.bias", 0, TINY_HEAD, 0);
    gguf_put_f32_tensor(&g, "blk.0.attn_v.bias", 0, TINY_HEAD, 0);
    gguf_put_f32_tensor(&g, "output.weight", TINY_VOCAB, TINY_HIDDEN, 0);
    struct checkpoint *ck = open_model(gguf_finish(&g));
    if (!ck)
        fail_msg("%s", error_message());
    assert_true(checkpoint_config(ck)->qkv_bias && !checkpoint_config(ck)->tied_embeddings);
    assert_int_equal(checkpoint_find(ck, "model.layers.0.self_attn.q_proj.bias")->interleaved_heads,
                     0);
    assert_non_null(checkpoint_find(ck, "lm_head.weight"));
    checkpoint_free(ck);

    gguf_put_tiny_keys(&g, "qwen3");
    gguf_put_tiny_tensors(&g);
    gguf_put_f32_tensor(&g, "blk.0.attn_q_norm.weight", 0, TINY_HEAD, 0);
    gguf_put_f32_tensor(&g, "blk.0.attn_k_norm.weight", 0, TINY_HEAD, 0);
    ck = open_model(gguf_finish(&g));
    if (!ck)
        fail_msg("%s", error_message());
    assert_true(checkpoint_config(ck)->qk_norm);
    assert_non_null(checkpoint_find(ck, "model.layers.0.self_attn.k_norm.weight"));
    checkpoint_free(ck);
}

static void biases_of_a_llama_are_interleaved_too(void **state)
{
    (void)state;
    struct gguf_builder g = {0};
    float bias[2 * TINY_HEAD];

    gguf_put_tiny_keys(&g, "llama");
    gguf_put_tiny_tensors(&g);
    gguf_put_f32_tensor(&g, "blk.0.attn_q.bias", 0, 2 * TINY_HEAD, 0);
    gguf_put_f32_tensor(&g, "blk.0.attn_k.bias", 0, TINY_HEAD, 0);
    gguf_put_f32_tensor(&g, "blk.0.attn_v.bias", 0, TINY_HEAD, 0);
    struct checkpoint *ck = open_model(gguf_finish(&g));
    if (!ck)
        fail_msg("%s", error_message());
    tensor_read_rows(checkpoint_find(ck, "model.layers.0.self_attn.q_proj.bias"), 0, 1, bias);
    assert_true(bias[1] == 2 && bias[4] == 1 && bias[9] == 10);
    tensor_read_rows(checkpoint_find(ck, "model.layers.0.self_attn.v_proj.bias"), 0, 1, bias);
    assert_true(bias[1] == 1);
    checkpoint_free(ck);
}

static void missing_wrong_and_surplus_tensors_are_named(void **state)
{
    (void)state;
    struct gguf_builder g = {0};

    gguf_put_tiny_keys(&g, "qwen3");
    gguf_put_tiny_tensors(&g);
    expect_model_error(&g, "tensor blk.0.attn_q_norm.weight is missing", "shape [8]");
    gguf_put_tiny_keys(&g, "llama");
    gguf_put_tiny_tensors(&g);
    gguf_put_f32_tensor(&g, "output.weight", TINY_VOCAB + 1, TINY_HIDDEN, 0);
    expect_model_error(&g, "tensor output.weight has shape [11, 16]", "calls for [10, 16]");
    gguf_put_tiny_keys(&g, "llama");
    gguf_put_tiny_tensors(&g);
    gguf_put_f32_tensor(&g, "blk.0.attn_sinks", 0, 2, 0);
    expect_model_error(&g, "blk.0.attn_sinks has no place", "llama");
}

/* The tiny model's keys with one more, or one of them under another value. */
static void put_keys_with(struct gguf_builder *g, const char *key, uint32_t value)
{
    const struct {
        const char *name;
        uint32_t value;
    } sizes[] = {{"llama.block_count", 1},
                 {"llama.context_length", 64},
                 {"llama.embedding_length", TINY_HIDDEN},
                 {"llama.feed_forward_length", TINY_FFN},
                 {"llama.attention.head_count", 2},
                 {"llama.vocab_size", TINY_VOCAB}};
    bool seen = false;

    gguf_put_string(g, "general.architecture", "llama");
    gguf_put_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        bool same = strcmp(sizes[i].name, key) == 0;
        seen |= same;
        gguf_put_u32(g, sizes[i].name, same ? value : sizes[i].value);
    }
    if (!seen)
        gguf_put_u32(g, key, value);
}

static void unfit_metadata_is_explained(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        uint32_t value;
        const char *message;
    } faults[] = {
        {"llama.block_count", 0, "number of layers is 0"},
        {"llama.block_count", 100000, "number of layers is 100000"},
        {"llama.attention.head_count", 0, "attention heads is 0"},
        {"llama.attention.head_count_kv", 3, "cannot share"},
        {"llama.attention.key_length", 7, "head size 7 is odd"},
        {"llama.attention.value_length", 4, "keys have 8 elements a head and values 4"},
        {"llama.rope.dimension_count", 4, "cover 4 of a head's 8"},
        {"llama.embedding_length", 0x7fffffff, "hidden size"},
        {"llama.expert_count", 8, "mixture of 8 experts"},
        {"llama.vocab_size", 0, "vocabulary size is 0"},
        {"split.count", 3, "one of 3 parts"},
    };
    struct gguf_builder g = {0};

    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        put_keys_with(&g, faults[i].key, faults[i].value);
        expect_model_error(&g, faults[i].message, "m.gguf: ");
    }
    gguf_put_tiny_keys(&g, "gemma3");
    expect_model_error(&g, "architecture \"gemma3\" is not supported", "qwen3");
    gguf_put_u32(&g, "x", 1);
    expect_model_error(&g, "general.architecture is missing", "");
    gguf_put_string(&g, "general.architecture", "llama");
    expect_model_error(&g, "key llama.block_count is missing", "");
}

static void sizes_may_be_lists_of_equal_values(void **state)
{
    (void)state;
    struct gguf_builder g = {0};
    struct model_config c;

    gguf_put_string(&g, "general.architecture", "llama");
    gguf_put_f32(&g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_put_u32(&g, "llama.block_count", 2);
    gguf_put_u32(&g, "llama.context_length", 64);
    gguf_put_u32(&g, "llama.embedding_length", 16);
    gguf_put_u32(&g, "llama.vocab_size", 10);
    gguf_put_u32(&g, "llama.attention.head_count", 2);
    gguf_put_u32s(&g, "llama.attention.head_count_kv", (uint32_t[]){1, 1}, 2);
    gguf_put_u32s(&g, "llama.feed_forward_length", (uint32_t[]){24, 24}, 2);
    struct bytes file = gguf_finish(&g);
    struct gguf *gguf = gguf_from_memory(file.data, file.n, "x.gguf");
    assert_int_equal(config_parse_gguf(&c, gguf), 0);
    assert_true(c.ffn_size == 24 && c.n_kv_heads == 1);
    config_free(&c);
    gguf_free(gguf);
    bytes_free(&file);

    put_keys_with(&g, "x", 0);
    gguf_put_u32s(&g, "llama.attention.head_count_kv", (uint32_t[]){1, 2}, 2);
    expect_model_error(&g, "head_count_kv differs between layers (1 and 2)", "");
}

/* Parses the tiny keys and what is in g besides. */
static struct model_config parse_with(struct gguf_builder *g)
{
    struct model_config c;

    gguf_put_tiny_keys(g, "llama");
    struct bytes file = gguf_finish(g);
    struct gguf *gguf = gguf_from_memory(file.data, file.n, "x.gguf");
    assert_non_null(gguf);
    if (config_parse_gguf(&c, gguf) != 0)
        fail_msg("%s", error_message());
    gguf_free(gguf);
    bytes_free(&file);
    return c;
}

static void rotary_scaling_is_read(void **state)
{
    (void)state;
    struct gguf_builder g = {0};
    struct model_config c;

    gguf_put_string(&g, "llama.rope.scaling.type", "linear");
    gguf_put_f32(&g, "llama.rope.scaling.factor", 4);
    c = parse_with(&g);
    assert_true(c.rope.kind == ROPE_LINEAR && c.rope.factor == 4);

    gguf_put_f32(&g, "llama.rope.scale_linear", 2);
    c = parse_with(&g);
    assert_true(c.rope.kind == ROPE_LINEAR && c.rope.factor == 2);

    gguf_put_string(&g, "llama.rope.scaling.type", "yarn");
    gguf_put_f32(&g, "llama.rope.scaling.factor", 4);
    gguf_put_f32(&g, "llama.rope.freq_base", 1e6f);
    gguf_put_u32(&g, "llama.rope.scaling.original_context_length", 16);
    c = parse_with(&g);
    assert_true(c.rope.kind == ROPE_YARN && c.rope.factor == 4 && c.rope.theta == 1e6);
    assert_true(c.rope.original_max_positions == 16 && c.rope.beta_fast == 32 &&
                c.rope.beta_slow == 1 && c.rope.attention_factor == 0 && c.rope.truncate);

    gguf_put_f32_tensor(&g, "rope_freqs.weight", 0, TINY_HEAD / 2, 1);
    c = parse_with(&g);
    assert_non_null(c.rope.frequency_factors);
    assert_true(c.rope.frequency_factors[0] == 1 && c.rope.frequency_factors[3] == 4);
    config_free(&c);

    gguf_put_tiny_keys(&g, "llama");
    gguf_put_string(&g, "llama.rope.scaling.type", "longrope");
    expect_model_error(&g, "rotary scaling \"longrope\" is not supported", "");
    gguf_put_tiny_keys(&g, "llama");
    gguf_put_f32_tensor(&g, "rope_freqs.weight", 0, TINY_HEAD / 2, -1);
    expect_model_error(&g, "rope_freqs.weight has the value -1 at 0", "");
    gguf_put_tiny_keys(&g, "llama");
    gguf_put_f32_tensor(&g, "rope_freqs.weight", 0, 3, 1);
    expect_model_error(&g, "rope_freqs.weight must be F32 [4]", "");
}

static void all_end_tokens_are_collected_once(void **state)
{
    (void)state;
    struct gguf_builder g = {0};

    gguf_put_u32(&g, "tokenizer.ggml.eos_token_id", 5);
    gguf_put_u32(&g, "tokenizer.ggml.eot_token_id", 7);
    gguf_put_u32(&g, "tokenizer.ggml.eom_token_id", 5);
    struct model_config c = parse_with(&g);
    assert_int_equal(c.n_eos, 2);
    assert_true(c.eos_ids[0] == 5 && c.eos_ids[1] == 7);
    assert_int_equal(c.bos_id, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_every_type_are_read),
        cmocka_unit_test(every_cut_of_a_file_is_an_error_of_one_line),
        cmocka_unit_test(truncated_gguf_names_the_tensor_and_what_is_missing),
        cmocka_unit_test(a_damaged_start_is_explained),
        cmocka_unit_test(impossible_counts_allocate_nothing),
        cmocka_unit_test(arrays_nested_too_deeply_are_refused),
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(tensors_are_checked_one_by_one),
        cmocka_unit_test(alignment_is_obeyed_and_checked),
        cmocka_unit_test(damaged_bools_are_refused),
        cmocka_unit_test(a_tiny_llama_opens_under_hugging_face_names),
        cmocka_unit_test(qwen_models_have_biases_and_norms_and_no_interleaving),
        cmocka_unit_test(biases_of_a_llama_are_interleaved_too),
        cmocka_unit_test(missing_wrong_and_surplus_tensors_are_named),
        cmocka_unit_test(unfit_metadata_is_explained),
        cmocka_unit_test(sizes_may_be_lists_of_equal_values),
        cmocka_unit_test(rotary_scaling_is_read),
        cmocka_unit_test(all_end_tokens_are_collected_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
