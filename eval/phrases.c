#include "eval/phrases.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/hash.h"

enum {
    MIN_WORDS = 4,
    KEY_BYTES = 7,      /* four words have at least seven bytes */
    SEEDS_PER_1000 = 5, /* of the phrases of four words or more; test, then valid */
    VALID_SEEDS_PER_1000 = 4,
};

struct phrase {
    const char *text; /* not NUL-terminated at `length` when blanks follow */
    size_t length, n_words;
    uint64_t hash;
};

static bool is_blank(char c)
{
    return isspace((unsigned char)c);
}

static struct phrase phrase_of(const char *text)
{
    struct phrase p;

    while (is_blank(*text))
        text++;
    p.text = text;
    p.length = strlen(text);
    while (p.length && is_blank(text[p.length - 1]))
        p.length--;
    p.n_words = 0;
    for (size_t i = 0; i < p.length; i++)
        p.n_words += !is_blank(text[i]) && (i == 0 || is_blank(text[i - 1]));
    p.hash = hash_mixed(text, p.length);
    return p;
}

/* ---- which phrases of a set does a text contain? ------------------------------------------------
 * Patterns are found by their first KEY_BYTES bytes, looked up at every position of the text. */

struct pattern_index {
    const struct phrase *phrases;
    size_t *first; /* [n_buckets] pattern + 1, 0: none */
    size_t *next;  /* [n phrases] pattern + 1 */
    size_t n_buckets;
};

static uint64_t key_at(const char *p)
{
    uint64_t key = 0;
    memcpy(&key, p, KEY_BYTES);
    return key * 0x9e3779b97f4a7c15u;
}

static void index_free(struct pattern_index *index)
{
    free(index->first);
    free(index->next);
    memset(index, 0, sizeof *index);
}

/* The phrases with member[i] set. */
static int index_build(struct pattern_index *index, const struct phrase *phrases, size_t n,
                       const unsigned char *member)
{
    memset(index, 0, sizeof *index);
    index->phrases = phrases;
    for (index->n_buckets = 1024; index->n_buckets < 2 * n; index->n_buckets *= 2)
        ;
    index->first = calloc(index->n_buckets, sizeof *index->first);
    index->next = calloc(n ? n : 1, sizeof *index->next);
    if (!index->first || !index->next) {
        index_free(index);
        return error_set("out of memory");
    }
    for (size_t i = 0; i < n; i++)
        if (member[i] && phrases[i].length >= KEY_BYTES) {
            size_t bucket = (key_at(phrases[i].text) >> 20) & (index->n_buckets - 1);
            index->next[i] = index->first[bucket];
            index->first[bucket] = i + 1;
        }
    return 0;
}

/* Calls found(context, pattern, text) for every pattern that `text` contains (also itself). */
static void index_scan(const struct pattern_index *index, size_t text,
                       void (*found)(void *context, size_t pattern, size_t text), void *context)
{
    const struct phrase *t = &index->phrases[text];

    for (size_t at = 0; at + KEY_BYTES <= t->length; at++) {
        size_t bucket = (key_at(t->text + at) >> 20) & (index->n_buckets - 1);
        for (size_t i = index->first[bucket]; i; i = index->next[i - 1]) {
            const struct phrase *p = &index->phrases[i - 1];
            if (p->length <= t->length - at && memcmp(p->text, t->text + at, p->length) == 0)
                found(context, i - 1, text);
        }
    }
}

/* ---- which texts lie inside one of a set of sentences? ------------------------------------------
 * A sorted list of all suffixes of the sentences; a text lies inside one if a suffix starts with
 * it. */

struct suffixes {
    char *bytes;
    const char **sorted;
    size_t n;
};

static int compare_suffixes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void suffixes_free(struct suffixes *s)
{
    free(s->bytes);
    free(s->sorted);
    memset(s, 0, sizeof *s);
}

static int suffixes_build(struct suffixes *s, const struct phrase *phrases, size_t n,
                          const unsigned char *member)
{
    size_t total = 0, at = 0;

    memset(s, 0, sizeof *s);
    for (size_t i = 0; i < n; i++)
        total += member[i] ? phrases[i].length + 1 : 0;
    s->bytes = malloc(total + 1);
    s->sorted = malloc((total + 1) * sizeof *s->sorted);
    if (!s->bytes || !s->sorted) {
        suffixes_free(s);
        return error_set("out of memory");
    }
    for (size_t i = 0; i < n; i++) {
        if (!member[i])
            continue;
        memcpy(s->bytes + at, phrases[i].text, phrases[i].length);
        s->bytes[at + phrases[i].length] = '\0';
        for (size_t j = 0; j < phrases[i].length; j++)
            s->sorted[s->n++] = s->bytes + at + j;
        at += phrases[i].length + 1;
    }
    qsort(s->sorted, s->n, sizeof *s->sorted, compare_suffixes);
    return 0;
}

static bool suffixes_hold(const struct suffixes *s, const struct phrase *p)
{
    size_t low = 0, high = s->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strncmp(s->sorted[middle], p->text, p->length);
        if (order == 0)
            return true;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

/* ---- the split ---------------------------------------------------------------------------------
 */

struct longest {
    const struct phrase *phrases;
    size_t *container; /* [n] longest phrase that contains this one */
};

static void note_longest(void *context, size_t pattern, size_t text)
{
    struct longest *l = context;
    const struct phrase *now = &l->phrases[l->container[pattern]], *candidate = &l->phrases[text];

    if (candidate->length > now->length ||
        (candidate->length == now->length && candidate->hash < now->hash))
        l->container[pattern] = text;
}

static void note_contains(void *context, size_t pattern, size_t text)
{
    (void)pattern;
    ((unsigned char *)context)[text] = 1;
}

struct sets {
    unsigned char *seed, *sentence, *member; /* [n] scratch */
    unsigned char *inside, *contains;        /* [n] of the test phrases, then also of the valid */
    size_t *container;                       /* [n] */
};

/* From seeds (sets->seed) to phrases: sets->member gets the phrases of four words or more inside
 * the seeds' sentences that are not yet related to an earlier set; inside and contains grow. */
static int grow_set(const struct phrase *phrases, size_t n, struct sets *sets)
{
    struct pattern_index index = {0};
    struct suffixes suffixes = {0};
    struct longest longest = {phrases, sets->container};
    int status = -1;

    if (index_build(&index, phrases, n, sets->seed))
        goto done;
    for (size_t i = 0; i < n; i++)
        sets->container[i] = i;
    for (size_t i = 0; i < n; i++)
        index_scan(&index, i, note_longest, &longest);
    memset(sets->sentence, 0, n);
    for (size_t i = 0; i < n; i++)
        if (sets->seed[i])
            sets->sentence[sets->container[i]] = 1;
    if (suffixes_build(&suffixes, phrases, n, sets->sentence))
        goto done;
    memset(sets->member, 0, n);
    for (size_t i = 0; i < n; i++) {
        if (!phrases[i].length || !suffixes_hold(&suffixes, &phrases[i]))
            continue;
        sets->member[i] = phrases[i].n_words >= MIN_WORDS && !sets->inside[i] && !sets->contains[i];
        sets->inside[i] = 1;
    }
    index_free(&index);
    if (index_build(&index, phrases, n, sets->member))
        goto done;
    for (size_t i = 0; i < n; i++)
        index_scan(&index, i, note_contains, sets->contains);
    status = 0;
done:
    index_free(&index);
    suffixes_free(&suffixes);
    return status;
}

static void choose_seeds(const struct phrase *phrases, size_t n, unsigned from, unsigned to,
                         unsigned char *seed)
{
    for (size_t i = 0; i < n; i++) {
        unsigned draw = (unsigned)(phrases[i].hash % 1000);
        seed[i] = phrases[i].n_words >= MIN_WORDS && draw >= from && draw < to;
    }
}

int phrases_split(const char *const *texts, size_t n, unsigned char *splits)
{
    struct phrase *phrases = calloc(n ? n : 1, sizeof *phrases);
    unsigned char *bytes = calloc(n ? n : 1, 5);
    size_t *container = calloc(n ? n : 1, sizeof *container);
    struct sets sets = {0};
    int status = -1;

    if (!phrases || !bytes || !container) {
        error_set("out of memory");
        goto done;
    }
    sets = (struct sets){bytes, bytes + n, bytes + 2 * n, bytes + 3 * n, bytes + 4 * n, container};
    for (size_t i = 0; i < n; i++)
        phrases[i] = phrase_of(texts[i]);
    memset(splits, PHRASE_LEFT_OUT, n);

    choose_seeds(phrases, n, 0, SEEDS_PER_1000, sets.seed);
    if (grow_set(phrases, n, &sets))
        goto done;
    for (size_t i = 0; i < n; i++)
        if (sets.member[i])
            splits[i] = PHRASE_TEST;

    choose_seeds(phrases, n, SEEDS_PER_1000, SEEDS_PER_1000 + VALID_SEEDS_PER_1000, sets.seed);
    if (grow_set(phrases, n, &sets))
        goto done;
    for (size_t i = 0; i < n; i++)
        if (sets.member[i])
            splits[i] = PHRASE_VALID;

    for (size_t i = 0; i < n; i++)
        if (phrases[i].length && !sets.inside[i] && !sets.contains[i])
            splits[i] = PHRASE_TRAIN;
    status = 0;
done:
    free(phrases);
    free(bytes);
    free(container);
    return status;
}
