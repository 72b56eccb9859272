#include "mpi/ordered_sum.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

/* First element of rank r's slice. */
static size_t slice(size_t n, int size, int r)
{
    return n / (size_t)size * (size_t)r +
           (n % (size_t)size < (size_t)r ? n % (size_t)size : (size_t)r);
}

/* Which rank holds each part; -1 with error_set when one is held by none or by two. */
static int find_owners(const struct comm *comm, size_t n_parts, const size_t *numbers,
                       size_t n_mine, int *owners)
{
    int *mine = calloc(n_parts ? n_parts : 1, sizeof *mine);
    int status = -1;

    if (!mine)
        return error_set("no memory for a sum over %zu parts", n_parts);
    for (size_t i = 0; i < n_mine; i++)
        if (numbers[i] < n_parts)
            mine[numbers[i]] += comm->rank + 1;
    /* A part of two ranks gives a sum that some rank's own number does not equal. */
    MPI_Allreduce(mine, owners, (int)n_parts, MPI_INT, MPI_SUM, comm->handle);
    int *largest = calloc(n_parts ? n_parts : 1, sizeof *largest);
    if (!largest) {
        error_set("no memory for a sum over %zu parts", n_parts);
        goto done;
    }
    MPI_Allreduce(mine, largest, (int)n_parts, MPI_INT, MPI_MAX, comm->handle);
    for (size_t p = 0; p < n_parts; p++) {
        if (owners[p] == 0 || owners[p] != largest[p] || owners[p] > comm->size) {
            error_set("part %zu of a sum is held by %s rank", p,
                      owners[p] == 0 ? "no" : "more than one");
            goto done;
        }
        owners[p]--;
    }
    status = 0;
done:
    free(mine);
    free(largest);
    return status;
}

int ordered_sum(const struct comm *comm, size_t n_parts, const size_t *numbers,
                const float *const *mine, size_t n_mine, size_t n, double *total)
{
    const int size = comm->size;
    const size_t first = slice(n, size, comm->rank);
    const size_t width = slice(n, size, comm->rank + 1) - first;
    int *owners = malloc((n_parts ? n_parts : 1) * sizeof *owners);
    int *counts = malloc((size_t)size * 4 * sizeof *counts);
    size_t *held = calloc((size_t)size, sizeof *held);
    float *out = NULL, *in = NULL;
    double *sums = NULL;
    int status = -1;

    if (!owners || !counts || !held) {
        error_set("no memory for a sum over %zu parts", n_parts);
    } else if (size == 1) {
        status = find_owners(comm, n_parts, numbers, n_mine, owners);
    } else if (n_parts > INT_MAX || n > INT_MAX / 2) {
        error_set("a sum of %zu parts of %zu elements is too large", n_parts, n);
    } else {
        status = find_owners(comm, n_parts, numbers, n_mine, owners);
        for (size_t p = 0; status == 0 && p < n_parts; p++)
            held[owners[p]]++;
        if (status == 0 &&
            ((double)n_mine * (double)n > INT_MAX || (double)n_parts * (double)width > INT_MAX))
            status = error_set(
                "a sum of %zu parts of %zu elements is too large for this many ranks", n_parts, n);
        if (status == 0) {
            out = malloc((n_mine * n + 1) * sizeof *out);
            in = malloc((n_parts * width + 1) * sizeof *in);
            sums = malloc((width + 1) * sizeof *sums);
            if (!out || !in || !sums)
                status = error_set("no memory for a sum of %zu parts of %zu elements", n_parts, n);
        }
    }
    if (comm_agree(comm, status) != 0) {
        status = -1;
        goto done;
    }
    memset(total, 0, n * sizeof *total);
    if (size == 1) {
        for (size_t p = 0; p < n_mine; p++)
            for (size_t i = 0; i < n; i++)
                total[i] += mine[p][i];
        goto done;
    }
    int *send = counts, *send_at = counts + size, *receive = counts + 2 * size,
        *receive_at = counts + 3 * size;
    size_t at = 0, receive_end = 0;
    for (int r = 0; r < size; r++) {
        const size_t from = slice(n, size, r), w = slice(n, size, r + 1) - from;
        send_at[r] = (int)at;
        for (size_t p = 0; p < n_mine; p++, at += w)
            memcpy(out + at, mine[p] + from, w * sizeof *out);
        send[r] = (int)(n_mine * w);
        receive_at[r] = (int)receive_end;
        receive[r] = (int)(held[r] * width);
        receive_end += held[r] * width;
    }
    MPI_Alltoallv(out, send, send_at, MPI_FLOAT, in, receive, receive_at, MPI_FLOAT, comm->handle);
    memset(sums, 0, width * sizeof *sums);
    memset(held, 0, (size_t)size * sizeof *held);
    for (size_t p = 0; p < n_parts; p++) {
        const int r = owners[p];
        const float *part = in + receive_at[r] + held[r]++ * width;
        for (size_t i = 0; i < width; i++)
            sums[i] += part[i];
    }
    for (int r = 0; r < size; r++) {
        receive_at[r] = (int)slice(n, size, r);
        receive[r] = (int)(slice(n, size, r + 1) - slice(n, size, r));
    }
    MPI_Allgatherv(sums, (int)width, MPI_DOUBLE, total, receive, receive_at, MPI_DOUBLE,
                   comm->handle);
done:
    free(owners);
    free(counts);
    free(held);
    free(out);
    free(in);
    free(sums);
    return status;
}
