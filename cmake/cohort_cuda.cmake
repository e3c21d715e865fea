# The CUDA backend, and the same sources compiled for the emulated device.
#
#   COHORT_HAS_CUDA          the product has the backend: a CUDA compiler and cuDNN's headers are there, COHORT_CUDA is not OFF
#   cohort_kernels_cuda      the backend by nvcc, the runtime linked statically; cuDNN and cuBLASLt are opened on first use
#   COHORT_HAS_EMULATION     tests can run the backend without a GPU: the CUDA headers are enough (tests/simt). Not in a build
#                            that is sanitized as a whole: the ordinary one runs the kernels under both sanitizers
file(GLOB cohort_cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/*_cuda.cu ${CMAKE_SOURCE_DIR}/kernels/*_cuda.cpp
     ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cpp)

# A kernel without its CUDA side would take the whole backend away unnoticed.
file(GLOB headers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/*.h)
foreach(header IN LISTS headers)
  file(STRINGS ${header} overloads REGEX "CudaStream [a-z]*[,)]")
  get_filename_component(stem ${header} NAME_WE)
  if(overloads AND NOT COHORT_CUDA STREQUAL "OFF" AND NOT EXISTS ${CMAKE_SOURCE_DIR}/kernels/${stem}_cuda.cu
     AND NOT EXISTS ${CMAKE_SOURCE_DIR}/kernels/${stem}_cuda.cpp)
    message(FATAL_ERROR "kernels/${stem}.h declares a CudaStream overload, and there is no kernels/${stem}_cuda.cu: "
            "write it, or configure with -DCOHORT_CUDA=OFF until then")
  endif()
endforeach()

# cuDNN's headers lie beside the toolkit's; the library itself is looked for when a run needs it.
find_path(COHORT_CUDNN_INCLUDE_DIR cudnn_graph.h HINTS $ENV{CUDA_HOME}/include /usr/local/cuda/include)

include(CheckLanguage)
set(cohort_cuda_reason "")
if(COHORT_CUDA STREQUAL "OFF")
  set(cohort_cuda_reason "COHORT_CUDA=OFF")
else()
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(cohort_cuda_reason "no CUDA compiler found")
  elseif(NOT COHORT_CUDNN_INCLUDE_DIR)
    set(cohort_cuda_reason "no cudnn_graph.h found: install cuDNN 9's headers, or set COHORT_CUDNN_INCLUDE_DIR")
  endif()
endif()
if(cohort_cuda_reason)
  set(COHORT_HAS_CUDA OFF)
else()
  set(COHORT_HAS_CUDA ON)
endif()
if(COHORT_CUDA STREQUAL "ON" AND NOT COHORT_HAS_CUDA)
  message(FATAL_ERROR "COHORT_CUDA=ON, but ${cohort_cuda_reason}; use -DCOHORT_CUDA=AUTO to build for the CPU")
endif()

if(NOT COHORT_CUDA STREQUAL "OFF" AND CMAKE_CUDA_COMPILER)
  # An explicit list: `native` fails on a machine without a GPU. PTX of the last one serves newer devices.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 90-virtual)
  endif()
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25.1 does not know nvcc's C++20 flag
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  find_package(CUDAToolkit REQUIRED)
endif()

find_path(COHORT_CUDA_INCLUDE_DIR cuda_runtime.h HINTS ${CUDAToolkit_INCLUDE_DIRS} $ENV{CUDA_HOME}/include /usr/local/cuda/include)
if(COHORT_CUDA_INCLUDE_DIR AND NOT COHORT_SANITIZE)
  set(COHORT_HAS_EMULATION ON)
else()
  set(COHORT_HAS_EMULATION OFF)
endif()

# A kernel that spills registers into memory is an error (tests/simt/device/spilling_kernel.cu proves it). Not through
# -Xptxas=--warning-as-error: that would go into the binary, and hold for what a driver compiles from the PTX for a newer GPU.
set(cohort_cuda_warnings -Xptxas=--warn-on-spills -Werror=all-warnings CACHE INTERNAL "")

# cohort_cuda_library(name sources...): device code by nvcc, warnings as errors.
function(cohort_cuda_library name)
  add_library(${name} STATIC ${ARGN})
  set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr --extended-lambda
    --compress-mode=size -Xcompiler=-Wall,-Wextra>)
  if(COHORT_WERROR)
    target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:${cohort_cuda_warnings}>)
  endif()
  target_include_directories(${name} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(${name} PRIVATE $<BUILD_INTERFACE:cohort_settings>)
endfunction()

# cohort_packed(targets...): finds its libraries in ../lib beside it first, where tools/gpu_pack.sh puts them. DT_RPATH and not
# DT_RUNPATH, because it also holds for what those libraries need themselves.
function(cohort_packed)
  foreach(target IN LISTS ARGN)
    # The same installed or not: else CMake pads it with an empty entry, which means the current folder.
    set_target_properties(${target} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib" BUILD_WITH_INSTALL_RPATH ON)
    target_link_options(${target} PRIVATE LINKER:--disable-new-dtags)
  endforeach()
endfunction()
