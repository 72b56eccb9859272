#include "model/describe.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/chat.h"
#include "model/gguf.h"
#include "mpi/error.h"
#include "mpi/text.h"

enum { LABEL_WIDTH = 14 };

/* ---- numbers for people -----------------------------------------------------------------------
 */

struct text {
    char s[48];
};

/* 134515008 -> "134.5 M" */
static struct text count_text(double n)
{
    static const char *const units[] = {"", " k", " M", " G", " T"};
    struct text t;
    size_t unit = 0;

    for (; n >= 999.95 && unit < 4; unit++)
        n /= 1000;
    snprintf(t.s, sizeof t.s, unit ? "%.1f%s" : "%.0f%s", n, units[unit]);
    return t;
}

static struct text bytes_text(double n)
{
    static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB"};
    struct text t;
    size_t unit = 0;

    for (; n >= 999.95 && unit < 4; unit++)
        n /= 1000;
    snprintf(t.s, sizeof t.s, unit ? "%.1f %s" : "%.0f %s", n, units[unit]);
    return t;
}

static struct text shape_text(const struct tensor *tensor)
{
    struct text t;
    int at = 0;

    for (size_t i = 0; i < tensor->n_dims && at < 40; i++)
        at +=
            snprintf(t.s + at, sizeof t.s - (size_t)at, "%s%zu", i ? " x " : "", tensor->shape[i]);
    return t;
}

static size_t n_elements(const struct tensor *t)
{
    return tensor_n_rows(t) * tensor_row_elements(t);
}

static void label(FILE *out, const char *text)
{
    fprintf(out, "  %-*s", LABEL_WIDTH, text);
}

/* Names out of a file may hold anything; a terminal gets printable characters only. */
static void put_printable(FILE *out, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        putc(text_printable(text[i], '?'), out);
}

/* ---- the parts --------------------------------------------------------------------------------
 */

static void put_title(const struct checkpoint *ck, FILE *out)
{
    const char *text, *path = checkpoint_path(ck);
    size_t n, width;

    if (checkpoint_gguf(ck) && gguf_get_string(checkpoint_gguf(ck), "general.name", &text, &n) &&
        n > 0) {
        width = n < 70 ? n : 70;
    } else {
        size_t end = strlen(path);
        while (end > 1 && path[end - 1] == '/')
            end--;
        size_t start = end;
        while (start > 0 && path[start - 1] != '/')
            start--;
        text = path + start;
        width = end - start;
    }
    put_printable(out, text, width);
    putc('\n', out);
    for (size_t i = 0; i < width; i++)
        putc('-', out);
    putc('\n', out);
}

static void put_parameters(const struct checkpoint *ck, FILE *out, size_t *total)
{
    const struct tensor *embedding = checkpoint_find(ck, "model.embed_tokens.weight");
    bool tied = checkpoint_config(ck)->tied_embeddings;

    *total = 0;
    for (size_t i = 0; i < checkpoint_n_tensors(ck); i++)
        *total += n_elements(checkpoint_tensor(ck, i));
    label(out, "parameters");
    fprintf(out, "%s (%zu), %s of them the embedding%s\n", count_text((double)*total).s, *total,
            count_text((double)n_elements(embedding)).s,
            tied ? ", which is the output head as well" : "");
}

static void put_shape(const struct model_config *c, FILE *out)
{
    label(out, "layers");
    fprintf(out, "%zu, hidden size %zu, feed-forward %zu\n", c->n_layers, c->hidden_size,
            c->ffn_size);
    label(out, "attention");
    fprintf(out, "%zu heads of %zu", c->n_heads, c->head_dim);
    if (c->n_kv_heads != c->n_heads)
        fprintf(out, ", %zu key/value head%s", c->n_kv_heads, c->n_kv_heads == 1 ? "" : "s");
    if (c->sliding_window) {
        fprintf(out, ", sliding window %zu", c->sliding_window);
        if (c->window_first_layer)
            fprintf(out, " from layer %zu on", c->window_first_layer);
    }
    fprintf(out, "%s%s%s%s\n", c->qk_norm ? ", query/key norm" : "",
            c->qkv_bias ? ", query/key/value bias" : "", c->output_bias ? ", output bias" : "",
            c->mlp_bias ? ", feed-forward bias" : "");
    label(out, "vocabulary");
    fprintf(out, "%zu tokens\n", c->vocab_size);
    label(out, "context");
    fprintf(out, "%zu tokens\n", c->max_positions);
}

static void put_rope(const struct rope_config *r, FILE *out)
{
    label(out, "rotary");
    fprintf(out, "base %g", r->theta);
    if (r->kind != ROPE_DEFAULT)
        fprintf(out, ", %s scaling by %g", rope_kind_name(r->kind), r->factor);
    if (r->kind == ROPE_LLAMA3 || r->kind == ROPE_YARN)
        fprintf(out, " (trained on %g positions)", r->original_max_positions);
    if (r->frequency_factors)
        fprintf(out, ", frequency factors from the file");
    putc('\n', out);
}

static void put_types(const struct checkpoint *ck, FILE *out)
{
    size_t elements[TENSOR_TYPE_COUNT] = {0}, tensors[TENSOR_TYPE_COUNT] = {0};
    bool used[TENSOR_TYPE_COUNT] = {false};

    for (size_t i = 0; i < checkpoint_n_tensors(ck); i++) {
        const struct tensor *t = checkpoint_tensor(ck, i);
        elements[t->type] += n_elements(t);
        tensors[t->type]++;
    }
    label(out, "weights");
    for (int n = 0; n < TENSOR_TYPE_COUNT; n++) { /* the largest share first */
        int best = -1;
        for (int i = 0; i < TENSOR_TYPE_COUNT; i++)
            if (!used[i] && elements[i] > 0 && (best < 0 || elements[i] > elements[best]))
                best = i;
        if (best < 0)
            break;
        used[best] = true;
        fprintf(out, "%s%s %s in %zu tensor%s", n ? ", " : "",
                tensor_type_name((enum tensor_type)best), count_text((double)elements[best]).s,
                tensors[best], tensors[best] == 1 ? "" : "s");
    }
    putc('\n', out);
}

/* Files in which tensors lie, each once. */
static void put_files(const struct checkpoint *ck, FILE *out)
{
    double total = 0;
    size_t n_files = 0;

    for (size_t i = 0; i < checkpoint_n_tensors(ck); i++) {
        const char *file = checkpoint_tensor(ck, i)->file;
        struct stat st;
        bool seen = false;
        for (size_t j = 0; j < i && !seen; j++)
            seen = checkpoint_tensor(ck, j)->file == file;
        if (!seen && stat(file, &st) == 0) {
            total += (double)st.st_size;
            n_files++;
        }
    }
    label(out, "on disk");
    fprintf(out, "%s in ", bytes_text(total).s);
    if (checkpoint_gguf(ck))
        fprintf(out, "a GGUF file\n");
    else
        fprintf(out, "%zu safetensors file%s\n", n_files, n_files == 1 ? "" : "s");
}

static bool folder_has(const char *dir, const char *name)
{
    char path[4096];

    return snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path &&
           access(path, R_OK) == 0;
}

static void put_tokenizer(const struct checkpoint *ck, FILE *out)
{
    const struct gguf *gguf = checkpoint_gguf(ck);
    const struct model_config *c = checkpoint_config(ck);
    const char *text;
    size_t n;

    label(out, "tokenizer");
    if (gguf && gguf_get_string(gguf, "tokenizer.ggml.model", &text, &n)) {
        put_printable(out, text, n < 40 ? n : 40);
        if (gguf_get_string(gguf, "tokenizer.ggml.pre", &text, &n)) {
            fputs(" (", out);
            put_printable(out, text, n < 40 ? n : 40);
            putc(')', out);
        }
    } else if (!gguf && folder_has(checkpoint_path(ck), "tokenizer.json")) {
        fputs("tokenizer.json", out);
    } else if (!gguf && folder_has(checkpoint_path(ck), "tokenizer.model")) {
        fputs("tokenizer.model", out);
    } else {
        fputs("none", out);
    }
    if (c->bos_id >= 0)
        fprintf(out, ", first token %d", c->bos_id);
    for (size_t i = 0; i < c->n_eos; i++)
        fprintf(out, "%s%d", i ? " or " : ", ends with ", c->eos_ids[i]);
    putc('\n', out);
}

static const char *template_family(const char *text)
{
    struct chat_format format = {0};
    const char *name = "a template that t2 does not recognise";

    if (!text)
        return "none";
    if (chat_recognise(&format, text, NULL, "", "") == 0)
        name = chat_family_name(format.family);
    error_clear();
    chat_free(&format);
    return name;
}

/* Weights and one token's keys and values. */
static void put_memory(const struct model_config *c, size_t n_parameters, FILE *out)
{
    double cache = 2.0 * (double)(c->n_layers * c->n_kv_heads * c->head_dim);
    double parameters = (double)n_parameters;

    label(out, "memory");
    fprintf(out, "%s in bf16, ", bytes_text(2 * parameters).s);
    fprintf(out, "%s in f32", bytes_text(4 * parameters).s);
    fprintf(out, "; a token's keys and values %s", bytes_text(4 * cache).s);
    fprintf(out, " (%s in bf16 on AMX)\n", bytes_text(2 * cache).s);
}

/* ---- tables -----------------------------------------------------------------------------------
 */

/* layers.2 before layers.10 */
static int compare_naturally(const void *a, const void *b)
{
    return strverscmp((*(const struct tensor *const *)a)->name,
                      (*(const struct tensor *const *)b)->name);
}

static int put_tensors(const struct checkpoint *ck, FILE *out)
{
    size_t n = checkpoint_n_tensors(ck), width = 0;
    const struct tensor **order = malloc((n + 1) * sizeof *order);

    if (!order)
        return error_set("%s: out of memory", checkpoint_path(ck));
    for (size_t i = 0; i < n; i++) {
        order[i] = checkpoint_tensor(ck, i);
        width = strlen(order[i]->name) > width ? strlen(order[i]->name) : width;
    }
    qsort(order, n, sizeof *order, compare_naturally);
    fprintf(out, "\n  %-*s  %-5s %18s  %10s\n", (int)width, "tensor", "type", "shape", "bytes");
    for (size_t i = 0; i < n; i++)
        fprintf(out, "  %-*s  %-5s %18s  %10s\n", (int)width, order[i]->name,
                tensor_type_name(order[i]->type), shape_text(order[i]).s,
                bytes_text((double)order[i]->n_bytes).s);
    free(order);
    return 0;
}

static void put_metadata(const struct gguf *gguf, FILE *out)
{
    char value[100];
    size_t width = 0;

    for (size_t i = 0; i < gguf_n_keys(gguf); i++) {
        size_t n = strlen(gguf_key(gguf, i));
        width = n > width && n <= 60 ? n : width;
    }
    fprintf(out, "\n  %-*s  value\n", (int)width, "key");
    for (size_t i = 0; i < gguf_n_keys(gguf); i++) {
        const char *key = gguf_key(gguf, i);
        size_t n = strlen(key);
        gguf_describe_value(gguf, i, value, sizeof value);
        fputs("  ", out);
        put_printable(out, key, n < 200 ? n : 200);
        fprintf(out, "%*s  %s\n", n < width ? (int)(width - n) : 0, "", value);
    }
}

int checkpoint_describe(const struct checkpoint *ck, FILE *out, bool verbose)
{
    const struct model_config *c = checkpoint_config(ck);
    size_t n_parameters;

    put_title(ck, out);
    label(out, "family");
    fprintf(out, "%s (%s)\n", family_name(c->family), c->architecture);
    put_parameters(ck, out, &n_parameters);
    put_shape(c, out);
    put_rope(&c->rope, out);
    put_types(ck, out);
    put_files(ck, out);
    put_tokenizer(ck, out);
    label(out, "chat format");
    fprintf(out, "%s\n", template_family(checkpoint_chat_template(ck)));
    put_memory(c, n_parameters, out);
    if (verbose && checkpoint_gguf(ck))
        put_metadata(checkpoint_gguf(ck), out);
    if (verbose && put_tensors(ck, out) != 0)
        return -1;
    return ferror(out)
               ? error_set("the description of %s could not be written", checkpoint_path(ck))
               : 0;
}
