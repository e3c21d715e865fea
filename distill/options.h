// The options of a method: declared once as data (help, configuration schema and documentation come from it),
// given as text on the command line or in a file, checked here, and read by the method's constructor into its
// own enums and numbers.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace cohort::distill {

enum class OptionType { kBool, kInteger, kNumber, kChoice, kText };

struct OptionSpec {
  std::string key;  // "dml.norm"
  OptionType type = OptionType::kNumber;
  std::string default_value;              // as text
  std::string help;                       // one line
  std::vector<std::string> choices = {};  // kChoice
  double min = -1e300;                    // kInteger, kNumber: inclusive
  double max = 1e300;
};

class MethodOptions {
 public:
  MethodOptions() = default;
  explicit MethodOptions(std::vector<OptionSpec> specs);

  // Throws Error(kUsage) naming the key, the value, what is allowed, and the nearest key.
  void set(std::string_view key, std::string_view value);

  bool flag(std::string_view key) const;
  long integer(std::string_view key) const;
  double number(std::string_view key) const;
  const std::string& text(std::string_view key) const;
  // The index of the value among the spec's choices.
  int choice(std::string_view key) const;

  const std::vector<OptionSpec>& specs() const { return specs_; }
  const std::map<std::string, std::string, std::less<>>& values() const { return values_; }

 private:
  const OptionSpec& spec(std::string_view key) const;

  std::vector<OptionSpec> specs_;
  std::map<std::string, std::string, std::less<>> values_;
};

}  // namespace cohort::distill
