#ifndef T2_TESTS_FUZZ_H5_PUT_H
#define T2_TESTS_FUZZ_H5_PUT_H
/* Attributes and datasets that are nearly always the usual ones, and otherwise of another kind,
 * shape or storage. */
#include <math.h>
#include <stdbool.h>

#include "tests/fuzz/h5_feed.h"

static inline void put_int(struct feed *feed, hid_t object, const char *name, int64_t usual)
{
    static const int64_t odd[] = {0, -1, 1, 1 << 20, INT64_MAX, INT64_MIN};

    switch (take(feed, 16)) {
    case 1:
        return;
    case 2:
        h5_put_int(object, name, odd[take(feed, sizeof odd / sizeof *odd)]);
        return;
    case 3:
        h5_put_text(object, name, "7");
        return;
    default:
        h5_put_int(object, name, usual);
    }
}

static inline void put_real(struct feed *feed, hid_t object, const char *name)
{
    static const double values[] = {0.5, 0, -1, NAN, INFINITY, 1e300, -1e300, 1e-320};

    if (take(feed, 16) != 1)
        h5_put_real(object, name, values[take(feed, 16) % 8]);
}

/* A dataset of some type, shape and storage, with values or without. */
static inline void put_dataset(struct feed *feed, hid_t group, const char *name, size_t usual)
{
    static const hsize_t sides[] = {0, 1, 3, 1 << 16, (hsize_t)1 << 40};
    const hid_t types[] = {H5T_IEEE_F32LE, H5T_IEEE_F64BE, H5T_STD_I64LE, H5T_C_S1};
    const bool odd = take(feed, 8) == 1;
    hsize_t shape[2] = {usual, 2};
    double values[64] = {0};
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk[2] = {1, 1};

    if (odd)
        shape[0] = sides[take(feed, 5)];
    const int n_dims = take(feed, 8) == 1 ? 2 : take(feed, 32) == 1 ? 0 : 1;
    for (size_t i = 0; i < 64; i++)
        values[i] = take(feed, 16) == 1 ? NAN : 1;
    if (take(feed, 4) == 1 && n_dims > 0)
        H5Pset_chunk(plist, n_dims, chunk);
    hid_t space = H5Screate_simple(n_dims, shape, NULL);
    hid_t set =
        H5Dcreate2(group, name, types[take(feed, 16) % 4], space, H5P_DEFAULT, plist, H5P_DEFAULT);
    if (set >= 0 && n_dims > 0 && shape[0] <= 8 && take(feed, 8) != 1)
        H5Dwrite(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    if (set >= 0)
        H5Dclose(set);
    H5Sclose(space);
    H5Pclose(plist);
}

/* [n_rows, n_columns] of reals, nearly always. */
static inline void put_grid(struct feed *feed, hid_t group, const char *name, size_t n_rows,
                            size_t n_columns)
{
    double values[64];

    if (take(feed, 8) == 1 || n_rows * n_columns > 64) {
        put_dataset(feed, group, name, n_rows);
        return;
    }
    for (size_t i = 0; i < 64; i++)
        values[i] = take(feed, 16) == 1 ? NAN : (double)take(feed, 4);
    h5_column_reals(group, name, values, n_rows, n_columns);
}

/* A column of n texts, nearly always. */
static inline void put_texts(struct feed *feed, hid_t group, const char *name, size_t n)
{
    static const char *const usual[] = {"math", "code", "<b>\x1b[31m", "", "\xff\xfe", "others"};
    const char *texts[8];

    switch (take(feed, 16)) {
    case 1:
        return;
    case 2:
        put_dataset(feed, group, name, n);
        return;
    case 3:
        n = take(feed, 8);
        break;
    default:
        break;
    }
    n = n < 8 ? n : 8;
    for (size_t i = 0; i < n; i++)
        texts[i] = usual[take(feed, 6)];
    h5_column_texts(group, name, texts, n);
}

#endif
