/* The readers of results files (t2 inspect, t2 report) on HDF5 files that are well-formed but for
 * what they say: what pass one chose, mixtures, scores, items. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eval/report.h"
#include "eval/results.h"
#include "tests/fuzz/h5_put.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ITEMS = 3, EXPERTS = 2, DOMAINS = 3 };

static void put_items(struct feed *feed, hid_t task)
{
    static const char *const texts[] = {"id", "prompt", "answer", "gold", "expert", "domain"};
    static const char *const numbers[] = {
        "correct",   "correct_normalised", "n_samples",   "n_right", "predicted", "gold_index",
        "n_choices", "n_prompt_tokens",    "n_generated", "finish",  "index"};
    hid_t items = h5_group_create(task, "items");

    if (items < 0)
        return;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        put_texts(feed, items, texts[i], ITEMS);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (take(feed, 16) != 1)
            put_dataset(feed, items, numbers[i], ITEMS);
    put_grid(feed, items, "logprobs", ITEMS, 2);
    H5Gclose(items);
}

static void put_pass(struct feed *feed, hid_t adapt, const char *name)
{
    hid_t pass = take(feed, 16) != 1 ? h5_group_create(adapt, name) : (hid_t)-1;

    if (pass < 0)
        return;
    put_real(feed, pass, "seconds");
    put_int(feed, pass, "prompt_tokens", 100);
    H5Gclose(pass);
}

static void put_adapt(struct feed *feed, hid_t task)
{
    hid_t adapt = h5_group_create(task, "adapt");

    if (adapt < 0)
        return;
    put_text(feed, adapt, "strategy", "prompt");
    put_text(feed, adapt, "way", "rank");
    put_text(feed, adapt, "domain", "math");
    put_real(feed, adapt, "share_right");
    put_pass(feed, adapt, "pass_one");
    put_pass(feed, adapt, "pass_two");
    put_texts(feed, adapt, "experts", EXPERTS);
    put_texts(feed, adapt, "domains", DOMAINS);
    put_dataset(feed, adapt, "used", EXPERTS + 1);
    put_dataset(feed, adapt, "chosen", DOMAINS);
    H5Gclose(adapt);
}

static void put_task(struct feed *feed, hid_t tasks)
{
    static const char *const names[] = {"add", "sst2", "math", "<i>", "humaneval"};
    static const char *const reals[] = {"accuracy", "accuracy_error",   "accuracy_normalised",
                                        "auc",      "gold_probability", "pass_at_k",
                                        "seconds",  "tokens_per_second"};
    const char *name = names[take(feed, 5)];

    if (take(feed, 32) == 1) {
        H5Lcreate_soft("/tasks", tasks, name, H5P_DEFAULT, H5P_DEFAULT);
        return;
    }
    hid_t task = h5_group_create(tasks, name);
    if (task < 0)
        return;
    put_text(feed, task, "dataset", "add");
    put_text(feed, task, "split", "test");
    put_text(feed, task, "scoring", "generate");
    put_text(feed, task, "settings", "[task]\nname = add\nnormalise = chars\n");
    put_int(feed, task, "n_items", ITEMS);
    put_int(feed, task, "samples", 1);
    put_int(feed, task, "k", 1);
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        put_real(feed, task, reals[i]);
    put_items(feed, task);
    if (take(feed, 2))
        put_adapt(feed, task);
    H5Gclose(task);
}

static void put_results(struct feed *feed, hid_t file)
{
    hid_t group;

    put_text(feed, file, "kind", "t2 results");
    put_int(feed, file, "format_version", 1);
    put_text(feed, file, "command_line", "t2 eval MODEL");
    put_text(feed, file, "options", "[eval]\ntasks = add\n");
    put_text(feed, file, "model", "a/model.gguf");
    put_text(feed, file, "started", "2026-11-22T01:02:03Z");
    put_int(feed, file, "n_parameters", 1000);
    put_int(feed, file, "ranks", 2);
    put_int(feed, file, "threads", 1);
    put_real(feed, file, "seconds");
    if (take(feed, 16) != 1 && (group = h5_group_create(file, "tasks")) >= 0) {
        for (size_t i = 0, n = 1 + take(feed, 3); i < n; i++)
            put_task(feed, group);
        H5Gclose(group);
    }
    if (take(feed, 2) && (group = h5_group_create(file, "adapt")) >= 0) {
        put_texts(feed, group, "domains", DOMAINS);
        put_grid(feed, group, "confusion", DOMAINS, DOMAINS);
        H5Gclose(group);
    }
    if (take(feed, 2) && (group = h5_group_create(file, "mixture")) >= 0) {
        put_grid(feed, group, "alpha", 2, EXPERTS);
        put_texts(feed, group, "experts", EXPERTS);
        put_texts(feed, group, "files", EXPERTS);
        put_texts(feed, group, "groups", 2);
        H5Gclose(group);
    }
}

static void use(const char *path, enum page_format format)
{
    const struct report_options options = {.n_items = 3};
    char *notice = NULL;
    FILE *null = fopen("/dev/null", "w");

    if (!null)
        abort();
    (void)results_describe(path, null);
    struct page *page = report_build(&path, 1, &options, &notice);
    if (page)
        (void)page_write(page, format, null);
    page_free(page);
    free(notice);
    fclose(null);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct feed feed = {data, size};
    struct h5_quiet quiet;
    char path[64];

    snprintf(path, sizeof path, "/dev/shm/t2-fuzz-results-%ld.h5", (long)getpid());
    const enum page_format format = (enum page_format)take(&feed, 4);
    h5_quiet_begin(&quiet);
    hid_t file = h5_create("fuzz");
    put_results(&feed, file);
    write_file(file, path);
    h5_close(file);
    h5_quiet_end(&quiet);
    use(path, format);
    unlink(path);
    return 0;
}
