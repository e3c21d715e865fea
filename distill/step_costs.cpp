#include "distill/step_costs.h"

namespace cohort::distill {
namespace {

StepCosts::Memory memory_of(Cohort& cohort, const DeviceImages& images) {
  const Context& ctx = cohort.context();
  StepCosts::Memory memory;
  const auto bytes = [](const Tensor& block) { return block.empty() ? 0 : block.bytes(); };
  const auto add = [&](const ParameterSet& set) {
    memory.weights += bytes(set.values()) + bytes(set.shadow());
    memory.gradients += bytes(set.grads());
    memory.momenta += bytes(set.momenta());
  };
  for (std::size_t k = 0; k < cohort.members().size(); ++k) {
    add(cohort.members()[k].network->parameters());
    if (cohort.members()[k].former) add(cohort.members()[k].former->parameters());
    for (const ParameterSet* own : own_parameters(cohort.method(), static_cast<int>(k))) add(*own);
  }
  memory.images = images.images.bytes();
  memory.other = ctx.persistent_bytes() - memory.weights - memory.gradients - memory.momenta - memory.images;
  memory.workspace = ctx.workspace_bytes();
  memory.step = ctx.step_bytes() - memory.workspace;
  memory.reserved = ctx.arena_bytes();
  return memory;
}

std::int64_t convolution_outputs(const Cohort& cohort, DType dtype, std::int64_t rows) {
  std::int64_t bytes = 0;
  for (const Cohort::Member& member : cohort.members()) {
    for (const LayerRecord& layer : member.layers) {
      if (layer.convolution.k == 0) continue;
      kernels::Conv2dShape shape = layer.convolution;
      shape.n = rows;
      bytes += bytes_of(dtype, shape.num_y());
    }
  }
  return bytes;
}

}  // namespace

int StepCosts::casts() const {
  int nodes = 0;
  for (const Rehearsal::Operation& operation : operations) {
    if (operation.name == "cast") nodes += operation.num_nodes();
  }
  return nodes;
}

StepCosts step_costs(Cohort& cohort, const DeviceImages& images, std::int64_t rows) {
  constexpr std::int64_t kSteps = 3;  // two before the capture, as in training
  Context& ctx = cohort.context();
  check(ctx.rehearsal() != nullptr, "step_costs: the context does not rehearse");
  std::vector<std::int32_t> indices(static_cast<std::size_t>(kSteps * cohort.batches_per_step() * rows));
  for (std::size_t i = 0; i < indices.size(); ++i)
    indices[i] = static_cast<std::int32_t>(static_cast<std::int64_t>(i) % images.images.shape[0]);
  std::vector<double> rates;
  for (const Cohort::Member& member : cohort.members()) rates.push_back(member.spec.learning_rate);
  Feed feed = cohort.make_feed(images, indices, rows, /*shuffle=*/false);
  feed.start(0, 0, cohort.rate_table(std::vector<std::vector<double>>(kSteps, rates)));
  for (std::int64_t step = 0; step < kSteps; ++step) cohort.train(feed);

  StepCosts costs;
  costs.graph = cohort.captured_step();
  costs.operations = ctx.rehearsal()->operations();
  for (const Rehearsal::Operation& operation : costs.operations) {
    costs.traffic.bytes += operation.traffic.bytes;
    costs.traffic.again += operation.traffic.again;
  }
  costs.convolution_outputs = convolution_outputs(cohort, ctx.activation_dtype(), rows);
  costs.memory = memory_of(cohort, images);
  return costs;
}

}  // namespace cohort::distill
