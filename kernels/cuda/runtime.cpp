#include "kernels/cuda/runtime.h"

#include <string>

#include "kernels/base/rehearsal.h"

namespace cohort::kernels {
namespace {

// "cudaMalloc(&data, bytes)" -> "cudaMalloc".
std::string name_of_call(const char* call) {
  const std::string text = call;
  return text.substr(0, text.find('('));
}

// What to do about a status; null: nothing in particular.
const char* hint_for(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "use a smaller --batch-size or fewer networks";
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorCallRequiresNewerDriver:
      return "install a newer NVIDIA driver, or use --device cpu; `cohort doctor` shows both versions";
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorInitializationError:
    case cudaErrorSystemNotReady:
    case cudaErrorStubLibrary:
      return "`cohort doctor` lists the devices that can be used; --device cpu always works";
    case cudaErrorDevicesUnavailable:
      return "another process holds the device exclusively: choose another with --device cuda:INDEX";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidKernelImage:
    case cudaErrorUnsupportedPtxVersion:
      return "this build has no code for that GPU: configure with -DCMAKE_CUDA_ARCHITECTURES for it";
    case cudaErrorECCUncorrectable:
      return "the GPU's memory failed: see `nvidia-smi -q -d ECC`; the run can be resumed on another device";
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureMerge:
    case cudaErrorStreamCaptureUnmatched:
    case cudaErrorStreamCaptureUnjoined:
    case cudaErrorStreamCaptureIsolation:
    case cudaErrorStreamCaptureImplicit:
    case cudaErrorCapturedEvent:
      return "a training step did what a captured step must not: please report it";
    default:
      return "the device is lost to this process: start again with --resume";
  }
}

}  // namespace

void throw_cuda(cudaError_t status, const char* call) {
  (void)cudaGetLastError();
  const std::string message =
      name_of_call(call) + " failed: " + cudaGetErrorName(status) + " (" + cudaGetErrorString(status) + ")";
  const ErrorKind kind = status == cudaErrorMemoryAllocation ? ErrorKind::kMemory : ErrorKind::kDevice;
  throw Error(kind, message, hint_for(status));
}

bool is_capturing(CudaStream stream) {
  if (stream.rehearsal != nullptr) return stream.rehearsal->capturing();
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  COHORT_CUDA_CHECK(cudaStreamIsCapturing(native(stream), &status));
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace cohort::kernels
