# House rules that no compiler checks. Run: cmake -D SOURCE_DIR=... -P tests/layering_test.cmake
#   - an include points downward only:  tools -> distill -> models -> nn -> core -> kernels;  data -> core, kernels
#   - kernel headers include no CUDA header
#   - no source file above 600 lines
#   - every kernel header has a test and a bench (or is listed below with the reason)
set(may_include_kernels kernels)
set(may_include_core core kernels)
set(may_include_nn nn core kernels)
set(may_include_models models nn core kernels)
set(may_include_distill distill models nn core kernels)
set(may_include_data data core kernels)
set(may_include_tools tools distill models nn core kernels data)

# memory, branch: not operations; augment_math: shared inline code of augment and perturb.
set(no_kernel_test memory branch augment_math perturb_math)
set(no_kernel_bench memory branch augment_math perturb_math)

set(failures "")
macro(fail text)
  list(APPEND failures "${text}")
endmacro()

foreach(layer kernels core nn models distill data tools)
  file(GLOB_RECURSE files RELATIVE ${SOURCE_DIR} ${SOURCE_DIR}/${layer}/*.h ${SOURCE_DIR}/${layer}/*.cpp
       ${SOURCE_DIR}/${layer}/*.cu ${SOURCE_DIR}/${layer}/*.cuh)
  foreach(file IN LISTS files)
    file(STRINGS ${SOURCE_DIR}/${file} includes REGEX "^#include \"")
    foreach(include IN LISTS includes)
      string(REGEX REPLACE "^#include \"([^/\"]+)/.*" "\\1" folder "${include}")
      if(NOT folder IN_LIST may_include_${layer})
        fail("${file}: ${include} points upward")
      endif()
    endforeach()
  endforeach()
endforeach()

file(GLOB kernel_headers RELATIVE ${SOURCE_DIR}/kernels ${SOURCE_DIR}/kernels/*.h)
foreach(header IN LISTS kernel_headers)
  get_filename_component(stem ${header} NAME_WE)
  if(NOT stem IN_LIST no_kernel_test AND NOT EXISTS ${SOURCE_DIR}/tests/kernels/${stem}_test.cpp)
    fail("kernels/${header}: no tests/kernels/${stem}_test.cpp")
  endif()
  if(NOT stem IN_LIST no_kernel_bench AND NOT EXISTS ${SOURCE_DIR}/bench/kernels/${stem}_bench.cpp)
    fail("kernels/${header}: no bench/kernels/${stem}_bench.cpp")
  endif()
endforeach()
file(GLOB_RECURSE kernel_headers RELATIVE ${SOURCE_DIR} ${SOURCE_DIR}/kernels/*.h)
foreach(header IN LISTS kernel_headers)
  file(STRINGS ${SOURCE_DIR}/${header} cuda REGEX "^#include <(cuda|cudnn|cublas|nv|thrust|cub)")
  if(cuda)
    fail("${header}: includes a CUDA header")
  endif()
endforeach()

file(GLOB_RECURSE sources RELATIVE ${SOURCE_DIR} ${SOURCE_DIR}/kernels/* ${SOURCE_DIR}/core/* ${SOURCE_DIR}/nn/*
     ${SOURCE_DIR}/models/* ${SOURCE_DIR}/distill/* ${SOURCE_DIR}/data/* ${SOURCE_DIR}/tools/* ${SOURCE_DIR}/tests/*
     ${SOURCE_DIR}/bench/*)
list(FILTER sources INCLUDE REGEX "\\.(h|cpp|cu|cuh)$")
foreach(source IN LISTS sources)
  file(STRINGS ${SOURCE_DIR}/${source} lines)
  file(READ ${SOURCE_DIR}/${source} text)
  string(REGEX MATCHALL "\n" newlines "${text}")
  list(LENGTH newlines count)
  if(count GREATER 600)
    fail("${source}: ${count} lines, at most 600")
  endif()
endforeach()

if(failures)
  list(JOIN failures "\n  " text)
  message(FATAL_ERROR "\n  ${text}")
endif()
