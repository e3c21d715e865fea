#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "models/registry.h"
#include "tools/build_info.h"
#include "tools/commands.h"
#include "tools/messages.h"
#include "tools/run_writer.h"
#include "tools/table.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

constexpr std::int64_t kDevSteps = 5;
constexpr std::int64_t kDevBatch = 32;
constexpr std::int64_t kDevTestImages = 64;

// May differ when a run goes on; everything else would make it another run.
bool may_change(const std::string& key) {
  static const std::vector<std::string> keys = {"train.epochs",     "train.max_steps", "train.time_limit",
                                                "train.save_every", "train.keep",      "threads",
                                                "data.root"};
  return std::find(keys.begin(), keys.end(), key) != keys.end() || key.compare(0, 4, "log.") == 0;
}

std::string shown_value(const Config& config, const std::string& key) {
  return key == "networks" ? fmt::format("{} networks", config.networks().size())
                           : to_toml(config.value(key));
}

void show_warnings(const Config& config) {
  for (const Diagnostic& warning : config.warnings()) write_all(2, render(warning, stderr_color()));
}

// A few steps through every part of a run, on few images.
void apply_fast_dev_run(Config& config, const Arguments& arguments) {
  if (!arguments.has("--fast-dev-run")) return;
  const std::string text = arguments.value("--fast-dev-run");
  const std::optional<std::int64_t> steps = text.empty() ? kDevSteps : parse_int(text);
  if (!steps || *steps < 1 || *steps > 1000) {
    throw Error(ErrorKind::kUsage,
                fmt::format("--fast-dev-run: expected 1 to 1000 steps, not '{}'", printable(text)),
                "--fast-dev-run=5");
  }
  const std::int64_t batch = std::min(config.integer("train.batch_size"), kDevBatch);
  const char* origin = "--fast-dev-run";
  config.override_value("train.epochs", std::int64_t{1}, origin);
  config.override_value("train.batch_size", batch, origin);
  config.override_value("train.max_steps", std::int64_t{0}, origin);
  config.override_value("data.train_images", batch * *steps, origin);
  config.override_value("data.test_images", kDevTestImages, origin);
  config.override_value("data.val_fraction", 0.0, origin);
  config.override_value("optim.warmup_epochs", 0.0, origin);
  config.override_value("log.every_steps", std::int64_t{1}, origin);
}

std::string count_text(std::int64_t count) {
  if (count >= 10'000) return fmt::format("{:.2f} M", static_cast<double>(count) / 1e6);
  return std::to_string(count);
}

void print_header(RunWriter& writer, const Config& config, const RunSetup& run, const std::string& folder) {
  const BuildInfo build = build_info();
  const ImageSet& train = run.data.train;
  writer.line(
      fmt::format("cohort {}  {}, {}  {} threads  seed {}", build.version, config.text("train.precision"),
                  run.ctx->device().kind == DeviceKind::kCpu ? "cpu (oneDNN " + build.onednn + ")" : "cuda",
                  run.ctx->cpu_stream().pool->num_threads(), config.integer("seed")));
  if (!folder.empty()) writer.line(fmt::format("run    {}", folder));
  writer.line(fmt::format("data   {}  train {}  val {} (held out, seed {})  test {}  {} classes  {}x{}x{}",
                          config.text("data.name"), run.split.train.size(), run.split.held_out.size(),
                          config.integer("seed"), run.data.test.size(), train.num_classes, train.height,
                          train.width, train.channels));
  writer.line(fmt::format("loss   {}", run.formula));
  writer.line(fmt::format("optim  SGD, momentum {}{}, {}, batch {}, {} epochs",
                          config.number("optim.momentum"), config.flag("optim.nesterov") ? " (Nesterov)" : "",
                          make_schedule(config).describe(), config.integer("train.batch_size"),
                          config.integer("train.epochs")));
  Table table({{"id"},
               {"model"},
               {"params", Align::kRight},
               {"MACs/img", Align::kRight},
               {"lr", Align::kRight},
               {"decay", Align::kRight},
               {"weights"}});
  for (std::size_t k = 0; k < config.networks().size(); ++k) {
    const distill::Cohort::Member& member = run.cohort->members()[k];
    const auto network = models::make_network(member.spec.model, train.num_classes,
                                              {train.channels, train.height, train.width});
    const models::ModelSummary summary = models::summarize(*network);
    const std::string& init = config.networks()[k].init;
    table.add({member.spec.id, member.spec.model, count_text(summary.parameters), count_text(summary.macs),
               member.frozen ? "frozen" : fmt::format("{:g}", member.spec.learning_rate),
               member.frozen ? "-" : fmt::format("{:g}", member.spec.weight_decay),
               init.empty() ? "fresh" : init});
  }
  for (const std::string& row : split(trim(table.text()), '\n')) writer.line(" " + row);
}

std::string cell(const Json& net, const char* key) {
  const double value = number_in(net, key);
  return value == value ? fmt::format("{:.2f}", 100 * value) : "-";
}

std::string end_table(const Json& summary) {
  Table table({{"net"},
               {"model"},
               {"val best", Align::kRight},
               {"epoch", Align::kRight},
               {"val last", Align::kRight},
               {"test@best", Align::kRight},
               {"test@last", Align::kRight},
               {"top5@best", Align::kRight},
               {"ECE", Align::kRight}});
  for (const Json& net : summary["nets"]) {
    const double ece = number_in(net, "test_ece");
    table.add({text_in(net, "id"), text_in(net, "model"), cell(net, "val_best"),
               net.contains("best_epoch") ? std::to_string(net["best_epoch"].get<int>()) : "-",
               cell(net, "val_last"), cell(net, "test_at_best"), cell(net, "test_last"),
               cell(net, "test_top5_at_best"), ece == ece ? fmt::format("{:.3f}", ece) : "-"});
  }
  return table.text();
}

struct Plan {
  Config config;
  std::string folder;  // empty: nothing is written
  bool resume = false;
  std::vector<std::string> changes;
};

Plan plan_resume(const Arguments& arguments) {
  Plan plan;
  plan.resume = true;
  plan.folder = arguments.value("--resume");
  while (plan.folder.size() > 1 && plan.folder.back() == '/') plan.folder.pop_back();
  for (const char* other : {"--config", "--out", "--overwrite", "--fast-dev-run", "--net", "--init"}) {
    if (arguments.has(other)) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("--resume goes on with a run as it is: {} does not fit", other),
                  "only epochs, limits and logging may change");
    }
  }
  const std::string file = join_path(plan.folder, "config.toml");
  FileInfo info;
  if (!find_entry(system_file_system(), file, info, ErrorKind::kInput)) {
    throw Error(ErrorKind::kUsage,
                fmt::format("'{}' is no run folder: it has no config.toml", printable(plan.folder)),
                "give the folder that 'cohort train' printed");
  }
  const Config before = parse_config(read_small_file(file, kMaxConfigBytes), file);
  ConfigSources sources = arguments.config_sources();
  sources.files = {file};
  plan.config = resolve_config(sources);
  std::vector<std::string> refused;
  for (const std::string& key : before.difference(plan.config)) {
    const std::string change =
        fmt::format("{} {} -> {}", key, shown_value(before, key), shown_value(plan.config, key));
    (may_change(key) ? plan.changes : refused).push_back(change);
  }
  if (!refused.empty()) {
    throw Error(ErrorKind::kCheckpoint,
                fmt::format("the run was started with other settings: {}", join(refused, "; ")),
                "start a new run, with --init for the weights of this one");
  }
  return plan;
}

Plan plan_new(const Arguments& arguments) {
  Plan plan;
  plan.config = resolve_config(arguments.config_sources());
  apply_fast_dev_run(plan.config, arguments);
  const bool dry = arguments.has("--dry-run");
  if (arguments.has("--out")) {
    plan.folder = arguments.value("--out");
    while (plan.folder.size() > 1 && plan.folder.back() == '/') plan.folder.pop_back();
    check_run_folder(plan.folder, arguments.has("--overwrite"));
  } else if (!arguments.has("--fast-dev-run")) {
    plan.folder = default_run_name(plan.config);
    for (int i = 2; !dry && i < 100; ++i) {  // two runs started in one second
      FileInfo info;
      if (!find_entry(system_file_system(), plan.folder, info, ErrorKind::kOutput)) break;
      plan.folder = fmt::format("{}-{}", default_run_name(plan.config), i);
    }
  }
  if (dry) plan.folder.clear();
  return plan;
}

int stop_code(distill::StopRequest request) {
  if (request == distill::StopRequest::kNone) return 0;
  const ErrorKind kind =
      request == distill::StopRequest::kInterrupt ? ErrorKind::kInterrupted : ErrorKind::kStopped;
  return static_cast<int>(kind);
}

int train(const Plan& plan, const Arguments& arguments, const std::vector<std::string>& command) {
  const Config& config = plan.config;
  Progress progress(choose_progress_mode(config.text("log.progress"), 2), Progress::standard_error());
  std::vector<std::string> early;  // before there is a log
  RunSetup run = make_run(
      config, [&](const std::string& text) { early.push_back(text); },
      plan.resume ? FirstWeights::kFromCheckpoint : FirstWeights::kRead);
  if (!plan.resume && !plan.folder.empty()) make_run_folder(plan.folder, arguments.has("--overwrite"));
  RunWriter writer(config, run, progress, {plan.folder, command, config.number("train.time_limit")});
  distill::Trainer trainer(*run.ctx, *run.cohort, run.trainer_data(), trainer_options(config), writer);
  writer.attach(trainer);
  if (plan.resume) {
    const Checkpoint checkpoint =
        CheckpointStore(system_file_system(), join_path(plan.folder, "checkpoints"), CheckpointAccess::kRead)
            .latest();
    std::vector<distill::NamedBytes> files;
    for (const auto& [name, bytes] : checkpoint.files) files.push_back({name, bytes});
    trainer.restore(files);
    writer.resume(checkpoint, plan.changes);
  } else {
    writer.start();
  }
  print_header(writer, config, run, plan.folder);
  for (const std::string& text : early) writer.warn(text);
  if (arguments.has("--dry-run")) {
    writer.line("dry run: the data and the networks fit together; nothing was trained or written");
    return 0;
  }
  distill::RunResult result;
  try {
    result = trainer.run();
    writer.save();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kOutput) {  // the records of a failed run are worth keeping
      writer.line(fmt::format("error: {}", error.what()));
      result.steps = trainer.step();
      writer.finish(result, "failed", error.exit_code());
    }
    throw;
  }
  const int code = stop_code(result.stopped);
  writer.finish(result, code == 0 ? "finished" : "stopped", code);
  if (code != 0) {
    writer.line(plan.folder.empty()
                    ? fmt::format("stopped at step {}", result.steps)
                    : fmt::format("stopped at step {} and saved; go on with: cohort train --resume {}",
                                  result.steps, plan.folder));
  } else if (!plan.folder.empty()) {
    const bool selected = result.best[0].epoch >= 0;
    writer.line(
        fmt::format("saved  {0}/checkpoints/{1}, {0}/report.html", plan.folder, selected ? "best" : "last"));
  }
  print_out(arguments.has("--json") ? json_text(writer.summary()) : end_table(writer.summary()));
  return code;
}

int run_train(const Arguments& arguments) {
  Plan plan = arguments.has("--resume") ? plan_resume(arguments) : plan_new(arguments);
  show_warnings(plan.config);
  const std::string& color = plan.config.text("log.color");
  set_color_mode(color == "always"  ? ColorMode::kAlways
                 : color == "never" ? ColorMode::kNever
                                    : ColorMode::kAuto);
  if (arguments.has("--print-config")) {
    print_out(plan.config.to_toml());
    return 0;
  }
  return train(plan, arguments, arguments.words);
}

}  // namespace

CommandSpec train_command() {
  CommandSpec spec;
  spec.name = "train";
  spec.summary = "trains networks together";
  spec.examples = {
      {"cohort train --fast-dev-run=5", "a few steps of two resnet20 on generated images; writes nothing"},
      {"cohort train --preset dml.paper --data-root data/cifar100 --net resnet32 --net wrn_16_2",
       "a published recipe on CIFAR-100"},
      {"cohort train --resume runs/dml-resnet20+resnet20-shapes-s0-...", "goes on where a run stopped"}};
  spec.flags = setting_flags();
  const std::vector<FlagSpec> own = {
      {"--out", "-o", "DIR", "run folder (default: runs/<method>-<nets>-<data>-s<seed>-<time>)", "Run"},
      {"--overwrite", "", "", "empty the run folder first, when it is one", "Run"},
      {"--resume", "", "RUN", "go on with a run; epochs, limits and logging may change", "Run"},
      {"--dry-run", "", "", "read the data, build the networks, print the plan, stop", "Run"},
      {"--fast-dev-run", "", "N", "N steps (5) on few images; writes nothing unless --out is given", "Run",
       "", true},
      {"--print-config", "", "", "print the resolved settings and stop", "Run"},
      json_flag()};
  spec.flags.insert(spec.flags.end(), own.begin(), own.end());
  spec.details =
      "Order: defaults < preset < configuration files in order < COHORT_* environment < --set < named "
      "flags.\n"
      "Ctrl-C and SIGTERM save and end the run (130, 75); a second Ctrl-C ends it at once.\n"
      "'cohort list options' shows every setting, those of the methods included.\n";
  spec.run = run_train;
  return spec;
}

}  // namespace cohort::tools
