/* Reads Hugging Face's tokenizer.json: a BPE model and the steps around it, each under its "type".
 * What the file asks for and we do not have is an error, since ignoring it would change ids.
 * "truncation" and "padding" are left out on purpose: transformers resets them as well. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/tokenizer_internal.h"
#include "mpi/error.h"

/* Far above real files (the largest known have 35 MB). */
enum { MAX_FILE = 1 << 29 };

static const char *string_of(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "";
}

static bool bool_of(const json_t *object, const char *key, bool otherwise)
{
    const json_t *value = json_object_get(object, key);
    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

static int unsupported(const struct tokenizer *t, const char *what, const json_t *step)
{
    const char *type = string_of(step, "type");
    return error_set("%s: %s \"%.60s\" is not supported", t->name, what,
                     *type ? type : "(no type)");
}

/* {"String": "..."} or {"Regex": "..."}. */
static int read_pattern(const struct tokenizer *t, const json_t *step, const char *what,
                        struct pattern *pattern)
{
    const json_t *object = json_object_get(step, "pattern");
    const json_t *string = json_object_get(object, "String"),
                 *regex = json_object_get(object, "Regex");
    const json_t *text = string ? string : regex;

    if (!json_is_string(text))
        return error_set("%s: %s \"%.60s\" has no pattern", t->name, what, string_of(step, "type"));
    if (pattern_compile(pattern, json_string_value(text), json_string_length(text),
                        text == string)) {
        pattern_free(pattern);
        return error_prefix("%s: %s \"%.60s\"", t->name, what, string_of(step, "type"));
    }
    return 0;
}

static int read_content(const struct tokenizer *t, const json_t *step, const char *key,
                        char **content, size_t *n)
{
    const json_t *text = json_object_get(step, key);

    if (!json_is_string(text))
        return error_set("%s: \"%.60s\" has no \"%s\"", t->name, string_of(step, "type"), key);
    *n = json_string_length(text);
    *content = malloc(*n + 1);
    if (!*content)
        return error_set("%s: out of memory", t->name);
    memcpy(*content, json_string_value(text), *n + 1);
    return 0;
}

/* One character under key, otherwise U+2581. */
static int read_character(const struct tokenizer *t, const json_t *step, const char *key,
                          uint32_t *character)
{
    const json_t *text = json_object_get(step, key);

    *character = 0x2581;
    if (!text)
        return 0;
    size_t n = json_string_length(text);
    if (n == 0 || utf8_decode(json_string_value(text), n, character, NULL) != n)
        return error_set("%s: the \"%s\" of \"%.60s\" must be one character", t->name, key,
                         string_of(step, "type"));
    return 0;
}

/* Calls read for step, or for each of its parts when it is a Sequence (possibly nested). */
static int read_steps(struct tokenizer *t, const json_t *step, const char *what, const char *list,
                      int (*read)(struct tokenizer *, const json_t *), int depth)
{
    if (!step || json_is_null(step))
        return 0;
    if (strcmp(string_of(step, "type"), "Sequence") != 0)
        return read(t, step);
    const json_t *parts = json_object_get(step, list);
    if (!json_is_array(parts) || depth > 4)
        return error_set("%s: the %s Sequence has no \"%s\" or is nested too deeply", t->name, what,
                         list);
    for (size_t i = 0; i < json_array_size(parts); i++) {
        if (read_steps(t, json_array_get(parts, i), what, list, read, depth + 1))
            return -1;
    }
    return 0;
}

static int too_many(const struct tokenizer *t, const char *what)
{
    return error_set("%s: more than %d %s steps are not supported", t->name, MAX_STEPS, what);
}

/* ---- the steps ---------------------------------------------------------------------------- */

static int read_normalizer(struct tokenizer *t, const json_t *json)
{
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
    const char *type = string_of(json, "type");

    if (t->n_normalizer == MAX_STEPS)
        return too_many(t, "normalizer");
    struct normalizer_step *step = &t->normalizer[t->n_normalizer++];
    *step = (struct normalizer_step){0};
    for (size_t i = 0; i < 4; i++) {
        if (strcmp(type, forms[i]) == 0) {
            step->kind = NORMALIZE_FORM;
            step->form = (enum utf8_form)i;
            return 0;
        }
    }
    if (strcmp(type, "Prepend") == 0) {
        step->kind = NORMALIZE_PREPEND;
        return read_content(t, json, "prepend", &step->content, &step->n_content);
    }
    if (strcmp(type, "Replace") == 0) {
        step->kind = NORMALIZE_REPLACE;
        return read_pattern(t, json, "normalizer", &step->pattern) ||
                       read_content(t, json, "content", &step->content, &step->n_content)
                   ? -1
                   : 0;
    }
    return unsupported(t, "normalizer", json);
}

static int read_scheme(const struct tokenizer *t, const json_t *json, enum prepend_scheme *scheme)
{
    const json_t *text = json_object_get(json, "prepend_scheme");
    const char *s = json_string_value(text);

    *scheme = bool_of(json, "add_prefix_space", true) ? PREPEND_ALWAYS : PREPEND_NEVER;
    if (!text)
        return 0;
    if (s && strcmp(s, "always") == 0)
        *scheme = PREPEND_ALWAYS;
    else if (s && strcmp(s, "first") == 0)
        *scheme = PREPEND_FIRST;
    else if (s && strcmp(s, "never") == 0)
        *scheme = PREPEND_NEVER;
    else
        return error_set("%s: Metaspace's prepend_scheme must be always, first or never", t->name);
    return 0;
}

static int read_behavior(const struct tokenizer *t, const json_t *json,
                         enum split_behavior *behavior)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name = string_of(json, "behavior");

    for (size_t i = 0; i < 5; i++) {
        if (strcmp(name, names[i]) == 0) {
            *behavior = (enum split_behavior)i;
            return 0;
        }
    }
    return error_set("%s: Split's behavior \"%.40s\" is not supported", t->name, name);
}

static struct pretokenizer_step *new_pretokenizer(struct tokenizer *t, enum pretokenizer_kind kind)
{
    if (t->n_pretokenizer == MAX_STEPS) {
        too_many(t, "pre-tokenizer");
        return NULL;
    }
    struct pretokenizer_step *step = &t->pretokenizer[t->n_pretokenizer++];
    *step = (struct pretokenizer_step){.kind = kind};
    return step;
}

static int read_pretokenizer(struct tokenizer *t, const json_t *json)
{
    const char *type = string_of(json, "type");
    struct pretokenizer_step *step;

    if (t->byte_level)
        return error_set("%s: pre-tokenizer \"%.60s\" after ByteLevel is not supported", t->name,
                         type);
    if (strcmp(type, "ByteLevel") == 0) {
        t->byte_level = true;
        if (bool_of(json, "add_prefix_space", true) &&
            !new_pretokenizer(t, PRETOKENIZE_PREFIX_SPACE))
            return -1;
        if (!bool_of(json, "use_regex", true))
            return 0;
        step = new_pretokenizer(t, PRETOKENIZE_SPLIT);
        if (!step)
            return -1;
        step->pattern.kind = PATTERN_GPT2;
        step->behavior = SPLIT_ISOLATED;
        return 0;
    }
    if (strcmp(type, "Split") == 0) {
        step = new_pretokenizer(t, PRETOKENIZE_SPLIT);
        if (!step)
            return -1;
        step->invert = bool_of(json, "invert", false);
        return read_behavior(t, json, &step->behavior) ||
                       read_pattern(t, json, "pre-tokenizer", &step->pattern)
                   ? -1
                   : 0;
    }
    if (strcmp(type, "Digits") == 0) {
        step = new_pretokenizer(t, PRETOKENIZE_DIGITS);
        if (!step)
            return -1;
        step->individual = bool_of(json, "individual_digits", false);
        return 0;
    }
    if (strcmp(type, "Metaspace") == 0) {
        uint32_t replacement;
        step = new_pretokenizer(t, PRETOKENIZE_METASPACE);
        if (!step || read_character(t, json, "replacement", &replacement))
            return -1;
        step->n_replacement = utf8_encode(replacement, step->replacement);
        step->split = bool_of(json, "split", true);
        return read_scheme(t, json, &step->scheme);
    }
    return unsupported(t, "pre-tokenizer", json);
}

static int read_decoder(struct tokenizer *t, const json_t *json)
{
    const char *type = string_of(json, "type");

    if (t->n_decoder == MAX_STEPS)
        return too_many(t, "decoder");
    struct decoder_step *step = &t->decoder[t->n_decoder++];
    *step = (struct decoder_step){0};
    if (strcmp(type, "ByteLevel") == 0) {
        step->kind = DECODE_BYTE_LEVEL;
        return 0;
    }
    if (strcmp(type, "ByteFallback") == 0) {
        step->kind = DECODE_BYTE_FALLBACK;
        return 0;
    }
    if (strcmp(type, "Fuse") == 0) {
        step->kind = DECODE_FUSE;
        return 0;
    }
    if (strcmp(type, "Replace") == 0) {
        step->kind = DECODE_REPLACE;
        return read_pattern(t, json, "decoder", &step->pattern) ||
                       read_content(t, json, "content", &step->content, &step->n_content)
                   ? -1
                   : 0;
    }
    if (strcmp(type, "Strip") == 0) {
        const json_t *start = json_object_get(json, "start"), *stop = json_object_get(json, "stop");
        step->kind = DECODE_STRIP;
        if (!json_is_integer(start) || !json_is_integer(stop) || json_integer_value(start) < 0 ||
            json_integer_value(stop) < 0)
            return error_set("%s: decoder Strip needs \"start\" and \"stop\"", t->name);
        step->n_start = (size_t)json_integer_value(start);
        step->n_stop = (size_t)json_integer_value(stop);
        return read_character(t, json, "content", &step->character);
    }
    if (strcmp(type, "Metaspace") == 0) {
        step->kind = DECODE_METASPACE;
        return read_character(t, json, "replacement", &step->character) ||
                       read_scheme(t, json, &step->scheme)
                   ? -1
                   : 0;
    }
    return unsupported(t, "decoder", json);
}

/* The ids of a TemplateProcessing's special token. */
static int push_special(const struct tokenizer *t, const json_t *json, const char *name,
                        struct tokens *out)
{
    const json_t *ids =
        json_object_get(json_object_get(json_object_get(json, "special_tokens"), name), "ids");

    if (!json_is_array(ids))
        return error_set("%s: TemplateProcessing has no ids for \"%.60s\"", t->name, name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || (size_t)value >= t->n_tokens)
            return error_set("%s: TemplateProcessing has an id for \"%.60s\" that is not in the "
                             "vocabulary",
                             t->name, name);
        if (tokens_push(out, (int32_t)value))
            return -1;
    }
    return 0;
}

static int read_post_processor(struct tokenizer *t, const json_t *json)
{
    const char *type = string_of(json, "type");
    struct tokens before = {0}, after = {0};
    bool seen = false;
    int status = -1;

    if (strcmp(type, "ByteLevel") == 0)
        return 0; /* changes offsets only */
    if (strcmp(type, "TemplateProcessing") != 0)
        return unsupported(t, "post-processor", json);
    const json_t *single = json_object_get(json, "single");
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *part = json_array_get(single, i);
        const json_t *special = json_object_get(part, "SpecialToken");
        const json_t *sequence = json_object_get(part, "Sequence");
        if (special) {
            if (push_special(t, json, string_of(special, "id"), seen ? &after : &before))
                goto done;
        } else if (!sequence || seen || strcmp(string_of(sequence, "id"), "A") != 0) {
            break;
        } else {
            seen = true;
        }
        if (i + 1 == json_array_size(single) && seen)
            status = 0;
    }
    if (status) {
        error_set("%s: TemplateProcessing's \"single\" is not a text A between special tokens",
                  t->name);
        goto done;
    }
    status = -1;
    /* a later processor's tokens go around those of the earlier ones */
    for (size_t i = 0; i < t->prefix.n; i++) {
        if (tokens_push(&before, t->prefix.ids[i]))
            goto done;
    }
    for (size_t i = 0; i < after.n; i++) {
        if (tokens_push(&t->suffix, after.ids[i]))
            goto done;
    }
    struct tokens swap = t->prefix;
    t->prefix = before;
    before = swap;
    status = 0;
done:
    tokens_free(&before);
    tokens_free(&after);
    return status;
}

/* ---- the model ---------------------------------------------------------------------------- */

static int read_vocabulary(struct tokenizer *t, json_t *vocabulary, size_t limit)
{
    if (!json_is_object(vocabulary))
        return error_set("%s: the model has no vocabulary (\"vocab\")", t->name);
    for (void *i = json_object_iter(vocabulary); i; i = json_object_iter_next(vocabulary, i)) {
        const json_t *id = json_object_iter_value(i);
        const char *text = json_object_iter_key(i);
        if (!json_is_integer(id))
            return error_set("%s: the id of token \"%.60s\" is not an integer", t->name, text);
        if (tokenizer_add_token(t, text, json_object_iter_key_len(i), json_integer_value(id), limit,
                                TOKEN_MODEL))
            return -1;
    }
    return 0;
}

static int read_merges(struct tokenizer *t, const json_t *merges)
{
    size_t n = json_array_size(merges);
    uint32_t rank = 0;

    if (!json_is_array(merges))
        return error_set("%s: the model has no \"merges\"", t->name);
    if (n >= UINT32_MAX || tokenizer_reserve_merges(t, n))
        return n >= UINT32_MAX ? error_set("%s: too many merges", t->name) : -1;
    for (size_t i = 0; i < n; i++) {
        const json_t *merge = json_array_get(merges, i);
        const char *left, *right;
        size_t n_left, n_right;
        if (json_is_string(merge)) { /* the older form, "a b" */
            const char *space = strchr(json_string_value(merge), ' ');
            left = json_string_value(merge);
            if (strncmp(left, "#version", 8) == 0)
                continue;
            if (!space || strchr(space + 1, ' '))
                return error_set("%s: merge %zu is not two tokens with a space between", t->name,
                                 i);
            right = space + 1;
            n_left = (size_t)(space - left);
            n_right = json_string_length(merge) - n_left - 1;
        } else {
            const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
            if (json_array_size(merge) != 2 || !json_is_string(a) || !json_is_string(b))
                return error_set("%s: merge %zu is not a pair of strings", t->name, i);
            left = json_string_value(a);
            n_left = json_string_length(a);
            right = json_string_value(b);
            n_right = json_string_length(b);
        }
        if (tokenizer_add_merge(t, left, n_left, right, n_right, rank++))
            return -1;
    }
    return 0;
}

static int read_model(struct tokenizer *t, const json_t *model, size_t limit)
{
    const json_t *type = json_object_get(model, "type");
    const json_t *dropout = json_object_get(model, "dropout");
    const json_t *unk = json_object_get(model, "unk_token");

    if (!json_is_object(model))
        return error_set("%s: there is no \"model\"; is it a tokenizer.json?", t->name);
    if (type && strcmp(string_of(model, "type"), "BPE") != 0)
        return unsupported(t, "model", model);
    if (json_is_number(dropout) && json_number_value(dropout) > 0)
        return error_set("%s: the model's \"dropout\" is not supported", t->name);
    if (*string_of(model, "continuing_subword_prefix") || *string_of(model, "end_of_word_suffix"))
        return error_set("%s: the model's \"continuing_subword_prefix\" and \"end_of_word_suffix\" "
                         "are not supported",
                         t->name);
    t->fuse_unk = bool_of(model, "fuse_unk", false);
    t->byte_fallback = bool_of(model, "byte_fallback", false);
    t->ignore_merges = bool_of(model, "ignore_merges", false);
    if (read_vocabulary(t, json_object_get(model, "vocab"), limit) ||
        read_merges(t, json_object_get(model, "merges")))
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
        bool special = bool_of(token, "special", false);
        uint32_t flags = TOKEN_ADDED;
        if (!json_is_string(content) || !json_is_integer(id))
            return error_set("%s: added token %zu has no \"content\" or \"id\"", t->name, i);
        if (json_string_length(content) == 0)
            continue;
        flags |= special ? TOKEN_SPECIAL : 0;
        flags |= bool_of(token, "normalized", !special) ? TOKEN_NORMALIZED : 0;
        flags |= bool_of(token, "lstrip", false) ? TOKEN_LSTRIP : 0;
        flags |= bool_of(token, "rstrip", false) ? TOKEN_RSTRIP : 0;
        flags |= bool_of(token, "single_word", false) ? TOKEN_SINGLE_WORD : 0;
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
    json_t *root = NULL;
    json_error_t error;
    bool ok = false;

    if (!t)
        return NULL;
    if (n_bytes > MAX_FILE) {
        error_set("%s: %zu bytes are too many for a tokenizer.json", name, n_bytes);
        goto done;
    }
    root = json_loadb(text, n_bytes, JSON_ALLOW_NUL, &error);
    if (!root) {
        error_set("%s: line %d: %s", name, error.line, error.text);
        goto done;
    }
    /* every token takes some bytes of the file; the rest is for small files with high ids */
    size_t limit = n_bytes + 65536;
    if (read_model(t, json_object_get(root, "model"), limit) ||
        read_added_tokens(t, json_object_get(root, "added_tokens"), limit) ||
        read_steps(t, json_object_get(root, "normalizer"), "normalizer", "normalizers",
                   read_normalizer, 0) ||
        read_steps(t, json_object_get(root, "pre_tokenizer"), "pre-tokenizer", "pretokenizers",
                   read_pretokenizer, 0) ||
        read_steps(t, json_object_get(root, "decoder"), "decoder", "decoders", read_decoder, 0) ||
        read_steps(t, json_object_get(root, "post_processor"), "post-processor", "processors",
                   read_post_processor, 0) ||
        tokenizer_finish(t))
        goto done;
    if (t->prefix.n > 0)
        t->bos = t->prefix.ids[0];
    describe(t);
    ok = true;
done:
    json_decref(root);
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
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    *n = 0;
    if (fd < 0 || fstat(fd, &info) != 0) {
        error_set("%s: %s", path, strerror(errno));
    } else if (!S_ISREG(info.st_mode) || info.st_size <= 0) {
        error_set("%s: is empty or no regular file", path);
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
