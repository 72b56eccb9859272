/* tokenizer.json of a GGUF file whose tokenizer is a byte-level BPE ("gpt2"). */
#include <stdlib.h>
#include <string.h>

#include "model/export_internal.h"
#include "model/gguf.h"
#include "mpi/error.h"

/* As in tokenizer_load_gguf.c: what the names in tokenizer.ggml.pre stand for. */
static const char llama3_pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char qwen2_pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const struct pre {
    const char *name, *pattern; /* NULL: ByteLevel's own */
    bool digits, ignore_merges, nfc;
} pres[] = {
    {"gpt-2", NULL, false, false, false},
    {"default", NULL, false, false, false},
    {"smollm", NULL, true, false, false},
    {"starcoder", NULL, true, false, false},
    {"refact", NULL, true, false, false},
    {"codeshell", NULL, true, false, false},
    {"llama-bpe", llama3_pattern, false, true, false},
    {"llama3", llama3_pattern, false, true, false},
    {"llama-v3", llama3_pattern, false, true, false},
    {"qwen2", qwen2_pattern, false, false, true},
    {"deepseek-r1-qwen", qwen2_pattern, false, false, true},
};

enum { TYPE_CONTROL = 3, TYPE_USER = 4 }; /* tokenizer.ggml.token_type */

struct texts {
    const char **at;
    size_t *lengths, n;
};

static bool is_text(const struct gguf *gguf, const char *key, const char *text)
{
    const char *s;
    size_t n;

    return gguf_get_string(gguf, key, &s, &n) && n == strlen(text) && memcmp(s, text, n) == 0;
}

static const struct pre *pre_of(const struct gguf *gguf)
{
    const char *s = "default";
    size_t n = strlen(s);

    gguf_get_string(gguf, "tokenizer.ggml.pre", &s, &n);
    for (size_t i = 0; i < sizeof pres / sizeof *pres; i++)
        if (strlen(pres[i].name) == n && memcmp(pres[i].name, s, n) == 0)
            return &pres[i];
    return NULL;
}

static bool read_texts(const struct gguf *gguf, const char *key, struct texts *texts)
{
    if (!gguf_array_size(gguf, key, &texts->n))
        return false;
    texts->at = calloc(texts->n + 1, sizeof *texts->at);
    texts->lengths = calloc(texts->n + 1, sizeof *texts->lengths);
    return texts->at && texts->lengths && gguf_get_strings(gguf, key, texts->at, texts->lengths);
}

static void texts_free(struct texts *texts)
{
    free(texts->at);
    free(texts->lengths);
}

static json_t *vocabulary(const struct texts *tokens)
{
    json_t *vocab = json_object();

    for (size_t i = 0; vocab && i < tokens->n; i++) {
        char *name = strndup(tokens->at[i], tokens->lengths[i]);
        if (!name || json_object_set_new(vocab, name, json_integer((json_int_t)i)) != 0) {
            json_decref(vocab);
            vocab = NULL;
        }
        free(name);
    }
    return vocab;
}

/* "Ġ t" -> ["Ġ", "t"]: cut at the space behind the first character. */
static json_t *merge_list(const struct texts *merges)
{
    json_t *list = json_array();

    for (size_t i = 0; list && i < merges->n; i++) {
        const char *s = merges->at[i];
        const size_t n = merges->lengths[i];
        const char *space = n > 1 ? memchr(s + 1, ' ', n - 1) : NULL;
        json_t *pair = space ? json_pack("[s%, s%]", s, (size_t)(space - s), space + 1,
                                         n - (size_t)(space + 1 - s))
                             : NULL;
        if (!pair || json_array_append_new(list, pair) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *added_tokens(const struct texts *tokens, const int64_t *types)
{
    json_t *list = json_array();

    for (size_t i = 0; list && types && i < tokens->n; i++) {
        if (types[i] != TYPE_CONTROL && types[i] != TYPE_USER)
            continue;
        const bool special = types[i] == TYPE_CONTROL;
        json_array_append_new(list, json_pack("{s:I, s:s%, s:b, s:b, s:b, s:b, s:b}", "id",
                                              (json_int_t)i, "content", tokens->at[i],
                                              tokens->lengths[i], "single_word", 0, "lstrip", 0,
                                              "rstrip", 0, "normalized", 0, "special", special));
    }
    return list;
}

static json_t *pre_tokenizer(const struct pre *pre)
{
    json_t *steps = json_array();

    if (pre->digits)
        json_array_append_new(steps,
                              json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1));
    if (pre->pattern)
        json_array_append_new(steps, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split",
                                               "pattern", "Regex", pre->pattern, "behavior",
                                               "Isolated", "invert", 0));
    json_array_append_new(steps,
                          json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space",
                                    0, "trim_offsets", 1, "use_regex", pre->pattern == NULL));
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", steps);
}

/* BOS in front, where the file says so. */
static json_t *post_processor(const struct texts *tokens, int64_t bos)
{
    json_t *single = json_array(), *pair = json_array(), *special = json_object();

    if (bos >= 0) {
        char *name = strndup(tokens->at[bos], tokens->lengths[bos]);
        json_t *piece =
            json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", name ? name : "", "type_id", 0);
        json_array_append(single, piece);
        json_array_append_new(pair, piece);
        json_object_set_new(special, name ? name : "",
                            json_pack("{s:s, s:[I], s:[s]}", "id", name ? name : "", "ids",
                                      (json_int_t)bos, "tokens", name ? name : ""));
        free(name);
    }
    json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    json_array_append_new(pair, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    json_array_append_new(pair, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "B", "type_id", 1));
    return json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair",
                     pair, "special_tokens", special);
}

static json_t *token_text(const struct gguf *gguf, const struct texts *tokens, const char *key)
{
    int64_t id;

    if (!gguf_get_int(gguf, key, &id) || id < 0 || (size_t)id >= tokens->n)
        return NULL;
    return json_stringn(tokens->at[id], tokens->lengths[id]);
}

static json_t *tokenizer_config(const struct checkpoint *ck, const struct texts *tokens)
{
    static const char *const keys[][2] = {
        {"bos_token", "tokenizer.ggml.bos_token_id"},
        {"eos_token", "tokenizer.ggml.eos_token_id"},
        {"unk_token", "tokenizer.ggml.unknown_token_id"},
        {"pad_token", "tokenizer.ggml.padding_token_id"},
    };
    json_t *config = json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                               "clean_up_tokenization_spaces", 0);
    const char *template_text = checkpoint_chat_template(ck);

    for (size_t i = 0; config && i < sizeof keys / sizeof *keys; i++) {
        json_t *text = token_text(checkpoint_gguf(ck), tokens, keys[i][1]);
        if (text)
            json_object_set_new(config, keys[i][0], text);
    }
    if (config && template_text)
        json_object_set_new(config, "chat_template", json_string(template_text));
    return config;
}

int export_gguf_tokenizer(const struct checkpoint *ck, const char *folder, const char **why)
{
    const struct gguf *gguf = checkpoint_gguf(ck);
    const struct pre *pre = pre_of(gguf);
    struct texts tokens = {0}, merges = {0};
    int64_t *types = NULL, bos = -1;
    bool add_bos = false;
    size_t n_types = 0;
    int status = -1;

    if (!is_text(gguf, "tokenizer.ggml.model", "gpt2") || !pre) {
        *why = "the GGUF file's tokenizer is not a byte-level BPE of a known kind";
        return 0;
    }
    if (!read_texts(gguf, "tokenizer.ggml.tokens", &tokens) ||
        !read_texts(gguf, "tokenizer.ggml.merges", &merges)) {
        *why = "the GGUF file has no tokens and merges";
        status = 0;
        goto done;
    }
    if (gguf_array_size(gguf, "tokenizer.ggml.token_type", &n_types) && n_types == tokens.n) {
        types = calloc(n_types + 1, sizeof *types);
        if (!types || !gguf_get_ints(gguf, "tokenizer.ggml.token_type", types)) {
            free(types);
            types = NULL;
        }
    }
    add_bos = pre->ignore_merges; /* Llama 3's */
    gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", &add_bos);
    if (!add_bos || !gguf_get_int(gguf, "tokenizer.ggml.bos_token_id", &bos) ||
        bos >= (int64_t)tokens.n)
        bos = -1;
    json_t *model =
        json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                  "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                  "byte_fallback", 0, "ignore_merges", pre->ignore_merges, "vocab",
                  vocabulary(&tokens), "merges", merge_list(&merges));
    json_t *normalizer = pre->nfc ? json_pack("{s:s}", "type", "NFC") : json_null();
    json_t *decoder = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1,
                                "trim_offsets", 1, "use_regex", 1);
    json_t *whole =
        json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation",
                  "padding", "added_tokens", added_tokens(&tokens, types), "normalizer", normalizer,
                  "pre_tokenizer", pre_tokenizer(pre), "post_processor",
                  post_processor(&tokens, bos), "decoder", decoder, "model", model);
    if (!whole) {
        error_set("%s: its tokenizer cannot be written as tokenizer.json", checkpoint_path(ck));
        goto done;
    }
    if (export_write_json(folder, "tokenizer.json", whole) != 0)
        goto done;
    status = export_write_json(folder, "tokenizer_config.json", tokenizer_config(ck, &tokens));
done:
    texts_free(&tokens);
    texts_free(&merges);
    free(types);
    return status;
}
