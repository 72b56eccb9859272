/* A page as one HTML file that needs nothing else: no scripts, no fonts, nothing from a network. A
 * content security policy says so to the browser as well, since answers of models are in it. */
#include <string.h>

#include "eval/page_internal.h"
#include "model/utf8.h"

static const char head[] =
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
    "style-src 'unsafe-inline'\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<meta name=\"color-scheme\" content=\"light dark\">\n";

static const char style[] =
    ":root{--page:#fbfbfa;--card:#fff;--ink:#1f2328;--soft:#656d76;--line:#d8dee4;--grid:#c9d1d9;"
    "--link:#0b61c4;--shade:58,124,222;--good:#1a7f37;--bad:#c0312b;--s1:#2563c9;--s2:#d9480f;"
    "--s3:#16855b;--s4:#8b44ac;--s5:#b08800;--s6:#0e7c92;--s7:#c2255c;--s8:#5c677d}\n"
    "@media(prefers-color-scheme:dark){:root{--page:#15181c;--card:#1c2025;--ink:#e4e7eb;"
    "--soft:#98a2ad;--line:#343b44;--grid:#4a525c;--link:#6cb0ff;--shade:90,150,250;--good:#4cc26f;"
    "--bad:#ff7b72;--s1:#6ea8fe;--s2:#ff8f4d;--s3:#4fc492;--s4:#cc92e8;--s5:#e3bc3a;--s6:#4cc0d6;"
    "--s7:#f57ba5;--s8:#9aa5b8}}\n"
    "*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}\n"
    "body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"
    "\"Segoe UI\",\"DejaVu Sans\",sans-serif}\n"
    ".wrap{display:grid;grid-template-columns:13rem minmax(0,1fr);gap:2rem;max-width:82rem;"
    "margin:0 auto;padding:1.5rem}\n"
    "nav{position:sticky;top:1rem;align-self:start;max-height:calc(100vh - 2rem);overflow:auto;"
    "font-size:14px}nav a{display:block;padding:.15rem 0;color:var(--soft);text-decoration:none}"
    "nav a:hover{color:var(--link);text-decoration:underline}nav a.sub{padding-left:1rem}\n"
    "td[style] a{color:inherit}\n"
    "h1{font-size:1.6rem;margin:0 0 1rem}h2{font-size:1.25rem;margin:2.2rem 0 .6rem;"
    "border-bottom:1px solid var(--line);padding-bottom:.25rem}h3{font-size:1.05rem;margin:1.5rem "
    "0 "
    ".4rem}main>section:first-of-type h2{margin-top:0}\n"
    "a{color:var(--link)}p{margin:.5rem 0;max-width:48rem}.hint{color:var(--soft);border-left:3px "
    "solid var(--line);padding:.1rem 0 .1rem .8rem}\n"
    "code{font:13px/1.4 ui-monospace,\"DejaVu Sans Mono\",monospace;overflow-wrap:anywhere}\n"
    ".scroll{overflow-x:auto;margin:.6rem 0 1rem;max-width:100%}\n"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px;"
    "background:var(--card);border:1px solid var(--line)}caption{text-align:left;color:var(--soft);"
    "padding:.2rem 0 .35rem}\n"
    "th,td{padding:.28rem .7rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:"
    "top;white-space:nowrap}td.w{white-space:normal;overflow-wrap:anywhere;min-width:14rem}"
    "th{font-weight:600}.r{text-align:right}tr:last-child td{border-bottom:0}\n"
    ".figures{display:flex;flex-wrap:wrap;gap:1rem;margin:.8rem 0}figure{margin:0;padding:.7rem "
    ".8rem;background:var(--card);border:1px solid var(--line);border-radius:6px;flex:1 1 27rem;"
    "max-width:38rem;min-width:0}figcaption{font-size:14px;font-weight:600;margin-bottom:.3rem}"
    "figure svg{display:block;width:100%;height:auto;color:var(--ink)}\n"
    "details{border:1px solid var(--line);border-radius:6px;background:var(--card);margin:.4rem 0;"
    "padding:.35rem .8rem}summary{cursor:pointer}details details{margin:.5rem 0}"
    ".right{color:var(--good);font-weight:600}.wrong{color:var(--bad);font-weight:600}\n"
    "dl{margin:.4rem 0;display:grid;grid-template-columns:4.5rem minmax(0,1fr);gap:.35rem .6rem}dt{"
    "color:var(--soft)}dd{margin:0}pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;"
    "unicode-bidi:plaintext;max-height:24rem;overflow:auto;font:13px/1.45 ui-monospace,\"DejaVu "
    "Sans "
    "Mono\",monospace}\n"
    "@media(max-width:52rem){.wrap{display:block;padding:1rem}nav{position:static;max-height:none;"
    "margin-bottom:1.5rem}nav a{display:inline-block;margin-right:1rem}nav "
    "a.sub{display:none}dl{grid-template-columns:minmax(0,1fr)}figure{padding:.5rem}}\n"
    "@media print{nav{display:none}.wrap{display:block}}\n";

/* Text as text: markup, control characters and what reorders or hides text become harmless. */
static void put_text(FILE *out, const char *s)
{
    const size_t n = strlen(s);

    for (size_t i = 0; i < n;) {
        uint32_t c;
        const size_t length = utf8_decode(s + i, n - i, &c, NULL);
        const bool control = (c < 0x20 && c != '\n' && c != '\t') || (c >= 0x7f && c < 0xa0) ||
                             (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) ||
                             c == 0xfffd || (c & 0xfffe) == 0xfffe;
        if (control)
            fputs("&#xfffd;", out);
        else if (c == '<' || c == '>' || c == '&' || c == '"' || c == '\'')
            fprintf(out, "&#%u;", (unsigned)c);
        else
            fwrite(s + i, 1, length, out);
        i += length;
    }
}

static void put_table(const struct page_table *t, FILE *out)
{
    fputs("<div class=\"scroll\"><table>", out);
    if (*t->title) {
        fputs("<caption>", out);
        put_text(out, t->title);
        fputs("</caption>", out);
    }
    fputs("<thead><tr>", out);
    for (size_t i = 0; i < t->n_columns; i++) {
        fprintf(out, "<th scope=\"col\"%s>", t->align[i] == 'r' ? " class=\"r\"" : "");
        put_text(out, t->heads[i] ? t->heads[i] : "");
        fputs("</th>", out);
    }
    fputs("</tr></thead>\n<tbody>", out);
    for (size_t i = 0; i < t->n_cells; i++) {
        const struct page_cell *c = &t->cells[i];
        const size_t column = i % t->n_columns;
        fputs(column == 0 ? "<tr><td" : "<td", out);
        if (t->align[column] == 'r')
            fputs(" class=\"r\"", out);
        else if (strlen(c->text) > 40)
            fputs(" class=\"w\"", out);
        if (c->shade >= 0)
            fprintf(out, " style=\"background:rgba(var(--shade),%.3f)\"", 0.5 * c->shade);
        fputc('>', out);
        if (c->link)
            fprintf(out, "<a href=\"#%s\">", c->link);
        put_text(out, c->text);
        fputs(c->link ? "</a></td>" : "</td>", out);
        if (column == t->n_columns - 1)
            fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div>\n", out);
}

static void put_field(const char *label, const char *text, FILE *out)
{
    fprintf(out, "<dt>%s</dt><dd><pre dir=\"auto\">", label);
    put_text(out, text);
    fputs("</pre></dd>", out);
}

static void put_items(const struct page_items *items, FILE *out)
{
    fprintf(out, "<details id=\"%s\"><summary>", items->id);
    put_text(out, items->title);
    fputs("</summary>\n", out);
    for (size_t i = 0; i < items->n; i++) {
        const struct page_item *item = &items->items[i];
        fprintf(out, "<details><summary><span class=\"%s\">%s</span> ",
                item->right ? "right" : "wrong", item->right ? "right" : "wrong");
        put_text(out, item->name);
        fputs("</summary><dl>", out);
        put_field("prompt", item->prompt, out);
        put_field("answer", item->answer, out);
        put_field("gold", item->gold, out);
        fputs("</dl></details>\n", out);
    }
    fputs("</details>\n", out);
}

static void put_block(const struct page_block *b, FILE *out)
{
    switch (b->type) {
    case BLOCK_TEXT:
    case BLOCK_HINT:
        fputs(b->type == BLOCK_HINT ? "<p class=\"hint\">" : "<p>", out);
        put_text(out, b->text);
        fputs("</p>\n", out);
        break;
    case BLOCK_LINK:
        fprintf(out, "<p>See <a href=\"#%s\">", b->id);
        put_text(out, b->text);
        fputs("</a>.</p>\n", out);
        break;
    case BLOCK_TABLE:
        put_table(b->table, out);
        break;
    case BLOCK_FIGURE:
        fputs("<figure><figcaption>", out);
        put_text(out, b->text);
        fprintf(out, "</figcaption>%s</figure>\n", b->svg); /* made by plot.c */
        break;
    case BLOCK_ITEMS:
        put_items(b->items, out);
        break;
    }
}

static void put_section(const struct page_section *s, FILE *out)
{
    bool figures = false;

    fprintf(out, "<section id=\"%s\"><h%d>", s->id, s->level + 1);
    put_text(out, s->title);
    fprintf(out, "</h%d>\n", s->level + 1);
    for (size_t i = 0; i < s->n; i++) {
        const bool figure = s->blocks[i].type == BLOCK_FIGURE;
        if (figure != figures)
            fputs(figure ? "<div class=\"figures\">\n" : "</div>\n", out);
        figures = figure;
        put_block(&s->blocks[i], out);
    }
    fputs(figures ? "</div>\n</section>\n" : "</section>\n", out);
}

void page_write_html(const struct page *page, FILE *out)
{
    fprintf(out, "%s<title>", head);
    put_text(out, page->title);
    fprintf(out, "</title>\n<style>\n%s</style></head>\n<body><div class=\"wrap\"><nav>\n", style);
    for (size_t i = 0; i < page->n; i++) {
        const struct page_section *s = page->sections[i];
        fprintf(out, "<a href=\"#%s\"%s>", s->id, s->level > 1 ? " class=\"sub\"" : "");
        put_text(out, s->title);
        fputs("</a>\n", out);
    }
    fputs("</nav><main><h1>", out);
    put_text(out, page->title);
    fputs("</h1>\n", out);
    for (size_t i = 0; i < page->n; i++)
        put_section(page->sections[i], out);
    fputs("</main></div></body></html>\n", out);
}
