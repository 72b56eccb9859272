#ifndef T2_MODEL_TOKENIZER_INTERNAL_H
#define T2_MODEL_TOKENIZER_INTERNAL_H
/* What the tokenizer's own files share: the loaded tokenizer and the stages that text runs through,
 * in the order of Hugging Face tokenizers:
 *
 *   added tokens cut out -> normalizer -> normalized added tokens cut out -> pre-tokenizer -> BPE
 *   -> what the post-processor puts around.
 *
 * Loaders (tokenizer_load_*.c) fill a struct tokenizer through the functions below and call
 * tokenizer_finish; afterwards nothing in it changes. */
#include "model/tokenizer.h"
#include "model/utf8.h"

enum {
    TOKEN_EXISTS = 1,  /* the id has a text */
    TOKEN_MODEL = 2,   /* in the BPE model's vocabulary */
    TOKEN_ADDED = 4,   /* cut out of the text before the model sees it */
    TOKEN_SPECIAL = 8, /* not part of decoded text */
    TOKEN_NORMALIZED = 16,
    TOKEN_LSTRIP = 32,
    TOKEN_RSTRIP = 64,
    TOKEN_SINGLE_WORD = 128
};

struct token {
    /* offsets into tokenizer.arena: as in the file; what decoding starts from, the normalized text
     * of normalized added tokens; decoded alone */
    size_t text, shown, bytes;
    uint32_t n_text, n_shown, n_bytes;
    uint32_t flags;
};

struct token_slot {
    uint32_t hash;
    int32_t id; /* -1: empty */
};

struct merge {
    uint32_t left, right; /* left == MERGE_EMPTY: an empty slot */
    uint32_t rank;        /* smaller merges first */
    uint32_t id;
};
#define MERGE_EMPTY UINT32_MAX

/* ---- patterns (tokenizer_pattern.c) ------------------------------------------------------- */

enum pattern_kind {
    PATTERN_LITERAL,
    PATTERN_REGEX, /* PCRE2 */
    /* known splitting patterns, which match at every position, in hand-written code */
    PATTERN_GPT2,
    PATTERN_LLAMA3,
    PATTERN_QWEN2
};

struct pattern {
    enum pattern_kind kind;
    char *literal;
    size_t n_literal;
    void *code; /* pcre2_code */
};
/* literal: text, not a regular expression. -1 with error_set (without the file's name). */
int pattern_compile(struct pattern *pattern, const char *text, size_t n, bool literal);
void pattern_free(struct pattern *pattern);

/* Matches of one pattern in one text, from left to right. All zero before the first start; may be
 * started again with another pattern and text, keeping PCRE2's working memory until stopped. */
struct matcher {
    const struct pattern *pattern;
    const char *s;
    size_t n, position, last_end;
    void *data, *context, *stack; /* PCRE2's working memory */
};
int matcher_start(struct matcher *m, const struct pattern *pattern, const char *s, size_t n);
/* 1 and [*start, *end), 0 when there is no further match, -1 with error_set. */
int matcher_next(struct matcher *m, size_t *start, size_t *end);
void matcher_stop(struct matcher *m);

/* End of the piece that starts at position (position < n) for the known kinds (pretokenize.c). */
size_t pattern_known_end(enum pattern_kind kind, const char *s, size_t n, size_t position);

/* ---- steps -------------------------------------------------------------------------------- */

enum normalizer_kind { NORMALIZE_FORM, NORMALIZE_PREPEND, NORMALIZE_REPLACE };
struct normalizer_step {
    enum normalizer_kind kind;
    enum utf8_form form;
    struct pattern pattern;
    char *content; /* owned; for PREPEND and REPLACE */
    size_t n_content;
};

enum split_behavior {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS
};
enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };

enum pretokenizer_kind {
    PRETOKENIZE_SPLIT,
    PRETOKENIZE_DIGITS,
    PRETOKENIZE_METASPACE,
    PRETOKENIZE_PREFIX_SPACE
};
struct pretokenizer_step {
    enum pretokenizer_kind kind;
    struct pattern pattern; /* SPLIT */
    enum split_behavior behavior;
    bool invert;
    bool individual; /* DIGITS */
    /* METASPACE */
    char replacement[8];
    size_t n_replacement;
    enum prepend_scheme scheme;
    bool split;
};

enum decoder_kind {
    DECODE_BYTE_LEVEL,
    DECODE_REPLACE,
    DECODE_BYTE_FALLBACK,
    DECODE_FUSE,
    DECODE_STRIP,
    DECODE_METASPACE
};
struct decoder_step {
    enum decoder_kind kind;
    struct pattern pattern; /* REPLACE */
    char *content;
    size_t n_content;
    uint32_t character; /* STRIP, METASPACE */
    size_t n_start, n_stop;
    enum prepend_scheme scheme;
};

/* Added tokens of one pass, sorted by the text to look for: first[b]..first[b+1] start with b. */
struct added_entry {
    char *text;
    uint32_t n_text;
    int32_t id;
};
struct added_set {
    struct added_entry *entries;
    size_t n;
    uint32_t first[257];
};

enum { MAX_STEPS = 16 };

struct tokenizer {
    char *name; /* the file, in errors */
    char describe[64];
    bool byte_level; /* the model's characters stand for bytes (GPT-2's table) */

    struct text arena;
    struct token *tokens;
    size_t n_tokens, token_capacity;
    struct token_slot *slots; /* hash of token texts */
    size_t n_slots, n_used;

    struct merge *merges; /* hash of pairs */
    size_t n_merge_slots, n_merges;
    int32_t byte_ids[256];      /* byte level: the id of each byte; else of <0xAB>; -1: none */
    int32_t character_ids[128]; /* of ASCII characters, where not byte level */
    int32_t unk;                /* -1: unknown characters are left out */
    bool fuse_unk, byte_fallback, ignore_merges;
    bool words_are_safe; /* no merge crosses the front of a U+2581 run */

    struct normalizer_step normalizer[MAX_STEPS];
    size_t n_normalizer;
    struct pretokenizer_step pretokenizer[MAX_STEPS];
    size_t n_pretokenizer;
    struct decoder_step decoder[MAX_STEPS];
    size_t n_decoder;
    struct tokens prefix, suffix;
    struct added_set added, added_normalized;
    int32_t bos, eos;
};

/* ---- building (tokenizer_vocab.c) --------------------------------------------------------- */

struct tokenizer *tokenizer_new(const char *name);
/* Gives id its text. limit bounds the ids (what the file's size justifies). Adding the same pair
 * again joins the flags; a conflict is an error. */
int tokenizer_add_token(struct tokenizer *t, const char *text, size_t n, int64_t id, size_t limit,
                        uint32_t flags);
/* In order of rank. Parts and their concatenation must be in the model. */
int tokenizer_add_merge(struct tokenizer *t, const char *left, size_t n_left, const char *right,
                        size_t n_right, uint32_t rank);
int tokenizer_put_merge(struct tokenizer *t, uint32_t left, uint32_t right, uint32_t rank,
                        uint32_t id);
const struct merge *tokenizer_find_merge(const struct tokenizer *t, uint32_t left, uint32_t right);
int32_t tokenizer_lookup(const struct tokenizer *t, const char *text, size_t n);
/* The same among the model's own tokens only. */
int32_t tokenizer_lookup_model(const struct tokenizer *t, const char *text, size_t n);
/* Everything that is derived: byte tables, decoded bytes, the added tokens' search tables. */
int tokenizer_finish(struct tokenizer *t);

/* GPT-2's reversible table between bytes and printable characters. */
uint32_t byte_level_character(unsigned char byte);
int byte_level_byte(uint32_t character); /* -1 where there is none */

/* ---- stages ------------------------------------------------------------------------------- */

struct piece {
    size_t start, end;
};
struct pieces {
    struct piece *data;
    size_t n, capacity;
};
int pieces_push(struct pieces *pieces, size_t start, size_t end);

/* The next added token in s at or after position (tokenizer_added.c): true and its extent with
 * stripped spaces, none of it before position. */
bool added_find(const struct tokenizer *t, const struct added_set *set, const char *s, size_t n,
                size_t position, bool special, size_t *start, size_t *end, int32_t *id);
int added_set_build(struct tokenizer *t, struct added_set *set, bool normalized);
void added_set_free(struct added_set *set);

/* Rules of a file may replace a character by long texts, again and again: what comes out may have
 * at most this many bytes, or it is an error. Compatibility decomposition makes 11 bytes of one. */
static inline size_t expansion_limit(size_t n)
{
    return n > (SIZE_MAX >> 7) ? SIZE_MAX : 64 * n + 4096;
}

/* Appends the normalized form of s. */
int normalize_run(const struct tokenizer *t, const char *s, size_t n, struct text *out);

/* Pre-tokenizes s, which starts the whole input when first, into pieces of *result (either s itself
 * or one of the two buffers). */
struct pretokenize_buffers {
    struct text text[2];
    struct pieces pieces[2];
    struct matcher matcher;
};
int pretokenize_run(const struct tokenizer *t, const char *s, size_t n, bool first,
                    struct pretokenize_buffers *buffers, const char **result,
                    struct pieces **pieces);
void pretokenize_free(struct pretokenize_buffers *buffers);

/* BPE of one piece (tokenizer_bpe.c). The scratch belongs to one call of tokenizer_encode. */
struct bpe_scratch;
struct bpe_scratch *bpe_scratch_new(size_t n_bytes);
void bpe_scratch_free(struct bpe_scratch *scratch);
int bpe_encode(const struct tokenizer *t, struct bpe_scratch *scratch, const char *s, size_t n,
               struct tokens *out);

#endif
