#include "core/ops/matmul.h"

#include "core/dispatch.h"

namespace cohort::ops {

void matmul(Context& ctx, kernels::MatmulArgs args) {
  args.workspace =
      ctx.workspace(on_device(ctx, [&](auto stream) { return kernels::matmul_workspace(stream, args); }));
  on_device(ctx, [&](auto stream) { kernels::matmul(stream, args); });
}

}  // namespace cohort::ops
