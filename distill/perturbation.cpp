#include "distill/perturbation.h"

#include <algorithm>

#include "core/dispatch.h"
#include "kernels/cohort_loss.h"

namespace cohort::distill {
namespace {

kernels::PerturbOptions resolve(const PerturbationChoice& choice, int image_size) {
  kernels::PerturbOptions options = kernels::paper_perturbation(image_size);
  if (choice.preset == PerturbationChoice::Preset::kOfficial)
    options = kernels::official_perturbation(image_size);
  if (choice.preset == PerturbationChoice::Preset::kAll) options = kernels::all_perturbations(image_size);
  if (choice.preset == PerturbationChoice::Preset::kList) {
    options.pool_size = static_cast<int>(choice.operations.size());
    std::copy(choice.operations.begin(), choice.operations.end(), options.pool);
  }
  if (choice.period > 0) options.period = choice.period;
  if (choice.domain) options.domain = *choice.domain;
  options.per_sample = choice.per_sample;
  return options;
}

}  // namespace

PerturbationStage::PerturbationStage(Context& ctx, const PerturbationChoice& choice, int image_size)
    : options_(resolve(choice, image_size)),
      member_(ctx.persistent_tensor({}, DType::i32)),
      operation_(ctx.persistent_tensor({}, DType::i32)),
      moved_member_(ctx.persistent_tensor({}, DType::i32)) {}

void PerturbationStage::apply(Context& ctx, StepView& view, const std::vector<Tensor>& batches,
                              const std::vector<Tensor>& sources, const Tensor& step,
                              const kernels::Normalisation& normalisation) {
  const Shape& shape = batches.front().shape;
  view.mixed_labels = ctx.empty({shape[0], kernels::kMixedLabels}, DType::i32);
  view.mixed_weights = ctx.empty({shape[0], kernels::kMixedLabels}, ctx.parameter_dtype());
  view.mixed_member = member_;
  view.masked_member = moved_member_;
  const Tensor permutations = ctx.empty({3, shape[0]}, DType::i32);
  std::vector<void*> pointers;
  std::vector<const void*> clean;
  for (const Tensor& batch : batches) pointers.push_back(batch.data);
  for (const Tensor& source : sources) clean.push_back(source.data);
  const kernels::PerturbArgs args{.batches = pointers,
                                  .sources = clean,
                                  .labels = view.labels.as<std::int32_t>(),
                                  .step = step.as<std::int32_t>(),
                                  .member = member_.as<std::int32_t>(),
                                  .operation = operation_.as<std::int32_t>(),
                                  .moved_member = moved_member_.as<std::int32_t>(),
                                  .mixed_labels = view.mixed_labels.as<std::int32_t>(),
                                  .label_weights = view.mixed_weights.data,
                                  .permutations = permutations.as<std::int32_t>(),
                                  .batch_size = shape[0],
                                  .height = static_cast<int>(shape[1]),
                                  .width = static_cast<int>(shape[2]),
                                  .channels = static_cast<int>(shape[3]),
                                  .dtype = ctx.activation_dtype(),
                                  .seed = ctx.seed(),
                                  .options = options_,
                                  .normalisation = normalisation};
  on_device(ctx, [&](auto stream) {
    kernels::perturb(stream, args, ctx.workspace(kernels::perturb_workspace(stream, args)));
  });
}

}  // namespace cohort::distill
