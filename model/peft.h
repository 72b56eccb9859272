#ifndef T2_MODEL_PEFT_H
#define T2_MODEL_PEFT_H
/* Adapter directories of PEFT (adapter_config.json, adapter_model.safetensors), read into an expert
 * and written from one: LoRA, DoRA (use_dora) and (IA)^3. Local to a rank.
 *
 * Files come from anywhere: what t2 does not compute as PEFT does is refused with a sentence. */
#include <stdbool.h>

#include "model/config.h"
#include "model/expert.h"

/* Is it a folder with an adapter_config.json? */
bool peft_is_folder(const char *path);

/* config: of the model that the adapter is for; identity: its hash (PEFT stores none, so what does
 * not fit the model's shapes is all that can be noticed). 0, or -1 with error_set; then nothing to
 * free. */
int peft_read(struct expert *expert, const char *folder, const struct model_config *config,
              const char identity[65]);

/* folder must not exist. model: what adapter_config.json names, or NULL. 0, or -1 with error_set
 * and nothing left behind (a kind that PEFT has not). */
int peft_write(const struct expert *expert, const struct model_config *config, const char *model,
               const char *folder);

#endif
