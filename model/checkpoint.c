#include "model/checkpoint.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/folder.h"
#include "model/gguf.h"
#include "model/layout.h"
#include "mpi/error.h"
#include "mpi/hash.h"

struct checkpoint {
    char *path;
    struct model_config config;
    struct gguf *gguf;      /* one of these two */
    struct folder *folder;  /* is there */
    struct tensor *tensors; /* in name order, the names owned by this struct */
    size_t n_tensors;
    char *chat_template;
};

/* What the file or folder holds, sorted by name. */
struct inventory {
    const struct tensor **tensors;
    size_t n;
};

static int compare_tensors(const void *a, const void *b)
{
    const struct tensor *x = *(const struct tensor *const *)a,
                        *y = *(const struct tensor *const *)b;

    return strcmp(x->name, y->name);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static int inventory_take(struct inventory *inv, const struct checkpoint *ck)
{
    inv->n = ck->gguf ? gguf_n_tensors(ck->gguf) : folder_n_tensors(ck->folder);
    inv->tensors = malloc((inv->n + 1) * sizeof *inv->tensors);
    if (!inv->tensors)
        return error_set("%s: out of memory", ck->path);
    for (size_t i = 0; i < inv->n; i++)
        inv->tensors[i] = ck->gguf ? gguf_tensor(ck->gguf, i) : folder_tensor(ck->folder, i);
    qsort(inv->tensors, inv->n, sizeof *inv->tensors, compare_tensors);
    return 0;
}

static const struct tensor *inventory_find(const struct inventory *inv, const char *name)
{
    struct tensor key = {.name = name};
    const struct tensor *wanted = &key;
    const struct tensor **found =
        inv->n ? bsearch(&wanted, inv->tensors, inv->n, sizeof *inv->tensors, compare_tensors)
               : NULL;

    return found ? *found : NULL;
}

static const char *describe_shape(const size_t *shape, size_t n_dims, char text[96])
{
    size_t at = 0;

    text[at++] = '[';
    for (size_t i = 0; i < n_dims; i++)
        at += (size_t)snprintf(text + at, 96 - at, "%s%zu", i ? ", " : "", shape[i]);
    snprintf(text + at, 96 - at, "]");
    return text;
}

/* The source tensor fits what the configuration calls for. */
static int check_tensor(const struct checkpoint *ck, const struct tensor *t,
                        const struct layout_tensor *wanted)
{
    const char *name = ck->gguf ? wanted->gguf_name : wanted->name;
    char shape[96], expected[96];
    bool same = t && t->n_dims == wanted->n_dims;

    describe_shape(wanted->shape, wanted->n_dims, expected);
    if (!t)
        return error_set("%s: tensor %s is missing, the model's configuration calls for it with "
                         "shape %s",
                         ck->path, name, expected);
    for (size_t i = 0; same && i < t->n_dims; i++)
        same = t->shape[i] == wanted->shape[i];
    if (!same)
        return error_set("%s: tensor %s has shape %s, the model's configuration calls for %s",
                         ck->path, name, describe_shape(t->shape, t->n_dims, shape), expected);
    if (t->type == TENSOR_TYPE_COUNT)
        return error_set("%s: tensor %s has the element type %s, t2 reads F32, F16 and BF16",
                         t->file, name, folder_tensor_dtype(ck->folder, t));
    return 0;
}

/* A GGUF tensor outside the layout may change what the model computes (a scale, an extra norm), so
 * it is refused; a folder's surplus is ignored, as transformers does. */
static int check_surplus(const struct checkpoint *ck, const struct inventory *inv)
{
    struct tensor *copy;
    size_t n = 0;
    int result = 0;

    if (!ck->gguf)
        return 0;
    /* Names that the layout uses, as a second sorted list. */
    size_t size = layout_size(&ck->config);
    struct layout_tensor *wanted = malloc(size * sizeof *wanted);
    copy = malloc(size * sizeof *copy);
    if (!wanted || !copy) {
        result = error_set("%s: out of memory", ck->path);
        goto done;
    }
    for (size_t i = 0; i < size; i++) {
        layout_get(&ck->config, i, &wanted[i]);
        copy[n++] = (struct tensor){.name = wanted[i].gguf_name};
    }
    qsort(copy, n, sizeof *copy, compare_names);
    for (size_t i = 0; i < inv->n && result == 0; i++) {
        const char *name = inv->tensors[i]->name;
        if (strcmp(name, "rope_freqs.weight") != 0 &&
            !bsearch(inv->tensors[i], copy, n, sizeof *copy, compare_names))
            result = error_set("%s: tensor %s has no place in a %s model that t2 knows; running "
                               "without it could give wrong answers",
                               ck->path, name, ck->config.architecture);
    }
done:
    free(wanted);
    free(copy);
    return result;
}

static int collect_tensors(struct checkpoint *ck)
{
    struct inventory inv = {0};
    size_t size = layout_size(&ck->config);
    bool interleaved = ck->gguf && ck->config.family == FAMILY_LLAMA;
    int result = -1;

    if (inventory_take(&inv, ck) != 0)
        goto done;
    /* Look before allocating: a hostile configuration may call for more than there is. */
    for (size_t i = 0; i < size; i++) {
        struct layout_tensor wanted;
        layout_get(&ck->config, i, &wanted);
        const char *name = ck->gguf ? wanted.gguf_name : wanted.name;
        if (check_tensor(ck, inventory_find(&inv, name), &wanted) != 0)
            goto done;
    }
    if (check_surplus(ck, &inv) != 0)
        goto done;
    ck->tensors = calloc(size, sizeof *ck->tensors);
    if (!ck->tensors)
        goto no_memory;
    for (size_t i = 0; i < size; i++) {
        struct layout_tensor wanted;
        layout_get(&ck->config, i, &wanted);
        struct tensor *t = &ck->tensors[i];
        *t = *inventory_find(&inv, ck->gguf ? wanted.gguf_name : wanted.name);
        t->interleaved_heads = interleaved ? wanted.interleaved_heads : 0;
        t->name = strdup(wanted.name);
        ck->n_tensors++;
        if (!t->name)
            goto no_memory;
    }
    qsort(ck->tensors, ck->n_tensors, sizeof *ck->tensors, compare_names);
    result = 0;
    goto done;
no_memory:
    error_set("%s: out of memory", ck->path);
done:
    free(inv.tensors);
    return result;
}

static int open_gguf(struct checkpoint *ck)
{
    const char *text, *dot = strrchr(ck->path, '.');
    size_t n;

    if (dot && (strcmp(dot, ".safetensors") == 0 || strcmp(dot, ".json") == 0))
        return error_set("%s: is one file of a model's folder; name the folder", ck->path);
    ck->gguf = gguf_open(ck->path);
    if (!ck->gguf || config_parse_gguf(&ck->config, ck->gguf) != 0)
        return -1;
    if (gguf_get_string(ck->gguf, "tokenizer.chat_template", &text, &n)) {
        ck->chat_template = strndup(text, n);
        if (!ck->chat_template)
            return error_set("%s: out of memory", ck->path);
    }
    return 0;
}

static int open_folder(struct checkpoint *ck)
{
    ck->folder = folder_open(ck->path, &ck->config);
    return ck->folder ? 0 : -1;
}

struct checkpoint *checkpoint_open(const char *path)
{
    struct checkpoint *ck;
    struct stat st;

    if (stat(path, &st) != 0) {
        if (errno == ENOENT)
            error_set("%s: there is no such file or folder; a model is a Hugging Face folder or a "
                      ".gguf file (`t2 data fetch smollm2` gets a small one)",
                      path);
        else
            error_set("%s: cannot be opened: %s", path, strerror(errno));
        return NULL;
    }
    ck = calloc(1, sizeof *ck);
    if (ck)
        ck->path = strdup(path);
    if (!ck || !ck->path) {
        error_set("%s: out of memory", path);
        checkpoint_free(ck);
        return NULL;
    }
    int result = S_ISDIR(st.st_mode) ? open_folder(ck) : open_gguf(ck);
    if (result != 0 || collect_tensors(ck) != 0) {
        checkpoint_free(ck);
        return NULL;
    }
    return ck;
}

void checkpoint_free(struct checkpoint *ck)
{
    if (!ck)
        return;
    for (size_t i = 0; i < ck->n_tensors; i++)
        free((char *)ck->tensors[i].name);
    free(ck->tensors);
    gguf_free(ck->gguf);
    folder_free(ck->folder);
    config_free(&ck->config);
    free(ck->chat_template);
    free(ck->path);
    free(ck);
}

const char *checkpoint_path(const struct checkpoint *ck)
{
    return ck->path;
}

const struct model_config *checkpoint_config(const struct checkpoint *ck)
{
    return &ck->config;
}

const struct gguf *checkpoint_gguf(const struct checkpoint *ck)
{
    return ck->gguf;
}

const char *checkpoint_chat_template(const struct checkpoint *ck)
{
    return ck->gguf ? ck->chat_template : folder_chat_template(ck->folder);
}

size_t checkpoint_n_tensors(const struct checkpoint *ck)
{
    return ck->n_tensors;
}

const struct tensor *checkpoint_tensor(const struct checkpoint *ck, size_t i)
{
    return &ck->tensors[i];
}

const struct tensor *checkpoint_find(const struct checkpoint *ck, const char *name)
{
    struct tensor key = {.name = name};

    return bsearch(&key, ck->tensors, ck->n_tensors, sizeof *ck->tensors, compare_names);
}

void checkpoint_release(const struct checkpoint *ck, const struct tensor *t)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = (uintptr_t)t->data;
    uintptr_t end = start + t->n_bytes;

    (void)ck;
    /* A page shared with a neighbour may go, too: the map is read-only, it comes back on access. */
    start -= start % page;
    madvise((void *)start, end - start, MADV_DONTNEED);
}

/* Pages are given back piece by piece: an identity must not make a large model resident. */
static int digest_bytes(EVP_MD_CTX *hash, const struct tensor *t)
{
    enum { PIECE = 8 << 20 };
    const uint8_t *data = t->data;

    for (size_t at = 0; at < t->n_bytes; at += PIECE) {
        size_t n = t->n_bytes - at < PIECE ? t->n_bytes - at : PIECE;
        struct tensor piece = {.data = data + at, .n_bytes = n};
        if (EVP_DigestUpdate(hash, data + at, n) != 1)
            return -1;
        checkpoint_release(NULL, &piece);
    }
    return 0;
}

/* Numbers as 8 bytes, lowest first; texts with their NUL. */
static int hash_number(EVP_MD_CTX *hash, uint64_t x)
{
    uint8_t bytes[8];

    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(x >> (8 * i));
    return EVP_DigestUpdate(hash, bytes, sizeof bytes) == 1 ? 0 : -1;
}

static int digest_text(EVP_MD_CTX *hash, const char *text)
{
    return EVP_DigestUpdate(hash, text, strlen(text) + 1) == 1 ? 0 : -1;
}

uint64_t checkpoint_fingerprint(const struct checkpoint *ck)
{
    enum { PIECE = 64 };
    uint64_t hash = HASH_START;

    for (size_t i = 0; i < ck->n_tensors; i++) {
        const struct tensor *t = &ck->tensors[i];
        hash = hash_bytes(hash, t->name, strlen(t->name));
        hash = hash_value(hash, (uint64_t)t->type);
        for (size_t d = 0; d < t->n_dims; d++)
            hash = hash_value(hash, (uint64_t)t->shape[d]);
        hash = hash_value(hash, (uint64_t)t->n_bytes);
        /* A piece from the middle: fine-tuned copies differ in nothing else. */
        const size_t n = t->n_bytes < PIECE ? t->n_bytes : PIECE;
        hash = hash_bytes(hash, (const char *)t->data + (t->n_bytes - n) / 2, n);
    }
    return hash;
}

int checkpoint_tensor_digest(const struct checkpoint *ck, size_t i,
                             uint8_t digest[CHECKPOINT_DIGEST_BYTES])
{
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    int result = 0;

    if (!hash || EVP_DigestInit_ex(hash, EVP_sha256(), NULL) != 1 ||
        digest_bytes(hash, &ck->tensors[i]) != 0 || EVP_DigestFinal_ex(hash, digest, NULL) != 1)
        result = error_set("%s: the SHA-256 of tensor %s failed", ck->path, ck->tensors[i].name);
    EVP_MD_CTX_free(hash);
    return result;
}

int checkpoint_identity_from_digests(const struct checkpoint *ck, const uint8_t *digests,
                                     char hex[65])
{
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    unsigned char digest[EVP_MAX_MD_SIZE];
    int result = -1;

    if (!hash || EVP_DigestInit_ex(hash, EVP_sha256(), NULL) != 1)
        goto done;
    for (size_t i = 0; i < ck->n_tensors; i++) {
        const struct tensor *t = &ck->tensors[i];
        if (digest_text(hash, t->name) != 0 || digest_text(hash, tensor_type_name(t->type)) != 0 ||
            hash_number(hash, t->n_dims) != 0)
            goto done;
        for (size_t j = 0; j < t->n_dims; j++)
            if (hash_number(hash, t->shape[j]) != 0)
                goto done;
        if (EVP_DigestUpdate(hash, digests + i * CHECKPOINT_DIGEST_BYTES,
                             CHECKPOINT_DIGEST_BYTES) != 1)
            goto done;
    }
    if (EVP_DigestFinal_ex(hash, digest, NULL) != 1)
        goto done;
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    result = 0;
done:
    EVP_MD_CTX_free(hash);
    return result == 0 ? 0 : error_set("%s: the SHA-256 of its tensors failed", ck->path);
}

int checkpoint_identity(const struct checkpoint *ck, char hex[65])
{
    uint8_t *digests = malloc((ck->n_tensors + 1) * CHECKPOINT_DIGEST_BYTES);
    int result = digests ? 0 : error_set("%s: out of memory", ck->path);

    for (size_t i = 0; result == 0 && i < ck->n_tensors; i++)
        result = checkpoint_tensor_digest(ck, i, digests + i * CHECKPOINT_DIGEST_BYTES);
    if (result == 0)
        result = checkpoint_identity_from_digests(ck, digests, hex);
    free(digests);
    return result;
}
