#include "solver/kv_cache.h"

#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

int kv_cache_create(struct kv_cache *cache, const struct memory *memory, enum kv_form form,
                    size_t n_layers, size_t n_kv_heads, size_t head_dim)
{
    const size_t width = round_up(head_dim, KERNEL_COLUMNS);
    *cache = (struct kv_cache){.form = form,
                               .memory = memory,
                               .element = kv_form_element(form),
                               .n_layers = n_layers,
                               .n_kv_heads = n_kv_heads,
                               .head_dim = head_dim,
                               .key_k = round_up(head_dim, KERNEL_K_STEP),
                               .key_columns = form == KV_TILES ? KERNEL_COLUMNS : KV_PAGE,
                               .value_columns = form == KV_TILES ? KERNEL_COLUMNS : width};
    cache->value_panels = width / cache->value_columns;
    cache->key_elements = KV_PAGE * cache->key_k;
    cache->head_elements = cache->key_elements + width * KV_PAGE;
    return 0;
}

static size_t slab_bytes(const struct kv_cache *cache)
{
    return KV_SLAB_PAGES * cache->n_layers * cache->n_kv_heads * cache->head_elements *
           element_size(cache->element);
}

void kv_cache_free(struct kv_cache *cache)
{
    if (!cache)
        return;
    for (size_t i = 0; i < cache->n_slabs; i++)
        cache->memory->give(cache->slabs[i], slab_bytes(cache));
    free(cache->slabs);
    free(cache->references);
    free(cache->free_pages);
    free(cache->writers);
    memset(cache, 0, sizeof *cache);
}

static int add_slab(struct kv_cache *cache)
{
    const size_t n_pages = (cache->n_slabs + 1) * KV_SLAB_PAGES;
    const size_t bytes = slab_bytes(cache);
    void **slabs = realloc(cache->slabs, (cache->n_slabs + 1) * sizeof *slabs);
    if (slabs)
        cache->slabs = slabs;
    int32_t *references = realloc(cache->references, n_pages * sizeof *references);
    if (references)
        cache->references = references;
    int32_t *free_pages = realloc(cache->free_pages, n_pages * sizeof *free_pages);
    if (free_pages)
        cache->free_pages = free_pages;
    int32_t *writers = realloc(cache->writers, n_pages * sizeof *writers);
    if (writers)
        cache->writers = writers;
    /* Pages of a batch lie all over the slabs: host memory of small pages would cost a miss each.
     */
    void *slab = cache->memory->take(bytes);
    if (!slabs || !references || !free_pages || !writers || !slab) {
        cache->memory->give(slab, bytes);
        return error_set("no memory for %zu more tokens of key/value cache (%zu MiB): use a "
                         "smaller batch",
                         (size_t)KV_PAGE * KV_SLAB_PAGES, bytes >> 20);
    }
    memory_use_all(cache->memory, slab, bytes);
    cache->slabs[cache->n_slabs] = slab;
    /* Pushed from the last to the first, so that pages are handed out in order. */
    for (size_t i = KV_SLAB_PAGES; i-- > 0;) {
        const size_t page = cache->n_slabs * KV_SLAB_PAGES + i;
        cache->references[page] = 0;
        cache->writers[page] = -1;
        cache->free_pages[cache->n_free++] = (int32_t)page;
    }
    cache->n_slabs++;
    return 0;
}

int32_t kv_page_take(struct kv_cache *cache)
{
    if (cache->n_free == 0 && add_slab(cache) != 0)
        return -1;
    const int32_t page = cache->free_pages[--cache->n_free];
    cache->references[page] = 1;
    return page;
}

void kv_page_hold(struct kv_cache *cache, int32_t page)
{
    cache->references[page]++;
}

void kv_page_drop(struct kv_cache *cache, int32_t page)
{
    if (--cache->references[page] == 0)
        cache->free_pages[cache->n_free++] = page;
}
