#include "eval/code.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "mpi/error.h"

static bool is_name_byte(char c)
{
    return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

static bool line_defines(const char *line, const char *name)
{
    static const char *const words[] = {"def ", "class ", "async def "};
    const size_t n = strlen(name);

    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const size_t n_word = strlen(words[i]);
        if (strncmp(line, words[i], n_word) != 0)
            continue;
        const char *p = line + n_word + strspn(line + n_word, " ");
        return strncmp(p, name, n) == 0 && !is_name_byte(p[n]);
    }
    const char *after = line + n;
    if (strncmp(line, name, n) != 0)
        return false;
    after += strspn(after, " ");
    return *after == '=' && after[1] != '=';
}

bool code_defines(const char *code, const char *name)
{
    for (const char *line = code; *line;) {
        if (line_defines(line, name))
            return true;
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    return false;
}

struct block {
    const char *start, *end; /* NULL: none */
    bool python;             /* marked as such, or not at all */
};

/* The block that begins at or behind *p, which is moved behind it. False: no more. */
static bool next_block(const char **p, struct block *block)
{
    bool inside = false;

    for (const char *line = *p; *line;) {
        const size_t n = strcspn(line, "\n");
        const char *text = line + strspn(line, " \t"), *next = line + n + (line[n] == '\n');
        if (strncmp(text, "```", 3) == 0 && text < line + n) {
            if (inside) {
                block->end = line;
                *p = next;
                return true;
            }
            const char *mark = text + strspn(text, "`");
            mark += strspn(mark, " \t");
            block->python = strncasecmp(mark, "py", 2) == 0 || *mark == '\n' || *mark == '\r' ||
                            *mark == '\0' || *mark == '{';
            block->start = next;
            inside = true;
        }
        line = next;
    }
    if (!inside)
        return false;
    block->end = block->start + strlen(block->start);
    *p = block->end;
    return true;
}

static char *copy(const char *start, size_t n)
{
    char *text = strndup(start, n);

    if (!text)
        error_set("out of memory");
    return text;
}

char *code_extract(const char *answer, const char *entry, bool *fenced)
{
    struct block block, best = {0};
    const char *p = answer;

    while (next_block(&p, &block)) {
        if (entry && *entry) {
            char *code = copy(block.start, (size_t)(block.end - block.start));
            if (!code)
                return NULL;
            if (code_defines(code, entry)) {
                if (fenced)
                    *fenced = true;
                return code;
            }
            free(code);
        }
        if (!best.start || (block.python && !best.python))
            best = block;
    }
    if (fenced)
        *fenced = best.start != NULL;
    return best.start ? copy(best.start, (size_t)(best.end - best.start))
                      : copy(answer, strlen(answer));
}

/* The first line that is not blank starts at the left margin. */
static bool at_margin(const char *code)
{
    while (*code) {
        const size_t n = strspn(code, " \t\r");
        if (code[n] != '\n')
            return n == 0 && code[n];
        code += n + 1;
    }
    return false;
}

static void put_indented(FILE *out, const char *code)
{
    while (*code) {
        const size_t n = strcspn(code, "\n"), whole = n + (code[n] == '\n');
        if (n)
            fputs("    ", out);
        fwrite(code, 1, whole, out);
        code += whole;
    }
}

char *code_complete(const char *prompt, const char *answer, const char *entry)
{
    bool fenced;
    char *code = code_extract(answer, entry, &fenced), *text = NULL;
    size_t size = 0;

    if (!code || !prompt || !*prompt)
        return code;
    FILE *out = open_memstream(&text, &size);
    if (!out) {
        free(code);
        error_set("out of memory");
        return NULL;
    }
    fputs(prompt, out);
    const bool margin = at_margin(code);
    if (margin && entry && *entry && code_defines(code, entry))
        fprintf(out, "%s    pass\n\n%s", prompt[strlen(prompt) - 1] == '\n' ? "" : "\n", code);
    else if (margin && fenced)
        put_indented(out, code);
    else
        fputs(code, out);
    free(code);
    if (fclose(out)) {
        free(text);
        error_set("out of memory");
        return NULL;
    }
    return text;
}
