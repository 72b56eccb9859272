#include "solver/cuda/engine_internal.h"
const struct engine_train_ops engine_train_cuda = {};
