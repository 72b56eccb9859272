/* Factor files that are damaged or made to mislead: each is one sentence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "mpi/error.h"
#include "mpi/h5.h"
#include "tests/eval/folder.h"
#include "tests/model/factors_files.h"

enum { N = 1 };
static struct module modules[N];
static struct factors_origin origin;
static char good[128], bad[128];
static const char group_path[] = "/layers/07/mlp.down_proj";

static void copy_good(void)
{
    char command[300];
    snprintf(command, sizeof command, "cp %s %s", good, bad);
    assert_int_equal(0, system(command));
}

/* The file must be refused with a sentence that names it and holds `part`. */
static void expect_refused(const char *part)
{
    struct factors *f = factors_open(bad);

    if (f) {
        factors_close(f);
        fail_msg("opened, in place of: %s", part);
    }
    if (!strstr(error_message(), part) || !strstr(error_message(), bad))
        fail_msg("\"%s\" is not in \"%s\"", part, error_message());
}

static hid_t edit(void)
{
    copy_good();
    hid_t file = H5Fopen(bad, H5F_ACC_RDWR, H5P_DEFAULT);
    assert_true(file >= 0);
    return file;
}

static hid_t edit_group(hid_t *file)
{
    *file = edit();
    hid_t group = H5Gopen2(*file, group_path, H5P_DEFAULT);
    assert_true(group >= 0);
    return group;
}

static void end_edit(hid_t file, hid_t group)
{
    H5Gclose(group);
    H5Fclose(file);
}

/* A dataset in place of group/name; no bytes are written where `values` is NULL. */
static void replace(hid_t group, const char *name, hid_t type, int n_dims, const hsize_t *shape,
                    hid_t layout, const void *values)
{
    H5Ldelete(group, name, H5P_DEFAULT);
    hid_t space = H5Screate_simple(n_dims, shape, NULL);
    hid_t dataset = H5Dcreate2(group, name, type, space, H5P_DEFAULT, layout, H5P_DEFAULT);
    assert_true(dataset >= 0);
    if (values)
        assert_true(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
    H5Dclose(dataset);
    H5Sclose(space);
}

static void the_good_file_is_good(void **state)
{
    (void)state;
    hid_t file, group = edit_group(&file);
    end_edit(file, group);
    struct factors *f = factors_open(bad);
    assert_non_null(f);
    factors_close(f);
    factors_close(NULL);
}

static void what_is_no_factor_file_is_told(void **state)
{
    (void)state;
    folder_file("bad.h5", "no HDF5");
    expect_refused("not a readable HDF5 file");
    assert_false(factors_is_file(bad));
    folder_file("bad.h5", "");
    expect_refused("not a readable HDF5 file");
    unlink(bad);
    expect_refused("No such file");
    assert_int_equal(0, mkfifo(bad, 0600));
    assert_false(factors_is_file(bad));
    expect_refused("not an ordinary file");
    unlink(bad);
    hid_t file = h5_create(bad);
    assert_int_equal(0, h5_write(file, bad));
    h5_close(file);
    assert_false(factors_is_file(bad));
    expect_refused("not a factor file");
}

static void a_truncated_file_is_refused_wherever_it_ends(void **state)
{
    (void)state;
    struct stat info;

    assert_int_equal(0, stat(good, &info));
    for (off_t size = info.st_size - 1; size > 0; size = size * 15 / 16 - 7) {
        copy_good();
        assert_int_equal(0, truncate(bad, size));
        expect_refused("");
    }
}

static void every_attribute_is_needed(void **state)
{
    (void)state;
    static const char *const of_group[] = {
        "shape",  "side",    "tensor",        "source_type", "method", "precision", "tried",
        "repair", "checked", "orthogonality", "residual",    "bound",  "seconds",   "flops"};
    static const char *const of_root[] = {"format_version", "model_sha256", "options", "type"};
    hid_t file, group;

    for (size_t i = 0; i < sizeof of_group / sizeof *of_group; i++) {
        group = edit_group(&file);
        assert_true(H5Adelete(group, of_group[i]) >= 0);
        end_edit(file, group);
        expect_refused(of_group[i]);
        expect_refused(group_path);
    }
    for (size_t i = 0; i < sizeof of_root / sizeof *of_root; i++) {
        file = edit();
        assert_true(H5Adelete(file, of_root[i]) >= 0);
        H5Fclose(file);
        expect_refused(of_root[i]);
    }
}

static void texts_are_checked(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"side", "X"},
                                           {"side", "V"},
                                           {"method", "magic"},
                                           {"precision", "f16"},
                                           {"repair", ""},
                                           {"tried", "f16"},
                                           {"checked", "no"},
                                           {"source_type", "Q9"},
                                           {"tensor", "model.layers.6.mlp.down_proj.weight"}};
    hid_t file, group;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        group = edit_group(&file);
        H5Adelete(group, cases[i][0]);
        assert_int_equal(0, h5_put_text(group, cases[i][0], cases[i][1]));
        end_edit(file, group);
        expect_refused(cases[i][0]);
    }
    group = edit_group(&file); /* a text where a number belongs */
    H5Adelete(group, "bound");
    h5_put_text(group, "bound", "1e-5");
    end_edit(file, group);
    expect_refused("bound");
    group = edit_group(&file);
    H5Adelete(group, "shape");
    h5_put_int(group, "shape", 7);
    end_edit(file, group);
    expect_refused("shape");
}

static void a_newer_format_asks_for_a_newer_program(void **state)
{
    (void)state;
    hid_t file = edit();
    H5Adelete(file, "format_version");
    h5_put_int(file, "format_version", 2);
    H5Fclose(file);
    expect_refused("factor format 2, but this t2 reads up to 1");
    file = edit();
    H5Adelete(file, "model_sha256");
    h5_put_text(file, "model_sha256", "abc");
    H5Fclose(file);
    expect_refused("model_sha256");
}

static void sigma_must_be_finite_and_descending(void **state)
{
    (void)state;
    static const double cases[] = {NAN, INFINITY, -1, 1e9};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        hid_t file = edit();
        hid_t dataset = H5Dopen2(file, "/layers/07/mlp.down_proj/sigma", H5P_DEFAULT);
        double sigma[16];
        assert_true(H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, sigma) >= 0);
        sigma[15 - i] = cases[i];
        H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, sigma);
        H5Dclose(dataset);
        H5Fclose(file);
        expect_refused("sigma: value");
    }
}

static void datasets_must_have_the_type_and_shape_that_is_said(void **state)
{
    (void)state;
    static const hsize_t r = 16, other = 15, square[2] = {16, 16}, flat[2] = {16, 15};
    static const float values[256] = {0};
    static const double sigma[16] = {0};
    hid_t file, group;

    group = edit_group(&file);
    H5Ldelete(group, "sigma", H5P_DEFAULT);
    end_edit(file, group);
    expect_refused("the dataset sigma is missing");
    group = edit_group(&file);
    replace(group, "sigma", H5T_IEEE_F32LE, 1, &r, H5P_DEFAULT, values);
    end_edit(file, group);
    expect_refused("sigma: not of the type float64");
    group = edit_group(&file);
    replace(group, "sigma", H5T_IEEE_F64LE, 1, &other, H5P_DEFAULT, sigma);
    end_edit(file, group);
    expect_refused("sigma: not of the shape");
    group = edit_group(&file);
    replace(group, "factor", H5T_IEEE_F32LE, 2, flat, H5P_DEFAULT, values);
    end_edit(file, group);
    expect_refused("factor: not of the shape");
    group = edit_group(&file);
    replace(group, "factor", H5T_STD_I32LE, 2, square, H5P_DEFAULT, values);
    end_edit(file, group);
    expect_refused("factor: not of the type f32");
    group = edit_group(&file); /* a group where a dataset belongs */
    H5Ldelete(group, "factor", H5P_DEFAULT);
    H5Gclose(H5Gcreate2(group, "factor", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    end_edit(file, group);
    expect_refused("the dataset factor is missing");
    group = edit_group(&file); /* contiguous is as good as chunked */
    replace(group, "factor", H5T_IEEE_F32LE, 2, square, H5P_DEFAULT, values);
    end_edit(file, group);
    struct factors *f = factors_open(bad);
    assert_non_null(f);
    factors_close(f);
}

static void sizes_that_the_file_does_not_hold_are_not_allocated(void **state)
{
    (void)state;
    static const int64_t sides[2] = {1 << 20, 1 << 20};
    const hsize_t r = 1 << 20, square[2] = {1 << 20, 1 << 20}, chunk[2] = {1, 1 << 20}, two = 2;
    hid_t file, group = edit_group(&file), layout = H5Pcreate(H5P_DATASET_CREATE);
    hid_t space = H5Screate_simple(1, &two, NULL);

    H5Adelete(group, "shape");
    hid_t shape = H5Acreate2(group, "shape", H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(shape, H5T_NATIVE_INT64, sides);
    H5Aclose(shape);
    H5Sclose(space);
    H5Adelete(group, "side");
    h5_put_text(group, "side", "V");
    replace(group, "sigma", H5T_IEEE_F64LE, 1, &r, H5P_DEFAULT, NULL);
    H5Pset_chunk(layout, 2, chunk);
    replace(group, "factor", H5T_IEEE_F32LE, 2, square, layout, NULL);
    H5Pclose(layout);
    end_edit(file, group);
    expect_refused("sigma: its 8388608 bytes are not all in the file");
}

static void filters_and_other_files_are_refused(void **state)
{
    (void)state;
    static const hsize_t square[2] = {16, 16};
    static const float values[256] = {0};
    hid_t file, group = edit_group(&file), layout = H5Pcreate(H5P_DATASET_CREATE);

    H5Pset_chunk(layout, 2, square);
    H5Pset_shuffle(layout);
    replace(group, "factor", H5T_IEEE_F32LE, 2, square, layout, values);
    H5Pclose(layout);
    end_edit(file, group);
    expect_refused("h5repack -f NONE");
    group = edit_group(&file);
    layout = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(layout, "/etc/passwd", 0, 1024);
    replace(group, "factor", H5T_IEEE_F32LE, 2, square, layout, NULL);
    H5Pclose(layout);
    end_edit(file, group);
    expect_refused("in other files");
}

static void links_that_lead_elsewhere_are_refused(void **state)
{
    (void)state;
    hid_t file, group = edit_group(&file);

    H5Ldelete(group, "factor", H5P_DEFAULT);
    H5Lcreate_soft("/layers/07/mlp.down_proj/sigma", group, "factor", H5P_DEFAULT, H5P_DEFAULT);
    end_edit(file, group);
    expect_refused("the dataset factor is missing");
    group = edit_group(&file);
    H5Ldelete(group, "factor", H5P_DEFAULT);
    H5Lcreate_external(good, "/layers/07/mlp.down_proj/factor", group, "factor", H5P_DEFAULT,
                       H5P_DEFAULT);
    end_edit(file, group);
    expect_refused("the dataset factor is missing");
    file = edit();
    H5Lcreate_external(good, "/layers/07", file, "/layers/08", H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    expect_refused("/layers/08 is not a group of this file");
    file = edit();
    H5Lcreate_soft(group_path, file, "/layers/07/mlp.up_proj", H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    expect_refused("mlp.up_proj is not a group of this file");
    file = edit(); /* circles */
    H5Lcreate_hard(file, "/layers", file, "/layers/08", H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    expect_refused("/layers/08/");
    file = edit();
    H5Lcreate_hard(file, group_path, file, "/layers/07/mlp.up_proj", H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    expect_refused("the attribute tensor is not model.layers.7.mlp.up_proj.weight");
}

static void names_that_no_model_has_are_refused(void **state)
{
    (void)state;
    static const char *const layers[] = {"/layers/7", "/layers/008",    "/layers/-1",
                                         "/layers/x", "/layers/999999", "/layers/\x1b[2J"};
    hid_t file;

    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) {
        file = edit();
        H5Gclose(H5Gcreate2(file, layers[i], H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
        H5Fclose(file);
        expect_refused("is no layer's number");
        assert_null(strchr(error_message(), '\x1b'));
    }
    file = edit();
    H5Gclose(H5Gcreate2(file, "/layers/07/mlp.router", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Fclose(file);
    expect_refused("mlp.router is no matrix that this t2 knows");
    file = edit();
    H5Ldelete(file, "/layers", H5P_DEFAULT);
    H5Fclose(file);
    expect_refused("the group /layers is missing");
    file = edit();
    H5Ldelete(file, "/layers/07", H5P_DEFAULT);
    H5Fclose(file);
    expect_refused("/layers is empty");
}

static void a_factor_that_is_not_finite_is_refused_when_read(void **state)
{
    (void)state;
    float values[256];
    hid_t file = edit();
    hid_t dataset = H5Dopen2(file, "/layers/07/mlp.down_proj/factor", H5P_DEFAULT);

    H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    values[5 * 16 + 3] = NAN;
    H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    H5Dclose(dataset);
    H5Fclose(file);
    struct factors *f = factors_open(bad);
    assert_non_null(f);
    const struct factors_matrix *m = factors_find(f, group_path);
    assert_int_equal(0, factors_read(f, m, 0, 5, values));
    assert_int_equal(-1, factors_read(f, m, 4, 3, values));
    assert_non_null(strstr(error_message(), "not finite in row 5"));
    factors_close(f);
}

static int make_files(void **state)
{
    (void)state;
    if (folder_create())
        return -1;
    snprintf(good, sizeof good, "%s/good.h5", folder_path);
    snprintf(bad, sizeof bad, "%s/bad.h5", folder_path);
    origin = made_origin();

    modules[0] = made_module(7, "mlp.down_proj", 16, 30);
    for (int i = 0; i < N; i++) {
        struct factors_matrix m = made_matrix(&modules[i]);
        int rc = factors_write_part(good, &origin, FACTORS_F32, &m);
        made_free(&m);
        if (rc)
            return -1;
    }
    return factors_merge(good, &origin, FACTORS_F32, modules, N);
}

static int remove_files(void **state)
{
    (void)state;
    folder_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_good_file_is_good),
        cmocka_unit_test(what_is_no_factor_file_is_told),
        cmocka_unit_test(a_truncated_file_is_refused_wherever_it_ends),
        cmocka_unit_test(every_attribute_is_needed),
        cmocka_unit_test(texts_are_checked),
        cmocka_unit_test(a_newer_format_asks_for_a_newer_program),
        cmocka_unit_test(sigma_must_be_finite_and_descending),
        cmocka_unit_test(datasets_must_have_the_type_and_shape_that_is_said),
        cmocka_unit_test(sizes_that_the_file_does_not_hold_are_not_allocated),
        cmocka_unit_test(filters_and_other_files_are_refused),
        cmocka_unit_test(links_that_lead_elsewhere_are_refused),
        cmocka_unit_test(names_that_no_model_has_are_refused),
        cmocka_unit_test(a_factor_that_is_not_finite_is_refused_when_read),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
