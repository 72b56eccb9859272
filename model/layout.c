#include "model/layout.h"

#include <stdbool.h>
#include <stdio.h>

enum size { NO_SIZE, HIDDEN, FFN, QUERY, KEY_VALUE, HEAD, VOCABULARY };
enum need { ALWAYS, QKV_BIAS, OUTPUT_BIAS, MLP_BIAS, QK_NORM, UNTIED };
enum heads { NO_HEADS, QUERY_HEADS, KEY_HEADS };

struct part {
    const char *name, *gguf_name;
    enum size rows, columns; /* columns NO_SIZE: a vector */
    enum need need;
    enum heads interleaved;
};

static const struct part before[] = {
    {"model.embed_tokens.weight", "token_embd.weight", VOCABULARY, HIDDEN, ALWAYS, NO_HEADS},
};

static const struct part layer[] = {
    {"input_layernorm.weight", "attn_norm.weight", HIDDEN, NO_SIZE, ALWAYS, NO_HEADS},
    {"self_attn.q_proj.weight", "attn_q.weight", QUERY, HIDDEN, ALWAYS, QUERY_HEADS},
    {"self_attn.q_proj.bias", "attn_q.bias", QUERY, NO_SIZE, QKV_BIAS, QUERY_HEADS},
    {"self_attn.k_proj.weight", "attn_k.weight", KEY_VALUE, HIDDEN, ALWAYS, KEY_HEADS},
    {"self_attn.k_proj.bias", "attn_k.bias", KEY_VALUE, NO_SIZE, QKV_BIAS, KEY_HEADS},
    {"self_attn.v_proj.weight", "attn_v.weight", KEY_VALUE, HIDDEN, ALWAYS, NO_HEADS},
    {"self_attn.v_proj.bias", "attn_v.bias", KEY_VALUE, NO_SIZE, QKV_BIAS, NO_HEADS},
    {"self_attn.q_norm.weight", "attn_q_norm.weight", HEAD, NO_SIZE, QK_NORM, NO_HEADS},
    {"self_attn.k_norm.weight", "attn_k_norm.weight", HEAD, NO_SIZE, QK_NORM, NO_HEADS},
    {"self_attn.o_proj.weight", "attn_output.weight", HIDDEN, QUERY, ALWAYS, NO_HEADS},
    {"self_attn.o_proj.bias", "attn_output.bias", HIDDEN, NO_SIZE, OUTPUT_BIAS, NO_HEADS},
    {"post_attention_layernorm.weight", "ffn_norm.weight", HIDDEN, NO_SIZE, ALWAYS, NO_HEADS},
    {"mlp.gate_proj.weight", "ffn_gate.weight", FFN, HIDDEN, ALWAYS, NO_HEADS},
    {"mlp.gate_proj.bias", "ffn_gate.bias", FFN, NO_SIZE, MLP_BIAS, NO_HEADS},
    {"mlp.up_proj.weight", "ffn_up.weight", FFN, HIDDEN, ALWAYS, NO_HEADS},
    {"mlp.up_proj.bias", "ffn_up.bias", FFN, NO_SIZE, MLP_BIAS, NO_HEADS},
    {"mlp.down_proj.weight", "ffn_down.weight", HIDDEN, FFN, ALWAYS, NO_HEADS},
    {"mlp.down_proj.bias", "ffn_down.bias", HIDDEN, NO_SIZE, MLP_BIAS, NO_HEADS},
};

static const struct part after[] = {
    {"model.norm.weight", "output_norm.weight", HIDDEN, NO_SIZE, ALWAYS, NO_HEADS},
    {"lm_head.weight", "output.weight", VOCABULARY, HIDDEN, UNTIED, NO_HEADS},
};

enum {
    N_BEFORE = sizeof before / sizeof *before,
    N_LAYER = sizeof layer / sizeof *layer,
    N_AFTER = sizeof after / sizeof *after
};

static bool is_needed(const struct model_config *c, const struct part *p)
{
    switch (p->need) {
    case QKV_BIAS:
        return c->qkv_bias;
    case OUTPUT_BIAS:
        return c->output_bias;
    case MLP_BIAS:
        return c->mlp_bias;
    case QK_NORM:
        return c->qk_norm;
    case UNTIED:
        return !c->tied_embeddings;
    default:
        return true;
    }
}

static size_t count_needed(const struct model_config *c, const struct part *parts, size_t n)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++)
        count += is_needed(c, &parts[i]);
    return count;
}

/* The i-th needed one. */
static const struct part *pick(const struct model_config *c, const struct part *parts, size_t i)
{
    for (;; parts++)
        if (is_needed(c, parts) && i-- == 0)
            return parts;
}

static size_t size_of(const struct model_config *c, enum size size)
{
    switch (size) {
    case HIDDEN:
        return c->hidden_size;
    case FFN:
        return c->ffn_size;
    case QUERY:
        return c->n_heads * c->head_dim;
    case KEY_VALUE:
        return c->n_kv_heads * c->head_dim;
    case HEAD:
        return c->head_dim;
    case VOCABULARY:
        return c->vocab_size;
    default:
        return 0;
    }
}

static void fill(const struct model_config *c, const struct part *p, struct layout_tensor *t)
{
    t->n_dims = p->columns == NO_SIZE ? 1 : 2;
    t->shape[0] = size_of(c, p->rows);
    t->shape[1] = size_of(c, p->columns);
    t->interleaved_heads = p->interleaved == QUERY_HEADS ? c->n_heads
                           : p->interleaved == KEY_HEADS ? c->n_kv_heads
                                                         : 0;
}

size_t layout_size(const struct model_config *config)
{
    return N_BEFORE + config->n_layers * count_needed(config, layer, N_LAYER) +
           count_needed(config, after, N_AFTER);
}

void layout_get(const struct model_config *config, size_t i, struct layout_tensor *tensor)
{
    size_t a_layer = count_needed(config, layer, N_LAYER);
    const struct part *p;

    if (i >= N_BEFORE && i - N_BEFORE < config->n_layers * a_layer) {
        size_t number = (i - N_BEFORE) / a_layer;
        p = pick(config, layer, (i - N_BEFORE) % a_layer);
        snprintf(tensor->name, sizeof tensor->name, "model.layers.%zu.%s", number, p->name);
        snprintf(tensor->gguf_name, sizeof tensor->gguf_name, "blk.%zu.%s", number, p->gguf_name);
    } else {
        p = i < N_BEFORE ? &before[i]
                         : pick(config, after, i - N_BEFORE - config->n_layers * a_layer);
        snprintf(tensor->name, sizeof tensor->name, "%s", p->name);
        snprintf(tensor->gguf_name, sizeof tensor->gguf_name, "%s", p->gguf_name);
    }
    fill(config, p, tensor);
}
