#include "models/network.h"

#include "core/ops/pool.h"

namespace cohort::models {

void classify(Context& ctx, Outputs& out, const nn::Linear& classifier) {
  out.pooled = ops::global_avg_pool(ctx, out.stages.back());
  out.logits = classifier.forward(ctx, out.pooled);
  out.classifier = {classifier.weight().compute, classifier.bias().compute};
}

}  // namespace cohort::models
