#include "tools/run_writer.h"

#include <fmt/format.h>

#include <cmath>
#include <ctime>

#include "core/checksum.h"
#include "tools/build_info.h"
#include "tools/calibration.h"
#include "tools/messages.h"
#include "tools/report.h"
#include "tools/signals.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

using distill::Scores;

constexpr int kRecordVersion = 1;
constexpr const char* kRunState = "run.json";
constexpr const char* kCsvHeader =
    "epoch,step,net,train_loss,train_top1,val_loss,val_top1,val_top5,val_ece,test_loss,test_top1,test_top5,"
    "test_ece,"
    "lr,seconds";

std::string utc_now() {
  const auto now = std::chrono::system_clock::now();
  const auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count();
  const std::time_t seconds = static_cast<std::time_t>(millis / 1000);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, millis % 1000);
}

Json scores_json(const Scores& scores) {
  Json json = Json::object();
  put_number(json, "loss", scores.loss);
  put_number(json, "top1", scores.top1);
  put_number(json, "top5", scores.top5);
  put_number(json, "ece", scores.ece);
  json["bins"] = bins_json(scores.bins);
  return json;
}

// Of member k, or of the ensemble behind the last member.
std::optional<Scores> part_of(const std::optional<distill::CohortScores>& scores, std::size_t k) {
  if (!scores) return std::nullopt;
  return k < scores->members.size() ? scores->members[k] : scores->ensemble;
}

std::string csv_scores(const std::optional<Scores>& scores) {
  if (!scores) return ",,,";
  return fmt::format("{},{},{},{}", format_float(scores->loss), format_float(scores->top1),
                     format_float(scores->top5), format_float(scores->ece));
}

std::string shell_word(const std::string& word) {
  const bool plain = !word.empty() && word.find_first_not_of(
                                          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                          "0123456789_-+=.,:/@%") == std::string::npos;
  if (plain) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

}  // namespace

RunWriter::Files::Files(FileSystem& fs, const std::string& folder, int keep)
    : lock(fs, folder),
      metrics(fs, join_path(folder, "metrics.jsonl")),
      csv(fs, join_path(folder, "metrics.csv")),
      text(fs, join_path(folder, "log.txt")),
      checkpoints(fs, join_path(folder, "checkpoints"), CheckpointAccess::kWrite, keep) {}

RunWriter::RunWriter(const Config& config, const RunSetup& run, Progress& progress, RunWriterOptions options)
    : config_(config), run_(run), progress_(progress), options_(std::move(options)) {
  const auto members = static_cast<std::size_t>(run.cohort->size());
  shown_correct_.assign(members, 0);
  shown_rows_.assign(members, 0);
  best_val_.assign(members + 1, -1);
  best_epoch_.assign(members + 1, -1);
  if (!options_.folder.empty()) {
    files_.emplace(system_file_system(), options_.folder, static_cast<int>(config.integer("train.keep")));
    remove_leftovers(system_file_system(), options_.folder);  // of a killed run; the lock is ours now
  }
}

double RunWriter::seconds() const {
  return earlier_seconds_ + std::chrono::duration<double>(Clock::now() - begin_).count();
}

void RunWriter::line(const std::string& text) {
  progress_.line(text);
  if (files_) files_->text.append(printable(text));
}

void RunWriter::warn(const std::string& text) {
  progress_.clear();
  print_warning(text);
  if (files_) files_->text.append("warning: " + printable(text));
  event({{"kind", "warning"}, {"message", text}});
}

void RunWriter::event(Json record) {
  Json whole = {{"v", kRecordVersion}, {"t", utc_now()}};
  whole.update(record);
  const std::string text = whole.dump(-1, ' ', false, Json::error_handler_t::replace);
  progress_.event(text);
  if (files_) files_->metrics.append(text);
}

void RunWriter::replace_file(const std::string& name, const std::string& content) {
  if (files_) durable_replace(system_file_system(), join_path(options_.folder, name), as_byte_span(content));
}

void RunWriter::start() {
  const ImageSet& train = run_.data.train;
  std::string command = "cohort";
  for (const std::string& word : options_.command) command += " " + shell_word(word);
  Json env = Json::parse(build_info_json());
  const HostInfo host = host_info();
  env["system"] = host.system;
  env["cpu"] = host.cpu;
  env["cores"] = host.cores;
  env["data_fingerprint"] = checksum_text(run_.fingerprint);
  replace_file("config.toml", config_.to_toml());
  replace_file("command.txt", command + "\n");
  replace_file("env.json", json_text(env));
  replace_file("split.json",
               Json{{"seed", config_.integer("seed")}, {"held_out", run_.split.held_out}}.dump() + "\n");
  if (files_ && files_->csv.bytes() == 0) files_->csv.append(kCsvHeader);

  Json nets = Json::array();
  for (const distill::Cohort::Member& member : run_.cohort->members()) {
    nets.push_back({{"id", member.spec.id},
                    {"model", member.spec.model},
                    {"params", member.network->parameters().num_parameters()},
                    {"frozen", member.frozen}});
  }
  event({{"kind", "run_start"},
         {"version", build_info().version},
         {"method", method_label(config_)},
         {"loss", run_.formula},
         {"seed", config_.integer("seed")},
         {"nets", nets},
         {"data",
          {{"name", config_.text("data.name")},
           {"train", run_.split.train.size()},
           {"val", run_.split.held_out.size()},
           {"test", run_.data.test.size()},
           {"classes", train.num_classes}}}});
}

void RunWriter::resume(const Checkpoint& checkpoint, const std::vector<std::string>& changes) {
  const std::vector<std::byte>& bytes = checkpoint.file(kRunState);
  const Json state = Json::parse(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()),
                                 nullptr, false);
  const auto bad = [&](const std::string& why) {
    throw Error(ErrorKind::kCheckpoint, fmt::format("{}: {}", printable(checkpoint.path), why),
                "start a new run, with --init for its weights");
  };
  if (!state.is_object() || !state.contains("marks") || !state.contains("best"))
    bad("run.json is not usable");
  if (text_in(state, "data_fingerprint") != checksum_text(run_.fingerprint)) {
    bad("the data set is not the one that the run was trained on (images or labels differ)");
  }
  const auto truncate = [&](AppendLog& log, const char* name) {
    const Json mark = state["marks"].value(name, Json::object());
    const auto hash = parse_checksum(text_in(mark, "xxh3"));
    if (!hash || !mark.contains("bytes") || !mark["bytes"].is_number_integer())
      bad("run.json has no mark of a log");
    log.truncate_to({mark["bytes"].get<std::int64_t>(), *hash});
  };
  truncate(files_->metrics, "metrics.jsonl");
  truncate(files_->csv, "metrics.csv");
  truncate(files_->text, "log.txt");
  earlier_seconds_ = number_in(state, "seconds");
  for (std::size_t k = 0; k < best_val_.size() && k < state["best"].size(); ++k) {
    best_val_[k] = number_in(state["best"][k], "val");
    best_epoch_[k] = static_cast<int>(number_in(state["best"][k], "epoch"));
  }
  saved_step_ = checkpoint.step;
  files_->checkpoints.discard_after(checkpoint.step);
  replace_file("config.toml", config_.to_toml());
  event({{"kind", "resume"}, {"step", checkpoint.step}, {"changes", changes}});
  line(fmt::format("resumed at step {}{}{}", checkpoint.step,
                   changes.empty() ? "" : "; changed: ", join(changes, ", ")));
  if (!checkpoint.warning.empty()) warn(checkpoint.warning);
}

void RunWriter::on_step(const distill::StepRecord& record) {
  if (record.epoch != shown_epoch_) {
    shown_epoch_ = record.epoch;
    shown_rows_.assign(shown_rows_.size(), 0);
    shown_correct_.assign(shown_correct_.size(), 0);
  }
  rate_images_ += record.rows;
  for (std::size_t k = 0; k < record.members.size(); ++k) {
    shown_rows_[k] += record.members[k].rows;
    shown_correct_[k] += record.members[k].correct_top1;
  }
  const bool logged = record.step == 1 || record.step % config_.integer("log.every_steps") == 0;
  if (!logged && !progress_.due()) return;

  const Clock::time_point now = Clock::now();
  const double elapsed = std::chrono::duration<double>(now - rate_begin_).count();
  if (elapsed > 0.5 || rate_ == 0) {
    rate_ = static_cast<double>(rate_images_) / std::max(elapsed, 1e-9);
    rate_begin_ = now;
    rate_images_ = 0;
  }
  if (logged) step_records(record, rate_);

  ProgressSample sample;
  sample.epoch = record.epoch + 1;
  sample.epochs = config_.integer("train.epochs");
  sample.steps = trainer_->steps_per_epoch();
  sample.step = (record.step - 1) % sample.steps + 1;
  sample.images_per_second = rate_;
  const double images_left =
      static_cast<double>(sample.epochs * sample.steps - record.step) *
      static_cast<double>(config_.integer("train.batch_size") * run_.cohort->batches_per_step());
  sample.seconds_left = rate_ > 0 ? images_left / rate_ : -1;
  for (std::size_t k = 0; k < record.members.size(); ++k) {
    const double top1 = 100.0 * static_cast<double>(shown_correct_[k]) / static_cast<double>(shown_rows_[k]);
    sample.networks.push_back({run_.cohort->members()[k].spec.id, record.members[k].loss, top1});
  }
  progress_.step(sample);
}

void RunWriter::step_records(const distill::StepRecord& record, double images_per_second) {
  for (std::size_t k = 0; k < record.members.size(); ++k) {
    const distill::MemberStep& member = record.members[k];
    Json json = {{"kind", "step"},
                 {"step", record.step},
                 {"epoch", record.epoch + 1},
                 {"net", run_.cohort->members()[k].spec.id}};
    put_number(json, "loss", member.loss);
    put_number(json, "ce", member.ce);
    put_number(json, "kl", member.kl);
    if (member.feature != 0) put_number(json, "feature", member.feature);
    put_number(json, "lr", member.learning_rate);
    put_number(json, "img_s", images_per_second);
    if (!member.stepped) json["skipped"] = true;
    if (member.mode >= 0) json["mode"] = member.mode == 1 ? "expert" : "learning";
    if (record.teacher >= 0)
      json["teacher"] = run_.cohort->members()[static_cast<std::size_t>(record.teacher)].spec.id;
    if (record.perturbed >= 0) {
      json["perturbed"] = run_.cohort->members()[static_cast<std::size_t>(record.perturbed)].spec.id;
    }
    event(std::move(json));
  }
}

void RunWriter::epoch_records(const distill::EpochRecord& record, double epoch_seconds) {
  const std::size_t members = record.train_loss.size();
  for (std::size_t k = 0; k < members + (members > 1 ? 1 : 0); ++k) {
    const bool ensemble = k == members;
    const std::string id = ensemble ? "ens" : run_.cohort->members()[k].spec.id;
    const std::optional<Scores> val = part_of(record.held_out, k);
    const std::optional<Scores> test = part_of(record.test, k);
    Json json = {{"kind", "epoch"}, {"step", record.step}, {"epoch", record.epoch + 1}, {"net", id}};
    if (!ensemble) {
      put_number(json, "train_loss", record.train_loss[k]);
      put_number(json, "train_top1", record.train_top1[k]);
      put_number(json, "lr", record.learning_rates[k]);
    } else if (record.held_out || record.test) {
      put_number(json, "agreement", record.held_out ? record.held_out->agreement : record.test->agreement);
    }
    if (val) json["val"] = scores_json(*val);
    if (test) json["test"] = scores_json(*test);
    json["best"] = record.new_best.size() > k && record.new_best[k];
    put_number(json, "seconds", epoch_seconds);
    event(std::move(json));
    if (!files_) continue;
    files_->csv.append(fmt::format("{},{},{},{},{},{},{},{},{}", record.epoch + 1, record.step, id,
                                   ensemble ? "" : format_float(record.train_loss[k]),
                                   ensemble ? "" : format_float(record.train_top1[k]), csv_scores(val),
                                   csv_scores(test), ensemble ? "" : format_float(record.learning_rates[k]),
                                   format_float(epoch_seconds)));
  }
}

std::string RunWriter::epoch_line(const distill::EpochRecord& record, double epoch_seconds) const {
  const std::size_t members = record.train_loss.size();
  const auto& scores = record.held_out ? record.held_out : record.test;
  const char* part = record.held_out ? "val" : "test";
  std::string text = fmt::format("epoch {}/{}", record.epoch + 1, config_.integer("train.epochs"));
  for (std::size_t k = 0; k < members; ++k) {
    text += fmt::format("  {}: loss {:.3f}", run_.cohort->members()[k].spec.id, record.train_loss[k]);
    if (!scores) continue;
    text += fmt::format(" {} {:.2f} (best {:.2f} @{})", part, 100 * scores->members[k].top1,
                        100 * best_val_[k], best_epoch_[k] + 1);
  }
  if (scores && members > 1) {
    text += fmt::format("  ens {:.2f}  agree {:.1f}%", 100 * scores->ensemble.top1, 100 * scores->agreement);
  }
  return text + fmt::format("  lr {:.3g}  {:.1f}s", record.learning_rates[0], epoch_seconds);
}

void RunWriter::on_epoch(const distill::EpochRecord& record) {
  const auto& scores = record.held_out ? record.held_out : record.test;
  for (std::size_t k = 0; k < record.new_best.size(); ++k) {
    if (!record.new_best[k] || !scores) continue;
    best_val_[k] = part_of(scores, k)->top1;
    best_epoch_[k] = record.epoch;
  }
  const double epoch_seconds = std::chrono::duration<double>(Clock::now() - epoch_begin_).count();
  epoch_begin_ = Clock::now();
  epoch_records(record, epoch_seconds);
  line(epoch_line(record, epoch_seconds));
  save_best(record);
  const std::int64_t every = config_.integer("train.save_every");
  if (every > 0 && (record.epoch + 1) % every == 0) save();
  rate_begin_ = Clock::now();  // evaluation is not training speed
  rate_images_ = 0;
}

// best/ holds each network's own best weights, so it mixes epochs; best.json says which.
void RunWriter::save_best(const distill::EpochRecord& record) {
  if (!files_) return;
  const std::size_t members = record.train_loss.size();
  bool any = false;
  for (std::size_t k = 0; k < members && k < record.new_best.size(); ++k) any = any || record.new_best[k];
  if (!any) return;
  std::vector<distill::NamedBytes> state = trainer_->state();
  std::optional<Checkpoint> earlier;
  if (record.epoch > 0) {
    try {
      earlier = files_->checkpoints.best();
    } catch (const Error&) {  // none yet, or damaged: the current weights stand in
    }
  }
  Json best = Json::array();
  std::vector<CheckpointFile> files;
  for (std::size_t k = 0; k < members; ++k) {
    const std::string name = run_.cohort->members()[k].spec.id + ".safetensors";
    std::span<const std::byte> bytes;
    for (const distill::NamedBytes& file : state) {
      if (file.name == name) bytes = file.bytes;
    }
    if (!record.new_best[k] && earlier && earlier->files.count(name) > 0) bytes = earlier->files.at(name);
    files.push_back({name, bytes});
    Json entry = {{"id", run_.cohort->members()[k].spec.id}, {"epoch", best_epoch_[k] + 1}};
    put_number(entry, "top1", best_val_[k]);
    best.push_back(std::move(entry));
  }
  const std::string best_text = json_text(best);
  const std::string run_text = run_state();
  files.push_back({"best.json", as_byte_span(best_text)});
  files.push_back({kRunState, as_byte_span(run_text)});
  files_->checkpoints.save_best(record.step, files);
}

std::string RunWriter::run_state() const {
  const ImageSet& train = run_.data.train;
  Json json = {{"version", kRecordVersion}, {"data_fingerprint", checksum_text(run_.fingerprint)}};
  put_number(json, "seconds", seconds());
  for (std::size_t k = 0; k < best_val_.size(); ++k) {
    json["best"].push_back({{"val", best_val_[k]}, {"epoch", best_epoch_[k]}});
  }
  for (int c = 0; c < train.channels; ++c) {
    json["mean"].push_back(train.normalisation.mean[c]);
    json["std"].push_back(train.normalisation.std[c]);
  }
  json["class_names"] = train.class_names;
  return json_text(json);
}

void RunWriter::save() {
  if (!files_ || trainer_->step() == saved_step_) return;
  const auto mark = [](AppendLog& log) {
    const AppendLog::Mark at = log.sync();
    return Json{{"bytes", at.bytes}, {"xxh3", checksum_text(at.xxh3)}};
  };
  Json state = Json::parse(run_state());
  state["marks"] = {{"metrics.jsonl", mark(files_->metrics)},
                    {"metrics.csv", mark(files_->csv)},
                    {"log.txt", mark(files_->text)}};
  const std::string state_text = json_text(state);
  std::vector<distill::NamedBytes> contents = trainer_->state();
  std::vector<CheckpointFile> files;
  for (const distill::NamedBytes& file : contents) files.push_back({file.name, file.bytes});
  files.push_back({kRunState, as_byte_span(state_text)});
  files_->checkpoints.save(trainer_->step(), files);
  saved_step_ = trainer_->step();
  event({{"kind", "checkpoint"}, {"step", saved_step_}});
}

distill::StopRequest RunWriter::poll() {
  switch (stop_requested()) {
    case StopRequest::kInterrupt:
      return distill::StopRequest::kInterrupt;
    case StopRequest::kTerminate:
      return distill::StopRequest::kTerminate;
    case StopRequest::kNone:
      break;
  }
  const double run_seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
  return options_.time_limit > 0 && run_seconds >= options_.time_limit ? distill::StopRequest::kTimeLimit
                                                                       : distill::StopRequest::kNone;
}

Json RunWriter::make_summary(const distill::RunResult& result, const std::string& status,
                             int exit_code) const {
  Json json = {{"v", kRecordVersion},
               {"status", status},
               {"exit_code", exit_code},
               {"run", options_.folder},
               {"method", method_label(config_)},
               {"seed", config_.integer("seed")},
               {"data", config_.text("data.name")},
               {"selected_on", run_.split.held_out.empty() ? "test" : "val"},
               {"steps", result.steps},
               {"epochs", result.epochs}};
  put_number(json, "seconds", seconds());
  const std::size_t members = static_cast<std::size_t>(run_.cohort->size());
  json["nets"] = Json::array();
  for (std::size_t k = 0; k < members + (members > 1 ? 1 : 0); ++k) {
    const bool ensemble = k == members;
    Json net = {{"id", ensemble ? "ens" : run_.cohort->members()[k].spec.id},
                {"model", ensemble ? fmt::format("{} nets", members) : run_.cohort->members()[k].spec.model}};
    if (!ensemble) net["params"] = run_.cohort->members()[k].network->parameters().num_parameters();
    const bool selected = k < result.best.size() && result.best[k].epoch >= 0;
    if (selected) {
      net["best_epoch"] = result.best[k].epoch + 1;
      const bool on_validation = !run_.split.held_out.empty();
      if (on_validation) put_number(net, "val_best", result.best[k].selected.top1);
      if (result.best[k].test) {
        put_number(net, "test_at_best", result.best[k].test->top1);
        put_number(net, "test_top5_at_best", result.best[k].test->top5);
        put_number(net, "test_ece", result.best[k].test->ece);
      }
    }
    if (const auto last = part_of(result.last_held_out, k)) put_number(net, "val_last", last->top1);
    if (const auto last = part_of(result.last_test, k)) put_number(net, "test_last", last->top1);
    json["nets"].push_back(std::move(net));
  }
  return json;
}

void RunWriter::finish(const distill::RunResult& result, const std::string& status, int exit_code) {
  progress_.clear();
  summary_ = make_summary(result, status, exit_code);
  event({{"kind", "run_end"}, {"status", status}, {"exit_code", exit_code}, {"steps", result.steps}});
  replace_file("summary.json", json_text(summary_));
  write_report();
}

void RunWriter::write_report() {
  if (!files_) return;
  replace_file("report.html", html_report(read_run(system_file_system(), options_.folder)));
}

}  // namespace cohort::tools
