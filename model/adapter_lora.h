#ifndef T2_MODEL_ADAPTER_LORA_H
#define T2_MODEL_ADAPTER_LORA_H
/* Low-rank adapters, as PEFT computes them: LoRA (Hu et al. 2021), DoRA (Liu et al. 2024).
 *
 *   LoRA   y = W x + s B A x'                                  A [r, in], B [out, r], s = alpha / r
 *   DoRA   y = W x + (c - 1) W x' + c s B A x',  c_i = m_i / |W_i + s B_i A|
 *
 * x' is x after dropout in training, x otherwise. The norm counts as a constant backward (DoRA,
 * section 4.3; PEFT does so too). Start: A uniform in +-1/sqrt(in) (kaiming_uniform_ with a =
 * sqrt(5)) by counter-based numbers, B zero, m the norms of W's rows, so that the adapter is the
 * base model.
 *
 * Parameters of a site: lora_A, lora_B, and for DoRA lora_magnitude_vector [out]. */
#include "model/adapter_kinds.h"

extern const struct adapter_kind adapter_kind_lora, adapter_kind_dora;

#endif
