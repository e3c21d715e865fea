#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/base/valid_rows.h"
#include "kernels/cpu/parallel.h"
#include "kernels/temporal_target.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kElementsPerChunk = 8192;

// factor softmax(z) to `to`; false, and nothing is written, where one of them is not finite.
template <class T, class A>
bool softmax(const T* z, std::int64_t classes, A factor, A* to) {
  A max = static_cast<A>(z[0]);
  for (std::int64_t c = 0; c < classes; ++c) {
    const A v = static_cast<A>(z[c]);
    if (!std::isfinite(v)) return false;
    max = v > max ? v : max;
  }
  A sum = 0;
  for (std::int64_t c = 0; c < classes; ++c) sum += to[c] = std::exp(static_cast<A>(z[c]) - max);
  for (std::int64_t c = 0; c < classes; ++c) to[c] = factor * (to[c] / sum);
  return true;
}

template <class T>
void run(CpuStream stream, const TemporalTargetArgs& args) {
  using A = Accumulator<T>;
  const std::int64_t classes = args.classes, valid = count_valid(args.valid_rows, args.rows);
  const A delta = *static_cast<const A*>(args.delta);
  parallel_for(
      stream, args.rows, std::max<std::int64_t>(1, kElementsPerChunk / classes),
      [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t b = begin; b < end; ++b) {
          A* const target = static_cast<A*>(args.target) + b * classes;
          std::fill(target, target + classes, A{0});
          if (b >= valid) continue;
          const std::int64_t index = args.table == nullptr ? -1 : args.indices[b], label = args.labels[b];
          A* const row =
              index >= 0 && index < args.samples ? static_cast<A*>(args.table) + index * classes : nullptr;
          bool known = row != nullptr && std::any_of(row, row + classes, [](A q) { return q != 0; });
          bool sick = label < 0 || label >= classes;
          if (known)
            for (std::int64_t c = 0; c < classes; ++c) target[c] = delta * row[c];
          if (args.former != nullptr && delta != 0) {
            known = true;
            sick = !softmax(static_cast<const T*>(args.former) + b * classes, classes, delta, target) || sick;
          }
          if (!sick) {
            target[label] += known ? 1 - delta : A{1};
          } else {
            std::fill(target, target + classes, std::numeric_limits<A>::quiet_NaN());
          }
          if (row != nullptr) softmax(static_cast<const T*>(args.logits) + b * classes, classes, A{1}, row);
        }
      });
}

}  // namespace

void temporal_target(CpuStream stream, const TemporalTargetArgs& args) {
  validate(args);
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { run<T>(stream, args); });
}

}  // namespace cohort::kernels
