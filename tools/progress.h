// What a user sees on stderr while a run goes on.
//
//   bar   one line on a terminal, redrawn at most 10 times a second, cut to the width, never wrapped
//   line  plain lines (a file, a pipe, CI): what is permanent, and a heartbeat every 60 s
//   json  the run's events as JSON lines
//   none  nothing
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace cohort::tools {

enum class ProgressMode { kBar, kLine, kJson, kNone };

// "auto": bar on a terminal (TERM other than dumb, CI unset), else line.
ProgressMode choose_progress_mode(std::string_view name, int fd);

struct ProgressSample {
  struct Network {
    std::string id;
    double loss = 0;
    double top1 = 0;  // percent of the training images seen in this epoch
  };
  std::int64_t epoch = 0;  // 1-based, as shown
  std::int64_t epochs = 0;
  std::int64_t step = 0;  // done in this epoch
  std::int64_t steps = 0;
  std::vector<Network> networks;
  double images_per_second = 0;
  double seconds_left = -1;  // negative: unknown
};

// The progress line for a terminal of `width` columns; never longer than width - 1.
std::string progress_line(const ProgressSample& sample, int width);
// Its first `columns` code points.
std::string first_columns(const std::string& text, int columns);
std::string format_duration(double seconds);        // 1:42:08, 3:07, 0:05
std::string format_rate(double images_per_second);  // 11.2k img/s

class Progress {
 public:
  struct Terminal {
    std::function<bool(std::string_view)> write;
    std::function<double()> now;  // seconds, monotonic
    std::function<int()> width;   // asked again after each change of the window
  };
  static Terminal standard_error();

  Progress(ProgressMode mode, Terminal terminal) : mode_(mode), terminal_(std::move(terminal)) {}
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  ProgressMode mode() const { return mode_; }
  // Cheap to call at every step.
  void step(const ProgressSample& sample);
  // True when a call of step() would show something: filling in a sample can be skipped otherwise.
  bool due() const;
  // A permanent line, above the bar; nothing in the modes json and none.
  void line(std::string_view text);
  // One event, written as it is in the mode json only.
  void event(std::string_view json);
  // Takes the bar off the screen.
  void clear();

 private:
  static constexpr double kRedrawSeconds = 0.1;
  static constexpr double kHeartbeatSeconds = 60;

  ProgressMode mode_;
  Terminal terminal_;
  double last_ = -1e30;
  bool bar_shown_ = false;
  int width_ = 0;
};

}  // namespace cohort::tools
