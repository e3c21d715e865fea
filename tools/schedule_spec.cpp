#include "tools/schedule_spec.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "tools/text.h"

namespace cohort::tools {
namespace {

constexpr int kMaxEpoch = 1'000'000;
constexpr const char* kForms = "write constant, step:100,150:0.1, every:60:0.1 or cosine";

std::optional<int> parse_epoch(const std::string& text) {
  const auto value = parse_int(trim(text));
  if (!value || *value < 1 || *value > kMaxEpoch) return std::nullopt;
  return static_cast<int>(*value);
}

std::optional<double> parse_share(const std::string& text, double max) {
  const auto value = parse_float(trim(text));
  if (!value || !std::isfinite(*value) || *value < 0 || *value > max) return std::nullopt;
  return value;
}

ParsedSchedule bad(std::string problem) {
  return {{}, std::move(problem)};
}

ParsedSchedule parse_drops(ScheduleSpec::Kind kind, const std::vector<std::string>& parts) {
  ScheduleSpec spec;
  spec.kind = kind;
  if (parts.size() != 3) return bad(fmt::format("'{}' needs epochs and a factor: {}", parts[0], kForms));
  for (const std::string& part : split(parts[1], ',')) {
    const auto epoch = parse_epoch(part);
    if (!epoch) return bad(fmt::format("'{}' is not an epoch from 1 to {}", printable(part), kMaxEpoch));
    if (!spec.epochs.empty() && *epoch <= spec.epochs.back())
      return bad("the epochs of a schedule must ascend");
    spec.epochs.push_back(*epoch);
  }
  if (kind == ScheduleSpec::Kind::kEvery && spec.epochs.size() != 1) return bad("'every' takes one period");
  const auto factor = parse_share(parts[2], 1e3);
  if (!factor) return bad(fmt::format("'{}' is not a factor from 0 to 1000", printable(parts[2])));
  spec.factor = *factor;
  return {spec, {}};
}

}  // namespace

ParsedSchedule parse_schedule(std::string_view text) {
  const std::vector<std::string> parts = split(text, ':');
  const std::string& name = parts[0];
  if (name == "step") return parse_drops(ScheduleSpec::Kind::kStep, parts);
  if (name == "every") return parse_drops(ScheduleSpec::Kind::kEvery, parts);
  ScheduleSpec spec;
  if (name == "constant" || name == "cosine") {
    if (parts.size() != 1) return bad(fmt::format("'{}' takes no arguments", name));
    spec.kind = name == "cosine" ? ScheduleSpec::Kind::kCosine : ScheduleSpec::Kind::kConstant;
    return {spec, {}};
  }
  return bad(fmt::format("'{}' is no schedule: {}", printable(text), kForms));
}

}  // namespace cohort::tools
