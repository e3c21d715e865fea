// The numbers of TOML 1.0: 1_000, 0xff, 0o7, 0b1, 5e-4, 3.14, inf, nan. Independent of the locale.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cohort::tools {

struct TomlNumber {
  enum class Kind { kNone, kInt, kFloat };  // kNone: the word is no number
  Kind kind = Kind::kNone;
  std::int64_t integer = 0;
  double real = 0;
  std::string problem;  // a number, but not one that may be written or stored
};

TomlNumber parse_toml_number(std::string_view word);

}  // namespace cohort::tools
