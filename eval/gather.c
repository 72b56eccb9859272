#include "eval/gather.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/share.h"

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

/* ---- gathering ---------------------------------------------------------------------------------
 */

struct gathering {
    struct item_record *items; /* [n_items] */
    size_t n_items;
};

/* Puts the records of one rank at their places. */
static int take_packed(void *context, const void *data, size_t n)
{
    const struct gathering *g = context;
    struct bytes in = {data, n};

    while (in.left) {
        struct item_record record = {0};
        if (unpack_record(&in, &record)) {
            item_record_free(&record);
            return error_set("out of memory while gathering item records");
        }
        if (record.index >= g->n_items || g->items[record.index].id) {
            item_record_free(&record);
            return error_set("item %zu was evaluated twice or does not exist", record.index);
        }
        g->items[record.index] = record;
    }
    return 0;
}

static int pack_records(const struct item_record *records, size_t n, char **bytes, size_t *n_bytes)
{
    FILE *out = open_memstream(bytes, n_bytes);

    for (size_t i = 0; out && i < n; i++)
        pack_record(out, &records[i]);
    if (!out || fclose(out))
        return error_set("out of memory while gathering item records");
    return 0;
}

int gather_records(const struct comm *comm, struct item_record *records, size_t n, size_t n_items,
                   struct item_record **items)
{
    struct gathering gathering = {.n_items = n_items};
    char *packed = NULL;
    size_t n_packed = 0;

    *items = NULL;
    int status = pack_records(records, n, &packed, &n_packed);
    if (comm->rank == 0) {
        gathering.items = calloc(n_items ? n_items : 1, sizeof *gathering.items);
        if (!gathering.items)
            status = error_set("out of memory while gathering item records");
    }
    status = comm_agree(comm, status);
    if (status == 0)
        status = share_collect(comm, packed, n_packed, take_packed, &gathering);
    if (status == 0 && comm->rank == 0)
        for (size_t i = 0; status == 0 && i < n_items; i++)
            if (!gathering.items[i].id)
                status = error_set("item %zu was not evaluated", i);
    status = comm_agree(comm, status);
    if (status && gathering.items) {
        for (size_t i = 0; i < n_items; i++)
            item_record_free(&gathering.items[i]);
        free(gathering.items);
        gathering.items = NULL;
    }
    *items = gathering.items;
    for (size_t i = 0; i < n; i++)
        item_record_free(&records[i]);
    free(packed);
    return status;
}
