#include "mpi/ordered_sum.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

/* Long vectors travel in pieces: of this many floats a rank, if parts are dealt evenly. */
static const size_t RANK_FLOATS = 1 << 20;

/* What a sum works in; everything is there before the first message. */
struct room {
    size_t piece;                    /* elements of a part that travel at once, at most */
    int *owners, *held_by, *largest; /* [n_parts] */
    int *send, *send_at, *receive, *receive_at; /* [ranks]; send holds all four */
    size_t *held;                               /* [ranks] parts of a rank */
    float *out, *in;
    double *sums;
};

/* First element of rank r's slice. */
static size_t slice(size_t n, int size, int r)
{
    return n / (size_t)size * (size_t)r +
           (n % (size_t)size < (size_t)r ? n % (size_t)size : (size_t)r);
}

/* The same on all ranks; the parts of a piece can be counted with an int. */
static size_t piece_of(size_t n_parts, size_t n, int size)
{
    const size_t most = RANK_FLOATS * (size_t)size;
    const size_t piece = (most < INT_MAX / 2 ? most : INT_MAX / 2) / (n_parts ? n_parts : 1);

    return piece == 0 ? 1 : piece < n ? piece : n;
}

static int take_room(struct room *room, size_t n_parts, size_t n_mine, size_t n, int size)
{
    const size_t ranks = (size_t)size;

    *room = (struct room){.piece = piece_of(n_parts, n, size)};
    if (n_parts > INT_MAX || n_mine > n_parts)
        return error_set("a sum of %zu parts, %zu of them here: not possible", n_parts, n_mine);
    room->owners = calloc(n_parts + 1, sizeof *room->owners);
    room->held_by = calloc(n_parts + 1, sizeof *room->held_by);
    room->largest = calloc(n_parts + 1, sizeof *room->largest);
    if (!room->owners || !room->held_by || !room->largest)
        return error_set("no memory for a sum over %zu parts", n_parts);
    if (size == 1)
        return 0;
    const size_t width = slice(room->piece, size, 1);
    room->send = calloc(4 * ranks, sizeof *room->send);
    room->held = calloc(ranks, sizeof *room->held);
    room->out = malloc((n_mine * room->piece + 1) * sizeof *room->out);
    room->in = malloc((n_parts * width + 1) * sizeof *room->in);
    room->sums = malloc((width + 1) * sizeof *room->sums);
    if (!room->send || !room->held || !room->out || !room->in || !room->sums)
        return error_set("no memory for a sum of %zu parts of %zu elements", n_parts, n);
    room->send_at = room->send + ranks;
    room->receive = room->send + 2 * ranks;
    room->receive_at = room->send + 3 * ranks;
    return 0;
}

static void free_room(struct room *room)
{
    free(room->owners);
    free(room->held_by);
    free(room->largest);
    free(room->send);
    free(room->held);
    free(room->out);
    free(room->in);
    free(room->sums);
}

/* Which rank holds each part; -1 with error_set when one is held by none or by two. Collective; the
 * same on all. */
static int find_owners(const struct comm *comm, size_t n_parts, const size_t *numbers,
                       size_t n_mine, struct room *room)
{
    for (size_t i = 0; i < n_mine; i++)
        if (numbers[i] < n_parts)
            room->held_by[numbers[i]] += comm->rank + 1;
    /* A part of two ranks gives a sum that some rank's own number does not equal. */
    MPI_Allreduce(room->held_by, room->owners, (int)n_parts, MPI_INT, MPI_SUM, comm->handle);
    MPI_Allreduce(room->held_by, room->largest, (int)n_parts, MPI_INT, MPI_MAX, comm->handle);
    for (size_t p = 0; p < n_parts; p++) {
        const int owner = room->owners[p];
        if (owner == 0 || owner != room->largest[p] || owner > comm->size)
            return error_set("part %zu of a sum is held by %s rank", p,
                             owner == 0 ? "no" : "more than one");
        room->owners[p]--;
    }
    return 0;
}

/* total [n] of elements `from` and after of each part: each rank gets its slice of all parts, adds
 * them in order, and gives everyone the sum. */
static void sum_piece(const struct comm *comm, size_t n_parts, const float *const *mine,
                      size_t n_mine, size_t from, size_t n, const struct room *room, double *total)
{
    const int size = comm->size;
    const size_t width = slice(n, size, comm->rank + 1) - slice(n, size, comm->rank);
    size_t at = 0, receive_end = 0;

    memset(room->held, 0, (size_t)size * sizeof *room->held);
    for (size_t p = 0; p < n_parts; p++)
        room->held[room->owners[p]]++;
    for (int r = 0; r < size; r++) {
        const size_t first = slice(n, size, r), w = slice(n, size, r + 1) - first;
        room->send_at[r] = (int)at;
        for (size_t p = 0; p < n_mine; p++, at += w)
            memcpy(room->out + at, mine[p] + from + first, w * sizeof *room->out);
        room->send[r] = (int)(n_mine * w);
        room->receive_at[r] = (int)receive_end;
        room->receive[r] = (int)(room->held[r] * width);
        receive_end += room->held[r] * width;
    }
    MPI_Alltoallv(room->out, room->send, room->send_at, MPI_FLOAT, room->in, room->receive,
                  room->receive_at, MPI_FLOAT, comm->handle);
    memset(room->sums, 0, width * sizeof *room->sums);
    memset(room->held, 0, (size_t)size * sizeof *room->held);
    for (size_t p = 0; p < n_parts; p++) {
        const int r = room->owners[p];
        const float *part = room->in + (size_t)room->receive_at[r] + room->held[r]++ * width;
        for (size_t i = 0; i < width; i++)
            room->sums[i] += part[i];
    }
    for (int r = 0; r < size; r++) {
        room->receive_at[r] = (int)slice(n, size, r);
        room->receive[r] = (int)(slice(n, size, r + 1) - slice(n, size, r));
    }
    MPI_Allgatherv(room->sums, (int)width, MPI_DOUBLE, total, room->receive, room->receive_at,
                   MPI_DOUBLE, comm->handle);
}

int ordered_sum(const struct comm *comm, size_t n_parts, const size_t *numbers,
                const float *const *mine, size_t n_mine, size_t n, double *total)
{
    struct room room;
    int status = comm_agree(comm, take_room(&room, n_parts, n_mine, n, comm->size));

    if (status == 0)
        status = comm_agree(comm, find_owners(comm, n_parts, numbers, n_mine, &room));
    if (status == 0 && comm->size == 1) {
        memset(total, 0, n * sizeof *total);
        for (size_t p = 0; p < n_mine; p++)
            for (size_t i = 0; i < n; i++)
                total[i] += mine[p][i];
    } else if (status == 0) {
        for (size_t from = 0; from < n; from += room.piece)
            sum_piece(comm, n_parts, mine, n_mine, from,
                      n - from < room.piece ? n - from : room.piece, &room, total + from);
    }
    free_room(&room);
    return status == 0 ? 0 : -1;
}
