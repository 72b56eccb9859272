#include "model/folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/json_file.h"
#include "model/safetensors.h"
#include "mpi/error.h"

struct folder {
    char *path;
    struct safetensors **files;
    size_t n_files;
    /* All files' tensors: where[i] tells file and place of tensors[i]. */
    const struct tensor **tensors;
    struct {
        size_t file, place;
    } * where;
    size_t n_tensors;
    char *chat_template;
};

/* "DIR/NAME", malloc'ed; NULL with error_set. */
static char *join(const char *dir, const char *name)
{
    char *path;

    if (asprintf(&path, "%s/%s", dir, name) < 0) {
        error_set("%s: out of memory", dir);
        return NULL;
    }
    return path;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);

    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Whether the folder has a file of this name, or with this ending (the first is copied to found).
 */
static bool has_file(const char *dir, const char *ending, char found[256])
{
    DIR *d = opendir(dir);
    struct dirent *entry;
    bool yes = false;

    if (!d)
        return false;
    while (!yes && (entry = readdir(d)))
        if (ends_with(entry->d_name, ending)) {
            snprintf(found, 256, "%s", entry->d_name);
            yes = true;
        }
    closedir(d);
    return yes;
}

/* ---- what is wrong with a folder that is no model ---------------------------------------------
 */

static int explain_no_config(const char *dir)
{
    char found[256];

    if (access(dir, R_OK | X_OK) != 0)
        return error_set("%s: the folder cannot be read: %s", dir, strerror(errno));
    if (has_file(dir, ".gguf", found))
        return error_set("%s: has no config.json, but %s: name that file itself", dir, found);
    if (has_file(dir, "adapter_config.json", found))
        return error_set("%s: is an adapter, not a model (it has adapter_config.json)", dir);
    if (has_file(dir, ".pth", found))
        return error_set(
            "%s: is in the original format (%s), not a Hugging Face folder; convert it "
            "with transformers' convert_llama_weights_to_hf.py",
            dir, found);
    return error_set("%s: has no config.json; a model is a Hugging Face folder (config.json, "
                     "*.safetensors, tokenizer files) or a .gguf file",
                     dir);
}

static int explain_no_weights(const char *dir)
{
    char found[256];

    if (has_file(dir, ".bin", found) || has_file(dir, ".bin.index.json", found) ||
        has_file(dir, ".pth", found) || has_file(dir, ".pt", found))
        return error_set("%s: has its weights as %s only, which t2 does not read; convert them to "
                         "safetensors (in Python: AutoModelForCausalLM.from_pretrained(DIR)"
                         ".save_pretrained(NEW, safe_serialization=True))",
                         dir, found);
    if (has_file(dir, ".safetensors", found))
        return error_set("%s: has %s, but neither model.safetensors nor "
                         "model.safetensors.index.json; the download is incomplete",
                         dir, found);
    if (has_file(dir, ".gguf", found))
        return error_set("%s: has no safetensors, but %s: name that file itself", dir, found);
    return error_set("%s: has a config.json but no weights (model.safetensors); the download is "
                     "incomplete",
                     dir);
}

/* ---- weights ----------------------------------------------------------------------------------
 */

static int add_file(struct folder *folder, const char *name)
{
    char *path = join(folder->path, name);
    int result = -1;

    if (!path)
        return -1;
    struct safetensors **files =
        realloc(folder->files, (folder->n_files + 1) * sizeof *folder->files);
    if (!files) {
        error_set("%s: out of memory", folder->path);
        goto done;
    }
    folder->files = files;
    files[folder->n_files] = safetensors_open(path);
    if (!files[folder->n_files])
        goto done;
    folder->n_files++;
    result = 0;
done:
    free(path);
    return result;
}

/* A name in an index may not lead out of the folder. (A link in the folder may: Hugging Face's own
 * cache consists of them, and only the owner of the folder can have put it there.) */
static bool is_plain_name(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && !strpbrk(name, "/\\") && strlen(name) < 256 &&
           ends_with(name, ".safetensors");
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int add_listed_file(struct folder *folder, const char *name, const char *index_path)
{
    char *path = join(folder->path, name);
    bool missing = path && access(path, F_OK) != 0;

    free(path);
    if (missing)
        return error_set("%s: lists %s, which is not there; the download is incomplete", index_path,
                         name);
    return add_file(folder, name);
}

static int add_indexed_files(struct folder *folder, const char *index_path)
{
    json_t *index = json_object_load(index_path, JSON_INDEX_MAX_BYTES), *map, *value;
    const char *tensor, **names = NULL, *last = NULL;
    size_t n = 0;
    int result = -1;

    if (!index)
        return -1;
    map = json_object_get(index, "weight_map");
    if (json_object_size(map) == 0) {
        error_set("%s: has no weight_map", index_path);
        goto done;
    }
    names = malloc(json_object_size(map) * sizeof *names);
    if (!names) {
        error_set("%s: out of memory", index_path);
        goto done;
    }
    json_object_foreach(map, tensor, value)
    {
        const char *name = json_string_value(value);
        if (!name || !is_plain_name(name)) {
            error_set("%s: tensor %s: \"%s\" is not the name of a safetensors file in the folder",
                      index_path, tensor, name ? name : "(no text)");
            goto done;
        }
        names[n++] = name;
    }
    qsort(names, n, sizeof *names, compare_texts);
    for (size_t i = 0; i < n; i++) {
        if (last && strcmp(last, names[i]) == 0)
            continue;
        last = names[i];
        if (add_listed_file(folder, last, index_path) != 0)
            goto done;
    }
    result = 0;
done:
    free(names);
    json_decref(index);
    return result;
}

static int open_weights(struct folder *folder)
{
    char *single = join(folder->path, "model.safetensors");
    char *index = join(folder->path, "model.safetensors.index.json");
    int result = -1;

    if (!single || !index)
        goto done;
    /* One file wins, as in transformers. */
    if (access(single, F_OK) == 0)
        result = add_file(folder, "model.safetensors");
    else if (access(index, F_OK) == 0)
        result = add_indexed_files(folder, index);
    else
        result = explain_no_weights(folder->path);
done:
    free(single);
    free(index);
    return result;
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp((*(const struct tensor *const *)a)->name,
                  (*(const struct tensor *const *)b)->name);
}

static int check_duplicates(const struct folder *folder)
{
    size_t n = folder->n_tensors;
    const struct tensor **order = malloc((n + 1) * sizeof *order);
    int result = 0;

    if (!order)
        return error_set("%s: out of memory", folder->path);
    memcpy(order, folder->tensors, n * sizeof *order);
    qsort(order, n, sizeof *order, compare_tensors);
    for (size_t i = 1; i < n && result == 0; i++)
        if (strcmp(order[i - 1]->name, order[i]->name) == 0)
            result = error_set("%s: tensor %s is also in %s", order[i - 1]->file, order[i]->name,
                               order[i]->file);
    free(order);
    return result;
}

static int list_tensors(struct folder *folder)
{
    size_t n = 0;

    for (size_t i = 0; i < folder->n_files; i++)
        n += safetensors_n_tensors(folder->files[i]);
    folder->tensors = malloc((n + 1) * sizeof *folder->tensors);
    folder->where = malloc((n + 1) * sizeof *folder->where);
    if (!folder->tensors || !folder->where)
        return error_set("%s: out of memory", folder->path);
    for (size_t i = 0; i < folder->n_files; i++)
        for (size_t j = 0; j < safetensors_n_tensors(folder->files[i]); j++) {
            folder->where[folder->n_tensors].file = i;
            folder->where[folder->n_tensors].place = j;
            folder->tensors[folder->n_tensors++] = safetensors_tensor(folder->files[i], j);
        }
    return check_duplicates(folder);
}

/* ---- configuration and template ---------------------------------------------------------------
 */

static int read_config(const struct folder *folder, struct model_config *config)
{
    char *path = join(folder->path, "config.json");
    char *generation_path = join(folder->path, "generation_config.json");
    char *text = NULL, *generation = NULL;
    size_t n = 0, n_generation = 0;
    int result = -1;

    if (!path || !generation_path)
        goto done;
    if (access(path, F_OK) != 0) {
        explain_no_config(folder->path);
        goto done;
    }
    text = text_file_read(path, TEXT_MAX_BYTES, &n);
    if (!text)
        goto done;
    if (access(generation_path, F_OK) == 0) {
        generation = text_file_read(generation_path, TEXT_MAX_BYTES, &n_generation);
        if (!generation)
            goto done;
    }
    result = config_parse_hf(config, text, n, generation, n_generation, path);
done:
    free(path);
    free(generation_path);
    free(text);
    free(generation);
    return result;
}

/* tokenizer_config.json has one template as text, or a list of named ones. */
static const char *find_template(const json_t *json)
{
    const json_t *value = json_object_get(json, "chat_template");

    if (json_is_string(value))
        return json_string_value(value);
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *entry = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0)
            return json_string_value(json_object_get(entry, "template"));
    }
    return NULL;
}

static int read_chat_template(struct folder *folder)
{
    char *own = join(folder->path, "chat_template.jinja");
    char *tokenizer = join(folder->path, "tokenizer_config.json");
    json_t *json = NULL;
    size_t n;
    int result = -1;

    if (!own || !tokenizer)
        goto done;
    if (access(own, F_OK) == 0) {
        folder->chat_template = text_file_read(own, TEXT_MAX_BYTES, &n);
        result = folder->chat_template ? 0 : -1;
        goto done;
    }
    if (access(tokenizer, F_OK) == 0) {
        json = json_object_load(tokenizer, JSON_INDEX_MAX_BYTES);
        if (!json)
            goto done;
        const char *text = find_template(json);
        if (text && !(folder->chat_template = strdup(text))) {
            error_set("%s: out of memory", folder->path);
            goto done;
        }
    }
    result = 0;
done:
    free(own);
    free(tokenizer);
    json_decref(json);
    return result;
}

/* ---- the folder -------------------------------------------------------------------------------
 */

static const struct tensor *find_tensor(const struct folder *folder, const char *name)
{
    for (size_t i = 0; i < folder->n_tensors; i++)
        if (strcmp(folder->tensors[i]->name, name) == 0)
            return folder->tensors[i];
    return NULL;
}

/* The head is the embedding where the files have no head; where they have both, it is what the
 * configuration says, unless the two differ (transformers does the same). */
static void settle_tying(const struct folder *folder, struct model_config *config)
{
    const struct tensor *head = find_tensor(folder, "lm_head.weight");
    const struct tensor *embedding = find_tensor(folder, "model.embed_tokens.weight");

    if (!head)
        config->tied_embeddings = true;
    else if (config->tied_embeddings && embedding && head->data && embedding->data)
        config->tied_embeddings = head->type == embedding->type &&
                                  head->n_bytes == embedding->n_bytes &&
                                  memcmp(head->data, embedding->data, head->n_bytes) == 0;
}

struct folder *folder_open(const char *path, struct model_config *config)
{
    struct folder *folder = calloc(1, sizeof *folder);

    *config = (struct model_config){0};
    if (!folder || !(folder->path = strdup(path))) {
        error_set("%s: out of memory", path);
        folder_free(folder);
        return NULL;
    }
    if (read_config(folder, config) != 0 || open_weights(folder) != 0 ||
        list_tensors(folder) != 0 || read_chat_template(folder) != 0) {
        config_free(config);
        folder_free(folder);
        return NULL;
    }
    settle_tying(folder, config);
    return folder;
}

void folder_free(struct folder *folder)
{
    if (!folder)
        return;
    for (size_t i = 0; i < folder->n_files; i++)
        safetensors_free(folder->files[i]);
    free(folder->files);
    free(folder->tensors);
    free(folder->where);
    free(folder->chat_template);
    free(folder->path);
    free(folder);
}

size_t folder_n_tensors(const struct folder *folder)
{
    return folder->n_tensors;
}

const struct tensor *folder_tensor(const struct folder *folder, size_t i)
{
    return folder->tensors[i];
}

const char *folder_tensor_dtype(const struct folder *folder, const struct tensor *t)
{
    for (size_t i = 0; i < folder->n_tensors; i++)
        if (folder->tensors[i] == t)
            return safetensors_dtype(folder->files[folder->where[i].file], folder->where[i].place);
    return "?";
}

const char *folder_chat_template(const struct folder *folder)
{
    return folder->chat_template;
}
