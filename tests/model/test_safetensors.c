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
#include "model/describe.h"
#include "model/safetensors.h"
#include "mpi/error.h"

static void expect_message(const char *first, const char *second)
{
    if (!strstr(error_message(), first) || !strstr(error_message(), second) ||
        strchr(error_message(), '\n'))
        fail_msg("\"%s\" does not say \"%s\" and \"%s\"", error_message(), first, second);
}

/* Frees the file. */
static void expect_error(struct bytes file, const char *first, const char *second)
{
    assert_null(safetensors_from_memory(file.data, file.n, "x.safetensors"));
    expect_message(first, second);
    bytes_free(&file);
}

/* A file of this header and 64 bytes of data. */
static struct bytes file_of(const char *header)
{
    struct bytes file = {0};

    bytes_u64(&file, strlen(header));
    bytes_text(&file, header);
    bytes_put(&file, (char[64]){0}, 64);
    return file;
}

/* ---- one file ---------------------------------------------------------------------------------
 */

static void tensors_are_listed_by_name_with_their_values(void **state)
{
    (void)state;
    struct bytes file =
        file_of("{\"__metadata__\":{\"format\":\"pt\"},"
                "\"b\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[8,24]},"
                "\"a\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[0,8]},"
                "\"c\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[24,27]},"
                "\"scalar\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[28,30]},"
                "\"none\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[28,28]},"
                "\"new\":{\"dtype\":\"F4_X\",\"shape\":[3],\"data_offsets\":[30,31]},"
                "\"five\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1],\"data_offsets\":[32,36]}}   ");
    memcpy(file.data + file.n - 64, &(uint16_t[4]){0x3f80, 0x4000, 0, 0xbf80}, 8);
    memcpy(file.data + file.n - 56, &(float[4]){1, 2, 3, 4}, 16);
    struct safetensors *st = safetensors_from_memory(file.data, file.n, "x.safetensors");
    float values[4];

    if (!st)
        fail_msg("%s", error_message());
    assert_int_equal(safetensors_n_tensors(st), 6);
    const struct tensor *a = safetensors_tensor(st, 0), *b = safetensors_tensor(st, 1),
                        *c = safetensors_tensor(st, 2);
    assert_string_equal(a->name, "a");
    tensor_read_rows(a, 0, 1, values);
    assert_true(values[0] == 1 && values[1] == 2 && values[2] == 0 && values[3] == -1);
    assert_string_equal(b->name, "b");
    tensor_read_rows(b, 1, 1, values);
    assert_true(values[0] == 3 && values[1] == 4);
    assert_int_equal(c->type, TENSOR_TYPE_COUNT);
    assert_string_equal(safetensors_dtype(st, 2), "I8");
    safetensors_free(st);
    bytes_free(&file);
}

static void damaged_headers_are_explained(void **state)
{
    (void)state;
#define ENTRY(dtype, shape, offsets)                                                               \
    "{\"t\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    static const struct {
        const char *header, *message;
    } faults[] = {
        {"{", "not valid JSON"},
        {"{\"t\":1}", "tensor t: it has no valid element type"},
        {ENTRY("5", "[1]", "[0,4]"), "tensor t: it has no valid element type"},
        {ENTRY("\"F32_but_with_a_long_name\"", "[1]", "[0,4]"), "no valid element type"},
        {ENTRY("\"F32\"", "7", "[0,4]"), "tensor t: its shape is no list"},
        {ENTRY("\"F32\"", "[-1]", "[0,4]"), "no list of sizes"},
        {ENTRY("\"F32\"", "[1.5]", "[0,4]"), "no list of sizes"},
        {ENTRY("\"F32\"", "[4294967296,4294967296]", "[0,4]"), "impossibly large"},
        {ENTRY("\"F32\"", "[4611686018427387905]", "[0,4]"), "the file is damaged"},
        {ENTRY("\"F32\"", "[1]", "[4]"), "no pair"},
        {ENTRY("\"F32\"", "[1]", "[8,4]"), "no pair"},
        {ENTRY("\"F32\"", "[1]", "[-4,0]"), "no pair"},
        {ENTRY("\"F32\"", "[2]", "[0,4]"),
         "tensor t has 4 bytes, its type F32 and shape make it 2"},
        {ENTRY("\"F32\"", "[32]", "[0,128]"), "tensor t is not all there; the file has"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
         "tensors a and b overlap"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}",
         "not valid JSON"},
    };

    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        expect_error(file_of(faults[i].header), "x.safetensors: ", faults[i].message);
    struct bytes file = {0};
    bytes_text(&file, "{\"a\"");
    expect_error(file, "too few", "");
    file = (struct bytes){0};
    bytes_text(&file, "version https://git-lfs.github.com/spec/v1\n");
    expect_error(file, "Git LFS pointer", "");
    file = (struct bytes){0};
    bytes_u64(&file, UINT64_MAX);
    bytes_text(&file, "{}");
    expect_error(file, "not a safetensors file", "");
    file = (struct bytes){0};
    bytes_u64(&file, 1000);
    bytes_text(&file, "{\"a\":");
    expect_error(file, "ends inside its header (995 bytes", "");
}

static void a_truncated_download_tells_how_much_is_missing(void **state)
{
    (void)state;
    struct bytes file = tiny_safetensors(2);

    file.n -= 1000;
    expect_error(file, "1000 more are missing", "mlp.down_proj.weight is not all there");
}

static void every_cut_is_an_error_of_one_line(void **state)
{
    (void)state;
    struct bytes file = tiny_safetensors(2);

    for (size_t n = 0; n < file.n; n += n < 2000 ? 1 : 37) {
        assert_null(safetensors_from_memory(file.data, n, "x.safetensors"));
        expect_message("x.safetensors: ", "");
    }
    bytes_free(&file);
}

/* ---- folders ----------------------------------------------------------------------------------
 */

static void expect_open_error(const char *dir, const char *first, const char *second)
{
    assert_null(checkpoint_open(dir));
    expect_message(first, second);
}

static struct checkpoint *open_well(const char *dir)
{
    struct checkpoint *ck = checkpoint_open(dir);

    if (!ck)
        fail_msg("%s", error_message());
    return ck;
}

static void a_folder_opens_whole_or_in_shards_with_one_identity(void **state)
{
    (void)state;
    char *whole = make_folder(), *shards = make_folder(), one[65], two[65];

    write_text(whole, "config.json", TINY_CONFIG);
    write_bytes(whole, "model.safetensors", tiny_safetensors(2));
    write_text(shards, "config.json", TINY_CONFIG);
    write_text(shards, "generation_config.json", "{\"eos_token_id\":[2,7]}");
    write_bytes(shards, "model-1.safetensors", tiny_safetensors(0));
    write_bytes(shards, "model-2.safetensors", tiny_safetensors(1));
    write_bytes(shards, "model.safetensors.index.json",
                tiny_index("model-1.safetensors", "model-2.safetensors"));
    struct checkpoint *a = open_well(whole), *b = open_well(shards);
    assert_int_equal(checkpoint_n_tensors(a), 11);
    assert_int_equal(checkpoint_n_tensors(b), 11);
    assert_null(checkpoint_gguf(a));
    assert_null(checkpoint_chat_template(a));
    assert_string_equal(checkpoint_path(a), whole);
    assert_int_equal(checkpoint_config(b)->n_eos, 2);
    assert_int_equal(checkpoint_identity(a, one), 0);
    assert_int_equal(checkpoint_identity(b, two), 0);
    assert_string_equal(one, two);
    assert_int_equal(strlen(one), 64);
    checkpoint_free(a);
    checkpoint_free(b);

    /* One value changed: another identity. */
    struct bytes file = tiny_safetensors(2);
    file.data[file.n - 1] ^= 1;
    write_bytes(whole, "model.safetensors", file);
    a = open_well(whole);
    assert_int_equal(checkpoint_identity(a, two), 0);
    assert_string_not_equal(one, two);
    checkpoint_free(a);
    remove_folder(whole);
    remove_folder(shards);
}

static void an_index_cannot_lead_out_of_the_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"../m.safetensors",
                                        "/etc/passwd",
                                        "sub/m.safetensors",
                                        ".",
                                        "..",
                                        ".m.safetensors",
                                        "",
                                        "model.bin",
                                        "a\\\\b.safetensors"};
    char *dir = make_folder();

    write_text(dir, "config.json", TINY_CONFIG);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        write_bytes(dir, "model.safetensors.index.json", tiny_index(names[i], names[i]));
        expect_open_error(dir, "is not the name of a safetensors file", "index.json");
    }
    write_bytes(dir, "model.safetensors.index.json",
                tiny_index("m-1.safetensors", "m-1.safetensors"));
    expect_open_error(dir, "lists m-1.safetensors, which is not there", "incomplete");
    write_text(dir, "model.safetensors.index.json", "{\"weight_map\":{}}");
    expect_open_error(dir, "has no weight_map", "");
    remove_folder(dir);
}

static void a_tensor_in_two_shards_is_an_error(void **state)
{
    (void)state;
    char *dir = make_folder();

    write_text(dir, "config.json", TINY_CONFIG);
    write_bytes(dir, "m-1.safetensors", tiny_safetensors(2));
    write_bytes(dir, "m-2.safetensors", tiny_safetensors(1));
    write_bytes(dir, "model.safetensors.index.json",
                tiny_index("m-1.safetensors", "m-2.safetensors"));
    expect_open_error(dir, "is also in", "model.layers.0.mlp.down_proj.weight");
    remove_folder(dir);
}

static void folders_that_are_no_model_are_explained(void **state)
{
    (void)state;
    char *dir = make_folder(), path[600];

    expect_open_error("/nonexistent/model", "there is no such file or folder", "t2 data fetch");
    expect_open_error(dir, "has no config.json; a model is", "");
    write_text(dir, "consolidated.00.pth", "x");
    expect_open_error(dir, "original format (consolidated.00.pth)", "convert");
    write_text(dir, "adapter_config.json", "{}");
    expect_open_error(dir, "is an adapter", "");
    write_text(dir, "small.gguf", "GGUF");
    expect_open_error(dir, "has no config.json, but small.gguf", "name that file");
    write_text(dir, "config.json", "version https://git-lfs.github.com/spec/v1\n");
    expect_open_error(dir, "config.json: is a Git LFS pointer", "git lfs pull");
    write_text(dir, "config.json", "");
    expect_open_error(dir, "config.json: is empty", "");
    write_text(dir, "config.json", TINY_CONFIG);
    snprintf(path, sizeof path, "%s/config.json", dir);
    expect_open_error(path, "is one file of a model's folder", "name the folder");
    expect_open_error(dir, "weights as consolidated.00.pth only", "safe_serialization=True");
    write_text(dir, "pytorch_model.bin", "x");
    expect_open_error(dir, "weights as ", "convert them to safetensors");
    remove_folder(dir);

    dir = make_folder();
    write_text(dir, "config.json", TINY_CONFIG);
    expect_open_error(dir, "a config.json but no weights", "incomplete");
    write_text(dir, "model-00001-of-00002.safetensors", "x");
    expect_open_error(dir, "but neither model.safetensors nor", "incomplete");
    write_text(dir, "model.safetensors", "");
    expect_open_error(dir, "model.safetensors: is empty", "");
    remove_folder(dir);
}

static void missing_wrong_and_unreadable_tensors_are_named(void **state)
{
    (void)state;
    char *dir = make_folder();
    struct safetensors_builder s = {0};

    write_text(dir, "config.json", TINY_CONFIG);
    write_bytes(dir, "model.safetensors", tiny_safetensors(1));
    expect_open_error(dir, "tensor model.embed_tokens.weight is missing", "[10, 16]");
    safetensors_put_tiny(&s, 1);
    safetensors_put_f32(&s, "model.embed_tokens.weight", 16, 10, 0);
    write_bytes(dir, "model.safetensors", safetensors_finish(&s));
    expect_open_error(dir, "model.embed_tokens.weight has shape [16, 10]", "calls for [10, 16]");
    safetensors_put_tiny(&s, 1);
    size_t start = s.data.n;
    bytes_put(&s.data, (char[160]){0}, 160);
    safetensors_put_entry(&s, "model.embed_tokens.weight", "I8", "[10,16]", start, start + 160);
    write_bytes(dir, "model.safetensors", safetensors_finish(&s));
    expect_open_error(dir, "model.embed_tokens.weight has the element type I8", "F16 and BF16");
    /* The same type does no harm in a tensor that the model has no use for. */
    safetensors_put_tiny(&s, 2);
    start = s.data.n;
    bytes_put(&s.data, (char[160]){0}, 160);
    safetensors_put_entry(&s, "model.mask", "I8", "[10,16]", start, start + 160);
    write_bytes(dir, "model.safetensors", safetensors_finish(&s));
    checkpoint_free(open_well(dir));
    remove_folder(dir);
}

static void the_head_is_tied_when_it_is_absent_or_equal(void **state)
{
    (void)state;
    static const char untied[] = "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":16,"
                                 "\"intermediate_size\":24,\"num_hidden_layers\":1,"
                                 "\"num_attention_heads\":2,\"num_key_value_heads\":1,"
                                 "\"vocab_size\":10,\"max_position_embeddings\":64}";
    char *dir = make_folder();
    struct checkpoint *ck;

    for (int i = 0; i < 5; i++) {
        static const struct {
            bool config_ties, head, differs, tied;
        } cases[5] = {{true, false, false, true},
                      {false, false, false, true},
                      {false, true, false, false},
                      {true, true, false, true},
                      {true, true, true, false}};
        struct safetensors_builder s = {0};
        write_text(dir, "config.json", cases[i].config_ties ? TINY_CONFIG : untied);
        safetensors_put_tiny(&s, 2);
        if (cases[i].head)
            safetensors_put_f32(&s, "lm_head.weight", TINY_VOCAB, TINY_HIDDEN, cases[i].differs);
        write_bytes(dir, "model.safetensors", safetensors_finish(&s));
        ck = open_well(dir);
        assert_int_equal(checkpoint_config(ck)->tied_embeddings, cases[i].tied);
        assert_int_equal(checkpoint_find(ck, "lm_head.weight") == NULL, cases[i].tied);
        checkpoint_free(ck);
    }
    remove_folder(dir);
}

static void expect_template(const char *dir, const char *text)
{
    struct checkpoint *ck = open_well(dir);

    if (text)
        assert_string_equal(checkpoint_chat_template(ck), text);
    else
        assert_null(checkpoint_chat_template(ck));
    checkpoint_free(ck);
}

static void the_chat_template_is_found_where_it_may_be(void **state)
{
    (void)state;
    char *dir = make_folder();

    write_text(dir, "config.json", TINY_CONFIG);
    write_bytes(dir, "model.safetensors", tiny_safetensors(2));
    expect_template(dir, NULL);
    write_text(dir, "tokenizer_config.json",
               "{\"model_max_length\":1000000000000000019884624838656}");
    expect_template(dir, NULL);
    write_text(dir, "tokenizer_config.json",
               "{\"model_max_length\":1000000000000000019884624838656,\"chat_template\":\"one\"}");
    expect_template(dir, "one");
    write_text(dir, "tokenizer_config.json",
               "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"no\"},"
               "{\"name\":\"default\",\"template\":\"two\"}]}");
    expect_template(dir, "two");
    write_text(dir, "chat_template.jinja", "three");
    expect_template(dir, "three");
    remove_folder(dir);
}

static void a_description_says_what_the_model_is(void **state)
{
    (void)state;
    char *dir = make_folder(), *text = NULL;
    size_t n = 0;

    write_text(dir, "config.json", TINY_CONFIG);
    write_bytes(dir, "model.safetensors", tiny_safetensors(2));
    struct checkpoint *ck = open_well(dir);
    FILE *out = open_memstream(&text, &n);
    assert_int_equal(checkpoint_describe(ck, out, true), 0);
    fclose(out);
    checkpoint_free(ck);
    assert_non_null(strstr(text, "llama"));
    /* 10*16 embedding + 16 + layer (2*16 + 16*16*2 + 8*16*2 + 3*24*16) */
    assert_non_null(strstr(text, "2128"));
    assert_non_null(strstr(text, "model.layers.0.mlp.down_proj.weight"));
    free(text);
    remove_folder(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_listed_by_name_with_their_values),
        cmocka_unit_test(damaged_headers_are_explained),
        cmocka_unit_test(a_truncated_download_tells_how_much_is_missing),
        cmocka_unit_test(every_cut_is_an_error_of_one_line),
        cmocka_unit_test(a_folder_opens_whole_or_in_shards_with_one_identity),
        cmocka_unit_test(an_index_cannot_lead_out_of_the_folder),
        cmocka_unit_test(a_tensor_in_two_shards_is_an_error),
        cmocka_unit_test(folders_that_are_no_model_are_explained),
        cmocka_unit_test(missing_wrong_and_unreadable_tensors_are_named),
        cmocka_unit_test(the_head_is_tied_when_it_is_absent_or_equal),
        cmocka_unit_test(the_chat_template_is_found_where_it_may_be),
        cmocka_unit_test(a_description_says_what_the_model_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
