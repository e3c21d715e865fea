#include "distill/cohort.h"

#include <fmt/core.h>

#include <algorithm>

#include "core/dispatch.h"
#include "kernels/augment.h"
#include "kernels/cohort_loss.h"
#include "kernels/perturb.h"
#include "models/registry.h"

namespace cohort::distill {
namespace {

// Evaluation needs no gradients, so its batch is bounded by memory only; this one keeps a stage of ResNet-32
// in a few tens of megabytes.
constexpr std::int64_t kEvalBatch = 250;

}  // namespace

// What changes from step to step, in device memory.
struct Cohort::Inputs {
  Tensor indices;  // (capacity) i32
  Tensor labels;   // (capacity) i32
  Tensor epoch;    // (1) i32
  Tensor step;     // (1) i32
  std::int64_t capacity = 0;
};

// The plan of a step's perturbation, in device memory.
struct Cohort::Perturbation {
  kernels::PerturbOptions options;
  Tensor member, operation, moved_member;  // () i32

  Perturbation(Context& ctx, const PerturbationChoice& choice, int image_size)
      : options(resolve(choice, image_size)) {
    member = ctx.persistent_tensor({}, DType::i32);
    operation = ctx.persistent_tensor({}, DType::i32);
    moved_member = ctx.persistent_tensor({}, DType::i32);
  }

  static kernels::PerturbOptions resolve(const PerturbationChoice& choice, int image_size) {
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
};

DeviceImages to_device(Context& ctx, const ImageSet& set) {
  const Shape shape{set.size(), set.height, set.width, set.channels};
  if (ctx.device().kind == DeviceKind::kCpu) {
    // The host's memory is the device's: no copy of a set that may be larger than the networks.
    return {{const_cast<std::uint8_t*>(set.images.data()), shape, DType::u8, nullptr},
            {const_cast<std::int32_t*>(set.labels.data()), {set.size()}, DType::i32, nullptr}};
  }
  DeviceImages device{ctx.persistent_tensor(shape, DType::u8),
                      ctx.persistent_tensor({set.size()}, DType::i32)};
  ctx.upload(device.images, set.images.data());
  ctx.upload(device.labels, set.labels.data());
  return device;
}

Cohort::Cohort(Context& ctx, const std::vector<MemberSpec>& specs, std::unique_ptr<Method> method,
               const ImageSet& data, const CohortOptions& options)
    : ctx_(ctx), method_(std::move(method)), options_(options), inputs_(std::make_unique<Inputs>()) {
  const int m = static_cast<int>(specs.size());
  method_->check_members(m);
  check(ctx.num_branches() >= m, "cohort: one branch per member");
  normalisation_ = data.normalisation;
  const models::InputShape input{data.channels, data.height, data.width};
  for (int k = 0; k < m; ++k) {
    Member member{specs[static_cast<std::size_t>(k)], nullptr, method_->frozen(k)};
    member.network = models::make_network(member.spec.model, data.num_classes, input);
    member.network->materialize(ctx, ctx.seed(), static_cast<std::uint32_t>(k));
    members_.push_back(std::move(member));
  }
  inputs_->epoch = ctx.persistent_tensor({1}, DType::i32);
  inputs_->step = ctx.persistent_tensor({1}, DType::i32);

  // Shapes of the maps, from one black image.
  ctx.begin_step();
  ctx.set_recording(false);
  std::vector<models::Outputs> probe;
  const Tensor black =
      ctx.persistent_tensor({1, data.height, data.width, data.channels}, ctx.activation_dtype());
  for (Member& member : members_) {
    ctx.set_layer_log(&member.layers);
    probe.push_back(member.network->forward(
        ctx, black, {.training = false, .preactivation = method_->wants_preactivation()}));
  }
  ctx.set_layer_log(nullptr);
  ctx.set_recording(true);
  method_->setup(ctx, probe);
  if (const std::optional<PerturbationChoice> choice = method_->perturbation()) {
    perturbation_ = std::make_unique<Perturbation>(ctx, *choice, data.height);
  }

  sgd_ = std::make_unique<nn::Sgd>(ctx, m, options.sgd);
  std::vector<std::int32_t> allowed;
  for (int k = 0; k < m; ++k) {
    Member& member = members_[static_cast<std::size_t>(k)];
    allowed.push_back(member.frozen ? 0 : 1);
    if (!member.frozen) sgd_->add(member.network->parameters(), k, member.spec.weight_decay);
    if (ParameterSet* extra = method_->extra_parameters(k)) sgd_->add(*extra, k, member.spec.weight_decay);
  }
  sgd_->set_allowed(allowed);
}

Cohort::~Cohort() = default;

void Cohort::load(const Batch& batch) {
  const auto rows = static_cast<std::int64_t>(batch.indices.size());
  if (rows > inputs_->capacity) {
    // Large enough for evaluation from the start: a captured step keeps these addresses.
    inputs_->capacity = std::max(rows, kEvalBatch);
    inputs_->indices = ctx_.persistent_tensor({inputs_->capacity}, DType::i32);
    inputs_->labels = ctx_.persistent_tensor({inputs_->capacity}, DType::i32);
  }
  Tensor indices = inputs_->indices;
  indices.shape = {rows};
  ctx_.upload(indices, batch.indices.data());
  const std::int32_t epoch = batch.epoch;
  ctx_.upload(inputs_->epoch, &epoch);
  const auto step = static_cast<std::int32_t>(batch.step);
  ctx_.upload(inputs_->step, &step);
}

std::vector<Tensor> Cohort::make_batches(const DeviceImages& images, std::int64_t rows, bool training) {
  const bool own_views = training && options_.independent_augmentation;
  // A perturbed member changes its batch in place, and which member that is only the device knows.
  const int count = own_views || (training && perturbation_) ? size() : 1;
  std::vector<Tensor> batches;
  std::vector<void*> pointers;
  const Shape& set = images.images.shape;
  for (int i = 0; i < count; ++i) {
    batches.push_back(ctx_.empty({rows, set[1], set[2], set[3]}, ctx_.activation_dtype()));
    pointers.push_back(batches.back().data);
  }
  on_device(ctx_, [&](auto stream) {
    kernels::augment(
        stream, {.images = images.images.as<std::uint8_t>(),
                 .image_labels = images.labels.as<std::int32_t>(),
                 .indices = inputs_->indices.as<std::int32_t>(),
                 .epoch = inputs_->epoch.as<std::int32_t>(),
                 .batches = pointers,
                 .labels = inputs_->labels.as<std::int32_t>(),
                 .batch_size = rows,
                 .height = static_cast<int>(set[1]),
                 .width = static_cast<int>(set[2]),
                 .channels = static_cast<int>(set[3]),
                 .dtype = ctx_.activation_dtype(),
                 .seed = ctx_.seed(),
                 .independent = own_views,
                 .options = training && options_.augment ? kernels::AugmentOptions{} : kernels::kNoAugment,
                 .normalisation = normalisation_});
  });
  while (static_cast<int>(batches.size()) < size()) batches.push_back(batches.back());
  return batches;
}

void Cohort::step_once(std::int64_t rows) {
  ctx_.begin_step();
  const std::vector<Tensor> batches = make_batches(*images_, rows, /*training=*/true);
  StepView view;
  view.outputs.resize(members_.size());
  view.labels = {inputs_->labels.data, {rows}, DType::i32, nullptr};
  if (perturbation_) perturb(view, batches);

  ctx_.fork();
  for (std::size_t k = 0; k < members_.size(); ++k) {
    const Member& member = members_[k];
    ctx_.on_branch(static_cast<int>(k) + 1, [&] {
      ctx_.set_recording(!member.frozen);
      view.outputs[k] = member.network->forward(
          ctx_, batches[k], {.training = !member.frozen, .preactivation = method_->wants_preactivation()});
      ctx_.set_recording(true);
    });
  }
  ctx_.join();
  method_->losses(ctx_, view);
  ctx_.fork();
  for (std::size_t k = 0; k < members_.size(); ++k) {
    Member& member = members_[k];
    if (member.frozen) continue;
    ctx_.on_branch(static_cast<int>(k) + 1, [&] {
      member.network->parameters().reset_grads();
      if (ParameterSet* extra = method_->extra_parameters(static_cast<int>(k))) extra->reset_grads();
      method_->feature_losses(ctx_, view, static_cast<int>(k));
      ctx_.backward();
    });
  }
  ctx_.join();
  sgd_->step(view.report.loss);
  plans_[rows].report = view.report;
}

void Cohort::train(const Batch& batch) {
  const auto rows = static_cast<std::int64_t>(batch.indices.size());
  load(batch);
  sgd_->set_learning_rates(batch.learning_rates);
  images_ = batch.images;
  Plan& plan = plans_[rows];
  if (!plan.step) plan.step = std::make_unique<StepPlan>(ctx_, [this, rows] { step_once(rows); });
  plan.step->run();
  last_rows_ = rows;
  for (Member& member : members_) {
    if (!member.frozen) ++member.batches_tracked;
  }
}

std::vector<std::int32_t> Cohort::stepped() {
  std::vector<std::int32_t> mask(members_.size());
  ctx_.download(mask.data(), sgd_->mask());
  return mask;
}

void Cohort::perturb(StepView& view, const std::vector<Tensor>& batches) {
  Perturbation& p = *perturbation_;
  const Shape& shape = batches.front().shape;
  view.mixed_labels = ctx_.empty({shape[0], kernels::kMixedLabels}, DType::i32);
  view.mixed_weights = ctx_.empty({shape[0], kernels::kMixedLabels}, ctx_.parameter_dtype());
  view.mixed_member = p.member;
  view.masked_member = p.moved_member;
  const Tensor permutations = ctx_.empty({3, shape[0]}, DType::i32);
  std::vector<void*> pointers;
  for (const Tensor& batch : batches) pointers.push_back(batch.data);
  const kernels::PerturbArgs args{.batches = pointers,
                                  .labels = view.labels.as<std::int32_t>(),
                                  .step = inputs_->step.as<std::int32_t>(),
                                  .member = p.member.as<std::int32_t>(),
                                  .operation = p.operation.as<std::int32_t>(),
                                  .moved_member = p.moved_member.as<std::int32_t>(),
                                  .mixed_labels = view.mixed_labels.as<std::int32_t>(),
                                  .label_weights = view.mixed_weights.data,
                                  .permutations = permutations.as<std::int32_t>(),
                                  .batch_size = shape[0],
                                  .height = static_cast<int>(shape[1]),
                                  .width = static_cast<int>(shape[2]),
                                  .channels = static_cast<int>(shape[3]),
                                  .dtype = ctx_.activation_dtype(),
                                  .seed = ctx_.seed(),
                                  .options = p.options,
                                  .normalisation = normalisation_};
  on_device(ctx_, [&](auto stream) {
    const Workspace workspace = ctx_.workspace(kernels::perturb_workspace(args));
    kernels::perturb_plan(stream, args, workspace);
    kernels::perturb(stream, args, workspace);
  });
}

int Cohort::perturbed_member() {
  return perturbation_ ? static_cast<int>(download_values(ctx_, perturbation_->member)[0]) : -1;
}

int Cohort::perturbation() {
  return perturbation_ && perturbed_member() >= 0
             ? static_cast<int>(download_values(ctx_, perturbation_->operation)[0])
             : -1;
}

std::vector<models::Outputs> Cohort::evaluate(const DeviceImages& images,
                                              const std::vector<std::int32_t>& indices) {
  load({.indices = indices});
  ctx_.begin_step();
  ctx_.set_recording(false);
  const std::vector<Tensor> batches =
      make_batches(images, static_cast<std::int64_t>(indices.size()), /*training=*/false);
  std::vector<models::Outputs> outputs(members_.size());
  ctx_.fork();
  for (std::size_t k = 0; k < members_.size(); ++k) {
    ctx_.on_branch(static_cast<int>(k) + 1,
                   [&] { outputs[k] = members_[k].network->forward(ctx_, batches[k], {.training = false}); });
  }
  ctx_.join();
  ctx_.set_recording(true);
  return outputs;
}

std::vector<std::vector<float>> Cohort::predict(const DeviceImages& images,
                                                const std::vector<std::int32_t>& indices) {
  std::vector<std::vector<float>> logits(members_.size());
  const auto count = static_cast<std::int64_t>(indices.size());
  for (std::int64_t begin = 0; begin < count; begin += kEvalBatch) {
    const std::int64_t end = std::min(count, begin + kEvalBatch);
    const std::vector<models::Outputs> outputs =
        evaluate(images, {indices.begin() + begin, indices.begin() + end});
    for (std::size_t k = 0; k < members_.size(); ++k) {
      const std::vector<double> values = download_values(ctx_, outputs[k].logits);
      logits[k].insert(logits[k].end(), values.begin(), values.end());
    }
  }
  return logits;
}

int Cohort::num_recorded_operations() const {
  return plans_.empty() ? 0 : plans_.rbegin()->second.step->num_nodes();
}

bool Cohort::replaying() const {
  return !plans_.empty() && plans_.rbegin()->second.step->ready();
}

}  // namespace cohort::distill
