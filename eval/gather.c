#include "eval/gather.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

enum { GATHER_TAG = 71, GATHER_PIECE = 1 << 28 }; /* MPI counts are ints */

void item_record_free(struct item_record *record)
{
    if (!record)
        return;
    free(record->id);
    free(record->prompt);
    free(record->answer);
    free(record->gold);
    free(record->logprobs);
    free(record->greedy);
    free(record->choice_tokens);
    memset(record, 0, sizeof *record);
}

/* ---- records as bytes: the struct, then what its pointers hold ----------------------------------
 */

static void pack_bytes(FILE *out, const void *bytes, size_t n)
{
    uint64_t size = bytes ? n : 0;
    fwrite(&size, sizeof size, 1, out);
    fwrite(bytes ? bytes : "", 1, size, out);
}

static void pack_text(FILE *out, const char *text)
{
    pack_bytes(out, text, strlen(text) + 1);
}

static void pack_record(FILE *out, const struct item_record *r)
{
    fwrite(r, sizeof *r, 1, out);
    pack_text(out, r->id);
    pack_text(out, r->prompt);
    pack_text(out, r->answer);
    pack_text(out, r->gold);
    pack_bytes(out, r->logprobs, r->n_choices * sizeof *r->logprobs);
    pack_bytes(out, r->greedy, r->n_choices * sizeof *r->greedy);
    pack_bytes(out, r->choice_tokens, r->n_choices * sizeof *r->choice_tokens);
}

struct bytes {
    const char *p;
    size_t left;
};

static int take(struct bytes *in, void *out, size_t n)
{
    if (n > in->left)
        return -1;
    memcpy(out, in->p, n);
    in->p += n;
    in->left -= n;
    return 0;
}

/* A malloc'ed copy; NULL for an empty one. */
static int unpack_bytes(struct bytes *in, void *place)
{
    uint64_t n;
    void *copy = NULL;

    if (take(in, &n, sizeof n) || n > in->left)
        return -1;
    if (n) {
        copy = malloc(n);
        if (!copy || take(in, copy, n)) {
            free(copy);
            return -1;
        }
    }
    memcpy(place, &copy, sizeof copy);
    return 0;
}

static int unpack_record(struct bytes *in, struct item_record *r)
{
    if (take(in, r, sizeof *r))
        return -1;
    r->id = r->prompt = r->answer = r->gold = NULL;
    r->logprobs = NULL;
    r->greedy = NULL;
    r->choice_tokens = NULL;
    return unpack_bytes(in, &r->id) || unpack_bytes(in, &r->prompt) ||
                   unpack_bytes(in, &r->answer) || unpack_bytes(in, &r->gold) ||
                   unpack_bytes(in, &r->logprobs) || unpack_bytes(in, &r->greedy) ||
                   unpack_bytes(in, &r->choice_tokens)
               ? -1
               : 0;
}

/* ---- moving ------------------------------------------------------------------------------------
 */

static void send_bytes(const struct comm *comm, const char *bytes, size_t n)
{
    for (size_t at = 0; at < n; at += GATHER_PIECE) {
        size_t piece = n - at < GATHER_PIECE ? n - at : GATHER_PIECE;
        MPI_Send(bytes + at, (int)piece, MPI_BYTE, 0, GATHER_TAG, comm->handle);
    }
}

static void receive_bytes(const struct comm *comm, int from, char *bytes, size_t n)
{
    for (size_t at = 0; at < n; at += GATHER_PIECE) {
        size_t piece = n - at < GATHER_PIECE ? n - at : GATHER_PIECE;
        MPI_Recv(bytes + at, (int)piece, MPI_BYTE, from, GATHER_TAG, comm->handle,
                 MPI_STATUS_IGNORE);
    }
}

/* Moves a record to its place. */
static int place_record(struct item_record *items, size_t n_items, struct item_record *record)
{
    if (record->index >= n_items || items[record->index].id)
        return error_set("item %zu was evaluated twice or does not exist", record->index);
    items[record->index] = *record;
    memset(record, 0, sizeof *record);
    return 0;
}

static int place_packed(struct item_record *items, size_t n_items, const char *bytes, size_t n)
{
    struct bytes in = {bytes, n};

    while (in.left) {
        struct item_record record = {0};
        if (unpack_record(&in, &record)) {
            item_record_free(&record);
            return error_set("out of memory while gathering item records");
        }
        if (place_record(items, n_items, &record)) {
            item_record_free(&record);
            return -1;
        }
    }
    return 0;
}

int gather_records(const struct comm *comm, struct item_record *records, size_t n, size_t n_items,
                   struct item_record **items)
{
    char *packed = NULL, *received = NULL;
    size_t n_packed = 0;
    uint64_t mine = 0, *sizes = NULL, largest = 0;
    int status = 0;
    bool root = comm->rank == 0;

    *items = NULL;
    if (!root) {
        FILE *out = open_memstream(&packed, &n_packed);
        for (size_t i = 0; out && i < n; i++)
            pack_record(out, &records[i]);
        if (!out || fclose(out))
            status = error_set("out of memory while gathering item records");
        mine = n_packed;
    } else {
        *items = calloc(n_items ? n_items : 1, sizeof **items);
        sizes = calloc((size_t)comm->size, sizeof *sizes);
        if (!*items || !sizes)
            status = error_set("out of memory while gathering item records");
    }
    status = comm_agree(comm, status);
    if (status)
        goto done;
    if (comm->size > 1)
        MPI_Gather(&mine, 1, MPI_UINT64_T, sizes, 1, MPI_UINT64_T, 0, comm->handle);
    if (root) {
        for (int rank = 1; rank < comm->size; rank++)
            largest = sizes[rank] > largest ? sizes[rank] : largest;
        received = malloc(largest ? largest : 1);
        if (!received)
            status = error_set("out of memory while gathering item records");
    }
    status = comm_agree(comm, status);
    if (status)
        goto done;
    if (!root) {
        send_bytes(comm, packed, n_packed);
    } else {
        for (size_t i = 0; status == 0 && i < n; i++)
            status = place_record(*items, n_items, &records[i]);
        for (int rank = 1; rank < comm->size; rank++) {
            receive_bytes(comm, rank, received, sizes[rank]);
            if (status == 0)
                status = place_packed(*items, n_items, received, sizes[rank]);
        }
        for (size_t i = 0; status == 0 && i < n_items; i++)
            if (!(*items)[i].id)
                status = error_set("item %zu was not evaluated", i);
    }
    status = comm_agree(comm, status);
done:
    if (status && root && *items) {
        for (size_t i = 0; i < n_items; i++)
            item_record_free(&(*items)[i]);
        free(*items);
        *items = NULL;
    }
    for (size_t i = 0; i < n; i++)
        item_record_free(&records[i]);
    free(packed);
    free(received);
    free(sizes);
    return status;
}
