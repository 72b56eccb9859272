# tests/FOLDER/test_NAME.c becomes the CTest FOLDER.NAME; a test whose first line has
# "ranks: 1 2 3 4" is also run under mpirun with that many ranks.
file(GLOB test_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/*/test_*.c)
set(T2_TEST_TIMEOUT 300) # seconds
if(T2_SANITIZE OR T2_CUDA STREQUAL "STANDIN")
  set(T2_TEST_TIMEOUT 1200) # several times slower, more so on a shared machine
endif()
set(T2_TEST_ENVIRONMENT
  "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_btl_vader_single_copy_mechanism=none"
  "ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1;T2_TASKS=${CMAKE_SOURCE_DIR}/data/tasks")
if(T2_CUDA STREQUAL "STANDIN")
  # Every test of the CPU's path, on the stand-in's device.
  list(APPEND T2_TEST_ENVIRONMENT "T2_DEVICE=cuda;T2_STANDIN_COVERAGE=${CMAKE_BINARY_DIR}/standin_coverage.txt")
endif()
# t2 starts itself again with the OpenBLAS kernels of the processor's class (solver/blas_kernels.c),
# where OpenBLAS itself takes an old core's. What stands on the BLAS most is tested with each of them.
set(T2_BLAS_TESTS solver.eigen solver.eigen_two_stage solver.svd model.decompose)
set(T2_BLAS_KERNELS "")
if(EXISTS /proc/cpuinfo)
  file(STRINGS /proc/cpuinfo flags REGEX "^flags" LIMIT_COUNT 1)
  if(flags MATCHES " avx2 ")
    list(APPEND T2_BLAS_KERNELS Haswell)
  endif()
  if(flags MATCHES " avx512f " AND flags MATCHES " avx512vl ")
    list(APPEND T2_BLAS_KERNELS SkylakeX)
  endif()
endif()
foreach(source ${test_sources})
  get_filename_component(name ${source} NAME_WE)
  get_filename_component(folder ${source} DIRECTORY)
  get_filename_component(folder ${folder} NAME)
  string(REGEX REPLACE "^test_" "" name ${name})
  set(target test_${folder}_${name})
  add_executable(${target} ${source})
  target_link_libraries(${target} PRIVATE t2_jobs t2::cmocka)
  target_compile_definitions(${target} PRIVATE
    T2_FIXTURES="${CMAKE_SOURCE_DIR}/tests/fixtures" T2_DATA_DIR="${CMAKE_SOURCE_DIR}/data"
    T2_BINARY="$<TARGET_FILE:t2>")
  add_dependencies(${target} t2)
  file(STRINGS ${source} first LIMIT_COUNT 1)
  if(first MATCHES "ranks: ([0-9 ]+)")
    string(REGEX MATCHALL "[0-9]+" ranks "${CMAKE_MATCH_1}")
    foreach(n ${ranks})
      add_test(NAME ${folder}.${name}.n${n}
        COMMAND ${T2_MPIRUN} --oversubscribe --bind-to none -n ${n} $<TARGET_FILE:${target}>)
      set_tests_properties(${folder}.${name}.n${n} PROPERTIES
        ENVIRONMENT "${T2_TEST_ENVIRONMENT}" TIMEOUT ${T2_TEST_TIMEOUT} SKIP_RETURN_CODE 77 PROCESSORS 2)
    endforeach()
    if("${folder}.${name}" IN_LIST T2_BLAS_TESTS)
      foreach(core ${T2_BLAS_KERNELS})
        add_test(NAME ${folder}.${name}.n2.${core}
          COMMAND ${T2_MPIRUN} --oversubscribe --bind-to none -n 2 $<TARGET_FILE:${target}>)
        set_tests_properties(${folder}.${name}.n2.${core} PROPERTIES TIMEOUT ${T2_TEST_TIMEOUT}
          ENVIRONMENT "${T2_TEST_ENVIRONMENT};OPENBLAS_CORETYPE=${core}" SKIP_RETURN_CODE 77
          PROCESSORS 2)
      endforeach()
    endif()
  else()
    add_test(NAME ${folder}.${name} COMMAND ${target})
    set_tests_properties(${folder}.${name} PROPERTIES
      ENVIRONMENT "${T2_TEST_ENVIRONMENT}" TIMEOUT ${T2_TEST_TIMEOUT} SKIP_RETURN_CODE 77)
    if("${folder}.${name}" IN_LIST T2_BLAS_TESTS)
      foreach(core ${T2_BLAS_KERNELS})
        add_test(NAME ${folder}.${name}.${core} COMMAND ${target})
        set_tests_properties(${folder}.${name}.${core} PROPERTIES TIMEOUT ${T2_TEST_TIMEOUT}
          ENVIRONMENT "${T2_TEST_ENVIRONMENT};OPENBLAS_CORETYPE=${core}" SKIP_RETURN_CODE 77)
      endforeach()
    endif()
  endif()
endforeach()

# tests/FOLDER/test_NAME.sh is run with T2_BINARY and T2_MPIRUN set.
file(GLOB shell_tests CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/*/test_*.sh)
foreach(script ${shell_tests})
  get_filename_component(name ${script} NAME_WE)
  get_filename_component(folder ${script} DIRECTORY)
  get_filename_component(folder ${folder} NAME)
  string(REGEX REPLACE "^test_" "" name ${name})
  add_test(NAME ${folder}.${name} COMMAND bash ${script})
  set_tests_properties(${folder}.${name} PROPERTIES TIMEOUT ${T2_TEST_TIMEOUT} SKIP_RETURN_CODE 77
    ENVIRONMENT "${T2_TEST_ENVIRONMENT};T2_BINARY=$<TARGET_FILE:t2>;T2_MPIRUN=${T2_MPIRUN};T2_SOURCE=${CMAKE_SOURCE_DIR}")
endforeach()

if(T2_CUDA STREQUAL "STANDIN")
  # After all the others: the kernels that none of them has launched.
  get_property(others DIRECTORY PROPERTY TESTS)
  add_test(NAME standin.coverage COMMAND bash ${CMAKE_SOURCE_DIR}/tests/standin/coverage.sh)
  set_tests_properties(standin.coverage PROPERTIES SKIP_RETURN_CODE 77 DEPENDS "${others}"
    ENVIRONMENT "${T2_TEST_ENVIRONMENT};T2_SOURCE=${CMAKE_SOURCE_DIR}")
endif()

# tests/bench/bench_NAME.c are programs to run by hand, never timed tests.
file(GLOB bench_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/bench/bench_*.c)
pkg_check_modules(T2_dnnl QUIET IMPORTED_TARGET dnnl)
foreach(source ${bench_sources})
  get_filename_component(name ${source} NAME_WE)
  # bench_products runs the machine's own peaks on OpenMP's threads.
  if(name STREQUAL "bench_products" AND NOT OpenMP_C_FOUND)
    continue()
  endif()
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE t2_eval)
  if(name STREQUAL "bench_products")
    target_link_libraries(${name} PRIVATE OpenMP::OpenMP_C)
  endif()
  find_library(T2_DNNL_LIBRARY dnnl)
  if(T2_DNNL_LIBRARY)
    target_link_libraries(${name} PRIVATE ${T2_DNNL_LIBRARY})
    target_compile_definitions(${name} PRIVATE T2_HAVE_DNNL)
  endif()
endforeach()

if(T2_FUZZ)
  file(GLOB fuzz_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/fuzz/fuzz_*.c)
  foreach(source ${fuzz_sources})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_libraries(${name} PRIVATE t2_jobs)
  endforeach()
endif()
