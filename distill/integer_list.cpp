#include "distill/integer_list.h"

#include <charconv>

namespace cohort::distill {

std::optional<std::vector<int>> parse_integers(const std::string& text, int least) {
  std::vector<int> numbers;
  const char *at = text.data(), *const end = at + text.size();
  while (at < end) {
    int number = 0;
    const auto [next, error] = std::from_chars(at, end, number);
    const bool more = next != end && *next == ',' && next + 1 != end;
    if (error != std::errc() || number < least || (next != end && !more)) return std::nullopt;
    numbers.push_back(number);
    at = next + (more ? 1 : 0);
  }
  return numbers;
}

}  // namespace cohort::distill
