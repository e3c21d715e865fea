// What several runs at once show on stderr: on a terminal one line per running cohort, redrawn in place; off
// a terminal what is permanent (start, epochs, end), and every minute where each of them is.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "tools/progress.h"
#include "tools/run_records.h"

namespace cohort::tools {

// Where one run is, from the events that it reports.
class JobStatus {
 public:
  JobStatus(std::string label, std::int64_t epochs, std::size_t num_networks)
      : label_(std::move(label)), epochs_(epochs), records_an_epoch_(num_networks + (num_networks > 1)) {}

  // A line for people when the event ends an epoch, else nothing.
  std::string take(const Json& event);
  // "dml-s0  epoch 3/10  step 1045  loss a 1.234 b 1.198  350 img/s"
  std::string line() const;
  const std::string& label() const { return label_; }

 private:
  std::string label_;
  std::int64_t epochs_;
  std::size_t records_an_epoch_;
  double epoch_ = 0, step_ = 0, rate_ = 0;
  std::map<std::string, double> losses_;
  std::string scores_;  // of the epoch whose records come in
  std::size_t records_ = 0;
};

class JobBoard {
 public:
  JobBoard(ProgressMode mode, Progress::Terminal terminal) : mode_(mode), terminal_(std::move(terminal)) {}
  ~JobBoard() { clear(); }
  JobBoard(const JobBoard&) = delete;
  JobBoard& operator=(const JobBoard&) = delete;

  // The lines of the running cohorts, by a key that orders them.
  void show(const std::map<int, JobStatus>& running);
  // A permanent line; nothing in the modes json and none.
  void line(std::string_view text);
  // What a run said that is no event: a warning, an error. Shown in every mode.
  void message(std::string_view text);
  // An event of a run, with the run's folder; in the mode json only.
  void event(Json event, const std::string& folder);
  void clear();

 private:
  ProgressMode mode_;
  Progress::Terminal terminal_;
  double last_ = -1e30;
  int shown_ = 0;  // lines on the screen
  int width_ = 0;
};

}  // namespace cohort::tools
