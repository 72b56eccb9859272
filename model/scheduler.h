#ifndef T2_MODEL_SCHEDULER_H
#define T2_MODEL_SCHEDULER_H
/* Runs many requests through a model at once: prompts in chunks, decoding in one batch that is
 * refilled as answers finish, prefixes that requests share computed once. Scores and generates.
 *
 * What a request answers never depends on what runs beside it: not on the batch size, the chunk
 * size or prefix sharing (see solver/engine.h on why its bits cannot). Random numbers are
 * counter-based, keyed by the request. Local to a rank: no MPI here. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/tokenizer.h"

struct model;

struct sampling {
    float temperature; /* 0: greedy (largest logit, lowest id on ties) */
    int top_k;         /* 0: all */
    float top_p;       /* 1: all */
    uint64_t seed;
};

struct request {
    const int32_t *tokens; /* [n_tokens], >= 1; must live until the request is done */
    size_t n_tokens;
    /* Scoring: log-probabilities of tokens[n_tokens - n_scored .. n_tokens) each given all before
     * it. n_scored < n_tokens. */
    size_t n_scored;
    /* Generation: up to max_new tokens after tokens[]; 0: none. Ends at one of the model's
     * end-of-text ids (not part of the answer), at a stop string (cut off), or at max_new. */
    size_t max_new;
    bool ignore_eos;
    struct sampling sampling;
    uint64_t stream;          /* key of this request's random numbers, with sampling.seed */
    const char *const *stops; /* [n_stops] */
    size_t n_stops;
    void *user;
};

enum finish { FINISH_SCORED, FINISH_EOS, FINISH_STOP, FINISH_LENGTH };

/* Owned by the scheduler, valid during the `done` call. */
struct response {
    const float *logprobs; /* [n_scored], natural logarithm */
    const bool *greedy;    /* [n_scored]: the token was the argmax there */
    const int32_t *ids;    /* [n_ids] generated, without the end-of-text id */
    size_t n_ids;
    const char *text; /* decoded, special tokens left out, cut at the stop string; NUL-terminated */
    size_t n_text;
    enum finish finish;
    double mean_logprob; /* of the generated tokens under temperature 1; 0 if none */
};

struct scheduler_options {
    size_t batch;      /* requests in flight at most; default 64 */
    size_t chunk;      /* rows (tokens) in one forward pass at most; default 512 */
    bool share_prefix; /* default true */
    /* Cap on tokens held in the KV cache, finished requests' included (a request that needs more
     * runs alone); 0: what the requests need. */
    size_t max_tokens;
};
struct scheduler_options scheduler_defaults(void);

struct scheduler_client {
    /* Fills *request with the next one; false when there are none left. */
    bool (*next)(void *context, struct request *request);
    /* One request is finished. Nonzero stops the run with failure (after error_set). */
    int (*done)(void *context, const struct request *request, const struct response *response);
    /* A token was generated (may be NULL). */
    void (*token)(void *context, const struct request *request, int32_t id);
    void *context;
};

struct scheduler_stats {
    size_t prompt_tokens;    /* of all requests, as if nothing were shared */
    size_t computed_tokens;  /* rows that went through the model */
    size_t generated_tokens; /* end-of-text ids included */
    size_t n_forward;
    double seconds, first_token_seconds;
};

/* Runs until next() has no more and all are done. tokenizer may be NULL if no request generates.
 * A request that does not fit the model's positions fails the run with a sentence. */
int scheduler_run(struct model *model, const struct tokenizer *tokenizer,
                  const struct scheduler_options *options, const struct scheduler_client *client,
                  struct scheduler_stats *stats);

#endif
