// The matmul engine of the emulated device: plain loops on the host, run when the device reaches them.
#include <cstring>
#include <set>
#include <tuple>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/matmul_engine.h"
#include "kernels/cuda/runtime.h"
#include "simt/runtime/runtime.h"

namespace cohort::kernels::cuda {
namespace {

constexpr std::size_t kWorkspace = 512;

template <class T, class C>
void product(const MatmulKey& key, const MatmulPointers& p) {
  using Sum = Accumulator<T>;
  const MatmulShape& s = key.shape;
  const T* const a = static_cast<const T*>(p.a);
  const T* const b = static_cast<const T*>(p.b);
  C* const c = static_cast<C*>(p.c);
  std::memset(p.workspace, 0xFF, kWorkspace);
  for (std::int64_t i = 0; i < s.m; ++i) {
    for (std::int64_t j = 0; j < s.n; ++j) {
      Sum sum = 0;
      for (std::int64_t q = 0; q < s.k; ++q) {
        sum += static_cast<Sum>(a[s.transpose_a ? q * s.m + i : i * s.k + q]) *
               static_cast<Sum>(b[s.transpose_b ? j * s.k + q : q * s.n + j]);
      }
      if (key.accumulate) sum += static_cast<Sum>(c[i * s.n + j]);
      if (key.bias) sum += static_cast<Sum>(static_cast<const C*>(p.bias)[j]);
      c[i * s.n + j] = static_cast<C>(sum);
    }
  }
}

// As in the product, what has not run before on this branch cannot start inside a capture.
void check_warm(CudaStream stream, const MatmulKey& k) {
  using Id = std::tuple<int, std::int64_t, std::int64_t, std::int64_t, bool, bool, DType, DType, bool, bool,
                        bool, int>;
  static std::set<Id> seen;
  const bool first =
      seen.insert({stream.branch, k.shape.m, k.shape.n, k.shape.k, k.shape.transpose_a, k.shape.transpose_b,
                   k.dtype, k.result, k.bias, k.accumulate, k.tf32, k.alignment})
          .second;
  check(!first || stream.handle == nullptr || !is_capturing(stream),
        "reference matmul: a first use inside a captured step");
}

bool aligned(const void* pointer, int alignment) {
  return reinterpret_cast<std::uintptr_t>(pointer) % static_cast<std::uintptr_t>(alignment) == 0;
}

}  // namespace

std::size_t matmul_engine_workspace() {
  return kWorkspace;
}

void multiply(CudaStream stream, const MatmulKey& key, const MatmulPointers& p) {
  check(aligned(p.a, key.alignment) && aligned(p.b, key.alignment) && aligned(p.c, key.alignment) &&
            aligned(p.bias, key.alignment) && aligned(p.workspace, 64),
        "reference matmul: an operand is less aligned than its key says");
  check(key.bias == (p.bias != nullptr), "reference matmul: the key does not fit the operands");
  if (stream.rehearsal != nullptr) return stream.rehearsal->node(Rehearsal::Node::kVendor);
  check_warm(stream, key);
  const cudaError_t status = simt::enqueue(static_cast<cudaStream_t>(stream.handle), "matmul", [key, p] {
    if (key.dtype == DType::f64) return product<double, double>(key, p);
    if (key.dtype == DType::f32) return product<float, float>(key, p);
    return key.result == DType::f32 ? product<bf16, float>(key, p) : product<bf16, bf16>(key, p);
  });
  if (status != cudaSuccess) throw Error(ErrorKind::kDevice, "the emulated device refuses a matmul");
}

}  // namespace cohort::kernels::cuda
