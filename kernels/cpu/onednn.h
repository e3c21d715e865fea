// oneDNN behind a wall: its C API is used (the C++ one allocates a map per execution), each primitive is
// created once, for one thread, and executed by whichever thread of our pool has work, with scratch memory of
// the caller.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "kernels/conv2d.h"

namespace cohort::kernels::onednn {

// One convolution pass over `shape.n` images. Plain data: the key of the cache.
struct ConvolutionKey {
  Conv2dShape shape;
  DType dtype = DType::f32;
  DType result = DType::f32;  // dtype of y, grad_x or grad_weight
  Conv2dPass pass = Conv2dPass::kForward;
  bool bias = false;
  auto operator<=>(const ConvolutionKey&) const = default;
};

// Immutable once made; execute() may run on several threads at once. Activations are NHWC; the weight has the
// layout that the primitive likes best, `weight_bytes` large, and is converted from and to (K,kh,kw,C/groups)
// here.
class Convolution {
 public:
  struct Pointers {
    const void* x = nullptr;       // forward, backward weights
    const void* weight = nullptr;  // packed; forward, backward data
    const void* bias = nullptr;
    const void* grad_y = nullptr;  // both backward passes
    void* result = nullptr;        // y, grad_x, or the packed grad_weight
    void* scratch = nullptr;       // scratch_bytes(), 64-byte aligned
  };

  virtual ~Convolution() = default;
  virtual void execute(const Pointers& pointers) const = 0;
  virtual void pack_weight(const void* weight, void* packed) const = 0;
  virtual void unpack_grad_weight(const void* packed, void* grad_weight) const = 0;

  const std::string& implementation() const { return implementation_; }
  std::size_t scratch_bytes() const { return scratch_bytes_; }
  std::size_t weight_bytes() const { return weight_bytes_; }

 protected:
  std::string implementation_;
  std::size_t scratch_bytes_ = 0;
  std::size_t weight_bytes_ = 0;
};

// Creates on first use; lives until the process ends. Null where oneDNN has no optimised code for the key.
const Convolution* convolution(const ConvolutionKey& key);

// Row-major C (m,n) = beta * C + op(A) op(B) in f32 on the calling thread; op transposes where asked.
struct SgemmArgs {
  bool transpose_a = false, transpose_b = false;
  std::ptrdiff_t m = 0, n = 0, k = 0;
  const float* a = nullptr;
  std::ptrdiff_t lda = 0;
  const float* b = nullptr;
  std::ptrdiff_t ldb = 0;
  float beta = 0;
  float* c = nullptr;
  std::ptrdiff_t ldc = 0;
};
void sgemm(const SgemmArgs& args);

// "2.6.3", for `doctor`.
std::string version();

}  // namespace cohort::kernels::onednn
