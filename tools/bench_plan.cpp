#include "tools/bench_plan.h"

#include <fmt/format.h>

#include "distill/step_costs.h"
#include "tools/build_info.h"
#include "tools/messages.h"
#include "tools/run_records.h"
#include "tools/run_setup.h"
#include "tools/table.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

using distill::StepCosts;

double mib(std::size_t bytes) {
  return static_cast<double>(bytes) / (1024.0 * 1024.0);
}

double megabytes(std::int64_t bytes) {
  return static_cast<double>(bytes) / 1e6;
}

struct Plan {
  std::string method, precision;
  std::vector<std::string> nets;
  std::int64_t batch = 0;
  StepCosts costs;

  double in_s(std::int64_t bytes) const {
    return static_cast<double>(bytes) /
           static_cast<double>(std::max<std::int64_t>(costs.convolution_outputs, 1));
  }
};

Json json_of(const Plan& plan) {
  const StepCosts& costs = plan.costs;
  Json operations = Json::array();
  for (const Rehearsal::Operation& operation : costs.operations) {
    operations.push_back({{"name", operation.name},
                          {"calls", operation.calls},
                          {"kernels", operation.kernels},
                          {"library_calls", operation.vendor},
                          {"memsets", operation.memsets},
                          {"copies", operation.copies},
                          {"bytes", operation.traffic.bytes},
                          {"bytes_again", operation.traffic.again}});
  }
  const StepCosts::Memory& memory = costs.memory;
  return {{"version", build_info().version},
          {"method", plan.method},
          {"nets", plan.nets},
          {"precision", plan.precision},
          {"batch", plan.batch},
          {"nodes", costs.graph.num_nodes()},
          {"memsets", costs.graph.memsets},
          {"copies", costs.graph.copies},
          {"casts", costs.casts()},
          {"bytes", costs.traffic.bytes},
          {"bytes_again", costs.traffic.again},
          {"s_bytes", costs.convolution_outputs},
          {"bytes_in_s", plan.in_s(costs.traffic.bytes)},
          {"memory",
           {{"weights", memory.weights},
            {"gradients", memory.gradients},
            {"momenta", memory.momenta},
            {"images", memory.images},
            {"other", memory.other},
            {"step", memory.step},
            {"workspace", memory.workspace},
            {"peak", memory.reserved}}},
          {"operations", operations}};
}

void print(const Plan& plan) {
  const StepCosts& costs = plan.costs;
  const StepCosts::Memory& memory = costs.memory;
  int vendor = 0;
  for (const Rehearsal::Operation& operation : costs.operations) vendor += operation.vendor;
  print_out(fmt::format("{}  {}  {}  batch {}: one step on a GPU, counted, not run\n", plan.method,
                        join(plan.nets, "+"), plan.precision, plan.batch));
  print_out(
      fmt::format("graph  {} nodes: {} kernels, {} calls of cuDNN and cuBLASLt (one node each, where a "
                  "plan needs no second kernel), {} memsets, {} copies; {} of them casts\n",
                  costs.graph.num_nodes(), costs.graph.kernels - vendor, vendor, costs.graph.memsets,
                  costs.graph.copies, costs.casts()));
  print_out(
      fmt::format("bytes  {:.1f} MB = {:.2f} S, every array once per operation; {:.2f} S are read again, "
                  "from the L2 where they fit\n       S = {:.1f} MB: what the convolutions write\n",
                  megabytes(costs.traffic.bytes), plan.in_s(costs.traffic.bytes),
                  plan.in_s(costs.traffic.again), megabytes(costs.convolution_outputs)));
  print_out(
      fmt::format("memory {:.1f} MiB at the peak, without cuDNN's workspaces: weights {:.1f}, gradients "
                  "{:.1f}, momenta {:.1f}, images {:.1f}, other {:.1f}, activations {:.1f}, workspace "
                  "{:.1f}, the rest unused\n\n",
                  mib(memory.reserved), mib(memory.weights), mib(memory.gradients), mib(memory.momenta),
                  mib(memory.images), mib(memory.other), mib(memory.step), mib(memory.workspace)));
  Table table({{"operation"},
               {"calls", Align::kRight},
               {"nodes", Align::kRight},
               {"MB", Align::kRight},
               {"S", Align::kRight},
               {"S again", Align::kRight}});
  for (const Rehearsal::Operation& operation : costs.operations) {
    table.add({operation.name, std::to_string(operation.calls), std::to_string(operation.num_nodes()),
               fmt::format("{:.2f}", megabytes(operation.traffic.bytes)),
               fmt::format("{:.3f}", plan.in_s(operation.traffic.bytes)),
               fmt::format("{:.3f}", plan.in_s(operation.traffic.again))});
  }
  print_out(table.text());
}

}  // namespace

int print_step_costs(const Config& config, bool json) {
  RunSetup run = make_rehearsal(config, [](const std::string& text) { print_warning(text); });
  const distill::DeviceImages images = distill::to_device(*run.ctx, run.data.train, placement(config));
  Plan plan{.method = config.text("method"),
            .precision = config.text("train.precision"),
            .nets = {},
            .batch = config.integer("train.batch_size"),
            .costs = {}};
  for (const distill::Cohort::Member& member : run.cohort->members()) plan.nets.push_back(member.spec.model);
  plan.costs = distill::step_costs(*run.cohort, images, plan.batch);
  if (json) {
    print_out(json_text(json_of(plan)));
  } else {
    print(plan);
  }
  return 0;
}

}  // namespace cohort::tools
