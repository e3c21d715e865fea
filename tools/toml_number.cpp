#include "tools/toml_number.h"

#include <charconv>
#include <limits>
#include <optional>

namespace cohort::tools {
namespace {

bool is_digit_of_any_base(std::string_view text, std::size_t i) {
  if (i >= text.size()) return false;
  const char c = text[i];
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// Without the single underscores that may stand between digits; nothing when one stands elsewhere.
std::optional<std::string> strip_underscores(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
    } else if (i == 0 || !is_digit_of_any_base(text, i - 1) || !is_digit_of_any_base(text, i + 1)) {
      return std::nullopt;
    }
  }
  return out;
}

TomlNumber integer(std::string_view digits, int base, bool negative) {
  TomlNumber number;
  const std::string text = (negative ? "-" : "") + std::string(digits);
  const char* end_of_text = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), end_of_text, number.integer, base);
  // from_chars would take the minus of 0x-1.
  if (digits.empty() || digits[0] == '-' || end != end_of_text || error == std::errc::invalid_argument)
    return {};
  number.kind = TomlNumber::Kind::kInt;
  if (error == std::errc::result_out_of_range) number.problem = "this integer does not fit in 64 bits";
  return number;
}

// Digits on both sides of the point, digits after the e.
TomlNumber real(const std::string& digits, bool negative) {
  std::size_t i = 0;
  const auto run = [&] {
    const std::size_t begin = i;
    while (i < digits.size() && digits[i] >= '0' && digits[i] <= '9') ++i;
    return i - begin;
  };
  const std::size_t whole = run();
  if (whole == 0 || (whole > 1 && digits[0] == '0')) return {};
  if (i < digits.size() && digits[i] == '.') {
    ++i;
    if (run() == 0) return {};
  }
  std::string plain = (negative ? "-" : "") + digits.substr(0, i);
  if (i < digits.size() && (digits[i] == 'e' || digits[i] == 'E')) {
    ++i;
    plain += 'e';
    if (i < digits.size() && (digits[i] == '+' || digits[i] == '-')) {
      if (digits[i] == '-') plain += '-';  // from_chars takes no plus
      ++i;
    }
    const std::size_t begin = i;
    if (run() == 0) return {};
    plain += digits.substr(begin, i - begin);
  }
  if (i != digits.size()) return {};
  TomlNumber number;
  const auto [end, error] = std::from_chars(plain.data(), plain.data() + plain.size(), number.real);
  if (error == std::errc::invalid_argument || end != plain.data() + plain.size()) return {};
  number.kind = TomlNumber::Kind::kFloat;
  if (error == std::errc::result_out_of_range) number.problem = "this number does not fit in a double";
  return number;
}

}  // namespace

TomlNumber parse_toml_number(std::string_view word) {
  std::string_view body = word;
  if (body.empty()) return {};
  const bool negative = body[0] == '-';
  const bool has_sign = negative || body[0] == '+';
  if (has_sign) body.remove_prefix(1);
  if (body == "inf" || body == "nan") {
    TomlNumber number;
    number.kind = TomlNumber::Kind::kFloat;
    number.real =
        body == "inf" ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
    if (negative) number.real = -number.real;
    return number;
  }
  const std::optional<std::string> digits = strip_underscores(body);
  if (!digits || digits->empty()) return {};
  if (!has_sign && digits->size() > 2 && (*digits)[0] == '0') {
    const char kind = (*digits)[1];
    const int base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 0;
    if (base != 0) return integer(std::string_view(*digits).substr(2), base, false);
  }
  if (digits->find_first_not_of("0123456789") != std::string::npos) return real(*digits, negative);
  if (digits->size() > 1 && (*digits)[0] == '0') {
    TomlNumber number;
    number.kind = TomlNumber::Kind::kInt;
    number.problem = "a number has no leading zero";
    return number;
  }
  return integer(*digits, 10, negative);
}

}  // namespace cohort::tools
