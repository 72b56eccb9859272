/* The factor file reader on HDF5 files that are well-formed but for what they say: the input picks
 * attributes, names, links, types, shapes, layouts and values. (Bytes that are no proper HDF5 at
 * all would test libhdf5, whose 1.10 loops for ever on some.) */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/factors.h"
#include "mpi/h5.h"
#include "tests/fuzz/h5_feed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static double take_real(struct feed *feed, double usual)
{
    const double values[] = {usual, 0, -1, NAN, INFINITY, 1e300, -1e300, 1e-320};
    return values[take(feed, 16) % 8];
}

static void put_real(struct feed *feed, hid_t object, const char *name)
{
    if (take(feed, 16) != 1)
        h5_put_real(object, name, take_real(feed, 1e-6));
}

static int64_t take_side(struct feed *feed)
{
    static const int64_t sides[] = {3, 4, 1, 0, -1, 1000, INT64_MAX, INT64_MIN, 1 << 20, 2};
    return sides[take(feed, sizeof sides / sizeof *sides)];
}

static void put_shape(struct feed *feed, hid_t group, int64_t *shape)
{
    const hsize_t n = take(feed, 16) == 1 ? 3 : 2;

    shape[0] = take_side(feed);
    shape[1] = take_side(feed);
    hid_t space = H5Screate_simple(1, &n, NULL);
    hid_t attribute = H5Acreate2(group, "shape", take(feed, 16) == 1 ? H5T_STD_U8BE : H5T_STD_I64LE,
                                 space, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute >= 0) {
        H5Awrite(attribute, H5T_NATIVE_INT64, shape);
        H5Aclose(attribute);
    }
    H5Sclose(space);
}

static hid_t take_layout(struct feed *feed, int n_dims, const hsize_t *shape)
{
    hid_t layout = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t chunk[2] = {shape[0] ? shape[0] : 1, shape[1] ? shape[1] : 1};

    switch (take(feed, 8)) {
    case 1:
        H5Pset_layout(layout, H5D_COMPACT);
        break;
    case 2:
        H5Pset_chunk(layout, n_dims, chunk);
        H5Pset_shuffle(layout);
        break;
    case 3:
        H5Pset_external(layout, "/dev/null", 0, H5F_UNLIMITED);
        break;
    case 4:
        chunk[0] = 1;
        H5Pset_chunk(layout, n_dims, chunk);
        break;
    case 5:
        break;
    default:
        H5Pset_chunk(layout, n_dims, chunk);
    }
    return layout;
}

static void put_dataset(struct feed *feed, hid_t group, const char *name, hid_t usual, int n_dims,
                        size_t r)
{
    static const char *const others[] = {"sigma", "factor", ".", "/layers", "/layers/00"};
    double values[64] = {0};
    hsize_t shape[2] = {r, r}, max[2] = {H5S_UNLIMITED, H5S_UNLIMITED};
    hid_t type = usual;
    bool fill = true;

    switch (take(feed, 32)) {
    case 1:
        return;
    case 2:
        H5Lcreate_soft(others[take(feed, 5)], group, name, H5P_DEFAULT, H5P_DEFAULT);
        return;
    case 3:
        H5Lcreate_external("/dev/null", "/", group, name, H5P_DEFAULT, H5P_DEFAULT);
        return;
    case 4:
        H5Lcreate_hard(group, others[take(feed, 5)], group, name, H5P_DEFAULT, H5P_DEFAULT);
        return;
    case 5:
        type = H5T_IEEE_F64BE;
        break;
    case 6:
        type = H5T_STD_I32LE;
        break;
    case 7:
        shape[0] = (hsize_t)take_side(feed);
        break;
    case 8:
        n_dims = 3 - n_dims;
        break;
    case 9:
        fill = false;
        break;
    default:
        break;
    }
    bool grows = take(feed, 16) == 1;
    hid_t space = H5Screate_simple(n_dims, shape, grows ? max : NULL);
    hid_t layout = take_layout(feed, n_dims, shape);
    hid_t dataset = space < 0
                        ? (hid_t)-1
                        : H5Dcreate2(group, name, type, space, H5P_DEFAULT, layout, H5P_DEFAULT);
    for (size_t i = 0; i < 64; i++)
        values[i] = take(feed, 64) == 1 ? take_real(feed, 2) : 2 - (double)i / 64;
    if (dataset >= 0 && fill && H5Sget_simple_extent_npoints(space) <= 64)
        H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    if (dataset >= 0)
        H5Dclose(dataset);
    H5Pclose(layout);
    if (space >= 0)
        H5Sclose(space);
}

static void put_matrix(struct feed *feed, hid_t layer, size_t number)
{
    static const char *const names[] = {"mlp.down_proj", "self_attn.q_proj", "mlp.up_proj", "x"};
    static const char *const real[] = {"orthogonality", "residual", "bound", "seconds", "flops"};
    const char *name = names[take(feed, 4)];
    char tensor[64];
    int64_t shape[3] = {0};

    hid_t group = h5_group_create(layer, name);
    if (group < 0)
        return;
    snprintf(tensor, sizeof tensor, "model.layers.%zu.%s.weight", number, name);
    put_text(feed, group, "tensor", tensor);
    put_shape(feed, group, shape);
    put_text(feed, group, "side", shape[0] < shape[1] ? "U" : "V");
    put_text(feed, group, "source_type", "Q4_1");
    put_text(feed, group, "method", "lapack");
    put_text(feed, group, "precision", "f32");
    put_text(feed, group, "tried", "");
    put_text(feed, group, "repair", "none");
    put_text(feed, group, "checked", "probes");
    for (size_t i = 0; i < sizeof real / sizeof *real; i++)
        put_real(feed, group, real[i]);
    int64_t r = shape[0] < shape[1] ? shape[0] : shape[1];
    size_t side = r < 1 || r > 1 << 20 ? 3 : (size_t)r;
    put_dataset(feed, group, "sigma", H5T_IEEE_F64LE, 1, side);
    put_dataset(feed, group, "factor", H5T_IEEE_F32LE, 2, side);
    H5Gclose(group);
}

static void put_root(struct feed *feed, hid_t file)
{
    put_text(feed, file, "kind", "t2 factors");
    h5_put_int(file, "format_version", take(feed, 16) == 1 ? 2 : 1);
    put_text(feed, file, "model_sha256",
             "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
    put_text(feed, file, "options", "method auto");
    put_text(feed, file, "type", "f32");
    put_text(feed, file, "model", "model.gguf");
    put_text(feed, file, "command_line", "t2 decompose");
    if (take(feed, 8) == 1)
        h5_put_int(file, "ranks", INT64_MIN);
}

static void use(const char *path)
{
    struct factors *f = factors_open(path);

    for (size_t i = 0; f && i < factors_n_matrices(f); i++) {
        const struct factors_matrix *m = factors_get(f, i);
        size_t r = module_rank(&m->module);
        float *rows = malloc(r * r * sizeof *rows);
        if (!rows)
            abort(); /* the file had that many bytes */
        (void)factors_read(f, m, 0, r, rows);
        free(rows);
    }
    factors_close(f);
    FILE *null = fopen("/dev/null", "w");
    for (int verbose = 0; null && verbose < 2; verbose++)
        (void)factors_describe(path, null, verbose);
    if (null)
        fclose(null);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct feed feed = {data, size};
    struct h5_quiet quiet;
    char path[64];

    snprintf(path, sizeof path, "/dev/shm/t2-fuzz-factors-%ld.h5", (long)getpid());
    h5_quiet_begin(&quiet);
    hid_t file = h5_create("fuzz");
    put_root(&feed, file);
    put_layers(&feed, file, put_matrix);
    write_file(file, path);
    h5_close(file);
    h5_quiet_end(&quiet);
    use(path);
    unlink(path);
    return 0;
}
