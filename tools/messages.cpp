#include "tools/messages.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "tools/text.h"

namespace cohort::tools {
namespace {

constexpr std::string_view kReset = "\x1b[0m";
constexpr std::string_view kBold = "\x1b[1m";
constexpr std::string_view kRed = "\x1b[1;31m";
constexpr std::string_view kYellow = "\x1b[1;33m";
constexpr std::string_view kCyan = "\x1b[1;36m";

std::atomic<ColorMode> color_mode{ColorMode::kAuto};
std::atomic<int> stdout_error{0};

std::string paint(std::string_view text, std::string_view code, bool color) {
  return color ? fmt::format("{}{}{}", code, text, kReset) : std::string(text);
}

std::string severity_text(Severity severity, bool color) {
  switch (severity) {
    case Severity::kError:
      return paint("error:", kRed, color);
    case Severity::kWarning:
      return paint("warning:", kYellow, color);
    case Severity::kNote:
      break;
  }
  return paint("note:", kCyan, color);
}

// A line of the user's file, cut around the column when it is long, so that the caret stays on the screen.
struct Window {
  std::string text;
  int column;  // 1-based, in code points
  int width;   // of the underline
};

Window cut_window(const Snippet& snippet) {
  constexpr std::size_t kMax = 100;
  constexpr std::size_t kBefore = 60;
  const std::string_view line = snippet.source;
  std::size_t column = std::min(static_cast<std::size_t>(std::max(snippet.column, 1) - 1), line.size());
  std::size_t begin = 0;
  if (line.size() > kMax && column > kBefore) begin = column - kBefore;
  while (begin > 0 && (static_cast<unsigned char>(line[begin]) & 0xC0U) == 0x80U) --begin;
  std::size_t end = std::min(line.size(), begin + kMax);
  while (end < line.size() && (static_cast<unsigned char>(line[end]) & 0xC0U) == 0x80U) ++end;
  std::string before(line.substr(begin, column - begin));
  std::string rest(line.substr(column, end - column));
  std::replace(before.begin(), before.end(), '\t', ' ');
  std::replace(rest.begin(), rest.end(), '\t', ' ');
  const std::size_t marked =
      std::min<std::size_t>(rest.size(), static_cast<std::size_t>(std::max(1, snippet.length)));
  Window window;
  const std::string prefix = (begin > 0 ? "..." : "") + printable(before);
  window.column = display_width(prefix) + 1;
  window.width = std::max(1, display_width(printable(rest.substr(0, marked))));
  window.text = prefix + printable(rest) + (end < line.size() ? "..." : "");
  return window;
}

}  // namespace

Diagnostic error_block(std::string headline, std::string help) {
  Diagnostic diagnostic;
  diagnostic.headline = std::move(headline);
  diagnostic.help = std::move(help);
  return diagnostic;
}

std::string render(const Diagnostic& diagnostic, bool color) {
  std::string out = fmt::format("{} {}\n", severity_text(diagnostic.severity, color),
                                paint(diagnostic.headline, kBold, color));
  const Snippet& snippet = diagnostic.snippet;
  if (!snippet.where.empty()) {
    if (snippet.line > 0) {
      out += fmt::format("  --> {}:{}:{}\n", printable(snippet.where), snippet.line, snippet.column);
      const Window window = cut_window(snippet);
      const std::string number = std::to_string(snippet.line);
      const std::string gutter(std::max<std::size_t>(number.size(), 3), ' ');
      out += fmt::format(" {:>{}} | {}\n", number, gutter.size(), window.text);
      const std::string carets(static_cast<std::size_t>(window.width), '^');
      const std::string blank(static_cast<std::size_t>(window.column - 1), ' ');
      out += fmt::format(" {} | {}{}", gutter, blank, paint(carets, kRed, color));
      out += snippet.note.empty() ? "\n" : fmt::format(" {}\n", snippet.note);
    } else {
      out += fmt::format("  --> {}\n", printable(snippet.where));
      if (!snippet.note.empty()) out += fmt::format("  {}\n", snippet.note);
    }
  } else if (!snippet.note.empty()) {
    out += fmt::format("  {}\n", snippet.note);
  }
  if (!diagnostic.help.empty())
    out += fmt::format("  {} {}\n", paint("help:", kCyan, color), diagnostic.help);
  return out;
}

namespace {

std::string plain_text(const std::vector<Diagnostic>& diagnostics) {
  std::string text;
  for (const Diagnostic& diagnostic : diagnostics) text += render(diagnostic, false);
  return text;
}

}  // namespace

UsageErrors::UsageErrors(std::vector<Diagnostic> diagnostics)
    : Error(ErrorKind::kUsage, plain_text(diagnostics)), diagnostics_(std::move(diagnostics)) {}

bool use_color(ColorMode mode, int fd) {
  if (mode != ColorMode::kAuto) return mode == ColorMode::kAlways;
  const char* no_color = std::getenv("NO_COLOR");
  if (no_color != nullptr && *no_color != '\0') return false;
  const char* term = std::getenv("TERM");
  return ::isatty(fd) == 1 && term != nullptr && std::strcmp(term, "dumb") != 0;
}

void set_color_mode(ColorMode mode) {
  color_mode = mode;
}

bool stderr_color() {
  return use_color(color_mode, STDERR_FILENO);
}

void print_error(const Error& error) {
  const bool color = stderr_color();
  if (const auto* several = dynamic_cast<const UsageErrors*>(&error)) {
    std::string text;
    for (const Diagnostic& diagnostic : several->diagnostics()) text += render(diagnostic, color);
    write_all(STDERR_FILENO, text);
    return;
  }
  write_all(STDERR_FILENO, render(error_block(error.what(), error.hint()), color));
}

namespace {

void print_block(Severity severity, std::string_view message, std::string_view hint) {
  Diagnostic diagnostic = error_block(std::string(message), std::string(hint));
  diagnostic.severity = severity;
  write_all(STDERR_FILENO, render(diagnostic, stderr_color()));
}

}  // namespace

void print_warning(std::string_view message, std::string_view hint) {
  print_block(Severity::kWarning, message, hint);
}

void print_note(std::string_view message) {
  print_block(Severity::kNote, message, {});
}

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

void print_out(std::string_view text) {
  if (stdout_error != 0 || write_all(STDOUT_FILENO, text)) return;
  const int error = errno == 0 ? EIO : errno;
  if (stdout_error.exchange(error) == 0) {
    print_warning(fmt::format("cannot write to standard output: {}", std::strerror(error)));
  }
}

int out_failure() {
  return stdout_error;
}

}  // namespace cohort::tools
