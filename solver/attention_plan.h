#ifndef T2_SOLVER_ATTENTION_PLAN_H
#define T2_SOLVER_ATTENTION_PLAN_H
/* How a device cuts the gradient of attention into blocks of its own: tiles of queries, which know
 * all their keys, and tiles of keys, each the only one that writes its keys' gradients, which go
 * through the sequences that see them in order. Host code without an engine; everything is 32-bit
 * words in one piece, ready to be sent. */
#include <stddef.h>
#include <stdint.h>

#include "solver/engine_train.h"

enum { PLAN_TILE = 64 };

/* A sequence: its rows are words rows_at .. rows_at + n of the plan's rows. */
struct plan_span {
    int32_t rows_at, n, own;
};

/* PLAN_TILE query rows of a sequence from `first` on, where query row i is head i % group of the
 * token at position own + i / group. */
struct plan_queries {
    int32_t sequence, first;
};

/* The keys at positions first_position .. + PLAN_TILE of a sequence whose bit is set: those that no
 * sequence before it names. Their queries are those of the visitors, in order. */
struct plan_keys {
    int32_t sequence, first_position;
    int32_t visitors_at, n_visitors;
    uint32_t mask[2];
};

struct attention_plan {
    size_t n_query_tiles, n_key_tiles;
    /* Words of the parts in `words`: */
    size_t spans, rows, positions, query_tiles, key_tiles, visitors;
    size_t n_words;
    int32_t *words;
};

/* positions [n_rows]: a row's position. A key's window is that of engine.h, group the number of
 * query heads of a key head. 0, or -1 when out of memory. */
int attention_plan_create(struct attention_plan *plan, const struct attention_sequence *sequences,
                          size_t n_sequences, size_t n_rows, size_t group, size_t window);
void attention_plan_free(struct attention_plan *plan);

#endif
