// The CUDA devices of this machine, for `cohort doctor` and --device. Defined in builds with CUDA only.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace cohort::kernels {

struct CudaDevice {
  std::string name;
  int compute_major = 0, compute_minor = 0;  // compute capability, 9.0 for an H100
  int num_sms = 0;
  std::size_t memory_bytes = 0;
};

struct CudaDevices {
  std::vector<CudaDevice> devices;
  int driver_version = 0;   // the newest CUDA that the driver serves, 13000 for 13.0; 0: no driver
  int runtime_version = 0;  // what this build was made with
  std::string problem;      // why there are none; empty when there are some
};

// Never throws for want of a driver or a device: every error of the runtime means "none", with its name.
CudaDevices query_cuda_devices();

// Throws Error(kDevice) unless `index` names a device that can be used.
void check_cuda_device(int index);

}  // namespace cohort::kernels
