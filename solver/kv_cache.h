#ifndef T2_SOLVER_KV_CACHE_H
#define T2_SOLVER_KV_CACHE_H
/* Keys and values of past tokens, in pages of 64 positions that sequences may share.
 *
 * A page holds, for every layer and key/value head, the keys and values of 64 consecutive absolute
 * positions, already packed as panels for the product kernels (solver/kernels.h): scores are
 * q [rows, head_dim] times key panels (16 positions wide, K = head_dim), outputs are p [rows, 64]
 * times value panels (16 dimensions wide, K = positions). Because pages begin at multiples of 64, a
 * key's block depends on its position alone, so that chunks, shared prefixes, prefill and decoding
 * give the same bits.
 *
 * Local to a rank, host memory, not thread-safe except for reading addresses. */
#include <stddef.h>
#include <stdint.h>

#include "solver/kernels.h"

enum { KV_PAGE = 64, KV_SLAB_PAGES = 16 };

struct kv_cache {
    enum element element;
    size_t n_layers, n_kv_heads, head_dim;
    size_t key_k;         /* head_dim padded to KERNEL_K_STEP: K of the key panels */
    size_t value_panels;  /* panels of 16 that hold head_dim */
    size_t key_elements;  /* of one head's page: 4 panels * key_k * 16 */
    size_t head_elements; /* keys and values of one head's page */
    void **slabs;         /* each KV_SLAB_PAGES pages, [page][layer][head] */
    size_t n_slabs;
    int32_t *references; /* per page; 0: free */
    int32_t *free_pages; /* a stack */
    size_t n_free;
};

int kv_cache_create(struct kv_cache *cache, enum element element, size_t n_layers,
                    size_t n_kv_heads, size_t head_dim);
void kv_cache_free(struct kv_cache *cache);

/* A page with one reference; -1 with error_set when out of memory. Its contents are unspecified
 * until position 0 of it is stored, which clears its values. */
int32_t kv_page_take(struct kv_cache *cache);
void kv_page_hold(struct kv_cache *cache, int32_t page);
/* Drops one reference; the last one frees the page. */
void kv_page_drop(struct kv_cache *cache, int32_t page);

/* One head's page: its keys, followed by its values after key_elements. */
static inline void *kv_head_page(const struct kv_cache *cache, int32_t page, size_t layer,
                                 size_t head)
{
    char *slab = cache->slabs[(size_t)page / KV_SLAB_PAGES];
    const size_t index =
        ((size_t)page % KV_SLAB_PAGES * cache->n_layers + layer) * cache->n_kv_heads + head;
    return slab + index * cache->head_elements * element_size(cache->element);
}

#endif
