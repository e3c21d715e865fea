#include "nn/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace cohort::nn {

double Schedule::factor_at(std::int64_t step, std::int64_t steps_per_epoch, std::int64_t epochs) const {
  const double warmup_steps = warmup_epochs * static_cast<double>(steps_per_epoch);
  const double done = static_cast<double>(step);
  if (done < warmup_steps) return std::min(1.0, (done + 1.0) / warmup_steps);
  switch (kind) {
    case ScheduleKind::kConstant:
      return 1.0;
    case ScheduleKind::kStep: {
      const std::int64_t epoch = step / steps_per_epoch;
      double value = 1.0;
      for (const int milestone : milestones) {
        if (epoch >= milestone) value *= factor;
      }
      return value;
    }
    case ScheduleKind::kCosine: {
      const double total = static_cast<double>(epochs * steps_per_epoch) - warmup_steps;
      const double t = std::clamp((done - warmup_steps) / total, 0.0, 1.0);
      return 0.5 * (1.0 + std::cos(std::numbers::pi * t));
    }
  }
  return 1.0;
}

std::string Schedule::describe() const {
  std::string text;
  switch (kind) {
    case ScheduleKind::kConstant:
      text = "constant";
      break;
    case ScheduleKind::kStep:
      text = fmt::format("step:{}:{}", fmt::join(milestones, ","), factor);
      break;
    case ScheduleKind::kCosine:
      text = "cosine";
      break;
  }
  if (warmup_epochs > 0) text += fmt::format(" after {} epochs of warm-up", warmup_epochs);
  return text;
}

}  // namespace cohort::nn
