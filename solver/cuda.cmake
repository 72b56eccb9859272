# The CUDA engine, solver/cuda/*.cu: by nvcc, or by the host's C++ compiler against tests/standin.
file(GLOB T2_CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/solver/cuda/*.cu)

if(NOT T2_CUDA)
  return()
endif()
get_target_property(sources t2_solver SOURCES)
list(FILTER sources EXCLUDE REGEX "/[a-z_]*cuda_none\\.c$") # what says that there is no CUDA
set_target_properties(t2_solver PROPERTIES SOURCES "${sources}")
target_sources(t2_solver PRIVATE ${T2_CUDA_SOURCES})
target_compile_definitions(t2_solver PUBLIC T2_HAVE_CUDA)

if(T2_CUDA STREQUAL "STANDIN")
  file(GLOB T2_STANDIN_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/standin/*.cc)
  target_sources(t2_solver PRIVATE ${T2_STANDIN_SOURCES})
  target_compile_definitions(t2_solver PUBLIC T2_STANDIN)
  set_target_properties(t2_solver PROPERTIES CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON
    CXX_EXTENSIONS OFF)
  # Optimised even in debug builds, like the CPU's kernels. Tests run where they are built: fmaf() is
  # one instruction where this processor has it.
  set(options -O2 -fno-trapping-math -Wno-unknown-pragmas) # unroll
  if(EXISTS /proc/cpuinfo)
    file(STRINGS /proc/cpuinfo flags REGEX "^flags.* fma " LIMIT_COUNT 1)
    if(flags)
      list(APPEND options -mfma)
    endif()
  endif()
  set_source_files_properties(${T2_CUDA_SOURCES} PROPERTIES LANGUAGE CXX
    INCLUDE_DIRECTORIES ${CMAKE_SOURCE_DIR}/tests/standin
    COMPILE_OPTIONS "-x;c++;${options}")
  set_source_files_properties(${T2_STANDIN_SOURCES} PROPERTIES
    INCLUDE_DIRECTORIES ${CMAKE_SOURCE_DIR}/tests/standin COMPILE_OPTIONS "-O3;-fno-trapping-math")
else()
  set_target_properties(t2_solver PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON)
  # Fused multiply-adds are written, as in C.
  set(options --fmad=false -Xcompiler=-Wall,-Wextra,-Wshadow,-ffp-contract=off)
  if(T2_WERROR)
    list(APPEND options -Xcompiler=-Werror --Werror=all-warnings)
  endif()
  set_source_files_properties(${T2_CUDA_SOURCES} PROPERTIES COMPILE_OPTIONS "${options}")
  target_link_libraries(t2_solver PRIVATE CUDA::cublasLt CUDA::cublas CUDA::cusolver CUDA::cudart)
endif()
