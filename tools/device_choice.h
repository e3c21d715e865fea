// What --device says.
#pragma once

#include <optional>
#include <string>

namespace cohort::tools {

struct DeviceChoice {
  enum class Kind { kAuto, kCpu, kCuda };
  Kind kind = Kind::kAuto;
  int index = 0;  // of kCuda
};

// "auto", "cpu", "cuda" or "cuda:N"; nothing for any other text.
std::optional<DeviceChoice> parse_device(const std::string& text);

}  // namespace cohort::tools
