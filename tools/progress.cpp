#include "tools/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "tools/messages.h"
#include "tools/signals.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

constexpr int kDefaultWidth = 80;
constexpr int kBarWidth = 20;
constexpr std::string_view kEraseLine = "\r\x1b[K";

int terminal_width() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kDefaultWidth;
}

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0';
}

std::string bar(double share) {
  const int filled = std::clamp(static_cast<int>(share * kBarWidth), 0, kBarWidth);
  std::string out(static_cast<std::size_t>(filled), '=');
  if (filled < kBarWidth) out += '>';
  out.resize(kBarWidth, ' ');
  return "[" + out + "]";
}

}  // namespace

std::string first_columns(const std::string& text, int columns) {
  if (columns <= 0) return {};
  int seen = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool starts = (static_cast<unsigned char>(text[i]) & 0xC0U) != 0x80U;
    if (starts && ++seen > columns) return text.substr(0, i);
  }
  return text;
}

ProgressMode choose_progress_mode(std::string_view name, int fd) {
  if (name == "bar") return ProgressMode::kBar;
  if (name == "line") return ProgressMode::kLine;
  if (name == "json") return ProgressMode::kJson;
  if (name == "none") return ProgressMode::kNone;
  const char* term = std::getenv("TERM");
  const bool terminal =
      ::isatty(fd) == 1 && term != nullptr && std::strcmp(term, "dumb") != 0 && !is_set("CI");
  return terminal ? ProgressMode::kBar : ProgressMode::kLine;
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "-";
  const auto total = static_cast<std::int64_t>(std::min(seconds, 1e15) + 0.5);
  const std::int64_t hours = total / 3600;
  const std::int64_t minutes = total / 60 % 60;
  if (hours > 0) return fmt::format("{}:{:02}:{:02}", hours, minutes, total % 60);
  return fmt::format("{}:{:02}", minutes, total % 60);
}

std::string format_rate(double images_per_second) {
  if (!std::isfinite(images_per_second) || images_per_second < 0) return "- img/s";
  if (images_per_second >= 1e6) return fmt::format("{:.1f}M img/s", images_per_second / 1e6);
  if (images_per_second >= 1e4) return fmt::format("{:.1f}k img/s", images_per_second / 1e3);
  return fmt::format("{:.0f} img/s", images_per_second);
}

std::string progress_line(const ProgressSample& sample, int width) {
  const double share =
      sample.steps > 0 ? static_cast<double>(sample.step) / static_cast<double>(sample.steps) : 0.0;
  std::string loss;
  std::string top1;
  for (const ProgressSample::Network& network : sample.networks) {
    loss += fmt::format(" {} {:.3f}", network.id, network.loss);
    top1 += fmt::format(" {} {:.1f}", network.id, network.top1);
  }
  const std::string head = fmt::format("epoch {}/{}", sample.epoch, sample.epochs);
  const std::string count = fmt::format("{:3.0f}% {}/{}", 100 * share, sample.step, sample.steps);
  const std::string tail =
      fmt::format("{}  ETA {}", format_rate(sample.images_per_second), format_duration(sample.seconds_left));
  // From the richest to the poorest that fits; cut only when even the last does not.
  const std::vector<std::string> forms = {
      fmt::format("{} {} {}  loss{}  top1{}  {}", head, bar(share), count, loss, top1, tail),
      fmt::format("{} {}  loss{}  top1{}  {}", head, count, loss, top1, tail),
      fmt::format("{} {}  loss{}  {}", head, count, loss, tail),
      fmt::format("{} {}  {}", head, count, tail),
      fmt::format("{} {}", head, count),
  };
  for (const std::string& form : forms) {
    if (display_width(form) < width) return form;
  }
  return first_columns(forms.back(), width - 1);
}

Progress::Terminal Progress::standard_error() {
  return {[](std::string_view text) { return write_all(STDERR_FILENO, text); },
          [] {
            return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
          },
          terminal_width};
}

bool Progress::due() const {
  if (mode_ == ProgressMode::kBar) return terminal_.now() - last_ >= kRedrawSeconds;
  if (mode_ == ProgressMode::kLine) return last_ < 0 || terminal_.now() - last_ >= kHeartbeatSeconds;
  return false;
}

void Progress::step(const ProgressSample& sample) {
  if (!due()) return;
  // Off a terminal the first sample only starts the clock: the header was printed a moment ago.
  const bool first_line = mode_ == ProgressMode::kLine && last_ < 0;
  last_ = terminal_.now();
  if (first_line) return;
  if (mode_ == ProgressMode::kLine) {
    terminal_.write(progress_line(sample, 1 << 20) + "\n");
    return;
  }
  if (take_window_change() || width_ == 0) width_ = terminal_.width();
  terminal_.write(fmt::format("{}{}", kEraseLine, progress_line(sample, width_)));
  bar_shown_ = true;
}

void Progress::line(std::string_view text) {
  if (mode_ != ProgressMode::kBar && mode_ != ProgressMode::kLine) return;
  clear();
  terminal_.write(fmt::format("{}\n", text));
  if (mode_ == ProgressMode::kLine)
    last_ = terminal_.now();  // a heartbeat tells that nothing was said for long
}

void Progress::event(std::string_view json) {
  if (mode_ == ProgressMode::kJson) terminal_.write(fmt::format("{}\n", json));
}

void Progress::clear() {
  if (!bar_shown_) return;
  terminal_.write(kEraseLine);
  bar_shown_ = false;
}

}  // namespace cohort::tools
