#include "distill/similarity.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/ops/attention_reweight.h"
#include "core/ops/pixel_cosine.h"
#include "distill/adapters.h"
#include "distill/pixels.h"

namespace cohort::distill {
namespace {

constexpr std::int64_t kBatch = 64;

Tensor last_map(Context& ctx, const Cohort::Member& member, const Tensor& x) {
  return member.network->forward(ctx, x, {.training = false, .preactivation = true}).stages_pre.back();
}

void append(Context& ctx, std::vector<double>& to, const Tensor& from) {
  const std::vector<double> values = download_values(ctx, from);
  to.insert(to.end(), values.begin(), values.end());
}

}  // namespace

SimilarityMaps similarity_maps(Cohort& cohort, const ImageSet& images, int a, int b) {
  Context& ctx = cohort.context();
  SimilarityMaps maps;
  maps.count = images.size();
  for (std::int64_t first = 0; first < images.size(); first += kBatch) {
    std::vector<std::int32_t> batch(static_cast<std::size_t>(std::min(kBatch, images.size() - first)));
    std::iota(batch.begin(), batch.end(), static_cast<std::int32_t>(first));
    const ImageSet part = images.subset(batch);
    ctx.begin_step();
    ctx.set_recording(false);
    const Tensor x = ctx.empty({part.size(), part.height, part.width, part.channels}, ctx.activation_dtype());
    upload_values(ctx, x, pixels_of(part));
    const Tensor of_a = last_map(ctx, cohort.members()[static_cast<std::size_t>(a)], x);
    const Tensor of_b = last_map(ctx, cohort.members()[static_cast<std::size_t>(b)], x);
    if (of_a.shape[3] != of_b.shape[3]) {
      ctx.set_recording(true);
      throw Error(ErrorKind::kUsage,
                  fmt::format("the last maps have {} and {} channels: nothing to compare without an adapter",
                              of_a.shape[3], of_b.shape[3]),
                  "choose two networks of the same width");
    }
    const Adapters::Maps both = Adapters().match(ctx, of_a, of_b, a, b, 0);
    const Tensor similarity = ops::pixel_cosine(ctx, both.student, both.teacher);
    const ops::AttentionMaps weights = ops::attention_weights(ctx, similarity);
    maps.height = similarity.shape[1];
    maps.width = similarity.shape[2];
    append(ctx, maps.similarity, similarity);
    append(ctx, maps.agreement, weights.co);
    append(ctx, maps.difference, weights.di);
    ctx.set_recording(true);
  }
  return maps;
}

double foreground_share(const SimilarityMaps& maps, const std::vector<double>& weights,
                        const ImageSet& images) {
  check(!images.masks.empty(), "foreground_share: the set has no masks");
  double on = 0, all = 0;
  for (std::int64_t n = 0; n < maps.count; ++n) {
    for (int y = 0; y < images.height; ++y) {
      for (int x = 0; x < images.width; ++x) {
        const double weight = weights[maps.cell(n, y, x, images.height, images.width)];
        const auto pixel = static_cast<std::size_t>((n * images.height + y) * images.width + x);
        all += weight;
        if (images.masks[pixel] != 0) on += weight;
      }
    }
  }
  return on / all;
}

}  // namespace cohort::distill
