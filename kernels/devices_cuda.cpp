#include "kernels/devices.h"

#include "kernels/cuda/runtime.h"

namespace cohort::kernels {
namespace {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

CudaDevices query_cuda_devices() {
  CudaDevices result;
  if (cudaRuntimeGetVersion(&result.runtime_version) != cudaSuccess) result.runtime_version = 0;
  if (cudaDriverGetVersion(&result.driver_version) != cudaSuccess) result.driver_version = 0;
  int count = 0;  // untouched by a call that fails
  cudaError_t status = cudaGetDeviceCount(&count);
  for (int i = 0; status == cudaSuccess && i < count; ++i) {
    cudaDeviceProp properties;
    status = cudaGetDeviceProperties(&properties, i);
    if (status != cudaSuccess) break;
    result.devices.push_back({.name = properties.name,
                              .compute_major = properties.major,
                              .compute_minor = properties.minor,
                              .num_sms = properties.multiProcessorCount,
                              .memory_bytes = properties.totalGlobalMem});
  }
  if (status != cudaSuccess) {
    (void)cudaGetLastError();
    result.devices.clear();
    result.problem = std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status);
    if (result.driver_version == 0) {
      result.problem = "no NVIDIA driver is installed (" + result.problem + ")";
    } else if (result.driver_version < result.runtime_version) {
      result.problem = "the driver serves CUDA " + version_text(result.driver_version) +
                       ", this build needs " + version_text(result.runtime_version) + " (" + result.problem +
                       ")";
    }
  } else if (count == 0) {
    result.problem = "the driver finds no device";
  }
  return result;
}

void check_cuda_device(int index) {
  const CudaDevices found = query_cuda_devices();
  const char* const hint = "`cohort doctor` lists the devices that can be used; --device cpu always works";
  if (!found.problem.empty()) {
    throw Error(ErrorKind::kDevice, "no CUDA device can be used: " + found.problem, hint);
  }
  if (index < 0 || index >= static_cast<int>(found.devices.size())) {
    throw Error(ErrorKind::kDevice,
                "there is no device cuda:" + std::to_string(index) + ": " +
                    std::to_string(found.devices.size()) + " found, counted from 0",
                hint);
  }
}

}  // namespace cohort::kernels
