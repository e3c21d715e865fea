// Small text helpers of the command line. Numbers never depend on the locale: from_chars and to_chars only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/spelling.h"

namespace cohort::tools {

// The whole text must be the number; no leading plus, no blanks.
std::optional<std::int64_t> parse_int(std::string_view text);
std::optional<double> parse_float(std::string_view text);

// The shortest text that reads back as the same double; "1.0" rather than "1", "nan", "inf".
std::string format_float(double value);

std::vector<std::string> split(std::string_view text, char separator);
std::string_view trim(std::string_view text);
std::string join(const std::vector<std::string>& parts, std::string_view separator);
std::string upper(std::string_view text);  // ASCII only: a Turkish locale must not matter

// "did you mean 'x'?" or nothing.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

// Byte offset of the first byte that is not valid UTF-8 (overlong forms, surrogates, > U+10FFFF included).
std::optional<std::size_t> find_invalid_utf8(std::string_view text);
// Code points; control characters and everything wide count as one. Enough to align carets and tables.
int display_width(std::string_view utf8);
// For a message: control characters become \xNN, so that a hostile file name cannot drive the terminal.
std::string printable(std::string_view text);

// Reads a file of at most `limit` bytes; throws Error(kUsage) when it is not there or larger.
std::string read_small_file(const std::string& path, std::size_t limit);

}  // namespace cohort::tools
