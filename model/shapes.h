#ifndef T2_MODEL_SHAPES_H
#define T2_MODEL_SHAPES_H
/* The sizes of known models, for plans without the model's files. */
#include "model/config.h"

/* Fills the sizes of a configuration (layers, hidden, feed-forward, heads, vocabulary; all else
 * zero). 0, or -1 with error_set that names the known ones. */
int shapes_find(const char *name, struct model_config *config);

#endif
