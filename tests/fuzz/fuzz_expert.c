/* The readers of expert files, mixtures, live curves, and the states of training and adaptation,
 * what t2 inspect and t2 watch show of them, and what moves experts to other models, on HDF5 files
 * that are well-formed but for what they say: the input picks attributes, names, links, types,
 * shapes and values. (Bytes that are no proper HDF5 at all would test libhdf5, whose 1.10 loops for
 * ever on some.) */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eval/mixture_file.h"
#include "jobs/adapt_result.h"
#include "jobs/adapt_state.h"
#include "jobs/watch_view.h"
#include "model/expert.h"
#include "model/transfer.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"
#include "mpi/h5_live.h"
#include "tests/fuzz/h5_put.h"
#include "tests/model/factors_files.h"
#include "train/curve_read.h"
#include "train/state.h"
#include "train/train_result.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put_matrix(struct feed *feed, hid_t layer, size_t number)
{
    static const char *const names[] = {"mlp.down_proj", "self_attn.q_proj", "lm_head", "z"};
    const char *name = names[take(feed, 4)];
    char tensor[96];

    if (take(feed, 16) == 1) {
        H5Lcreate_soft("/layers", layer, name, H5P_DEFAULT, H5P_DEFAULT);
        return;
    }
    if (take(feed, 16) == 1) {
        H5Lcreate_external("/dev/null", "/", layer, name, H5P_DEFAULT, H5P_DEFAULT);
        return;
    }
    hid_t group = h5_group_create(layer, name);
    if (group < 0)
        return;
    snprintf(tensor, sizeof tensor, "model.layers.%zu.%s.weight", number, name);
    put_text(feed, group, "tensor", tensor);
    put_int(feed, group, "layer", (int64_t)number);
    put_int(feed, group, "n_rows", 3);
    put_int(feed, group, "n_columns", 4);
    if (take(feed, 8) != 1)
        put_dataset(feed, group, "z", 3);
    if (take(feed, 4) == 1)
        put_dataset(feed, group, take(feed, 4) == 1 ? "p_" : "p", 3);
    H5Gclose(group);
}

static void put_expert(struct feed *feed, hid_t file)
{
    static const char *const columns[] = {"reward", "accuracy", "entropy", "kl", "gradient_norm"};

    put_text(feed, file, "kind", "t2 expert");
    put_int(feed, file, "format_version", 1);
    put_text(feed, file, "identity",
             "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
    put_text(feed, file, "adapter", "svf");
    put_text(feed, file, "parametrisation", "direct");
    put_text(feed, file, "factors", "f.h5");
    put_int(feed, file, "steps", 3);
    put_real(feed, file, "seconds");
    put_real(feed, file, "valid_before");
    put_real(feed, file, "valid_best");
    put_layers(feed, file, put_matrix);
    hid_t curve = h5_group_create(file, "curve");
    for (size_t i = 0; i < 5; i++)
        put_dataset(feed, curve, columns[i], 3);
    H5Gclose(curve);
}

static void put_state(struct feed *feed, hid_t file)
{
    static const char *const vectors[] = {"parameters", "moment1", "moment2"};

    put_text(feed, file, "kind", "t2 training state");
    put_int(feed, file, "format_version", 1);
    put_text(feed, file, "settings", "seed = 1\n");
    put_int(feed, file, "step", 0);
    put_int(feed, file, "optimizer_step", 0);
    put_int(feed, file, "best_step", 0);
    put_real(feed, file, "best_score");
    put_real(feed, file, "rate_scale");
    put_int(feed, file, "n_rollbacks", 0);
    put_int(feed, file, "last_alarm", 0);
    for (size_t i = 0; i < 3; i++)
        put_dataset(feed, file, vectors[i], 3);
    if (take(feed, 2))
        put_dataset(feed, file, "best_parameters", 3);
    put_dataset(feed, file, "curve", 0);
    put_dataset(feed, file, "validations", 0);
}

static void put_adaptation(struct feed *feed, hid_t file)
{
    static const char *const columns[] = {"best",    "best_tie",     "mean",        "least",
                                          "most",    "n_candidates", "n_abandoned", "n_evaluated",
                                          "seconds", "means",        "deviations",  "bests"};

    put_text(feed, file, "kind", "t2 adaptation state");
    put_int(feed, file, "format_version", 1);
    put_text(feed, file, "settings", "seed = 1\n");
    put_text(feed, file, "method", "cem");
    put_int(feed, file, "iteration", 1);
    put_real(feed, file, "best");
    put_dataset(feed, file, "search", 4 + 3);
    hid_t curve = h5_group_create(file, "curve");
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        if (take(feed, 16) != 1)
            put_dataset(feed, curve, columns[i], 1);
    H5Gclose(curve);
}

/* What t2 adapt puts beside an expert's matrices. */
static void put_mixture(struct feed *feed, hid_t file)
{
    static const char *const columns[] = {"shots", "shots_error", "test", "test_error", "gap"};

    put_text(feed, file, "adaptation", "cem");
    put_text(feed, file, "mix", "z");
    put_int(feed, file, "shots", 3);
    put_int(feed, file, "iterations", 3);
    put_int(feed, file, "test_items", 3);
    put_real(feed, file, "best");
    hid_t group = h5_group_create(file, "mixture");
    put_grid(feed, group, "alpha", 2, 3);
    put_texts(feed, group, "experts", 3);
    put_texts(feed, group, "files", 3);
    put_texts(feed, group, "groups", 2);
    H5Gclose(group);
    group = h5_group_create(file, "scores");
    for (size_t i = 0; i < 5; i++)
        put_dataset(feed, group, columns[i], 3);
    H5Gclose(group);
}

static void put_live(struct feed *feed, hid_t file)
{
    static const char *const numbers[] = {"format_version", "planned_steps", "began_step",
                                          "validate_every", "ranks",         "pid"};
    static const char *const texts[] = {"task", "adapter", "host", "pid_namespace", "started"};

    put_text(feed, file, "kind", LIVE_CURVE_KIND);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        put_int(feed, file, numbers[i], 1);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        put_text(feed, file, texts[i], texts[i]);
    put_real(feed, file, "began");
    if (take(feed, 8) != 1)
        h5_live_text(file, "state", "running", take(feed, 8) == 1 ? 3 : LIVE_STATE_BYTES);
    else
        put_dataset(feed, file, "state", 1);
    put_dataset(feed, file, "updated", 1);
    hid_t group = h5_group_create(file, "curve");
    for (size_t i = 0; i < TRAIN_POINT_COLUMNS; i++)
        if (take(feed, 16) != 1)
            put_dataset(feed, group, train_point_names[i], 3);
    H5Gclose(group);
    group = h5_group_create(file, "validation");
    put_dataset(feed, group, "step", 2);
    put_dataset(feed, group, "score", 2);
    H5Gclose(group);
}

static void use_curve(const char *path, FILE *null)
{
    const struct watch_place here = watch_place_here();
    struct curve_file c;

    if (curve_read(&c, path) != 0)
        return;
    const enum watch_life life = watch_life(&c, &here, 1000);
    watch_print(null, &c, life, 1000, 80, true);
    watch_print_line(null, &c, life, 1000);
    curve_free(&c);
}

/* One expert of one matrix with one component: a search of one coordinate. */
static void use_adaptation(const char *path, FILE *null)
{
    float one = 1, *z = &one;
    struct module module = {.name = "mlp.down_proj", .n_rows = 1, .n_columns = 1};
    size_t first[2] = {0, 1}, layer = 0;
    const struct expert_set set = {.n = 1,
                                   .modules = &module,
                                   .n_modules = 1,
                                   .first = first,
                                   .layer = &layer,
                                   .n_layers = 1,
                                   .n_parameters = 1,
                                   .z = &z};
    const struct fewshot_options options = {.search = search_defaults()};
    struct fewshot f;

    if (fewshot_create(&f, &set, &options) != 0)
        abort();
    (void)adapt_state_read(&f, "seed = 1\n", path);
    fewshot_free(&f);
    if (adapt_state_is_file(path))
        (void)adapt_state_describe(path, null);
}

/* Factor files of other models: the usual rank and others, more and fewer layers. */
static struct factors *others[3];

static void make_others(void)
{
    static const size_t ranks[] = {3, 2, 5}, n_layers[] = {2, 1, 4};
    const struct factors_origin origin = made_origin();
    char path[64];

    snprintf(path, sizeof path, "/dev/shm/t2-fuzz-factors-%ld.h5", (long)getpid());
    for (size_t i = 0; i < 3; i++) {
        struct module modules[8];
        size_t n = 0;
        for (size_t layer = 0; layer < n_layers[i]; layer++) {
            modules[n++] = made_module(layer, "self_attn.q_proj", ranks[i], ranks[i]);
            modules[n++] = made_module(layer, "mlp.down_proj", ranks[i], 7);
        }
        for (size_t k = 0; k < n; k++) {
            struct factors_matrix m = made_matrix(&modules[k]);
            if (factors_write_part(path, &origin, FACTORS_F32, &m) != 0)
                abort();
            made_free(&m);
        }
        if (factors_merge(path, &origin, FACTORS_F32, modules, n) != 0 ||
            !(others[i] = factors_open(path)))
            abort();
        unlink(path);
    }
}

/* choice: which of them, and how. */
static void transfer(const struct expert *e, size_t choice)
{
    const struct transfer_options options = {choice % 2 ? TRANSFER_SHUFFLED : TRANSFER_ORDERED,
                                             (enum transfer_shape)(choice / 2 % 3), 1};
    struct expert to = {0};
    size_t n;

    (void)transfer_expert(e, others[choice / 6 % 3], &options, &to, &n);
    expert_free(&to);
}

static void use(const char *path, size_t kind, size_t choice)
{
    struct train_state s;
    struct expert e;
    struct mixture m;
    FILE *null = fopen("/dev/null", "w");

    if (!null)
        abort();
    use_curve(path, null);
    if (kind == 3) {
        ;
    } else if (kind == 2) {
        use_adaptation(path, null);
    } else if (kind == 1) {
        if (train_state_create(&s, 3, 0) != 0)
            abort();
        (void)train_state_read(&s, "seed = 1\n", path);
        train_state_free(&s);
        (void)train_state_describe(path, null);
    } else {
        if (expert_read(&e, path) == 0) {
            transfer(&e, choice);
            expert_free(&e);
        }
        (void)expert_describe(path, null, true);
        (void)adapt_result_describe(path, null);
        if (mixture_read(&m, path) == 0)
            mixture_free(&m);
    }
    fclose(null);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct feed feed = {data, size};
    struct h5_quiet quiet;
    char path[64];

    snprintf(path, sizeof path, "/dev/shm/t2-fuzz-expert-%ld.h5", (long)getpid());
    if (!others[0])
        make_others();
    h5_quiet_begin(&quiet);
    const size_t kind = take(&feed, 4), choice = take(&feed, 18);
    hid_t file = h5_create("fuzz");
    if (kind == 3) {
        put_live(&feed, file);
    } else if (kind == 2) {
        put_adaptation(&feed, file);
    } else if (kind == 1) {
        put_state(&feed, file);
    } else {
        put_expert(&feed, file);
        if (take(&feed, 2))
            put_mixture(&feed, file);
    }
    write_file(file, path);
    h5_close(file);
    h5_quiet_end(&quiet);
    use(path, kind, choice);
    unlink(path);
    return 0;
}
