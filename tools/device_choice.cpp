#include "tools/device_choice.h"

#include "tools/text.h"

namespace cohort::tools {

std::optional<DeviceChoice> parse_device(const std::string& text) {
  using Kind = DeviceChoice::Kind;
  if (text == "auto") return DeviceChoice{Kind::kAuto};
  if (text == "cpu") return DeviceChoice{Kind::kCpu};
  if (text == "cuda") return DeviceChoice{Kind::kCuda};
  if (text.compare(0, 5, "cuda:") != 0) return std::nullopt;
  const auto index = parse_int(text.substr(5));
  if (!index || *index < 0 || *index > 1023) return std::nullopt;
  return DeviceChoice{Kind::kCuda, static_cast<int>(*index)};
}

}  // namespace cohort::tools
