// Learning-rate schedules as the user writes them.
//
//   constant              the rate does not change
//   step:100,150:0.1      times 0.1 before the first step of epochs 100 and 150 (0-based)
//   every:60:0.1          times 0.1 before every 60th epoch
//   cosine                half a cosine from the rate down to 0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cohort::tools {

struct ScheduleSpec {
  enum class Kind { kConstant, kStep, kEvery, kCosine };
  Kind kind = Kind::kConstant;
  std::vector<int> epochs;  // kStep: the drops, ascending; kEvery: the one period
  double factor = 1;        // kStep, kEvery
};

// `problem` is empty when the text is a schedule.
struct ParsedSchedule {
  ScheduleSpec spec;
  std::string problem;
};
ParsedSchedule parse_schedule(std::string_view text);

}  // namespace cohort::tools
