#ifndef T2_SOLVER_PAGE_PRODUCT_INTERNAL_H
#define T2_SOLVER_PAGE_PRODUCT_INTERNAL_H
/* The levels of page_product.h; each is there when its T2_BUILD_LEVEL is defined (kernels.cmake).
 */
#include "solver/page_product.h"

extern page_product page_product_f32_avx2, page_product_bf16_avx2;
extern page_product page_product_f32_avx512, page_product_bf16_avx512;

#endif
