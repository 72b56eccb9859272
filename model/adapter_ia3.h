#ifndef T2_MODEL_ADAPTER_IA3_H
#define T2_MODEL_ADAPTER_IA3_H
/* (IA)^3 (Liu et al. 2022) as PEFT computes it: a learned vector l scales what a projection gives,
 * bias included (by default keys and values), and of down_proj what goes in:
 *
 *   y = l * (W x + bias)         down_proj: y = W (l * x) + bias
 *
 * l starts at 1. Parameters of a site: ia3_l. */
#include "model/adapter_kinds.h"

extern const struct adapter_kind adapter_kind_ia3;

/* Does the vector scale this projection's input? */
bool adapter_ia3_scales_input(enum projection projection);

#endif
