#include "model/tensor.h"

static const char *const names[TENSOR_TYPE_COUNT] = {"F32",  "F16",  "BF16", "Q8_0", "Q4_0",
                                                     "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K",
                                                     "Q4_K", "Q5_K", "Q6_K", "Q8_K"};

const char *tensor_type_name(enum tensor_type type)
{
    return names[type];
}
