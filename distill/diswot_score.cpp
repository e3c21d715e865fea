#include "distill/diswot_score.h"

#include "core/ops/relation_loss.h"
#include "core/ops/semantic_loss.h"
#include "distill/adapters.h"
#include "distill/method.h"
#include "distill/pixels.h"
#include "models/registry.h"

namespace cohort::distill {

DiswotScore diswot_score(Context& ctx, const std::string& student, const std::string& teacher,
                         const ImageSet& images) {
  const models::InputShape shape{images.channels, images.height, images.width};
  ctx.begin_step();
  ctx.set_recording(false);
  const Tensor x =
      ctx.empty({images.size(), images.height, images.width, images.channels}, ctx.activation_dtype());
  upload_values(ctx, x, pixels_of(images));
  const Tensor labels = ctx.empty({images.size()}, DType::i32);
  ctx.upload(labels, images.labels.data());
  std::vector<models::Outputs> outputs;
  std::vector<std::unique_ptr<models::Network>> networks;
  for (const std::string& name : {teacher, student}) {
    networks.push_back(models::make_network(name, images.num_classes, shape));
    networks.back()->materialize(ctx, ctx.seed(), static_cast<std::uint32_t>(outputs.size()));
    outputs.push_back(networks.back()->forward(ctx, x, {.training = true}));
  }
  const auto vector_of = [](const models::Outputs& out) {
    Tensor map = out.pooled;
    map.shape = {out.pooled.shape[0], 1, 1, out.pooled.shape[1]};
    return map;
  };
  Adapters adapters;
  adapters.add({{vector_of(outputs[0])}, {vector_of(outputs[1])}}, 1, 0, {0, 0});
  adapters.materialize(ctx);
  const Adapters::Maps features = adapters.match(ctx, vector_of(outputs[1]), vector_of(outputs[0]), 1, 0, 0);
  const Tensor one = ctx.empty({}, ctx.parameter_dtype());
  upload_values(ctx, one, {1});
  const Tensor relation = ops::relation_loss(
      ctx, {.student = outputs[1].stages.back(), .teacher = outputs[0].stages.back(), .weight = one});
  const Tensor semantic = ops::semantic_loss(ctx, {.student_logits = outputs[1].logits,
                                                   .teacher_logits = outputs[0].logits,
                                                   .student_features = features.student,
                                                   .teacher_features = features.teacher,
                                                   .labels = labels,
                                                   .weight = one});
  const DiswotScore score{download_values(ctx, relation)[0], download_values(ctx, semantic)[0]};
  ctx.set_recording(true);
  return score;
}

}  // namespace cohort::distill
