# Compiler settings shared by every target: cohort_settings is linked privately by all of them.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
# A library need not wait for those it is only linked with: the tests on the emulated device do not compile for the GPU.
set(CMAKE_OPTIMIZE_DEPENDENCIES ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")

add_library(cohort_settings INTERFACE)
# For C++ only: nvcc passes none of these on.
function(cohort_cxx_options)
  foreach(option IN LISTS ARGN)
    target_compile_options(cohort_settings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${option}>)
  endforeach()
endfunction()
cohort_cxx_options(
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wdouble-promotion -Wold-style-cast
  -Wnon-virtual-dtor -Woverloaded-virtual -Wimplicit-fallthrough -Wformat=2 -Wundef -Wcast-qual
  -fno-math-errno
  # One rounding for a * b + c wherever the target has it: the compiler decides at build time, the bits do not vary at
  # run time.
  -ffp-contract=fast)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  cohort_cxx_options(-Wno-restrict)  # false reports on std::string (GCC bug 105651)
endif()
if(COHORT_WERROR)
  cohort_cxx_options(-Werror)
endif()
if(COHORT_CPU_ARCH)
  cohort_cxx_options(-march=${COHORT_CPU_ARCH})
endif()
# `#pragma omp simd` only: threads are ours (kernels/cpu/thread_pool.h).
cohort_cxx_options(-fopenmp-simd)

# GCC sees uninitialised members in std::regex where it is instrumented, and nowhere else.
if(COHORT_SANITIZE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
endif()
if(COHORT_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
elseif(COHORT_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer)
  add_link_options(-fsanitize=thread)
elseif(COHORT_SANITIZE)
  message(FATAL_ERROR "COHORT_SANITIZE is '${COHORT_SANITIZE}': use address, thread or nothing")
endif()

if(COHORT_FUZZ)  # coverage feedback from the libraries; the targets add libFuzzer's main themselves
  add_compile_options(-fsanitize=fuzzer-no-link)
  add_link_options(-fsanitize=fuzzer-no-link)
endif()

# cohort_layer(core LINKS kernels): the library of one folder. Sources are collected by pattern, so that adding an op,
# a model or a method creates files and edits none: *.cpp here and in the sub-folders named after SUBDIRS.
function(cohort_layer name)
  cmake_parse_arguments(arg "" "" "LINKS;SUBDIRS;PRIVATE_LINKS;EXCLUDE" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS *.cpp *.h)
  foreach(subdir IN LISTS arg_SUBDIRS)
    file(GLOB more CONFIGURE_DEPENDS ${subdir}/*.cpp ${subdir}/*.h)
    list(APPEND sources ${more})
  endforeach()
  foreach(pattern IN LISTS arg_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX ${pattern})
  endforeach()
  if(NOT sources)  # a folder that nobody has filled yet
    return()
  endif()
  add_library(cohort_${name} STATIC ${sources})
  set_target_properties(cohort_${name} PROPERTIES LINKER_LANGUAGE CXX EXPORT_NAME ${name})
  add_library(cohort::${name} ALIAS cohort_${name})
  target_include_directories(cohort_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/cohort>)
  target_compile_features(cohort_${name} PUBLIC cxx_std_20)
  target_link_libraries(cohort_${name} PUBLIC ${arg_LINKS} PRIVATE $<BUILD_INTERFACE:cohort_settings> ${arg_PRIVATE_LINKS})
  set_property(GLOBAL APPEND PROPERTY COHORT_LAYERS ${name})
endfunction()
