// simt::launch for nvcc: cudaLaunchKernelEx, the opt-in to more than 48 KiB of shared memory, cooperative
// launches, and the check.
#pragma once

#include <cuda_runtime.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/cuda/launch_config.cuh"

namespace simt {
namespace detail {

[[noreturn]] inline void launch_failed(const void* kernel, const LaunchConfig& config, cudaError_t status) {
  const char* name = nullptr;
  if (cudaFuncGetName(&name, kernel) != cudaSuccess) name = "kernel";
  const auto dims = [](dim3 d) {
    return std::to_string(d.x) + "x" + std::to_string(d.y) + "x" + std::to_string(d.z);
  };
  throw cohort::Error(
      cohort::ErrorKind::kDevice,
      std::string(config.file) + ":" + std::to_string(config.line) + ": " + name + ", grid " +
          dims(config.grid) + ", block " + dims(config.block) + ", " + std::to_string(config.shared) +
          " bytes of shared memory: " + cudaGetErrorName(status) + " (" + cudaGetErrorString(status) + ")");
}

// More than 48 KiB of dynamic shared memory must be asked for, once per kernel and device.
inline void allow_shared(const void* kernel, const LaunchConfig& config) {
  constexpr std::size_t kWithoutAsking = 48 * 1024;
  if (config.shared <= kWithoutAsking) return;
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, std::size_t> allowed;
  int device = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status != cudaSuccess) launch_failed(kernel, config, status);
  const std::lock_guard lock(mutex);
  std::size_t& bytes = allowed[{device, kernel}];
  if (bytes >= config.shared) return;
  status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(config.shared));
  if (status != cudaSuccess) launch_failed(kernel, config, status);
  bytes = config.shared;
}

// COHORT_CUDA_SYNC=1 waits after every launch (outside capture), so that an error names the kernel that made
// it.
inline void wait_if_asked(const void* kernel, const LaunchConfig& config) {
  static const char* const asked = std::getenv("COHORT_CUDA_SYNC");
  if (asked == nullptr || asked[0] != '1') return;
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  cudaError_t status = cudaStreamIsCapturing(config.stream.handle, &capture);
  if (status == cudaSuccess && capture == cudaStreamCaptureStatusNone) {
    status = cudaStreamSynchronize(config.stream.handle);
  }
  if (status != cudaSuccess) launch_failed(kernel, config, status);
}

inline unsigned resident_blocks(const void* kernel, const LaunchConfig& config) {
  using Key = std::tuple<int, const void*, std::size_t, std::size_t>;
  static std::mutex mutex;
  static std::map<Key, unsigned> known;
  const auto require = [&](cudaError_t status) {
    if (status != cudaSuccess) launch_failed(kernel, config, status);
  };
  int device = 0;
  require(cudaGetDevice(&device));
  const std::size_t threads = std::size_t{config.block.x} * config.block.y * config.block.z;
  const std::lock_guard lock(mutex);
  const auto [entry, is_new] = known.try_emplace(Key{device, kernel, threads, config.shared}, 0U);
  if (!is_new) return entry->second;
  int cooperative = 0, multiprocessors = 0, blocks = 0;
  require(cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device));
  require(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  allow_shared(kernel, config);
  require(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, static_cast<int>(threads),
                                                        config.shared));
  if (cooperative != 0) entry->second = static_cast<unsigned>(multiprocessors * blocks);
  return entry->second;
}

}  // namespace detail

// How many blocks of such a launch the device runs at the same time: what a cooperative launch may have. Asks
// the device once per kernel and size; a step that is rehearsed has no device and goes by the nominal one.
template <class... Params>
unsigned resident_blocks(void (*kernel)(Params...), const LaunchConfig& config) {
  if (config.stream.rehearsal != nullptr) return nominal_resident_blocks(config);
  return detail::resident_blocks(reinterpret_cast<const void*>(kernel), config);
}

template <class... Params, class... Args>
void launch(void (*kernel)(Params...), const LaunchConfig& config, Args&&... args) {
  if (empty(config) || rehearsed(config)) return;
  const void* const symbol = reinterpret_cast<const void*>(kernel);
  detail::allow_shared(symbol, config);
  cudaLaunchConfig_t launch_config = {};
  launch_config.gridDim = config.grid;
  launch_config.blockDim = config.block;
  launch_config.dynamicSmemBytes = config.shared;
  launch_config.stream = config.stream.handle;
  cudaLaunchAttribute cooperative = {};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  if (config.cooperative) {
    launch_config.attrs = &cooperative;
    launch_config.numAttrs = 1;
  }
  const cudaError_t status = cudaLaunchKernelEx(&launch_config, kernel, std::forward<Args>(args)...);
  if (status != cudaSuccess) detail::launch_failed(symbol, config, status);
  detail::wait_if_asked(symbol, config);
}

}  // namespace simt
