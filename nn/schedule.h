// Learning-rate schedules: a factor on the base rate, piecewise constant or smooth in the epoch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace cohort::nn {

enum class ScheduleKind : std::uint8_t { kConstant, kStep, kCosine };

struct Schedule {
  ScheduleKind kind = ScheduleKind::kConstant;
  std::vector<int>
      milestones;       // kStep: 0-based epochs; the factor applies from the first step of such an epoch
  double factor = 0.1;  // kStep: multiplied in at every milestone
  double warmup_epochs = 0.0;  // linear from 0 per step: (step + 1) / warm-up steps

  // The factor for step `step` (0-based) of a run of `epochs` epochs with `steps_per_epoch` steps each.
  // kCosine goes from 1 to 0 over the steps after the warm-up: (1 + cos(pi t)) / 2. Loshchilov & Hutter, ICLR
  // 2017.
  double factor_at(std::int64_t step, std::int64_t steps_per_epoch, std::int64_t epochs) const;

  std::string describe() const;  // as it is written in a configuration: "step:100,150:0.1"
};

}  // namespace cohort::nn
