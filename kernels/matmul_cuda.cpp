// The engine multiplies operands of one dtype. Anything else goes through f32: bf16 operands are widened into
// the workspace, and a bf16 result that the engine cannot write at once is formed there and rounded once.
#include <cstdint>
#include <initializer_list>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cuda/epilogue.h"
#include "kernels/cuda/matmul_engine.h"
#include "kernels/matmul.h"

namespace cohort::kernels {
namespace {

using cpu::Scratch;
using cuda::MatmulKey;

bool is_direct(const MatmulArgs& args) {
  return args.a_dtype == args.b_dtype && (args.a_dtype == args.c_dtype || args.a_dtype == DType::bf16);
}

// A bias is f32 beside a bf16 result, and the engine adds only what has the result's dtype.
bool finishes(const MatmulArgs& args) {
  return args.c_dtype == DType::bf16 && (args.bias != nullptr || !is_direct(args));
}

struct Memory {
  float* a = nullptr;
  float* b = nullptr;
  float* sums = nullptr;
  std::byte* engine = nullptr;

  // `any_bias`: whether args.bias is known.
  Memory(const MatmulArgs& args, bool any_bias, Scratch& memory) {
    const MatmulShape& s = args.shape;
    engine = memory.take(cuda::matmul_engine_workspace());
    if (!is_direct(args)) {
      if (args.a_dtype == DType::bf16) a = memory.take<float>(s.m * s.k);
      if (args.b_dtype == DType::bf16) b = memory.take<float>(s.k * s.n);
    }
    if (args.c_dtype == DType::bf16 && (any_bias || finishes(args))) sums = memory.take<float>(s.m * s.n);
  }
};

// The largest power of two up to 16 that divides all addresses.
int common_alignment(std::initializer_list<const void*> pointers) {
  std::uintptr_t all = 16;
  for (const void* pointer : pointers) all |= reinterpret_cast<std::uintptr_t>(pointer);
  return static_cast<int>(all & (~all + 1));
}

void check_dtypes(const MatmulArgs& args) {
  const auto is_f64 = [](DType dtype) { return dtype == DType::f64; };
  check(is_f64(args.a_dtype) == is_f64(args.b_dtype) && is_f64(args.a_dtype) == is_f64(args.c_dtype) &&
            is_floating(args.a_dtype) && is_floating(args.b_dtype) && is_floating(args.c_dtype),
        "matmul: dtypes must be f32 and bf16, or f64 throughout");
}

}  // namespace

void matmul(CudaStream stream, const MatmulArgs& args) {
  check_dtypes(args);
  const MatmulShape& s = args.shape;
  if (s.m == 0 || s.n == 0) return;
  check(s.k > 0, "matmul: an empty sum");
  Scratch memory(args.workspace);
  const Memory m(args, false, memory);
  cuda::MatmulPointers p{.a = args.a, .b = args.b, .c = args.c, .workspace = m.engine};
  if (m.a != nullptr) cuda::widen(stream, std::exchange(p.a, m.a), m.a, s.m * s.k);
  if (m.b != nullptr) cuda::widen(stream, std::exchange(p.b, m.b), m.b, s.k * s.n);
  // f64 has no bias epilogue.
  const bool finish = finishes(args) || (args.bias != nullptr && args.c_dtype == DType::f64);
  const bool in_place = finish && m.sums == nullptr;
  if (m.sums != nullptr) p.c = m.sums;
  if (!finish) p.bias = args.bias;
  const bool accumulate = args.mode == GradMode::kAccumulate;
  const DType operands = is_direct(args) ? args.a_dtype : DType::f32;
  cuda::multiply(stream,
                 {.shape = s,
                  .dtype = operands,
                  .result = m.sums != nullptr ? DType::f32 : args.c_dtype,
                  .bias = p.bias != nullptr,
                  .accumulate = accumulate && (!finish || in_place),
                  .tf32 = stream.tf32 && operands == DType::f32,
                  .alignment = common_alignment({p.a, p.b, p.c, p.bias})},
                 p);
  if (!finish) return;
  cuda::finish(stream, {.rows = s.m,
                        .columns = s.n,
                        .dtype = args.c_dtype,
                        .sums = p.c,
                        .bias = args.bias,
                        .result = args.c,
                        .mode = in_place ? GradMode::kOverwrite : args.mode});
}

std::size_t matmul_workspace(CudaStream, const MatmulArgs& args) {
  Scratch memory;
  Memory(args, true, memory);
  return memory.used();
}

}  // namespace cohort::kernels
