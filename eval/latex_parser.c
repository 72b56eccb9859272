#include "eval/latex_parser.h"

#include <string.h>

int latex_fail(struct latex_parser *p)
{
    p->failed = true;
    p->token.kind = TOKEN_END;
    p->token.c = 0;
    p->token.text[0] = '\0';
    return 0;
}

void latex_move_to(struct latex_parser *p, const char *place)
{
    if (!p->failed && !latex_lex(place, p->brackets == 0, &p->token))
        latex_fail(p);
}

void latex_advance(struct latex_parser *p)
{
    if (p->token.kind != TOKEN_END)
        latex_move_to(p, p->token.end);
}

bool latex_at_char(const struct latex_parser *p, char c)
{
    return p->token.kind == TOKEN_CHAR && p->token.c == c;
}

bool latex_at_command(const struct latex_parser *p, const char *name)
{
    return p->token.kind == TOKEN_COMMAND && strcmp(p->token.text, name) == 0;
}

bool latex_at_any(const struct latex_parser *p, const char *const *names)
{
    for (; *names; names++)
        if (latex_at_command(p, *names))
            return true;
    return false;
}

void latex_expect(struct latex_parser *p, char c)
{
    if (latex_at_char(p, c))
        latex_advance(p);
    else
        latex_fail(p);
}

int latex_make(struct latex_parser *p, enum latex_kind kind, int op)
{
    struct latex_tree *tree = p->tree;

    if (tree->n == LATEX_MAX_NODES)
        return latex_fail(p);
    tree->nodes[tree->n] = (struct latex_node){.kind = kind,
                                               .op = op,
                                               .first = LATEX_NONE,
                                               .next = LATEX_NONE,
                                               .last = LATEX_NONE,
                                               .text = ""};
    return tree->n++;
}

void latex_add(struct latex_parser *p, int parent, int child)
{
    struct latex_node *nodes = p->tree->nodes;

    if (p->failed)
        return;
    if (nodes[parent].n == LATEX_MAX_ITEMS) {
        latex_fail(p);
        return;
    }
    if (nodes[parent].last == LATEX_NONE)
        nodes[parent].first = child;
    else
        nodes[nodes[parent].last].next = child;
    nodes[parent].last = child;
    nodes[parent].n++;
}

int latex_make_with(struct latex_parser *p, enum latex_kind kind, int op, int first, int second)
{
    int node = latex_make(p, kind, op);

    latex_add(p, node, first);
    if (second != LATEX_NONE)
        latex_add(p, node, second);
    return node;
}

int latex_make_text(struct latex_parser *p, enum latex_kind kind, const char *text, size_t length)
{
    struct latex_tree *tree = p->tree;
    int node = latex_make(p, kind, 0);

    if (p->failed || tree->n_text + length + 1 > tree->text_size)
        return latex_fail(p);
    memcpy(tree->text + tree->n_text, text, length);
    tree->text[tree->n_text + length] = '\0';
    tree->nodes[node].text = tree->text + tree->n_text;
    tree->n_text += length + 1;
    return node;
}

int latex_make_number(struct latex_parser *p, const char *digits)
{
    return latex_make_text(p, LATEX_NUMBER, digits, strlen(digits));
}

struct latex_outside latex_enter(struct latex_parser *p)
{
    struct latex_outside o = {p->bars, p->bare_argument};

    p->bars = 0;
    p->bare_argument = false;
    p->brackets++;
    return o;
}

void latex_leave(struct latex_parser *p, struct latex_outside o)
{
    p->bars = o.bars;
    p->bare_argument = o.bare_argument;
    p->brackets--;
}
