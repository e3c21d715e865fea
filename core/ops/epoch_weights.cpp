#include "core/ops/epoch_weights.h"

#include <cmath>

#include "core/dispatch.h"

namespace cohort::ops {

Tensor epoch_weights(Context& ctx, const Tensor& base, const Tensor& table, const Tensor& epoch) {
  check(table.shape.rank() == 1 && table.dtype == base.dtype, "epoch_weights: the table is (entries) A");
  check(epoch.empty() || (epoch.count() == 1 && epoch.dtype == DType::i32),
        "epoch_weights: epoch is (1) i32");
  const Tensor out = ctx.empty(base.shape, base.dtype);
  const kernels::EpochWeightsArgs args{.dtype = base.dtype,
                                       .count = base.count(),
                                       .entries = table.count(),
                                       .base = base.data,
                                       .table = table.data,
                                       .epoch = static_cast<const std::int32_t*>(epoch.data),
                                       .out = out.data};
  on_device(ctx, [&](auto stream) { kernels::epoch_weights(stream, args); });
  return out;
}

std::vector<double> ramp_up(int length) {
  std::vector<double> factors;
  for (int e = 0; e < length; ++e) {
    const double missing = 1 - static_cast<double>(e) / length;
    factors.push_back(std::exp(-5 * missing * missing));
  }
  factors.push_back(1);
  return factors;
}

}  // namespace cohort::ops
