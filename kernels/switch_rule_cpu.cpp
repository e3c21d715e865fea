#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/base/error.h"
#include "kernels/base/switch_decision.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/softmax_row.h"
#include "kernels/switch_rule.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kRowsPerChunk = 8;

// Adds one row's distances. `memory`: a softmax per member, and scratch.
template <class T>
void add_row(const SwitchRuleArgs& args, std::int64_t b, Accumulator<T>* memory, SwitchDistances& sums) {
  using A = Accumulator<T>;
  const std::int64_t classes = args.shape.classes;
  const std::int64_t padded = padded_classes(classes);
  const auto inv_tau = static_cast<A>(1.0 / args.tau);
  const std::int64_t label = args.labels[b];
  const bool labelled = label >= 0 && label < classes;
  A* const scratch = memory + args.shape.members * padded;
  for (int m = 0; m < args.shape.members; ++m) {
    A* p = memory + m * padded;
    const T* z = static_cast<const T*>(args.logits[static_cast<std::size_t>(m)]) + b * classes;
    softmax<T, A>(z, classes, padded, inv_tau, false, p, scratch);
    double others = 0;
    for (std::int64_t c = 0; c < classes; ++c) others += c == label ? 0 : static_cast<double>(p[c]);
    sums.label[m] +=
        labelled ? others + (1 - static_cast<double>(p[label])) : std::numeric_limits<double>::quiet_NaN();
    for (int i = 0; i < m; ++i) {
      const A* q = memory + i * padded;
      double distance = 0;
      for (std::int64_t c = 0; c < classes; ++c)
        distance += std::abs(static_cast<double>(p[c]) - static_cast<double>(q[c]));
      sums.pair[i + m - 1] += distance;
    }
  }
}

template <class T>
void run(CpuStream stream, const SwitchRuleArgs& args, Workspace workspace) {
  using A = Accumulator<T>;
  const CohortLossShape& s = args.shape;
  const std::int64_t valid = count_valid(args.valid_rows, s.rows);
  const std::int64_t chunks = ceil_div(valid, kRowsPerChunk);
  auto* const partial = reinterpret_cast<SwitchDistances*>(workspace.data());
  auto* const memory = reinterpret_cast<A*>(partial + ceil_div(s.rows, kRowsPerChunk));
  parallel_chunks(stream, chunks, [&](std::int64_t chunk, int thread) {
    partial[chunk] = {};
    const std::int64_t end = std::min(valid, (chunk + 1) * kRowsPerChunk);
    for (std::int64_t b = chunk * kRowsPerChunk; b < end; ++b)
      add_row<T>(args, b, memory + thread * (s.members + 1) * padded_classes(s.classes), partial[chunk]);
  });
  SwitchDistances mean{};
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (int i = 0; i < kMaxSwitchMembers; ++i) {
      mean.label[i] += partial[chunk].label[i] / static_cast<double>(valid);
      mean.pair[i] += partial[chunk].pair[i] / static_cast<double>(valid);
    }
  }
  decide<A>(args, mean);
}

}  // namespace

std::size_t switch_rule_workspace(CpuStream stream, const CohortLossShape& shape) {
  const auto chunks = static_cast<std::size_t>(ceil_div(shape.rows, kRowsPerChunk));
  const auto rows =
      static_cast<std::size_t>(num_threads(stream) * (shape.members + 1) * padded_classes(shape.classes));
  return chunks * sizeof(SwitchDistances) + rows * size_of(accumulator_of(shape.dtype));
}

void switch_rule(CpuStream stream, const SwitchRuleArgs& args, Workspace workspace) {
  validate(args);
  check(workspace.size() >= switch_rule_workspace(stream, args.shape), "switch_rule: workspace too small");
  dispatch_float(args.shape.dtype, [&]<class T>(std::type_identity<T>) { run<T>(stream, args, workspace); });
}

}  // namespace cohort::kernels
