#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "tools/commands.h"
#include "tools/messages.h"
#include "tools/run_writer.h"
#include "tools/text.h"
#include "tools/train_run.h"

namespace cohort::tools {
namespace {

constexpr std::int64_t kDevSteps = 5;
constexpr std::int64_t kDevBatch = 32;
constexpr std::int64_t kDevTestImages = 64;

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
  // A method that learns from held-out images gets as many of them.
  const bool held_out = make_method(config)->wants_held_out();
  config.override_value("data.train_images", batch * *steps * (held_out ? 2 : 1), origin);
  config.override_value("data.test_images", kDevTestImages, origin);
  config.override_value("data.val_fraction", held_out ? 0.5 : 0.0, origin);
  config.override_value("optim.warmup_epochs", 0.0, origin);
  config.override_value("log.every_steps", std::int64_t{1}, origin);
}

TrainRequest plan_resume(const Arguments& arguments) {
  std::string folder = arguments.value("--resume");
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  for (const char* other : {"--config", "--out", "--overwrite", "--fast-dev-run", "--net", "--init"}) {
    if (arguments.has(other)) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("--resume goes on with a run as it is: {} does not fit", other),
                  "only epochs, limits and logging may change");
    }
  }
  FileInfo info;
  if (!find_entry(system_file_system(), join_path(folder, "config.toml"), info, ErrorKind::kInput)) {
    throw Error(ErrorKind::kUsage,
                fmt::format("'{}' is no run folder: it has no config.toml", printable(folder)),
                "give the folder that 'cohort train' printed");
  }
  return resume_request(folder, arguments.config_sources());
}

TrainRequest plan_new(const Arguments& arguments) {
  TrainRequest plan;
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
  plan.overwrite = arguments.has("--overwrite");
  plan.dry_run = dry;
  if (dry) plan.folder.clear();
  return plan;
}

int run_train(const Arguments& arguments) {
  TrainRequest plan = arguments.has("--resume") ? plan_resume(arguments) : plan_new(arguments);
  show_warnings(plan.config);
  const std::string& color = plan.config.text("log.color");
  set_color_mode(color == "always"  ? ColorMode::kAlways
                 : color == "never" ? ColorMode::kNever
                                    : ColorMode::kAuto);
  if (arguments.has("--print-config")) {
    print_out(plan.config.to_toml());
    return 0;
  }
  plan.command = arguments.words;
  if (arguments.has("--json")) plan.answer = TrainAnswer::kJson;
  return train(plan);
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
      {"--dry-run", "", "",
       "read the data, build the networks, run one step, print the plan and its memory, stop", "Run"},
      {"--fast-dev-run", "", "N", "N steps (5) on few images; writes nothing unless --out is given", "Run",
       "", true},
      {"--print-config", "", "", "print the resolved settings and stop", "Run"},
      json_flag()};
  spec.flags.insert(spec.flags.end(), own.begin(), own.end());
  spec.details =
      "Order: defaults < preset < fidelity < configuration files in order < COHORT_* environment < --set < "
      "named "
      "flags.\n"
      "Ctrl-C and SIGTERM save and end the run (130, 75); a second Ctrl-C ends it at once.\n"
      "'cohort list options' shows every setting, those of the methods included.\n";
  spec.run = run_train;
  return spec;
}

}  // namespace cohort::tools
