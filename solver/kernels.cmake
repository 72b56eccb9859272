# ISA-specific kernels: one binary holds every level that the compiler knows, each source compiled
# with the flags of its instruction set; cpu.h chooses among them at run time. T2_BUILD_LEVEL says
# to the rest of t2_solver that the level is there. The other processors have the plain C level.
include(CheckCCompilerFlag)

# Only what cannot change a value; -O3 even in debug builds, where unvectorised kernels would make
# tests take minutes.
# vecmath's loops carry `omp simd`, which needs no OpenMP run-time.
set(T2_KERNEL_OPTIONS -O3 -fno-trapping-math -fopenmp-simd)
set_source_files_properties(solver/kernels.c solver/page_product.c solver/vecmath_plain.c
  solver/axpy.c solver/engine_product.c solver/attention_store_cpu.c
  solver/matrix_transpose.c solver/eigen_kernels.c solver/svd.c solver/svd_gram.c
  solver/svd_bounds.c solver/svd_check.c PROPERTIES
  COMPILE_OPTIONS "${T2_KERNEL_OPTIONS}")

# t2_kernel_level(LEVEL "flags" source ...): builds the sources at this level if the compiler has
# all its flags.
function(t2_kernel_level level flags)
  string(REPLACE " " ";" options "${flags}")
  set(CMAKE_REQUIRED_FLAGS "")
  check_c_compiler_flag("${flags}" T2_COMPILER_HAS_${level})
  if(NOT T2_COMPILER_HAS_${level})
    return()
  endif()
  set_source_files_properties(${ARGN} PROPERTIES
    COMPILE_OPTIONS "${T2_KERNEL_OPTIONS};${options}")
  target_compile_definitions(t2_solver PRIVATE T2_BUILD_${level})
endfunction()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
  set(avx2 "-mavx2 -mfma -mf16c")
  set(avx512 "${avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512")
  t2_kernel_level(AVX2 "${avx2}" solver/kernels_avx2.c solver/vecmath_avx2.c
    solver/axpy_avx2.c solver/page_product_avx2.c solver/eigen_kernels_avx2.c)
  t2_kernel_level(AVX512 "${avx512}" solver/kernels_avx512.c solver/vecmath_avx512.c
    solver/axpy_avx512.c solver/page_product_avx512.c solver/eigen_kernels_avx512.c)
  t2_kernel_level(AVX512BF16 "${avx512} -mavx512bf16" solver/kernels_avx512bf16.c)
  t2_kernel_level(AMX "${avx512} -mavx512bf16 -mamx-tile -mamx-bf16" solver/kernels_amx.c)
endif()

# The eigensolver's inner loops stand beside the BLAS, whose bits depend on the instruction set too:
# multiply-adds may be fused.
set_property(SOURCE solver/eigen_kernels.c solver/eigen_kernels_avx2.c solver/eigen_kernels_avx512.c
  APPEND PROPERTY COMPILE_OPTIONS -ffp-contract=fast)
