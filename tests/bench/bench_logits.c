/* bench_logits MODEL IDS.txt OUT [--dtype f32|bf16] [--isa LEVEL] [--chunk N] [--what
 * logits|argmax]
 *
 * Writes the logits of token sequences for comparison with a reference: IDS.txt has one line of
 * space-separated ids per sequence; OUT.f32 gets raw f32 [n_tokens, vocab] of each, one after the
 * other, or i32 [n_tokens] with the ids of the largest ones. */
#include <stdio.h>
#include <string.h>

#include "mpi/error.h"
#include "tests/model/run_logits.h"

static int run(const char *path, const char *ids_path, const char *out_path,
               const struct model_options *options, size_t chunk, bool argmax)
{
    struct checkpoint *ck = checkpoint_open(path);
    struct model *model = ck ? model_load(ck, options) : NULL;
    FILE *in = fopen(ids_path, "r"), *out = fopen(out_path, "wb");
    char *line = NULL;
    size_t capacity = 0;
    int status = -1;

    checkpoint_free(ck);
    if (!model)
        goto done;
    if (!in || !out) {
        error_set("%s or %s does not open", ids_path, out_path);
        goto done;
    }
    while (getline(&line, &capacity, in) > 0) {
        int32_t *ids = malloc((strlen(line) + 1) * sizeof *ids);
        size_t n = 0;
        char *at = line, *end;
        for (long id = strtol(at, &end, 10); end != at; id = strtol(at, &end, 10)) {
            ids[n++] = (int32_t)id;
            at = end;
        }
        const size_t n_logits = n * model->config.vocab_size;
        float *logits = malloc((n_logits + 1) * sizeof *logits);
        const int failed = n > 0 && run_logits(model, ids, n, chunk, logits) != 0;
        for (size_t i = 0; argmax && !failed && i < n; i++) {
            const float *row = logits + i * model->config.vocab_size;
            int32_t best = 0;
            for (size_t k = 1; k < model->config.vocab_size; k++)
                if (row[k] > row[best])
                    best = (int32_t)k;
            fwrite(&best, sizeof best, 1, out);
        }
        if (!failed && !argmax)
            fwrite(logits, sizeof *logits, n_logits, out);
        free(logits);
        free(ids);
        if (failed)
            goto done;
    }
    status = 0;
done:
    free(line);
    if (in)
        fclose(in);
    if (out)
        fclose(out);
    model_free(model);
    return status;
}

int main(int argc, char **argv)
{
    struct model_options options = {ELEMENT_F32, cpu_best_isa(), 2, {0}};
    size_t chunk = 512;
    bool argmax = false;

    if (argc < 4) {
        fprintf(stderr, "usage: bench_logits MODEL IDS.txt OUT [--dtype f32|bf16] [--isa LEVEL] "
                        "[--chunk N] [--what logits|argmax]\n");
        return 2;
    }
    for (int i = 4; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--dtype") == 0)
            options.element = strcmp(argv[i + 1], "bf16") == 0 ? ELEMENT_BF16 : ELEMENT_F32;
        else if (strcmp(argv[i], "--isa") == 0 && isa_parse(argv[i + 1], &options.isa) != 0)
            return fprintf(stderr, "%s\n", error_message()), 2;
        else if (strcmp(argv[i], "--chunk") == 0)
            chunk = (size_t)atol(argv[i + 1]);
        else if (strcmp(argv[i], "--what") == 0)
            argmax = strcmp(argv[i + 1], "argmax") == 0;
    }
    if (run(argv[1], argv[2], argv[3], &options, chunk, argmax) != 0) {
        fprintf(stderr, "bench_logits: %s\n", error_message());
        return 1;
    }
    return 0;
}
