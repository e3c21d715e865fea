#include "distill/adapters.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "core/ops/conv2d.h"
#include "core/ops/pool.h"
#include "distill/method.h"

namespace cohort::distill {

void Adapters::add(const std::vector<std::vector<Tensor>>& probe, int student, int teacher, StagePair pair) {
  if (sets_.empty()) sets_ = std::vector<ParameterSet>(probe.size());
  const std::int64_t in = probe[static_cast<std::size_t>(student)][pair.student].shape[3];
  const std::int64_t out = probe[static_cast<std::size_t>(teacher)][pair.teacher].shape[3];
  if (in == out || adapters_.count({student, teacher, pair.student}) > 0) return;
  // Kaiming, fan-out: a 1x1 window to `out` channels.
  adapters_[{student, teacher, pair.student}] = sets_[static_cast<std::size_t>(student)].add(
      fmt::format("adapter.{}.{}.weight", teacher, pair.student), {out, 1, 1, in}, ParameterKind::kConv,
      {Initializer::Kind::kNormal, std::sqrt(2.0 / static_cast<double>(out))});
}

void Adapters::materialize(Context& ctx) {
  for (std::size_t member = 0; member < sets_.size(); ++member) {
    if (sets_[member].parameters().empty()) continue;
    materialize_part(ctx, sets_[member], 0xada9'7e85'0000'0001ULL, static_cast<int>(member));
  }
}

std::vector<ParameterSet*> Adapters::of(int member) {
  const auto i = static_cast<std::size_t>(member);
  if (i >= sets_.size() || sets_[i].parameters().empty()) return {};
  return {&sets_[i]};
}

Adapters::Maps Adapters::match(Context& ctx, const Tensor& student_map, const Tensor& teacher_map,
                               int student, int teacher, std::size_t student_stage) const {
  Maps maps{student_map, teacher_map.detached()};
  const int h = static_cast<int>(std::min(student_map.shape[1], teacher_map.shape[1]));
  const int w = static_cast<int>(std::min(student_map.shape[2], teacher_map.shape[2]));
  const auto larger = [&](const Tensor& map) { return map.shape[1] != h || map.shape[2] != w; };
  if (larger(maps.teacher)) maps.teacher = ops::adaptive_avg_pool(ctx, maps.teacher, h, w).detached();
  if (larger(maps.student)) maps.student = ops::adaptive_avg_pool(ctx, maps.student, h, w);
  const auto adapter = adapters_.find({student, teacher, student_stage});
  if (adapter != adapters_.end())
    maps.student = ops::conv2d(ctx, maps.student, adapter->second->compute, {.stride = 1, .padding = 0});
  return maps;
}

}  // namespace cohort::distill
