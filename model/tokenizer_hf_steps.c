/* The steps around the model in tokenizer.json: normalizer, pre-tokenizer, decoder, post-processor.
 * Each has its name under "type"; one that we do not have is an error, since leaving it out would
 * change ids. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_hf.h"
#include "mpi/error.h"

const char *hf_string(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "";
}

bool hf_bool(const json_t *object, const char *key, bool otherwise)
{
    const json_t *value = json_object_get(object, key);
    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

int hf_unsupported(const struct tokenizer *t, const char *what, const json_t *step)
{
    const char *type = hf_string(step, "type");
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
        return error_set("%s: %s \"%.60s\" has no pattern", t->name, what, hf_string(step, "type"));
    if (pattern_compile(pattern, json_string_value(text), json_string_length(text),
                        text == string)) {
        pattern_free(pattern);
        return error_prefix("%s: %s \"%.60s\"", t->name, what, hf_string(step, "type"));
    }
    return 0;
}

static int read_content(const struct tokenizer *t, const json_t *step, const char *key,
                        char **content, size_t *n)
{
    const json_t *text = json_object_get(step, key);

    if (!json_is_string(text))
        return error_set("%s: \"%.60s\" has no \"%s\"", t->name, hf_string(step, "type"), key);
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
                         hf_string(step, "type"));
    return 0;
}

/* Calls read for step, or for each of its parts when it is a Sequence (possibly nested). */
static int read_steps(struct tokenizer *t, const json_t *step, const char *what, const char *list,
                      int (*read)(struct tokenizer *, const json_t *), int depth)
{
    if (!step || json_is_null(step))
        return 0;
    if (strcmp(hf_string(step, "type"), "Sequence") != 0)
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
    const char *type = hf_string(json, "type");

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
    return hf_unsupported(t, "normalizer", json);
}

static int read_scheme(const struct tokenizer *t, const json_t *json, enum prepend_scheme *scheme)
{
    const json_t *text = json_object_get(json, "prepend_scheme");
    const char *s = json_string_value(text);

    *scheme = hf_bool(json, "add_prefix_space", true) ? PREPEND_ALWAYS : PREPEND_NEVER;
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
    const char *name = hf_string(json, "behavior");

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
    const char *type = hf_string(json, "type");
    struct pretokenizer_step *step;

    if (t->byte_level)
        return error_set("%s: pre-tokenizer \"%.60s\" after ByteLevel is not supported", t->name,
                         type);
    if (strcmp(type, "ByteLevel") == 0) {
        t->byte_level = true;
        if (hf_bool(json, "add_prefix_space", true) &&
            !new_pretokenizer(t, PRETOKENIZE_PREFIX_SPACE))
            return -1;
        if (!hf_bool(json, "use_regex", true))
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
        step->invert = hf_bool(json, "invert", false);
        return read_behavior(t, json, &step->behavior) ||
                       read_pattern(t, json, "pre-tokenizer", &step->pattern)
                   ? -1
                   : 0;
    }
    if (strcmp(type, "Digits") == 0) {
        step = new_pretokenizer(t, PRETOKENIZE_DIGITS);
        if (!step)
            return -1;
        step->individual = hf_bool(json, "individual_digits", false);
        return 0;
    }
    if (strcmp(type, "Metaspace") == 0) {
        uint32_t replacement;
        step = new_pretokenizer(t, PRETOKENIZE_METASPACE);
        if (!step || read_character(t, json, "replacement", &replacement))
            return -1;
        step->n_replacement = utf8_encode(replacement, step->replacement);
        step->split = hf_bool(json, "split", true);
        return read_scheme(t, json, &step->scheme);
    }
    return hf_unsupported(t, "pre-tokenizer", json);
}

static int read_decoder(struct tokenizer *t, const json_t *json)
{
    const char *type = hf_string(json, "type");

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
    return hf_unsupported(t, "decoder", json);
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
    const char *type = hf_string(json, "type");
    struct tokens before = {0}, after = {0};
    bool seen = false;
    int status = -1;

    if (strcmp(type, "ByteLevel") == 0)
        return 0; /* changes offsets only */
    if (strcmp(type, "TemplateProcessing") != 0)
        return hf_unsupported(t, "post-processor", json);
    const json_t *single = json_object_get(json, "single");
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *part = json_array_get(single, i);
        const json_t *special = json_object_get(part, "SpecialToken");
        const json_t *sequence = json_object_get(part, "Sequence");
        if (special) {
            if (push_special(t, json, hf_string(special, "id"), seen ? &after : &before))
                goto done;
        } else if (!sequence || seen || strcmp(hf_string(sequence, "id"), "A") != 0) {
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

int hf_read_steps(struct tokenizer *t, const json_t *root)
{
    return read_steps(t, json_object_get(root, "normalizer"), "normalizer", "normalizers",
                      read_normalizer, 0) ||
                   read_steps(t, json_object_get(root, "pre_tokenizer"), "pre-tokenizer",
                              "pretokenizers", read_pretokenizer, 0) ||
                   read_steps(t, json_object_get(root, "decoder"), "decoder", "decoders",
                              read_decoder, 0) ||
                   read_steps(t, json_object_get(root, "post_processor"), "post-processor",
                              "processors", read_post_processor, 0)
               ? -1
               : 0;
}
