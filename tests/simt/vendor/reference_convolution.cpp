// The convolution engine of the emulated device, run when the device reaches it: plain loops, and for the
// layers of whole networks, which would take too long, the CPU's own code. Like a vendor's library it lacks
// some cases, so that conv2d's other ways are taken too: mixed passes want multiples of 8 channels per group,
// windows in three groups are refused (ShuffleNet's 1x1 ones are not: as fibers they take minutes).
#include <cstring>
#include <map>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/cpu/conv2d_plain.h"
#include "kernels/cuda/convolution_engine.h"
#include "kernels/cuda/runtime.h"
#include "simt/runtime/runtime.h"

namespace cohort::kernels::cuda {
namespace {

std::vector<float> widened(const void* data, std::int64_t count) {
  const bf16* const from = static_cast<const bf16*>(data);
  std::vector<float> to(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < to.size(); ++i) to[i] = static_cast<float>(from[i]);
  return to;
}

constexpr std::int64_t kPlainFlops = 20'000'000;

template <class T>
void run_plain(const ConvolutionKey& key, const Convolution::Pointers& p) {
  const Conv2dShape& s = key.shape;
  const GradMode mode = key.accumulate ? GradMode::kAccumulate : GradMode::kOverwrite;
  const auto at = [](auto* data, std::int64_t offset) {
    using Data = std::remove_pointer_t<decltype(data)>;
    return static_cast<std::conditional_t<std::is_const_v<Data>, const T*, T*>>(data) + offset;
  };
  switch (key.pass) {
    case Conv2dPass::kForward:
      for (std::int64_t n = 0; n < s.n; ++n) {
        cpu::plain_conv2d_forward_image<T>(s, at(p.x, n * s.num_x() / s.n), at(p.weight, 0), nullptr,
                                           at(p.result, n * s.num_y() / s.n));
      }
      return;
    case Conv2dPass::kBackwardData: {
      std::vector<float> sums(static_cast<std::size_t>(s.c));
      for (std::int64_t n = 0; n < s.n; ++n) {
        cpu::plain_conv2d_backward_data_image<T>(s, at(p.grad_y, n * s.num_y() / s.n), at(p.weight, 0),
                                                 at(p.result, n * s.num_x() / s.n), mode, sums.data());
      }
      return;
    }
    case Conv2dPass::kBackwardWeights: {
      const std::int64_t filter = s.num_weight() / s.k;
      std::vector<double> sums(static_cast<std::size_t>(filter));
      for (std::int64_t k = 0; k < s.k; ++k) {
        cpu::plain_conv2d_backward_weights_filter<T>(
            s, k, at(p.x, 0), at(p.grad_y, 0), static_cast<float*>(p.result) + k * filter, mode, sums.data());
      }
      return;
    }
  }
}

void run(const ConvolutionKey& key, DType dtype, const Convolution::Pointers& p) {
  const CpuStream cpu{};
  const Conv2dShape& s = key.shape;
  if (conv2d_flops(s) < kPlainFlops)
    return dtype == DType::f32 ? run_plain<float>(key, p) : run_plain<bf16>(key, p);
  std::vector<std::byte> workspace(conv2d_workspace(cpu, s, dtype, key.pass, false) + 64);
  void* start = workspace.data();
  std::size_t room = workspace.size();
  std::align(64, workspace.size() - 64, start, room);
  const Workspace scratch(static_cast<std::byte*>(start), workspace.size() - 64);
  const GradMode mode = key.accumulate ? GradMode::kAccumulate : GradMode::kOverwrite;
  switch (key.pass) {
    case Conv2dPass::kForward:
      check(!key.accumulate, "reference convolution: forward never adds");
      return conv2d_forward(
          cpu,
          {.shape = s, .dtype = dtype, .x = p.x, .weight = p.weight, .y = p.result, .workspace = scratch});
    case Conv2dPass::kBackwardData:
      return conv2d_backward_data(cpu, {.shape = s,
                                        .dtype = dtype,
                                        .grad_y = p.grad_y,
                                        .weight = p.weight,
                                        .grad_x = p.result,
                                        .mode = mode,
                                        .workspace = scratch});
    case Conv2dPass::kBackwardWeights:
      return conv2d_backward_weights(cpu, {.shape = s,
                                           .dtype = dtype,
                                           .x = p.x,
                                           .grad_y = p.grad_y,
                                           .grad_weight = p.result,
                                           .weight_mode = mode,
                                           .workspace = scratch});
  }
}

const char* name_of(Conv2dPass pass) {
  return pass == Conv2dPass::kForward        ? "convolution"
         : pass == Conv2dPass::kBackwardData ? "convolution (data)"
                                             : "convolution (weights)";
}

class Reference final : public Convolution {
 public:
  explicit Reference(const ConvolutionKey& key) : key_(key) {
    workspace_bytes_ = 256;
    implementation_ = "emulated";
  }

  void enqueue(CudaStream stream, const Pointers& pointers) const override {
    if (stream.rehearsal != nullptr) return stream.rehearsal->node(Rehearsal::Node::kVendor);
    for (const void* operand :
         {pointers.x, pointers.weight, pointers.grad_y, static_cast<const void*>(pointers.result),
          static_cast<const void*>(pointers.workspace)}) {
      check(reinterpret_cast<std::uintptr_t>(operand) % 16 == 0,
            "reference convolution: a misaligned operand");
    }
    const cudaError_t status = simt::enqueue(static_cast<cudaStream_t>(stream.handle), name_of(key_.pass),
                                             [key = key_, pointers] { execute(key, pointers); });
    if (status != cudaSuccess) throw Error(ErrorKind::kDevice, "the emulated device refuses a convolution");
  }

 private:
  static void execute(const ConvolutionKey& key, Pointers p) {
    std::memset(p.workspace, 0xFF, 256);  // whoever lent memory that is in use will see NaN
    if (key.result == key.dtype) return run(key, key.dtype, p);
    const Conv2dShape& s = key.shape;
    std::vector<float> x, weight, grad_y;
    if (p.x != nullptr) p.x = (x = widened(p.x, s.num_x())).data();
    if (p.weight != nullptr) p.weight = (weight = widened(p.weight, s.num_weight())).data();
    if (p.grad_y != nullptr) p.grad_y = (grad_y = widened(p.grad_y, s.num_y())).data();
    run(key, DType::f32, p);
  }

  ConvolutionKey key_;
};

bool refused(const ConvolutionKey& key) {
  const Conv2dShape& s = key.shape;
  if (s.groups == 3 && s.kh > 1) return true;
  const bool mixed = key.result != key.dtype;
  return mixed && (key.accumulate || s.c / s.groups % 8 != 0 || s.k / s.groups % 8 != 0);
}

}  // namespace

// As in the product a plan belongs to a branch and cannot be made inside a capture: a step that meets a
// convolution for the first time when it is captured was not warmed up.
const Convolution* convolution(CudaStream stream, const ConvolutionKey& key) {
  static std::map<std::pair<int, ConvolutionKey>, std::unique_ptr<Reference>> all;
  if (refused(key)) return nullptr;
  std::unique_ptr<Reference>& made = all[{stream.branch, key}];
  if (!made) {
    check(stream.rehearsal != nullptr || stream.handle == nullptr || !is_capturing(stream),
          "reference convolution: a first use inside a captured step");
    made = std::make_unique<Reference>(key);
  }
  return made.get();
}

}  // namespace cohort::kernels::cuda
