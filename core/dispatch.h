// From the run-time device to the kernel overload: on_device(ctx, [&](auto stream) { kernels::relu(stream,
// args); }). In a build without CUDA the second branch is not even compiled, so there are no stub files.
#pragma once

#include <type_traits>

#include "core/context.h"

namespace cohort {

template <class F>
decltype(auto) on_device(const Context& ctx, F&& f) {
  if constexpr (std::is_void_v<std::invoke_result_t<F, CpuStream>>) ctx.count_device_operation();
  if constexpr (kHasCuda) {
    if (ctx.device().kind == DeviceKind::kCuda) return f(ctx.cuda_stream());
  }
  return f(ctx.cpu_stream());
}

}  // namespace cohort
