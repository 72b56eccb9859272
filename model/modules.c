#include "model/modules.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "model/layout.h"
#include "mpi/error.h"
#include "mpi/text.h"

/* The projections in the order of a layer's tensors (layout.c), and the words that mean several. */
enum { Q = 1, K = 2, V = 4, O = 8, GATE = 16, UP = 32, DOWN = 64 };

static const char *const words[] = {"mlp",       "attention", "qv",       "all",
                                    "q_proj",    "k_proj",    "v_proj",   "o_proj",
                                    "gate_proj", "up_proj",   "down_proj"};
static const unsigned word_masks[] = {GATE | UP | DOWN,
                                      Q | K | V | O,
                                      Q | V,
                                      Q | K | V | O | GATE | UP | DOWN,
                                      Q,
                                      K,
                                      V,
                                      O,
                                      GATE,
                                      UP,
                                      DOWN};
static const char *const projections[] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

enum {
    N_WORDS = sizeof words / sizeof *words,
    N_PROJECTIONS = sizeof projections / sizeof *projections
};

/* Names are short: a pattern that needs more steps tries every way to match nothing. */
enum { MATCH_LIMIT = 100000 };

/* Which projections of which layers are wanted. */
struct choice {
    const char *text;    /* as given */
    unsigned mask;       /* without a pattern */
    pcre2_code *pattern; /* or NULL */
    pcre2_match_data *match;
    pcre2_match_context *limits;
    bool *layers; /* [n_layers] */
};

int module_order(const char *name)
{
    for (int i = 0; i < N_PROJECTIONS; i++)
        if (strcmp(projections[i], name) == 0)
            return i;
    return -1;
}

/* ---- which projections -------------------------------------------------------------------------
 */

static int choose_word(struct choice *choice, const char *word, size_t n)
{
    char text[40];

    for (size_t i = 0; i < N_WORDS; i++) {
        if (strlen(words[i]) == n && memcmp(words[i], word, n) == 0) {
            choice->mask |= word_masks[i];
            return 0;
        }
    }
    for (size_t i = 0; i < N_PROJECTIONS; i++) {
        if (strlen(projections[i]) == n && memcmp(projections[i], word, n) == 0) {
            choice->mask |= 1u << i;
            return 0;
        }
    }
    snprintf(text, sizeof text, "%.*s", (int)(n < 39 ? n : 39), word);
    const char *nearest = n ? text_nearest(text, words, N_WORDS) : NULL;
    return error_set(
        "modules \"%.60s\": \"%s\" is unknown%s%s%s; choose from mlp (gate, up, down), "
        "attention (q, k, v, o), qv, all, q_proj, k_proj, v_proj, o_proj, gate_proj, "
        "up_proj, down_proj, joined by '+', or re:PATTERN",
        choice->text, text, nearest ? " (did you mean \"" : "", nearest ? nearest : "",
        nearest ? "\"?)" : "");
}

static int choose_words(struct choice *choice)
{
    const char *word = choice->text;

    for (;;) {
        size_t n = strcspn(word, "+");
        if (choose_word(choice, word, n))
            return -1;
        if (!word[n])
            return 0;
        word += n + 1;
    }
}

static int choose_pattern(struct choice *choice, const char *pattern)
{
    char reason[128];
    int code;
    size_t offset;

    choice->pattern = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                    PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &code, &offset, NULL);
    if (!choice->pattern) {
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        return error_set("modules \"%.60s\": the pattern is wrong at character %zu: %s",
                         choice->text, offset + 1, reason);
    }
    choice->match = pcre2_match_data_create_from_pattern(choice->pattern, NULL);
    choice->limits = pcre2_match_context_create(NULL);
    if (!choice->match || !choice->limits)
        return error_set("out of memory");
    pcre2_set_match_limit(choice->limits, MATCH_LIMIT);
    return 0;
}

/* 1 or 0, or -1 with error_set when the pattern cannot be matched (it needs too many steps). */
static int is_chosen(const struct choice *choice, size_t layer, size_t projection)
{
    char subject[64], reason[128];

    if (!choice->layers[layer])
        return 0;
    if (!choice->pattern)
        return choice->mask >> projection & 1;
    int n = snprintf(subject, sizeof subject, "layers.%zu.%s", layer, projections[projection]);
    int rc = pcre2_match(choice->pattern, (PCRE2_SPTR)subject, (size_t)n, 0, 0, choice->match,
                         choice->limits);
    if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH)
        return rc >= 0;
    pcre2_get_error_message(rc, (PCRE2_UCHAR *)reason, sizeof reason);
    return error_set("modules \"%.60s\": the pattern cannot be searched in \"%s\": %s",
                     choice->text, subject, reason);
}

/* ---- which layers ------------------------------------------------------------------------------
 */

static bool read_number(const char **text, size_t *value)
{
    char *end;

    if (!isdigit((unsigned char)**text))
        return false;
    errno = 0;
    *value = strtoull(*text, &end, 10);
    *text = end;
    return errno == 0;
}

/* One of "7", "0-15", "0-31/2". */
static bool read_range(const char **text, size_t *first, size_t *last, size_t *step)
{
    *step = 1;
    if (!read_number(text, first))
        return false;
    *last = *first;
    if (**text == '-') {
        (*text)++;
        if (!read_number(text, last))
            return false;
        if (**text == '/') {
            (*text)++;
            if (!read_number(text, step))
                return false;
        }
    }
    return *last >= *first && *step > 0;
}

static int choose_layers(struct choice *choice, const char *layers, size_t n_layers)
{
    const char *at = layers ? layers : "";
    size_t first, last, step;

    choice->layers = calloc(n_layers + 1, sizeof *choice->layers);
    if (!choice->layers)
        return error_set("out of memory");
    if (!*at) {
        memset(choice->layers, true, n_layers);
        return 0;
    }
    for (;; at++) {
        if (!read_range(&at, &first, &last, &step) || (*at && *at != ','))
            return error_set("layers \"%.60s\": write them as 0-15, 3,5,7 or 0-31/2 (every "
                             "second)",
                             layers);
        if (last >= n_layers)
            return error_set("layers \"%.60s\": layer %zu is not there, the model has the layers "
                             "0 to %zu",
                             layers, last, n_layers - 1);
        for (size_t i = first; i <= last; i += step < n_layers ? step : n_layers)
            choice->layers[i] = true;
        if (!*at)
            return 0;
    }
}

/* ---- the model's matrices ----------------------------------------------------------------------
 */

/* "model.layers.7.mlp.down_proj.weight" -> 7 and the projection; false: another tensor. */
static bool parse_tensor(const struct layout_tensor *tensor, size_t *layer, size_t *projection)
{
    static const char start[] = "model.layers.", end[] = ".weight";
    const char *at = tensor->name;

    if (tensor->n_dims != 2 || strncmp(at, start, sizeof start - 1) != 0)
        return false;
    at += sizeof start - 1;
    if (!read_number(&at, layer) || *at++ != '.')
        return false;
    for (size_t i = 0; i < N_PROJECTIONS; i++) {
        size_t n = strlen(projections[i]);
        if (strncmp(at, projections[i], n) == 0 && strcmp(at + n, end) == 0) {
            *projection = i;
            return true;
        }
    }
    return false;
}

static void fill(struct module *module, const struct layout_tensor *tensor, size_t layer,
                 size_t projection)
{
    *module =
        (struct module){.layer = layer, .n_rows = tensor->shape[0], .n_columns = tensor->shape[1]};
    snprintf(module->name, sizeof module->name, "%s", projections[projection]);
    snprintf(module->tensor, sizeof module->tensor, "%s", tensor->name);
    snprintf(module->path, sizeof module->path, "/layers/%02zu/%s", layer, module->name);
}

static int collect(const struct model_config *config, const struct choice *choice,
                   struct module *modules, size_t *n_modules)
{
    struct layout_tensor tensor;
    size_t layer, projection, n = layout_size(config);

    for (size_t i = 0; i < n; i++) {
        layout_get(config, i, &tensor);
        if (!parse_tensor(&tensor, &layer, &projection))
            continue;
        int chosen = is_chosen(choice, layer, projection);
        if (chosen < 0)
            return -1;
        if (chosen)
            fill(&modules[(*n_modules)++], &tensor, layer, projection);
    }
    return *n_modules ? 0
                      : error_set("modules \"%.60s\" match none of the model's matrices; their "
                                  "names are like layers.7.self_attn.q_proj (k_proj, v_proj, "
                                  "o_proj) and layers.7.mlp.down_proj (gate_proj, up_proj)",
                                  choice->text);
}

int modules_select(const struct model_config *config, const char *what, const char *layers,
                   struct module **modules, size_t *n_modules)
{
    struct choice choice = {.text = what};
    int status = -1;

    *modules = NULL;
    *n_modules = 0;
    if (strncmp(what, "re:", 3) == 0 ? choose_pattern(&choice, what + 3) : choose_words(&choice))
        goto done;
    if (choose_layers(&choice, layers, config->n_layers))
        goto done;
    *modules = calloc(config->n_layers * N_PROJECTIONS + 1, sizeof **modules);
    if (!*modules) {
        error_set("out of memory");
        goto done;
    }
    status = collect(config, &choice, *modules, n_modules);
done:
    if (status) {
        free(*modules);
        *modules = NULL;
        *n_modules = 0;
    }
    free(choice.layers);
    pcre2_match_data_free(choice.match);
    pcre2_match_context_free(choice.limits);
    pcre2_code_free(choice.pattern);
    return status;
}
