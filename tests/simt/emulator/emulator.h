// What kernels/cuda/simt.cuh includes in an emulated build: CUDA's language as C++.
#pragma once

#include <cuda_runtime_api.h>
#include <device_launch_parameters.h>
#include <vector_functions.h>

#include <tuple>
#include <type_traits>
#include <utility>

#include "kernels/cuda/launch_config.cuh"
#include "simt/emulator/atomics.h"
#include "simt/emulator/collectives.h"
#include "simt/emulator/engine.h"
#include "simt/emulator/intrinsics.h"
#include "simt/emulator/schedule.h"
#include "simt/runtime/runtime.h"

#undef __launch_bounds__
#define __launch_bounds__(...)

// The address of the key names the variable: one per declaration, and per instance of a template.
#define SIMT_SHARED(type, name, ...)              \
  static const char name##_key = 0;               \
  auto& name = *static_cast<type(*) __VA_ARGS__>( \
      simt::detail::shared_variable(&name##_key, sizeof(type __VA_ARGS__), alignof(type), #name))

#define SIMT_SHARED_DYN(name) unsigned char* const name = simt::detail::dynamic_shared()

namespace simt {

// As kernels/cuda/launch.cuh has it.
template <class... Params>
unsigned resident_blocks(void (*)(Params...), const LaunchConfig& config) {
  return detail::resident_blocks(config);
}

// Copies the arguments and submits the grid to the stream.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), const LaunchConfig& config, Args&&... args) {
  static_assert((!std::is_reference_v<Params> && ...), "arguments of a kernel are passed by value");
  static_assert((sizeof(Params) + ... + 0) <= 4096, "arguments of a kernel are at most 4 KiB");
  detail::refuse_in_kernel(config);
  if (empty(config) || rehearsed(config)) return;
  if (config.cooperative && detail::num_blocks(config) > detail::resident_blocks(config)) {
    detail::launch_failed(config, static_cast<int>(cudaErrorCooperativeLaunchTooLarge));
  }
  const cudaError_t status =
      enqueue(config.stream.handle, detail::launch_name(config),
              [kernel, config, copy = std::tuple<Params...>(std::forward<Args>(args)...)] {
                detail::run_grid(config, [&] { std::apply(kernel, copy); });
              });
  if (status != cudaSuccess) detail::launch_failed(config, static_cast<int>(status));
}

}  // namespace simt
