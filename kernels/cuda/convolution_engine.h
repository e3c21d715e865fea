// The seam between conv2d on a GPU and whoever multiplies: cuDNN in the product (cudnn_convolution.cpp),
// plain CPU code behind the emulated device in the tests (tests/simt/vendor). One of the two is linked.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/conv2d.h"

namespace cohort::kernels::cuda {

// One pass over one shape: the key of the plans. result = (accumulate: result +) the pass, one rounding at
// the end; sums in f32.
struct ConvolutionKey {
  Conv2dShape shape;
  DType dtype = DType::f32;   // of the operands: f32 or bf16
  DType result = DType::f32;  // of y, grad_x or grad_weight: `dtype`, or f32
  Conv2dPass pass = Conv2dPass::kForward;
  bool tf32 = false;  // f32 operands may be rounded to TF32 before they are multiplied
  bool accumulate = false;
  auto operator<=>(const ConvolutionKey&) const = default;
};

// An engine's way to compute one key on one branch. Immutable once made.
class Convolution {
 public:
  // All 16-byte aligned; x is grad_y's partner in both backward passes.
  struct Pointers {
    const void* x = nullptr;       // forward, backward weights
    const void* weight = nullptr;  // forward, backward data
    const void* grad_y = nullptr;  // both backward passes
    void* result = nullptr;        // y, grad_x or grad_weight
    void* workspace = nullptr;     // workspace_bytes()
  };

  virtual ~Convolution() = default;
  // Enqueues; may be captured. Same operands, same bits.
  virtual void enqueue(CudaStream stream, const Pointers& pointers) const = 0;

  std::size_t workspace_bytes() const { return workspace_bytes_; }
  const std::string& implementation() const { return implementation_; }

 protected:
  std::size_t workspace_bytes_ = 0;
  std::string implementation_;
};

// Made on first use, never inside a capture (an internal error there); lives until the process ends. Null
// where the engine has no deterministic way to compute the key.
const Convolution* convolution(CudaStream stream, const ConvolutionKey& key);

}  // namespace cohort::kernels::cuda
