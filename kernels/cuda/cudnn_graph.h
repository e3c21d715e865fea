// A thin layer of our own over the backend API of cuDNN 9: descriptors that clean up after themselves, the
// graph of one convolution pass, the engines that heuristics propose for it, and execution plans.
//
// NHWC, result = convolution (+ result, when accumulating), sums in f32. One operation per graph, but for
// bf16 operands with an f32 result: cuDNN has that only with a conversion fused behind the convolution, and
// only where the driver's library can be loaded (its kernels are compiled at run time). Plans can be made for
// a device that is described in JSON and not there, so all of this but execution is tested without a GPU.
#pragma once

#include <cudnn_graph.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda/convolution_engine.h"

namespace cohort::kernels::cuda {

// The functions of the library that are used here. The first call opens it; throws Error(kDevice).
struct CudnnApi {
  decltype(&cudnnGetVersion) version = nullptr;
  decltype(&cudnnGetErrorString) error_string = nullptr;
  decltype(&cudnnGetLastErrorString) last_error_string = nullptr;
  decltype(&cudnnCreate) create_handle = nullptr;
  decltype(&cudnnSetStream) set_stream = nullptr;
  decltype(&cudnnBackendCreateDescriptor) create = nullptr;
  decltype(&cudnnBackendDestroyDescriptor) destroy = nullptr;
  decltype(&cudnnBackendSetAttribute) set = nullptr;
  decltype(&cudnnBackendGetAttribute) get = nullptr;
  decltype(&cudnnBackendFinalize) finalize = nullptr;
  decltype(&cudnnBackendExecute) execute = nullptr;
  std::string path;
};
const CudnnApi& cudnn();

// Throws Error(kDevice) with cuDNN's own words unless `status` is success.
void require(cudnnStatus_t status, const char* what);

class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type);
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept;
  Descriptor& operator=(Descriptor&& other) noexcept;
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  cudnnBackendDescriptor_t get() const { return handle_; }

  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t count,
           const void* values, const char* what);
  void set_int(cudnnBackendAttributeName_t name, std::int64_t value, const char* what) {
    set(name, CUDNN_TYPE_INT64, 1, &value, what);
  }
  void set_ints(cudnnBackendAttributeName_t name, const std::vector<std::int64_t>& values, const char* what) {
    set(name, CUDNN_TYPE_INT64, static_cast<std::int64_t>(values.size()), values.data(), what);
  }
  void set_descriptor(cudnnBackendAttributeName_t name, const Descriptor& value, const char* what) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value.handle_, what);
  }
  void finalize(const char* what) { require(cudnn().finalize(handle_), what); }
  // False where cuDNN does not support what was described; other failures throw.
  bool try_finalize(const char* what);

  // Values of a plain attribute; empty when there is none.
  template <class T>
  std::vector<T> values(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type) const {
    std::int64_t count = 0;
    if (cudnn().get(handle_, name, type, 0, &count, nullptr) != CUDNN_STATUS_SUCCESS || count <= 0) return {};
    std::vector<T> all(static_cast<std::size_t>(count));
    require(cudnn().get(handle_, name, type, count, &count, all.data()), "reading an attribute");
    all.resize(static_cast<std::size_t>(count));
    return all;
  }
  // Descriptors that hang on this one, of `type`; at most `limit`.
  std::vector<Descriptor> children(cudnnBackendAttributeName_t name, cudnnBackendDescriptorType_t type,
                                   std::int64_t limit) const;

 private:
  cudnnBackendDescriptor_t handle_ = nullptr;
};

// For whom plans are made: a handle of this process's device, or the description of an absent one.
struct PlanTarget {
  cudnnHandle_t handle = nullptr;
  const Descriptor* device = nullptr;
};

// A device that need not be there, from the JSON text that a device exports (cuDNN 9.8 and newer).
Descriptor described_device(const std::string& json);

// What an engine does that matters to us, of its numerical and behaviour notes.
struct EngineNotes {
  bool nondeterministic = false;
  bool tensor_core = false;
  bool converts_down = false;      // rounds operands or partial sums below what was asked for
  bool transforms = false;         // Winograd, FFT: other rounding than a sum of products
  bool native_cuda_graph = false;  // can write itself into a graph without stream capture
};

// May a plan of this engine compute the key? Deterministic, direct sums, and no rounding that the key does
// not allow (tensor cores take f32 operands as TF32).
bool acceptable(const EngineNotes& notes, const ConvolutionKey& key);

// One way to run a graph: an engine and its knobs. `name` ("eng3_k2=1_k12=0") identifies it for the version
// of the library that proposed it.
struct EngineConfig {
  Descriptor descriptor;
  std::string name;
  EngineNotes notes;
};

class ConvolutionGraph {
 public:
  static constexpr std::int64_t kX = 'x', kWeight = 'w', kY = 'y', kSums = 's';  // ids of the tensors

  // Empty where cuDNN refuses the operation itself.
  static std::optional<ConvolutionGraph> make(const ConvolutionKey& key, const PlanTarget& target);

  // What one heuristics mode proposes, best first, whatever its notes.
  std::vector<EngineConfig> propose(cudnnBackendHeurMode_t mode, const PlanTarget& target) const;

  // The acceptable proposals of modes A, B and fallback, in this order, each name once, so many of each mode.
  std::vector<EngineConfig> candidates(const PlanTarget& target, std::size_t limit_per_mode) const;

 private:
  ConvolutionGraph(const ConvolutionKey& key, Descriptor graph, std::vector<Descriptor> parts)
      : key_(key), graph_(std::move(graph)), parts_(std::move(parts)) {}

  ConvolutionKey key_;
  Descriptor graph_;
  std::vector<Descriptor> parts_;  // what the graph refers to
};

class ExecutionPlan {
 public:
  // Empty where the engine cannot run on the target after all.
  static std::optional<ExecutionPlan> make(EngineConfig config, const PlanTarget& target);

  std::size_t workspace_bytes() const { return workspace_bytes_; }
  const std::string& name() const { return config_.name; }
  const EngineNotes& notes() const { return config_.notes; }
  void execute(cudnnHandle_t handle, const void* x, const void* weight, const void* y, void* workspace) const;

 private:
  ExecutionPlan(EngineConfig config, Descriptor plan) : config_(std::move(config)), plan_(std::move(plan)) {}

  EngineConfig config_;
  Descriptor plan_;
  std::size_t workspace_bytes_ = 0;
};

}  // namespace cohort::kernels::cuda
