/* Reads the tokenizer.ggml.* metadata of GGUF files. "gpt2" is byte-level BPE with merges, its
 * pre-tokenizer under a name; "llama" is SentencePiece BPE, whose merges follow from the scores: of
 * all pairs of tokens that make a token, the one with the highest score is merged first. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf.h"
#include "model/tokenizer_internal.h"
#include "mpi/error.h"

/* Types of tokenizer.ggml.token_type. */
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };
/* Longer SentencePiece tokens are refused: each is cut at all places to find its merges. */
enum { MAX_SPM_BYTES = 256 };

/* Names of tokenizer.ggml.pre, with what Hugging Face's tokenizer of the same models does. */
static const struct {
    const char *name;
    enum pattern_kind pattern;
    bool digits, ignore_merges, nfc, add_bos;
} pre_tokenizers[] = {
    {"gpt-2", PATTERN_GPT2, false, false, false, false},
    {"default", PATTERN_GPT2, false, false, false, false},
    {"smollm", PATTERN_GPT2, true, false, false, false},
    {"starcoder", PATTERN_GPT2, true, false, false, false},
    {"refact", PATTERN_GPT2, true, false, false, false},
    {"codeshell", PATTERN_GPT2, true, false, false, false},
    {"llama-bpe", PATTERN_LLAMA3, false, true, false, true},
    {"llama3", PATTERN_LLAMA3, false, true, false, true},
    {"llama-v3", PATTERN_LLAMA3, false, true, false, true},
    {"qwen2", PATTERN_QWEN2, false, false, true, false},
    {"deepseek-r1-qwen", PATTERN_QWEN2, false, false, true, false},
};

struct arrays {
    size_t n;
    const char **texts;
    size_t *lengths;
    int64_t *types; /* NULL: all normal */
};

static void arrays_free(struct arrays *arrays)
{
    free(arrays->texts);
    free(arrays->lengths);
    free(arrays->types);
}

static int read_strings(const struct gguf *gguf, const char *key, struct arrays *arrays)
{
    const char *path = gguf_path(gguf);

    if (!gguf_array_size(gguf, key, &arrays->n) || arrays->n == 0)
        return error_set("%s: there is no %s", path, key);
    arrays->texts = calloc(arrays->n, sizeof *arrays->texts);
    arrays->lengths = calloc(arrays->n, sizeof *arrays->lengths);
    if (!arrays->texts || !arrays->lengths)
        return error_set("%s: out of memory for %s", path, key);
    if (!gguf_get_strings(gguf, key, arrays->texts, arrays->lengths))
        return error_set("%s: %s holds no strings", path, key);
    return 0;
}

static int64_t type_of(const struct arrays *tokens, size_t i)
{
    return tokens->types ? tokens->types[i] : TYPE_NORMAL;
}

static int read_tokens(struct tokenizer *t, const struct gguf *gguf, struct arrays *tokens)
{
    static const char key[] = "tokenizer.ggml.token_type";
    size_t n;

    if (read_strings(gguf, "tokenizer.ggml.tokens", tokens))
        return -1;
    if (gguf_array_size(gguf, key, &n)) {
        if (n != tokens->n)
            return error_set("%s: %s has %zu elements for %zu tokens", t->name, key, n, tokens->n);
        tokens->types = calloc(n, sizeof *tokens->types);
        if (!tokens->types)
            return error_set("%s: out of memory for %s", t->name, key);
        if (!gguf_get_ints(gguf, key, tokens->types))
            return error_set("%s: %s holds no integers", t->name, key);
    }
    for (size_t i = 0; i < tokens->n; i++) {
        int64_t type = type_of(tokens, i);
        uint32_t flags = TOKEN_MODEL;
        if (type == TYPE_CONTROL || (type == TYPE_UNKNOWN && !t->byte_level))
            flags = TOKEN_ADDED | TOKEN_SPECIAL | (type == TYPE_UNKNOWN ? TOKEN_MODEL : 0);
        else if (type == TYPE_USER_DEFINED)
            flags = TOKEN_ADDED;
        else if (type == TYPE_UNUSED)
            flags = 0;
        if (tokenizer_add_token(t, tokens->texts[i], tokens->lengths[i], (int64_t)i, tokens->n,
                                flags))
            return -1;
    }
    return 0;
}

static struct pretokenizer_step *add_pretokenizer(struct tokenizer *t, enum pretokenizer_kind kind)
{
    struct pretokenizer_step *step = &t->pretokenizer[t->n_pretokenizer++];

    *step = (struct pretokenizer_step){.kind = kind, .individual = true};
    step->behavior = SPLIT_ISOLATED;
    return step;
}

/* ---- byte-level BPE ----------------------------------------------------------------------- */

static int read_merges(struct tokenizer *t, const struct gguf *gguf)
{
    struct arrays merges = {0};
    int status = -1;

    if (read_strings(gguf, "tokenizer.ggml.merges", &merges))
        goto done;
    if (merges.n >= UINT32_MAX) {
        error_set("%s: too many merges", t->name);
        goto done;
    }
    for (size_t i = 0; i < merges.n; i++) {
        const char *s = merges.texts[i];
        size_t n = merges.lengths[i];
        const char *space = n > 1 ? memchr(s + 1, ' ', n - 1) : NULL;
        if (!space) {
            error_set("%s: merge %zu is not two tokens with a space between", t->name, i);
            goto done;
        }
        size_t n_left = (size_t)(space - s);
        if (tokenizer_add_merge(t, s, n_left, space + 1, n - n_left - 1, (uint32_t)i))
            goto done;
    }
    status = 0;
done:
    arrays_free(&merges);
    return status;
}

static int read_byte_level(struct tokenizer *t, const struct gguf *gguf, struct arrays *tokens,
                           bool *add_bos)
{
    const char *pre = "default";
    size_t n_pre = strlen(pre), k = 0;

    gguf_get_string(gguf, "tokenizer.ggml.pre", &pre, &n_pre);
    while (k < sizeof pre_tokenizers / sizeof *pre_tokenizers &&
           (strlen(pre_tokenizers[k].name) != n_pre ||
            memcmp(pre_tokenizers[k].name, pre, n_pre) != 0))
        k++;
    if (k == sizeof pre_tokenizers / sizeof *pre_tokenizers)
        return error_set("%s: the pre-tokenizer \"%.*s\" (tokenizer.ggml.pre) is not supported; "
                         "use the model's Hugging Face folder",
                         t->name, n_pre > 60 ? 60 : (int)n_pre, pre);
    *add_bos = pre_tokenizers[k].add_bos;
    t->byte_level = true;
    t->ignore_merges = pre_tokenizers[k].ignore_merges;
    if (pre_tokenizers[k].nfc) {
        t->normalizer[0] = (struct normalizer_step){.kind = NORMALIZE_FORM, .form = UTF8_NFC};
        t->n_normalizer = 1;
    }
    if (pre_tokenizers[k].digits)
        add_pretokenizer(t, PRETOKENIZE_DIGITS);
    add_pretokenizer(t, PRETOKENIZE_SPLIT)->pattern.kind = pre_tokenizers[k].pattern;
    t->decoder[0] = (struct decoder_step){.kind = DECODE_BYTE_LEVEL};
    t->n_decoder = 1;
    snprintf(t->describe, sizeof t->describe, "byte-level BPE (%.*s)", (int)n_pre, pre);
    return read_tokens(t, gguf, tokens) || read_merges(t, gguf) ? -1 : 0;
}

/* ---- SentencePiece ------------------------------------------------------------------------ */

struct scored {
    float score;
    uint32_t id;
};

static int compare_scores(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Every way to make the token of two others; equal scores have equal rank. */
static int add_splits(struct tokenizer *t, const struct arrays *tokens, uint32_t id, uint32_t rank)
{
    const char *s = tokens->texts[id];
    size_t n = tokens->lengths[id];

    if (n > MAX_SPM_BYTES)
        return error_set("%s: token %u has %zu bytes, more than %d are not supported", t->name, id,
                         n, MAX_SPM_BYTES);
    for (size_t cut = 1; cut < n; cut++) {
        if (((unsigned char)s[cut] & 0xc0) == 0x80)
            continue;
        int32_t left = tokenizer_lookup_model(t, s, cut);
        int32_t right = left < 0 ? -1 : tokenizer_lookup_model(t, s + cut, n - cut);
        if (left < 0 || right < 0 || type_of(tokens, (size_t)left) != TYPE_NORMAL ||
            type_of(tokens, (size_t)right) != TYPE_NORMAL)
            continue;
        if (tokenizer_put_merge(t, (uint32_t)left, (uint32_t)right, rank, id))
            return -1;
    }
    return 0;
}

static int score_merges(struct tokenizer *t, const struct gguf *gguf, const struct arrays *tokens)
{
    static const char key[] = "tokenizer.ggml.scores";
    size_t n;
    float *scores = NULL;
    struct scored *order = NULL;
    int status = -1;

    if (!gguf_array_size(gguf, key, &n) || n != tokens->n)
        return error_set("%s: %s is missing or not as long as the vocabulary", t->name, key);
    scores = calloc(n, sizeof *scores);
    order = calloc(n, sizeof *order);
    if (!scores || !order) {
        error_set("%s: out of memory for %s", t->name, key);
        goto done;
    }
    if (!gguf_get_floats(gguf, key, scores)) {
        error_set("%s: %s holds no numbers", t->name, key);
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        if (scores[i] != scores[i]) {
            error_set("%s: the score of token %zu is not a number", t->name, i);
            goto done;
        }
        order[i] = (struct scored){scores[i], (uint32_t)i};
    }
    qsort(order, n, sizeof *order, compare_scores);
    uint32_t rank = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && order[i].score != order[i - 1].score)
            rank = (uint32_t)i;
        if (type_of(tokens, order[i].id) == TYPE_NORMAL && add_splits(t, tokens, order[i].id, rank))
            goto done;
    }
    status = 0;
done:
    free(scores);
    free(order);
    return status;
}

static char *copy_text(const char *s)
{
    char *copy = strdup(s);
    if (!copy)
        error_set("out of memory");
    return copy;
}

static int read_sentencepiece(struct tokenizer *t, const struct gguf *gguf, struct arrays *tokens)
{
    static const char mark[] = "\xe2\x96\x81";
    bool prefix = true;
    int64_t unk = -1;

    gguf_get_bool(gguf, "tokenizer.ggml.add_space_prefix", &prefix);
    t->byte_fallback = t->fuse_unk = true;
    snprintf(t->describe, sizeof t->describe, "SentencePiece BPE (scores, byte fallback)");
    if (prefix) {
        struct normalizer_step *step = &t->normalizer[t->n_normalizer++];
        *step = (struct normalizer_step){.kind = NORMALIZE_PREPEND, .n_content = strlen(mark)};
        step->content = copy_text(mark);
        if (!step->content)
            return -1;
    }
    struct normalizer_step *spaces = &t->normalizer[t->n_normalizer++];
    *spaces = (struct normalizer_step){.kind = NORMALIZE_REPLACE, .n_content = strlen(mark)};
    spaces->content = copy_text(mark);
    struct decoder_step *back = &t->decoder[t->n_decoder++];
    *back = (struct decoder_step){.kind = DECODE_REPLACE, .n_content = 1};
    back->content = copy_text(" ");
    if (!spaces->content || !back->content || pattern_compile(&spaces->pattern, " ", 1, true) ||
        pattern_compile(&back->pattern, mark, strlen(mark), true))
        return -1;
    t->decoder[t->n_decoder++] = (struct decoder_step){.kind = DECODE_BYTE_FALLBACK};
    t->decoder[t->n_decoder++] = (struct decoder_step){.kind = DECODE_FUSE};
    if (prefix)
        t->decoder[t->n_decoder++] =
            (struct decoder_step){.kind = DECODE_STRIP, .character = ' ', .n_start = 1};
    if (read_tokens(t, gguf, tokens) || score_merges(t, gguf, tokens))
        return -1;
    if (gguf_get_int(gguf, "tokenizer.ggml.unknown_token_id", &unk)) {
        if (unk < 0 || (size_t)unk >= t->n_tokens)
            return error_set("%s: tokenizer.ggml.unknown_token_id %lld is not in the vocabulary",
                             t->name, (long long)unk);
        t->unk = (int32_t)unk;
    }
    return 0;
}

/* ---- both --------------------------------------------------------------------------------- */

static int read_id(const struct tokenizer *t, const struct gguf *gguf, const char *key, int32_t *id)
{
    int64_t value;

    if (!gguf_get_int(gguf, key, &value))
        return 0;
    if (value < 0 || (uint64_t)value >= t->n_tokens)
        return error_set("%s: %s %lld is not in the vocabulary of %zu tokens", t->name, key,
                         (long long)value, t->n_tokens);
    *id = (int32_t)value;
    return 0;
}

struct tokenizer *tokenizer_load_gguf(const struct gguf *gguf)
{
    struct tokenizer *t = tokenizer_new(gguf_path(gguf));
    struct arrays tokens = {0};
    const char *model;
    size_t n_model;
    bool add_bos = true, add_eos = false, ok = false;
    int status;

    if (!t)
        return NULL;
    if (!gguf_get_string(gguf, "tokenizer.ggml.model", &model, &n_model)) {
        error_set("%s: there is no tokenizer.ggml.model", t->name);
        goto done;
    }
    if (n_model == 4 && memcmp(model, "gpt2", 4) == 0) {
        status = read_byte_level(t, gguf, &tokens, &add_bos);
    } else if (n_model == 5 && memcmp(model, "llama", 5) == 0) {
        status = read_sentencepiece(t, gguf, &tokens);
    } else {
        status = error_set("%s: the tokenizer \"%.*s\" (tokenizer.ggml.model) is not supported, "
                           "expected gpt2 or llama",
                           t->name, n_model > 60 ? 60 : (int)n_model, model);
    }
    if (status || tokenizer_finish(t) || read_id(t, gguf, "tokenizer.ggml.bos_token_id", &t->bos) ||
        read_id(t, gguf, "tokenizer.ggml.eos_token_id", &t->eos))
        goto done;
    gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", &add_bos);
    gguf_get_bool(gguf, "tokenizer.ggml.add_eos_token", &add_eos);
    if ((add_bos && t->bos >= 0 && tokens_push(&t->prefix, t->bos)) ||
        (add_eos && t->eos >= 0 && tokens_push(&t->suffix, t->eos)))
        goto done;
    ok = true;
done:
    arrays_free(&tokens);
    if (!ok) {
        tokenizer_free(t);
        t = NULL;
    }
    return t;
}
