/* The expert file: what is written comes back, and damaged or hostile files are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/expert.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"

static char path[64];
static const char identity[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

static int choose_path(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/t2-expert-%ld.h5", (long)getpid());
    return 0;
}

static int remove_path(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

/* Two matrices, the first with z and p. */
static struct expert sample(void)
{
    static float z[3] = {1, 0.5f, 1.25f}, p[3] = {0.1f, 0.2f, -0.3f}, z2[2] = {1, 2};
    static struct expert_parameter first[] = {{"z", 3, 0, z}, {"p", 3, 0, p}};
    static struct expert_parameter second[] = {{"z", 2, 0, z2}};
    static struct expert_matrix matrices[] = {
        {{0, "mlp.down_proj", "model.layers.0.mlp.down_proj.weight", "/layers/00/mlp.down_proj", 3,
          5},
         first,
         2},
        {{11, "self_attn.q_proj", "model.layers.11.self_attn.q_proj.weight",
          "/layers/11/self_attn.q_proj", 4, 2},
         second,
         1}};
    struct expert e = {.kind = "svf",
                       .parametrisation = "sigmoid",
                       .model = "some/model",
                       .task = "sst2",
                       .factors = "f.h5",
                       .factors_identity = "abc",
                       .matrices = matrices,
                       .n_matrices = 2};
    strcpy(e.identity, identity);
    return e;
}

/* Writes the sample after spoil() has been at the open file. */
static void write_sample(void (*spoil)(hid_t file))
{
    const struct expert e = sample();
    hid_t file = h5_create(path);

    assert_true(file >= 0);
    assert_int_equal(expert_put(file, &e), 0);
    if (spoil)
        spoil(file);
    assert_int_equal(h5_write(file, path), 0);
    h5_close(file);
}

static void refused(const char *part)
{
    struct expert e;

    assert_int_equal(expert_read(&e, path), -1);
    if (!strstr(error_message(), part))
        fail_msg("'%s' lacks '%s'", error_message(), part);
    assert_non_null(strstr(error_message(), path));
}

static void what_is_written_comes_back(void **state)
{
    (void)state;
    const struct expert s = sample();
    struct expert e;

    write_sample(NULL);
    assert_true(expert_is_file(path));
    assert_int_equal(expert_read(&e, path), 0);
    assert_string_equal(e.kind, "svf");
    assert_string_equal(e.identity, identity);
    assert_string_equal(e.parametrisation, "sigmoid");
    assert_string_equal(e.factors, "f.h5");
    assert_int_equal(e.n_matrices, 2);
    for (size_t i = 0; i < 2; i++) {
        const struct expert_matrix *a = &s.matrices[i], *b = &e.matrices[i];
        assert_string_equal(a->module.path, b->module.path);
        assert_string_equal(a->module.tensor, b->module.tensor);
        assert_int_equal(a->module.layer, b->module.layer);
        assert_int_equal(a->n_parameters, b->n_parameters);
        for (size_t j = 0; j < a->n_parameters; j++)
            for (size_t k = 0; k < b->n_parameters; k++)
                if (strcmp(a->parameters[j].name, b->parameters[k].name) == 0)
                    assert_memory_equal(a->parameters[j].values, b->parameters[k].values,
                                        a->parameters[j].n_rows * sizeof(float));
    }
    FILE *null = fopen("/dev/null", "w");
    assert_int_equal(expert_describe(path, null, true), 0);
    fclose(null);
    expert_free(&e);
}

static void an_expert_of_another_model_is_refused_by_name(void **state)
{
    (void)state;
    struct expert e;
    char other[65];

    memset(other, 'f', 64);
    other[64] = '\0';
    write_sample(NULL);
    assert_int_equal(expert_read(&e, path), 0);
    assert_int_equal(expert_check_model(&e, identity, "m"), 0);
    assert_int_equal(expert_check_model(&e, other, "here/model"), -1);
    assert_non_null(strstr(error_message(), "some/model"));
    assert_non_null(strstr(error_message(), "here/model"));
    expert_free(&e);
}

static void other_kind(hid_t file)
{
    H5Adelete(file, "kind");
    h5_put_text(file, "kind", "t2 factors");
}
static void newer(hid_t file)
{
    H5Adelete(file, "format_version");
    h5_put_int(file, "format_version", 2);
}
static void no_identity(hid_t file)
{
    H5Adelete(file, "identity");
}
static void short_identity(hid_t file)
{
    H5Adelete(file, "identity");
    h5_put_text(file, "identity", "abc");
}
static void no_layers(hid_t file)
{
    H5Ldelete(file, "layers", H5P_DEFAULT);
}
static void layers_is_no_group(hid_t file)
{
    const float x = 1;
    H5Ldelete(file, "layers", H5P_DEFAULT);
    h5_put_floats(file, "layers", &x, 1, 0);
}
static void put_z(hid_t file, const float *values, size_t n_rows, size_t n_columns)
{
    hid_t group = H5Gopen2(file, "/layers/00/mlp.down_proj", H5P_DEFAULT);
    H5Ldelete(group, "z", H5P_DEFAULT);
    h5_put_floats(group, "z", values, n_rows, n_columns);
    H5Gclose(group);
}
static void nan_in_z(hid_t file)
{
    const float z[3] = {1, (float)(0.0 / 0.0), 1};
    put_z(file, z, 3, 0);
}
static void empty_z(hid_t file)
{
    const float z[1] = {1};
    put_z(file, z, 0, 0);
}
static void no_parameters(hid_t file)
{
    H5Ldelete(file, "/layers/00/mlp.down_proj/z", H5P_DEFAULT);
    H5Ldelete(file, "/layers/00/mlp.down_proj/p", H5P_DEFAULT);
}
static void a_group_for_z(hid_t file)
{
    H5Ldelete(file, "/layers/00/mlp.down_proj/z", H5P_DEFAULT);
    hid_t group =
        H5Gcreate2(file, "/layers/00/mlp.down_proj/z", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Gclose(group);
}
static void soft_link(hid_t file)
{
    H5Lcreate_soft("/layers/11", file, "/layers/12", H5P_DEFAULT, H5P_DEFAULT);
}
static void external_link(hid_t file)
{
    H5Lcreate_external("/etc/passwd", "/", file, "/layers/00/mlp.up_proj", H5P_DEFAULT,
                       H5P_DEFAULT);
}
static void matrix_twice(hid_t file)
{
    H5Lcreate_hard(file, "/layers/00", file, "/layers/01", H5P_DEFAULT, H5P_DEFAULT);
}
static void negative_layer(hid_t file)
{
    hid_t group = H5Gopen2(file, "/layers/00/mlp.down_proj", H5P_DEFAULT);
    H5Adelete(group, "layer");
    h5_put_int(group, "layer", -1);
    H5Gclose(group);
}
/* Declared large, stored nowhere. */
static void hollow_z(hid_t file)
{
    const hsize_t shape[1] = {1 << 23}, chunk[1] = {1024};
    hid_t group = H5Gopen2(file, "/layers/00/mlp.down_proj", H5P_DEFAULT);
    hid_t space = H5Screate_simple(1, shape, NULL), plist = H5Pcreate(H5P_DATASET_CREATE);
    H5Ldelete(group, "z", H5P_DEFAULT);
    H5Pset_chunk(plist, 1, chunk);
    hid_t set = H5Dcreate2(group, "z", H5T_IEEE_F32LE, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    H5Dclose(set);
    H5Pclose(plist);
    H5Sclose(space);
    H5Gclose(group);
}

static void hostile_files_are_refused_with_a_sentence(void **state)
{
    (void)state;
    const struct {
        void (*spoil)(hid_t file);
        const char *part;
    } cases[] = {
        {other_kind, "not an expert file"},
        {newer, "format version 2"},
        {no_identity, "which model"},
        {short_identity, "which model"},
        {no_layers, "no matrices"},
        {layers_is_no_group, "no matrices"},
        {nan_in_z, "not finite"},
        {empty_z, "z"},
        {no_parameters, "no parameters"},
        {a_group_for_z, "not a dataset"},
        {soft_link, "link"},
        {external_link, "link"},
        {matrix_twice, "is not where"},
        {negative_layer, "lacks its layer"},
        {hollow_z, "z"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_sample(cases[i].spoil);
        refused(cases[i].part);
    }
}

/* Cut anywhere. (Changed bytes would test libhdf5, whose 1.10 loops for ever on some.) */
static void truncated_files_are_refused(void **state)
{
    (void)state;
    static unsigned char bytes[1 << 20];
    struct expert e;

    write_sample(NULL);
    FILE *file = fopen(path, "rb");
    const size_t n = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    for (size_t i = 0; i < 100; i++) {
        file = fopen(path, "wb");
        fwrite(bytes, 1, i * 2654435761u % n, file);
        fclose(file);
        assert_int_equal(expert_read(&e, path), -1);
    }
}

int main(void)
{
    /* HDF5 does not end well after damaged files. */
    H5dont_atexit();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_comes_back),
        cmocka_unit_test(an_expert_of_another_model_is_refused_by_name),
        cmocka_unit_test(hostile_files_are_refused_with_a_sentence),
        cmocka_unit_test(truncated_files_are_refused),
    };
    return cmocka_run_group_tests(tests, choose_path, remove_path);
}
