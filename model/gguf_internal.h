#ifndef T2_MODEL_GGUF_INTERNAL_H
#define T2_MODEL_GGUF_INTERNAL_H
/* What gguf.c (the header and its checks) and gguf_values.c (access to metadata) share. */
#include <stddef.h>
#include <stdint.h>

#include "model/file_map.h"
#include "model/gguf.h"

/* Value types of the format. */
enum {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT
};

/* Bytes of a value of this type; 0 for strings and arrays. */
static inline size_t gguf_scalar_bytes(uint32_t type)
{
    switch (type) {
    case GGUF_U8:
    case GGUF_I8:
    case GGUF_BOOL:
        return 1;
    case GGUF_U16:
    case GGUF_I16:
        return 2;
    case GGUF_U32:
    case GGUF_I32:
    case GGUF_F32:
        return 4;
    case GGUF_U64:
    case GGUF_I64:
    case GGUF_F64:
        return 8;
    default:
        return 0;
    }
}

struct gguf_entry {
    char *key;
    uint32_t type, element; /* element: of an array */
    size_t position, count; /* of the value's first byte (an array's first element) */
};

struct gguf {
    char *path;
    struct file_map map; /* empty when over memory */
    const uint8_t *data;
    size_t n_bytes;
    struct gguf_entry *entries;
    struct tensor *tensors;
    size_t n_entries, entries_capacity, n_tensors, tensors_capacity;
};

#endif
