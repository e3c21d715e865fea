#include "distill/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "kernels/base/error.h"

namespace cohort::distill {
namespace {

std::optional<double> parse_number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::string allowed(const OptionSpec& spec) {
  switch (spec.type) {
    case OptionType::kBool:
      return "true or false";
    case OptionType::kChoice:
      return "one of " + fmt::format("{}", fmt::join(spec.choices, ", "));
    case OptionType::kText:
      return "a text";
    default:
      break;
  }
  std::string text = spec.type == OptionType::kInteger ? "an integer" : "a number";
  if (spec.min > -1e300) text += fmt::format(", at least {:g}", spec.min);
  if (spec.max < 1e300) text += fmt::format(", at most {:g}", spec.max);
  return text;
}

bool valid(const OptionSpec& spec, std::string_view value) {
  switch (spec.type) {
    case OptionType::kBool:
      return value == "true" || value == "false";
    case OptionType::kChoice:
      return std::find(spec.choices.begin(), spec.choices.end(), value) != spec.choices.end();
    case OptionType::kText:
      return true;
    default:
      break;
  }
  const std::optional<double> number = parse_number(value);
  return number && *number >= spec.min && *number <= spec.max &&
         (spec.type == OptionType::kNumber || *number == std::floor(*number));
}

}  // namespace

MethodOptions::MethodOptions(std::vector<OptionSpec> specs) : specs_(std::move(specs)) {
  for (const OptionSpec& s : specs_) values_[s.key] = s.default_value;
}

const OptionSpec& MethodOptions::spec(std::string_view key) const {
  for (const OptionSpec& s : specs_) {
    if (s.key == key) return s;
  }
  std::vector<std::string_view> keys;
  for (const OptionSpec& s : specs_) keys.push_back(s.key);
  throw Error(
      ErrorKind::kUsage, fmt::format("unknown method option '{}'", key),
      keys.empty() ? "this method has no options" : fmt::format("its options: {}", fmt::join(keys, ", ")));
}

void MethodOptions::set(std::string_view key, std::string_view value) {
  const OptionSpec& s = spec(key);
  if (s.type == OptionType::kText || valid(s, value)) {
    values_[s.key] = std::string(value);
    return;
  }
  throw Error(ErrorKind::kUsage, fmt::format("'{}' is no value for method option '{}'", value, key),
              "allowed: " + allowed(s));
}

bool MethodOptions::flag(std::string_view key) const {
  return text(key) == "true";
}

long MethodOptions::integer(std::string_view key) const {
  return static_cast<long>(number(key));
}

double MethodOptions::number(std::string_view key) const {
  return parse_number(text(key)).value();
}

const std::string& MethodOptions::text(std::string_view key) const {
  return values_.at(spec(key).key);
}

int MethodOptions::choice(std::string_view key) const {
  const OptionSpec& s = spec(key);
  return static_cast<int>(std::find(s.choices.begin(), s.choices.end(), text(key)) - s.choices.begin());
}

}  // namespace cohort::distill
