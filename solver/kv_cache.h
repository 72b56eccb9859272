#ifndef T2_SOLVER_KV_CACHE_H
#define T2_SOLVER_KV_CACHE_H
/* Keys and values of past tokens, in pages of 64 positions that sequences may share.
 *
 * A page holds, for every layer and key/value head, the keys and values of 64 consecutive absolute
 * positions, packed as the two right-hand sides of attention: scores are q [rows, head_dim] times
 * keys [head_dim, 64 positions], outputs are p [rows, 64] times values [64 positions, head_dim].
 * Each is cut into panels of some columns, over all of its K; within a panel
 *
 *   f32    [k][columns]             bf16    [k/2][columns][2]
 *
 * KV_F32 and KV_BF16 have one panel each, for page_product.h; KV_TILES has bf16 panels of 16
 * columns, for the tile kernels (solver/kernels.h). Because pages begin at multiples of 64, a
 * key's block depends on its position alone, so that chunks, shared prefixes, prefill and decoding
 * give the same bits.
 *
 * Local to a rank; pages in the engine's memory, the rest in the host's; not thread-safe except for
 * reading addresses. */
#include <stddef.h>
#include <stdint.h>

#include "solver/kernels.h"
#include "solver/memory.h"

enum { KV_PAGE = 64, KV_SLAB_PAGES = 16 };

enum kv_form { KV_F32, KV_BF16, KV_TILES };

static inline enum element kv_form_element(enum kv_form form)
{
    return form == KV_F32 ? ELEMENT_F32 : ELEMENT_BF16;
}

struct kv_cache {
    enum kv_form form;
    const struct memory *memory; /* of the slabs */
    enum element element;        /* the form's */
    size_t n_layers, n_kv_heads, head_dim;
    size_t key_k;         /* head_dim padded to KERNEL_K_STEP: K of the key panels */
    size_t key_columns;   /* of a key panel: positions */
    size_t value_columns; /* of a value panel: dimensions */
    size_t value_panels;  /* that hold head_dim */
    size_t key_elements;  /* of one head's page: key_k * 64 */
    size_t head_elements; /* keys and values of one head's page */
    void **slabs;         /* each KV_SLAB_PAGES pages, [page][layer][head] */
    size_t n_slabs;
    int32_t *references; /* per page; 0: free */
    int32_t *free_pages; /* a stack */
    size_t n_free;
    int32_t *writers; /* attention's: per page, the run of its batch that writes there; -1 */
};

int kv_cache_create(struct kv_cache *cache, const struct memory *memory, enum kv_form form,
                    size_t n_layers, size_t n_kv_heads, size_t head_dim);
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
    char *slab = (char *)cache->slabs[(size_t)page / KV_SLAB_PAGES];
    const size_t index =
        ((size_t)page % KV_SLAB_PAGES * cache->n_layers + layer) * cache->n_kv_heads + head;
    return slab + index * cache->head_elements * element_size(cache->element);
}

#endif
