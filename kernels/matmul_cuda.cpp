// The engine multiplies operands of one dtype; a mixture of f32 and bf16 takes our own kernel, which copies
// no operand. A bias that the engine cannot add (it wants the result's dtype, and a bf16 result has an f32
// one; f64 has none) is added by a pass of its own.
#include <cstdint>
#include <initializer_list>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cuda/epilogue.h"
#include "kernels/cuda/matmul_engine.h"
#include "kernels/cuda/mixed_matmul.h"
#include "kernels/matmul.h"

namespace cohort::kernels {
namespace {

using cpu::Scratch;
using cuda::MatmulKey;

bool is_direct(const MatmulArgs& args) {
  return args.a_dtype == args.b_dtype && (args.a_dtype == args.c_dtype || args.a_dtype == DType::bf16);
}

struct Memory {
  std::byte* engine = nullptr;
  float* sums = nullptr;  // of a bf16 result that gets a bias

  // `bias`: whether there is one, or may be.
  Memory(const MatmulArgs& args, bool bias, Scratch& memory) {
    if (!is_direct(args)) return;
    engine = memory.take(cuda::matmul_engine_workspace());
    if (args.c_dtype == DType::bf16 && bias) sums = memory.take<float>(args.shape.m * args.shape.n);
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
  const Rehearsed rehearsed(stream, "matmul", traffic(args));
  check_dtypes(args);
  const MatmulShape& s = args.shape;
  if (s.m == 0 || s.n == 0) return;
  check(s.k > 0, "matmul: an empty sum");
  if (!is_direct(args)) return cuda::mixed_matmul(stream, args);
  Scratch memory(args.workspace);
  const Memory m(args, args.bias != nullptr, memory);
  cuda::MatmulPointers p{.a = args.a, .b = args.b, .c = args.c, .workspace = m.engine};
  const bool finish = args.bias != nullptr && args.c_dtype != DType::f32;
  const bool in_place = finish && m.sums == nullptr;
  if (m.sums != nullptr) p.c = m.sums;
  if (!finish) p.bias = args.bias;
  const bool accumulate = args.mode == GradMode::kAccumulate;
  cuda::multiply(stream,
                 {.shape = s,
                  .dtype = args.a_dtype,
                  .result = m.sums != nullptr ? DType::f32 : args.c_dtype,
                  .bias = p.bias != nullptr,
                  .accumulate = accumulate && (!finish || in_place),
                  .tf32 = stream.tf32 && args.a_dtype == DType::f32,
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
