// Everything that a training run leaves behind and shows: the run folder, its logs and checkpoints, the
// progress line.
//
//   config.toml  command.txt  env.json  split.json     once, at the start
//   metrics.jsonl  metrics.csv  log.txt                appended line by line
//   checkpoints/                                       core/checkpoint_store.h
//   summary.json  report.html                          at the end, and after every epoch
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/append_log.h"
#include "core/checkpoint_store.h"
#include "core/run_lock.h"
#include "distill/trainer.h"
#include "tools/config.h"
#include "tools/progress.h"
#include "tools/run_records.h"
#include "tools/run_setup.h"

namespace cohort::tools {

struct RunWriterOptions {
  std::string folder;  // exists; empty: nothing is written
  std::vector<std::string> command;
  double time_limit = 0;  // seconds; 0: none
};

class RunWriter : public distill::TrainerObserver {
 public:
  RunWriter(const Config& config, const RunSetup& run, Progress& progress, RunWriterOptions options);

  // The files of the start, or (resuming) the logs cut to the checkpoint's marks.
  void start();
  void resume(const Checkpoint& checkpoint, const std::vector<std::string>& changes);
  // The trainer whose state is saved; before run().
  void attach(const distill::Trainer& trainer) { trainer_ = &trainer; }

  void on_step(const distill::StepRecord& record) override;
  void on_epoch(const distill::EpochRecord& record) override;
  distill::StopRequest poll() override;

  // Saves unless the last checkpoint is of this very step.
  void save();
  // summary.json, report.html, the end of the logs. `status`: finished, stopped, failed.
  void finish(const distill::RunResult& result, const std::string& status, int exit_code);

  // A permanent line for people: screen and log.txt.
  void line(const std::string& text);
  void warn(const std::string& text);

  const Json& summary() const { return summary_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Files {
    Files(FileSystem& fs, const std::string& folder, int keep);
    RunLock lock;
    AppendLog metrics, csv, text;
    CheckpointStore checkpoints;
  };

  double seconds() const;
  void event(Json record);
  void step_records(const distill::StepRecord& record, double images_per_second);
  void epoch_records(const distill::EpochRecord& record, double epoch_seconds);
  std::string epoch_line(const distill::EpochRecord& record, double epoch_seconds) const;
  void save_best(const distill::EpochRecord& record);
  void replace_file(const std::string& name, const std::string& content);
  std::string run_state() const;
  Json make_summary(const distill::RunResult& result, const std::string& status, int exit_code) const;
  void write_report();

  const Config& config_;
  const RunSetup& run_;
  Progress& progress_;
  RunWriterOptions options_;
  const distill::Trainer* trainer_ = nullptr;
  std::optional<Files> files_;
  Clock::time_point begin_ = Clock::now();
  double earlier_seconds_ = 0;  // of the run before it was resumed
  Clock::time_point epoch_begin_ = Clock::now();
  Clock::time_point rate_begin_ = Clock::now();
  std::int64_t rate_images_ = 0;
  double rate_ = 0;
  std::int64_t saved_step_ = -1;
  std::int64_t shown_epoch_ = -1;
  std::vector<std::int64_t> shown_correct_;
  std::vector<std::int64_t> shown_rows_;
  std::vector<double> best_val_;
  std::vector<int> best_epoch_;
  Json summary_;
};

// runs/dml-resnet20+resnet20-shapes-s0-20261121-130500
std::string default_run_name(const Config& config);

// Makes the folder (and those above it). An existing one that is not empty is refused, or with `overwrite`
// emptied when it is a run.
void make_run_folder(const std::string& folder, bool overwrite);
// The refusal alone, before any work.
void check_run_folder(const std::string& folder, bool overwrite);

}  // namespace cohort::tools
