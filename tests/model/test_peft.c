/* Adapter directories: PEFT's own (tests/oracle/peft_oracle.py) are read, ours are read back, and
 * what is damaged or unknown is refused with a sentence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "model/peft.h"
#include "tests/model/peft_fixture.h"

static const struct {
    const char *name, *model;
} cases[] = {{"lora-qv", "qwen2"},       {"lora-all", "llama-odd"}, {"dora-qv", "qwen2"},
             {"dora-all", "llama-bias"}, {"ia3", "qwen2"},          {"ia3-all", "llama-bias"}};
enum { N_CASES = sizeof cases / sizeof *cases };

static const char identity[65] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
static char folder[] = "/tmp/t2-peft-XXXXXX"; /* of the test's own */

static char *in_folder(const char *name)
{
    char *path = NULL;
    assert_true(asprintf(&path, "%s/%s", folder, name) > 0);
    return path;
}

static void remove_adapter(const char *path)
{
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors"};
    for (size_t i = 0; i < 2; i++) {
        char *file = NULL;
        assert_true(asprintf(&file, "%s/%s", path, names[i]) > 0);
        unlink(file);
        free(file);
    }
    rmdir(path);
}

static void has_the_start(const struct expert *e, struct peft_fixture *f)
{
    struct model *model = peft_fixture_model(f, ELEMENT_F32, 1);
    struct adapter *adapter = adapter_from_expert(e, model, f->ck, NULL);

    if (!adapter)
        fail_msg("%s", error_message());
    assert_int_equal(adapter->n_sites, f->n_matrices);
    for (size_t i = 0; i < f->n_matrices; i++)
        assert_memory_equal(adapter->parameters + adapter->sites[i].first_parameter, f->start[i],
                            f->n[i] * sizeof(float));
    model_attach(model, NULL, NULL);
    adapter_free(adapter);
    model_free(model);
}

static void adapters_of_peft_are_read_and_ours_are_read_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        struct peft_fixture f = peft_fixture_read(cases[i].name, cases[i].model);
        char path[512], *mine = in_folder("mine");
        struct expert theirs, back;

        snprintf(path, sizeof path, "%s/peft/%s", T2_FIXTURES, cases[i].name);
        assert_true(peft_is_folder(path));
        if (peft_read(&theirs, path, checkpoint_config(f.ck), identity) != 0)
            fail_msg("%s", error_message());
        assert_string_equal(theirs.kind, f.kind);
        has_the_start(&theirs, &f);
        if (peft_write(&theirs, checkpoint_config(f.ck), "a model", mine) != 0)
            fail_msg("%s", error_message());
        assert_int_equal(peft_write(&theirs, checkpoint_config(f.ck), "a model", mine), -1);
        assert_non_null(strstr(error_message(), "is there already"));
        if (peft_read(&back, mine, checkpoint_config(f.ck), identity) != 0)
            fail_msg("%s", error_message());
        has_the_start(&back, &f);
        assert_string_equal(back.settings, theirs.settings);
        remove_adapter(mine);
        free(mine);
        expert_free(&theirs);
        expert_free(&back);
        peft_fixture_free(&f);
    }
}

/* A folder of a fixture's tensors with this configuration. */
static char *folder_with(const char *config, const void *tensors, size_t n_tensors)
{
    char *path = in_folder("bad"), *file = NULL;
    mkdir(path, 0700);
    assert_true(asprintf(&file, "%s/adapter_config.json", path) > 0);
    FILE *out = fopen(file, "w");
    assert_non_null(out);
    fputs(config, out);
    fclose(out);
    free(file);
    assert_true(asprintf(&file, "%s/adapter_model.safetensors", path) > 0);
    out = fopen(file, "w");
    assert_non_null(out);
    fwrite(tensors, 1, n_tensors, out);
    fclose(out);
    free(file);
    return path;
}

static void refused(const struct peft_fixture *f, const char *config, const void *tensors,
                    size_t n_tensors, const char *part)
{
    struct expert e;
    char *path = folder_with(config, tensors, n_tensors);

    assert_int_equal(peft_read(&e, path, checkpoint_config(f->ck), identity), -1);
    if (!strstr(error_message(), part))
        fail_msg("'%s' is not in: %s", part, error_message());
    remove_adapter(path);
    free(path);
}

static char *file_of(const char *name, size_t *n)
{
    char path[512];
    snprintf(path, sizeof path, "%s/peft/%s/adapter_model.safetensors", T2_FIXTURES, name);
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    char *bytes = malloc(1 << 20);
    *n = fread(bytes, 1, 1 << 20, in);
    fclose(in);
    return bytes;
}

static void what_t2_would_compute_differently_is_refused(void **state)
{
    (void)state;
    struct peft_fixture f = peft_fixture_read("lora-qv", "qwen2");
    size_t n;
    char *good = file_of("lora-qv", &n);
    static const struct {
        const char *config, *part;
    } configs[] = {
        {"{", "adapter_config.json"},
        {"[]", "adapter_config.json"},
        {"{}", "its peft_type is 'missing'"},
        {"{\"peft_type\": \"LOHA\"}", "its peft_type is 'LOHA'"},
        {"{\"peft_type\": \"LORA\", \"lora_alpha\": 8}", "r is missing"},
        {"{\"peft_type\": \"LORA\", \"r\": 2.5, \"lora_alpha\": 8}", "r is 2.5"},
        {"{\"peft_type\": \"LORA\", \"r\": -1, \"lora_alpha\": 8}", "r is -1"},
        {"{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": \"x\"}", "lora_alpha is missing"},
        {"{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"bias\": \"all\"}",
         "trains biases"},
        {"{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"modules_to_save\": [\"x\"]}",
         "uses modules_to_save"},
        {"{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"rank_pattern\": {\"x\": 1}}",
         "uses rank_pattern"},
        {"{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"fan_in_fan_out\": true}",
         "uses fan_in_fan_out"},
        {"{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"init_lora_weights\": "
         "\"pissa_niter_16\"}",
         "init_lora_weights is 'pissa_niter_16'"},
        {"{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"init_lora_weights\": \"OLoRA\"}",
         "init_lora_weights is 'OLoRA'"},
        {"{\"peft_type\": \"LORA\", \"r\": 5, \"lora_alpha\": 8}", "does not have the shape"},
        {"{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"use_dora\": true}",
         "lacks a piece: 2 of 3"},
        {"{\"peft_type\": \"IA3\"}", "has no place in an adapter of the kind 'ia3'"},
    };

    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++)
        refused(&f, configs[i].config, good, n, configs[i].part);
    static const char config[] = "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8}";
    refused(&f, config, good, 0, "adapter_model.safetensors");
    refused(&f, config, good, n / 2, "adapter_model.safetensors");
    /* A NaN, another layer, another projection. */
    char *bad = malloc(n);
    memcpy(bad, good, n);
    memset(bad + n - 4, 0xff, 4);
    refused(&f, config, bad, n, "is not finite");
    static const char *const changes[][3] = {
        {"layers.1.self_attn.q_proj", "layers.7.self_attn.q_proj", "the model does not have"},
        {"layers.1.self_attn.q_proj", "layers.1.self_attn.x_proj", "the model does not have"},
        {"layers.1.self_attn.q_proj", "layers.x.self_attn.q_proj", "none of a decoder's"},
        {"base_model.model.model.layers.1", "base_model.model.other.layers.1", "none of a dec"}};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const size_t length = strlen(changes[i][0]);
        memcpy(bad, good, n);
        for (size_t k = 8; k + length < n; k++)
            if (memcmp(bad + k, changes[i][0], length) == 0)
                memcpy(bad + k, changes[i][1], length);
        refused(&f, config, bad, n, changes[i][2]);
    }
    assert_false(peft_is_folder(T2_FIXTURES));
    free(bad);
    free(good);
    peft_fixture_free(&f);
}

/* The file's last tensor taken away, with its bytes. */
static size_t without_the_last(char *file, size_t n)
{
    const size_t n_header = (unsigned char)file[0] + 256 * (size_t)(unsigned char)file[1];
    json_t *header = json_loadb(file + 8, n_header, 0, NULL), *entry;
    const char *name, *last = NULL;
    json_int_t first = -1;

    assert_non_null(header);
    json_object_foreach(header, name, entry)
    {
        const json_int_t at =
            json_integer_value(json_array_get(json_object_get(entry, "data_offsets"), 0));
        if (json_object_get(entry, "data_offsets") && at > first) {
            first = at;
            last = name;
        }
    }
    assert_non_null(last);
    json_object_del(header, last);
    memset(file + 8, ' ', n_header);
    char *text = json_dumps(header, JSON_COMPACT);
    assert_true(strlen(text) <= n_header && 8 + n_header + (size_t)first < n);
    memcpy(file + 8, text, strlen(text));
    free(text);
    json_decref(header);
    return 8 + n_header + (size_t)first;
}

/* Matrices that are whole come before the one that is not: each piece is freed once. */
static void the_last_matrix_without_a_piece_is_refused(void **state)
{
    (void)state;
    struct peft_fixture f = peft_fixture_read("lora-qv", "qwen2");
    size_t n;
    char *file = file_of("lora-qv", &n);

    n = without_the_last(file, n);
    refused(&f, "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8}", file, n,
            "/layers/01/self_attn.v_proj lacks a piece: 1 of 2");
    free(file);
    peft_fixture_free(&f);
}

static void scales_of_the_other_side_are_refused(void **state)
{
    (void)state;
    struct peft_fixture f = peft_fixture_read("ia3", "qwen2");
    static const char *const changes[][3] = {
        {"[16,1]", "[1,16]", "does not have the shape [n, 1]: t2 scales the outputs"},
        {"[1,48]", "[48,1]", "does not have the shape [1, n]: t2 scales the inputs"}};

    for (size_t i = 0; i < 2; i++) {
        size_t n;
        char *file = file_of("ia3", &n), *at = NULL;
        for (size_t k = 8; !at && k + 6 < n; k++)
            if (memcmp(file + k, changes[i][0], 6) == 0)
                at = file + k;
        assert_non_null(at);
        memcpy(at, changes[i][1], 6);
        refused(&f, "{\"peft_type\": \"IA3\"}", file, n, changes[i][2]);
        free(file);
    }
    peft_fixture_free(&f);
}

static void pieces_of_a_wrong_shape_are_not_written(void **state)
{
    (void)state;
    struct peft_fixture f = peft_fixture_read("lora-qv", "qwen2");
    char path[512], *mine = in_folder("mine");
    struct expert e;

    snprintf(path, sizeof path, "%s/peft/lora-qv", T2_FIXTURES);
    assert_int_equal(peft_read(&e, path, checkpoint_config(f.ck), identity), 0);
    struct expert_parameter *p = &e.matrices[1].parameters[0];
    p->n_rows--;
    assert_int_equal(peft_write(&e, checkpoint_config(f.ck), NULL, mine), -1);
    assert_non_null(strstr(error_message(), "self_attn.v_proj has no lora_A of 4 x 32"));
    p->n_rows++;
    e.matrices[1].n_parameters--;
    assert_int_equal(peft_write(&e, checkpoint_config(f.ck), NULL, mine), -1);
    assert_non_null(strstr(error_message(), "self_attn.v_proj has no lora_B of 16 x 4"));
    e.matrices[1].n_parameters++;
    assert_int_equal(access(mine, F_OK), -1);
    expert_free(&e);
    free(mine);
    peft_fixture_free(&f);
}

static void kinds_that_peft_has_not_are_not_written(void **state)
{
    (void)state;
    struct peft_fixture f = peft_fixture_read("ia3", "qwen2");
    char kind[] = "svf", path[] = "e.h5", *mine = in_folder("mine");
    const struct expert e = {.kind = kind, .path = path};

    assert_int_equal(peft_write(&e, checkpoint_config(f.ck), NULL, mine), -1);
    assert_non_null(strstr(error_message(), "PEFT has no adapters of the kind 'svf'"));
    assert_int_equal(access(mine, F_OK), -1);
    free(mine);
    peft_fixture_free(&f);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adapters_of_peft_are_read_and_ours_are_read_back),
        cmocka_unit_test(what_t2_would_compute_differently_is_refused),
        cmocka_unit_test(the_last_matrix_without_a_piece_is_refused),
        cmocka_unit_test(scales_of_the_other_side_are_refused),
        cmocka_unit_test(pieces_of_a_wrong_shape_are_not_written),
        cmocka_unit_test(kinds_that_peft_has_not_are_not_written),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
