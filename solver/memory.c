#include "solver/memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    PAGE_BYTES = 1 << 21, /* a huge page */
    MAPPED_BYTES = 1 << 22,
};

/* What is mapped: whole small pages, so that the ends can be given back. */
static size_t mapped_bytes(size_t bytes)
{
    return (bytes + 65535) & ~(size_t)65535;
}

/* Address space on a huge page's boundary; NULL if there is none. */
static void *map_zeros(size_t bytes)
{
    char *all =
        mmap(NULL, bytes + PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        return NULL;
    char *start = (char *)(((uintptr_t)all + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1));
    if (start > all)
        munmap(all, (size_t)(start - all));
    if (start < all + PAGE_BYTES)
        munmap(start + bytes, (size_t)(all + PAGE_BYTES - start));
    return start;
}

static void *host_take(size_t bytes)
{
    if (bytes >= MAPPED_BYTES)
        return map_zeros(mapped_bytes(bytes));
    const size_t whole = (bytes + 63) & ~(size_t)63;
    void *p = aligned_alloc(64, whole);
    if (p)
        memset(p, 0, whole);
    return p;
}

static void host_give(void *p, size_t bytes)
{
    if (p && bytes >= MAPPED_BYTES)
        munmap(p, mapped_bytes(bytes));
    else
        free(p);
}

void memory_use_all(const struct memory *memory, void *p, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    if (memory == &memory_host && bytes >= MAPPED_BYTES)
        madvise(p, mapped_bytes(bytes), MADV_HUGEPAGE); /* a wish */
#else
    (void)memory, (void)p, (void)bytes;
#endif
}

const struct memory memory_host = {"host", host_take, host_give};
