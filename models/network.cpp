#include "models/network.h"

#include "core/ops/pool.h"

namespace cohort::models {

Tensor Network::run(Context& ctx, int first, int last, Tensor x, const ForwardOptions& options,
                    Outputs& out) const {
  for (int part = first; part < last; ++part) x = run_part(ctx, part, x, options, out);
  return x;
}

void Network::classify(Context& ctx, const Tensor& map, Outputs& out) const {
  const nn::Linear& linear = classifier();
  out.pooled = ops::global_avg_pool(ctx, map);
  out.logits = linear.forward(ctx, out.pooled);
  out.classifier = {linear.weight().compute, linear.bias().compute};
}

Outputs Network::forward(Context& ctx, const Tensor& x, const ForwardOptions& options) const {
  Outputs out;
  run(ctx, 0, num_parts(), x, options, out);
  classify(ctx, out.stages.back(), out);
  return out;
}

void Network::share(const Network& owner, int parts) {
  check(owner.model() == model_ && owner.num_classes() == num_classes_ && parts >= 0 && parts <= num_parts(),
        "network: parts of another model");
  if (parts == 0) return;
  const End& end = ends_[static_cast<std::size_t>(parts - 1)];
  parameters_.share(owner.parameters(), end.parameters, end.buffers);
}

}  // namespace cohort::models
