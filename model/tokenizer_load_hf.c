/* Reads Hugging Face's tokenizer.json: a BPE model and the steps around it, each under its "type".
 * The vocabulary and the merges are scanned in place, Jansson reads the rest. What the file asks
 * for and we do not have is an error, since ignoring it would change ids. "truncation" and
 * "padding" are left out on purpose: transformers resets them as well. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/json_scan.h"
#include "model/tokenizer_hf.h"
#include "mpi/error.h"

/* Far above real files (the largest known have 35 MB). */
enum { MAX_FILE = 1 << 29 };

/* ---- the model ---------------------------------------------------------------------------- */

/* Where a value of the model stands in the file. */
struct extent {
    size_t start, end; /* end == 0: there is none */
};

/* Finds the values of "vocab" and "merges" of the last "model", as a parser of the whole would.
 * False where the text is not what it looks like: the parser then says why. */
static bool find_parts(const char *text, size_t n_bytes, struct extent *vocabulary,
                       struct extent *merges)
{
    struct json_scan scan = {.s = text, .n = n_bytes};
    const char *key;
    size_t n_key, depth = 0;
    bool ok = false;

    /* depth 0: the file's own keys; 1: the model's */
    if (!json_scan_take(&scan, '{'))
        goto done;
    while (json_scan_peek(&scan) != '}' || depth > 0) {
        if (json_scan_take(&scan, '}')) {
            depth = 0;
        } else {
            if (!json_scan_string(&scan, &key, &n_key) || !json_scan_take(&scan, ':'))
                goto done;
            if (depth == 0 && n_key == 5 && memcmp(key, "model", 5) == 0 &&
                json_scan_take(&scan, '{')) {
                depth = 1;
                *vocabulary = *merges = (struct extent){0};
                continue;
            }
            struct extent *part = NULL;
            if (depth == 1 && n_key == 5 && memcmp(key, "vocab", 5) == 0)
                part = vocabulary;
            else if (depth == 1 && n_key == 6 && memcmp(key, "merges", 6) == 0)
                part = merges;
            json_scan_peek(&scan);
            size_t start = scan.i;
            if (!json_scan_skip(&scan))
                goto done;
            if (part)
                *part = (struct extent){start, scan.i};
        }
        if (!json_scan_take(&scan, ',') && json_scan_peek(&scan) != '}')
            goto done;
    }
    ok = true;
done:
    json_scan_free(&scan);
    return ok;
}

/* The file with null in place of both parts. */
static json_t *load_rest(const char *text, size_t n_bytes, const char *name, struct extent a,
                         struct extent b)
{
    struct text rest = {0};
    json_error_t error;
    json_t *root = NULL;

    if (a.start > b.start) {
        struct extent swap = a;
        a = b;
        b = swap;
    }
    if (a.end > 0 && (text_append(&rest, text, a.start) || text_append(&rest, "null", 4)))
        goto done;
    if (b.end > 0 &&
        (text_append(&rest, text + a.end, b.start - a.end) || text_append(&rest, "null", 4)))
        goto done;
    size_t end = b.end > 0 ? b.end : a.end;
    if (text_append(&rest, text + end, n_bytes - end))
        goto done;
    root = json_loadb(rest.data ? rest.data : "", rest.n, JSON_ALLOW_NUL, &error);
    if (!root) {
        /* the lines of the whole file, for people */
        if (end > 0)
            json_decref(json_loadb(text, n_bytes, JSON_ALLOW_NUL, &error));
        error_set("%s: line %d: %s", name, error.line, error.text);
    }
done:
    text_free(&rest);
    return root;
}

/* {"text": id, ...} */
static int read_vocabulary(struct tokenizer *t, struct json_scan *scan, size_t limit)
{
    const char *text;
    size_t n;
    int64_t id;

    if (!json_scan_take(scan, '{'))
        return error_set("%s: the model's \"vocab\" is not an object", t->name);
    if (json_scan_take(scan, '}'))
        return 0;
    do {
        if (!json_scan_string(scan, &text, &n) || !json_scan_take(scan, ':') ||
            !json_scan_integer(scan, &id))
            return error_set("%s: line %zu: expected a token and its id", t->name,
                             json_scan_line(scan));
        if (tokenizer_add_token(t, text, n, id, limit, TOKEN_MODEL))
            return -1;
    } while (json_scan_take(scan, ','));
    if (!json_scan_take(scan, '}'))
        return error_set("%s: line %zu: expected , or } behind a token's id", t->name,
                         json_scan_line(scan));
    return 0;
}

/* "a b" (the older form) or ["a", "b"]. *n_left is SIZE_MAX for a line of comment. */
static int read_merge(struct tokenizer *t, struct json_scan *scan, const char **left,
                      size_t *n_left, const char **right, size_t *n_right)
{
    if (json_scan_take(scan, '[')) {
        if (json_scan_string(scan, left, n_left) && json_scan_take(scan, ',') &&
            json_scan_string(scan, right, n_right) && json_scan_take(scan, ']'))
            return 0;
    } else if (json_scan_string(scan, left, n_left)) {
        const char *space = memchr(*left, ' ', *n_left);
        if (*n_left >= 8 && memcmp(*left, "#version", 8) == 0) {
            *n_left = SIZE_MAX;
            return 0;
        }
        if (space) {
            *right = space + 1;
            *n_right = *n_left - (size_t)(space - *left) - 1;
            *n_left = (size_t)(space - *left);
            if (!memchr(*right, ' ', *n_right))
                return 0;
        }
    }
    return error_set("%s: line %zu: a merge is not two tokens", t->name, json_scan_line(scan));
}

static int read_merges(struct tokenizer *t, struct json_scan *scan)
{
    const char *left, *right;
    size_t n_left, n_right;
    uint32_t rank = 0;

    if (!json_scan_take(scan, '['))
        return error_set("%s: the model's \"merges\" is not an array", t->name);
    if (json_scan_take(scan, ']'))
        return 0;
    do {
        if (rank == UINT32_MAX)
            return error_set("%s: too many merges", t->name);
        if (read_merge(t, scan, &left, &n_left, &right, &n_right))
            return -1;
        if (n_left != SIZE_MAX && tokenizer_add_merge(t, left, n_left, right, n_right, rank++))
            return -1;
    } while (json_scan_take(scan, ','));
    if (!json_scan_take(scan, ']'))
        return error_set("%s: line %zu: expected , or ] behind a merge", t->name,
                         json_scan_line(scan));
    return 0;
}

/* vocabulary and merges: scans that stand at the values. */
static int read_model(struct tokenizer *t, const json_t *model, struct json_scan *vocabulary,
                      struct json_scan *merges, size_t limit)
{
    const json_t *type = json_object_get(model, "type");
    const json_t *dropout = json_object_get(model, "dropout");
    const json_t *unk = json_object_get(model, "unk_token");

    if (!json_is_object(model))
        return error_set("%s: there is no \"model\"; is it a tokenizer.json?", t->name);
    if (type && strcmp(hf_string(model, "type"), "BPE") != 0)
        return hf_unsupported(t, "model", model);
    if (json_is_number(dropout) && json_number_value(dropout) > 0)
        return error_set("%s: the model's \"dropout\" is not supported", t->name);
    if (*hf_string(model, "continuing_subword_prefix") || *hf_string(model, "end_of_word_suffix"))
        return error_set("%s: the model's \"continuing_subword_prefix\" and \"end_of_word_suffix\" "
                         "are not supported",
                         t->name);
    t->fuse_unk = hf_bool(model, "fuse_unk", false);
    t->byte_fallback = hf_bool(model, "byte_fallback", false);
    t->ignore_merges = hf_bool(model, "ignore_merges", false);
    if (vocabulary->n == 0 || merges->n == 0)
        return error_set("%s: the model has no \"vocab\" or no \"merges\"", t->name);
    if (read_vocabulary(t, vocabulary, limit) || read_merges(t, merges))
        return -1;
    if (json_is_string(unk)) {
        t->unk = tokenizer_lookup_model(t, json_string_value(unk), json_string_length(unk));
        if (t->unk < 0)
            return error_set("%s: the unknown token \"%.60s\" is not in the vocabulary", t->name,
                             json_string_value(unk));
    }
    return 0;
}

static int read_added_tokens(struct tokenizer *t, const json_t *added, size_t limit)
{
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *token = json_array_get(added, i);
        const json_t *content = json_object_get(token, "content"),
                     *id = json_object_get(token, "id");
        bool special = hf_bool(token, "special", false);
        uint32_t flags = TOKEN_ADDED;
        if (!json_is_string(content) || !json_is_integer(id))
            return error_set("%s: added token %zu has no \"content\" or \"id\"", t->name, i);
        if (json_string_length(content) == 0)
            continue;
        flags |= special ? TOKEN_SPECIAL : 0;
        flags |= hf_bool(token, "normalized", !special) ? TOKEN_NORMALIZED : 0;
        flags |= hf_bool(token, "lstrip", false) ? TOKEN_LSTRIP : 0;
        flags |= hf_bool(token, "rstrip", false) ? TOKEN_RSTRIP : 0;
        flags |= hf_bool(token, "single_word", false) ? TOKEN_SINGLE_WORD : 0;
        if (tokenizer_add_token(t, json_string_value(content), json_string_length(content),
                                json_integer_value(id), limit, flags))
            return -1;
    }
    return 0;
}

/* A name for people. */
static void describe(struct tokenizer *t)
{
    const char *kind = "own pattern";
    bool digits = false;

    for (size_t i = 0; i < t->n_pretokenizer; i++) {
        const struct pretokenizer_step *step = &t->pretokenizer[i];
        digits = digits || step->kind == PRETOKENIZE_DIGITS;
        if (step->kind != PRETOKENIZE_SPLIT)
            continue;
        kind = step->pattern.kind == PATTERN_GPT2     ? (digits ? "smollm" : "gpt2")
               : step->pattern.kind == PATTERN_LLAMA3 ? "llama3"
               : step->pattern.kind == PATTERN_QWEN2  ? "qwen2"
                                                      : "own pattern";
        if (step->pattern.kind != PATTERN_LITERAL)
            break;
    }
    if (t->byte_level)
        snprintf(t->describe, sizeof t->describe, "byte-level BPE (%s)", kind);
    else
        snprintf(t->describe, sizeof t->describe, "SentencePiece-style BPE%s",
                 t->byte_fallback ? " (byte fallback)" : "");
}

struct tokenizer *tokenizer_from_json(const char *text, size_t n_bytes, const char *name)
{
    struct tokenizer *t = tokenizer_new(name);
    struct extent vocabulary = {0}, merges = {0};
    struct json_scan scans[2] = {0};
    json_t *root = NULL;
    bool ok = false;

    if (!t)
        return NULL;
    if (n_bytes > MAX_FILE) {
        error_set("%s: %zu bytes are too many for a tokenizer.json", name, n_bytes);
        goto done;
    }
    if (!find_parts(text, n_bytes, &vocabulary, &merges))
        vocabulary = merges = (struct extent){0};
    root = load_rest(text, n_bytes, name, vocabulary, merges);
    if (!root)
        goto done;
    scans[0] = (struct json_scan){.s = text, .n = vocabulary.end, .i = vocabulary.start};
    scans[1] = (struct json_scan){.s = text, .n = merges.end, .i = merges.start};
    /* every token takes some bytes of the file; the rest is for small files with high ids */
    size_t limit = n_bytes + 65536;
    if (read_model(t, json_object_get(root, "model"), &scans[0], &scans[1], limit) ||
        read_added_tokens(t, json_object_get(root, "added_tokens"), limit) ||
        hf_read_steps(t, root) || tokenizer_finish(t))
        goto done;
    if (t->prefix.n > 0)
        t->bos = t->prefix.ids[0];
    describe(t);
    ok = true;
done:
    json_decref(root);
    json_scan_free(&scans[0]);
    json_scan_free(&scans[1]);
    if (!ok) {
        tokenizer_free(t);
        t = NULL;
    }
    return t;
}

/* ---- the folder --------------------------------------------------------------------------- */

/* Maps a file; *n 0 and NULL when it is empty or missing (then error_set). */
static const char *map_file(const char *path, size_t *n)
{
    const char *text = NULL;
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    *n = 0;
    if (fd < 0 || fstat(fd, &info) != 0) {
        error_set("%s: %s; a model's folder needs it, download it again", path, strerror(errno));
    } else if (!S_ISREG(info.st_mode) || info.st_size <= 0) {
        error_set("%s: is empty or no regular file; download it again", path);
    } else {
        void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            error_set("%s: %s", path, strerror(errno));
        } else {
            text = map;
            *n = (size_t)info.st_size;
        }
    }
    if (fd >= 0)
        close(fd);
    return text;
}

/* bos_token and eos_token of tokenizer_config.json or special_tokens_map.json: a text, or an object
 * with it as "content". */
static int32_t named_token(const struct tokenizer *t, const json_t *config, const char *key)
{
    const json_t *token = json_object_get(config, key);
    if (json_is_object(token))
        token = json_object_get(token, "content");
    return json_is_string(token)
               ? tokenizer_lookup(t, json_string_value(token), json_string_length(token))
               : -1;
}

static int read_config(struct tokenizer *t, const char *dir, const char *file)
{
    char *path = NULL;
    json_t *config = NULL;
    json_error_t error;
    int status = -1;

    if (asprintf(&path, "%s/%s", dir, file) < 0)
        return error_set("%s: out of memory", dir);
    if (access(path, F_OK) != 0) {
        status = 0;
        goto done;
    }
    /* "model_max_length" is often 1e30 written as an integer */
    config = json_load_file(path, JSON_DECODE_INT_AS_REAL, &error);
    if (!config) {
        error_set("%s: line %d: %s", path, error.line, error.text);
        goto done;
    }
    int32_t bos = named_token(t, config, "bos_token"), eos = named_token(t, config, "eos_token");
    if (bos >= 0)
        t->bos = bos;
    if (eos >= 0)
        t->eos = eos;
    status = 0;
done:
    json_decref(config);
    free(path);
    return status;
}

struct tokenizer *tokenizer_load_hf(const char *dir)
{
    struct tokenizer *t = NULL;
    char *path = NULL;
    size_t n;

    if (asprintf(&path, "%s/tokenizer.json", dir) < 0) {
        error_set("%s: out of memory", dir);
        return NULL;
    }
    const char *text = map_file(path, &n);
    if (text) {
        t = tokenizer_from_json(text, n, path);
        munmap((void *)text, n);
    }
    if (t && (read_config(t, dir, "special_tokens_map.json") ||
              read_config(t, dir, "tokenizer_config.json"))) {
        tokenizer_free(t);
        t = NULL;
    }
    free(path);
    return t;
}
