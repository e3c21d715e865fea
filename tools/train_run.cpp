#include "tools/train_run.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/dispatch.h"
#include "kernels/memory.h"
#include "models/registry.h"
#include "tools/build_info.h"
#include "tools/messages.h"
#include "tools/run_writer.h"
#include "tools/table.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

// May differ when a run goes on; everything else would make it another run.
bool may_change(const std::string& key) {
  static const std::vector<std::string> keys = {"train.epochs",     "train.max_steps", "train.time_limit",
                                                "train.save_every", "train.keep",      "threads",
                                                "data.root",        "data.residency"};
  return std::find(keys.begin(), keys.end(), key) != keys.end() || key.compare(0, 4, "log.") == 0;
}

std::string shown_value(const Config& config, const std::string& key) {
  return key == "networks" ? fmt::format("{} networks", config.networks().size())
                           : to_toml(config.value(key));
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
  const std::string held_out =
      run.split.held_out.empty()
          ? "none (best epochs are selected on test)"
          : fmt::format("{} (held out, seed {})", run.split.held_out.size(), config.integer("seed"));
  writer.line(fmt::format("data   {}  train {}  val {}  test {}  {} classes  {}x{}x{}",
                          config.text("data.name"), run.split.train.size(), held_out, run.data.test.size(),
                          train.num_classes, train.height, train.width, train.channels));
  if (run.wrong_labels > 0) {
    writer.line(fmt::format("noise  {} of {} training labels are wrong on purpose (seed {})",
                            run.wrong_labels, run.split.train.size(),
                            config.integer("data.label_noise_seed")));
  }
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

// Images of every step but an epoch's last.
std::int64_t first_batch(const Config& config, const RunSetup& run) {
  return std::min(config.integer("train.batch_size"), static_cast<std::int64_t>(run.split.train.size()));
}

std::string mib(std::size_t bytes) {
  return fmt::format("{:.1f}", static_cast<double>(bytes) / (1024.0 * 1024.0));
}

std::string place_of_images(const RunSetup& run, const distill::Trainer& trainer) {
  const std::size_t bytes = run.data.train.images.size() + run.data.test.images.size();
  if (run.ctx->device().kind == DeviceKind::kCpu) return fmt::format("images {} MiB besides", mib(bytes));
  std::size_t host = 0;
  for (const distill::DeviceImages* images : {&trainer.train_images(), &trainer.test_images()})
    host += images->host == nullptr ? 0 : images->images.bytes();
  if (host == 0) return fmt::format("images are {} MiB of it", mib(bytes));
  return fmt::format("{} MiB of images stay in host memory, fed through {} MiB of pinned memory", mib(host),
                     mib(trainer.pinned_bytes()));
}

// Only a step tells what a step takes: activations, gradients and scratch are allocated as it runs.
void take_one_step(const Config& config, RunSetup& run, const distill::Trainer& trainer) {
  const std::int64_t batch = first_batch(config, run);
  const std::int64_t images =
      std::min(batch * run.cohort->batches_per_step(), static_cast<std::int64_t>(run.split.train.size()));
  const std::vector<std::int32_t> indices(run.split.train.begin(), run.split.train.begin() + images);
  distill::Feed feed = run.cohort->make_feed(trainer.train_images(), indices, batch, /*shuffle=*/false);
  feed.start(0, 0, run.cohort->rate_table({std::vector<double>(run.cohort->members().size(), 0.0)}));
  run.cohort->train(feed);
}

std::size_t weight_bytes(const ParameterSet& set) {
  return set.values().bytes() + (set.shadow().empty() ? 0 : set.shadow().bytes());
}

void print_memory_plan(RunWriter& writer, const Config& config, RunSetup& run,
                       const distill::Trainer& trainer) {
  take_one_step(config, run, trainer);
  Table table({{"MiB"},
               {"weights", Align::kRight},
               {"gradients", Align::kRight},
               {"optimiser", Align::kRight},
               {"step", Align::kRight}});
  for (std::size_t k = 0; k < run.cohort->members().size(); ++k) {
    const distill::Cohort::Member& member = run.cohort->members()[k];
    const ParameterSet& set = member.network->parameters();
    std::size_t weights = weight_bytes(set);
    if (member.former) weights += weight_bytes(member.former->parameters());
    table.add({member.spec.id, mib(weights), mib(set.grads().bytes()), mib(set.momenta().bytes()),
               mib(run.ctx->branch_step_bytes(static_cast<int>(k) + 1))});
  }
  table.add({"shared", "-", "-", "-", mib(run.ctx->branch_step_bytes(Context::kMain))});
  writer.line(fmt::format("memory of the engine, batch {}: {} MiB in arenas; {}", first_batch(config, run),
                          mib(run.ctx->arena_bytes()), place_of_images(run, trainer)));
  for (const std::string& row : split(trim(table.text()), '\n')) writer.line(" " + row);
}

std::string cell(const Json& net, const char* key) {
  const double value = number_in(net, key);
  return value == value ? fmt::format("{:.2f}", 100 * value) : "-";
}

std::string end_table(const Json& summary) {
  const bool on_test = text_in(summary, "selected_on") == "test";
  std::vector<Table::Column> columns = {{"net"}, {"model"}};
  columns.push_back({on_test ? "test best (selected on test)" : "val best", Align::kRight});
  columns.push_back({"epoch", Align::kRight});
  if (!on_test) columns.insert(columns.end(), {{"val last", Align::kRight}, {"test@best", Align::kRight}});
  columns.insert(columns.end(),
                 {{"test@last", Align::kRight}, {"top5@best", Align::kRight}, {"ECE", Align::kRight}});
  Table table(columns);
  for (const Json& net : summary["nets"]) {
    const double ece = number_in(net, "test_ece");
    std::vector<std::string> row = {
        text_in(net, "id"), text_in(net, "model"), cell(net, on_test ? "test_at_best" : "val_best"),
        net.contains("best_epoch") ? std::to_string(net["best_epoch"].get<int>()) : "-"};
    if (!on_test) row.insert(row.end(), {cell(net, "val_last"), cell(net, "test_at_best")});
    row.insert(row.end(), {cell(net, "test_last"), cell(net, "test_top5_at_best"),
                           ece == ece ? fmt::format("{:.3f}", ece) : "-"});
    table.add(row);
  }
  return table.text();
}

Config with_threads(Config config, int threads) {
  if (threads > 0) config.override_value("threads", std::int64_t{threads}, "--jobs");
  return config;
}

int stop_code(distill::StopRequest request) {
  if (request == distill::StopRequest::kNone) return 0;
  const ErrorKind kind =
      request == distill::StopRequest::kInterrupt ? ErrorKind::kInterrupted : ErrorKind::kStopped;
  return static_cast<int>(kind);
}

}  // namespace

int train(const TrainRequest& plan) {
  const Config& config = plan.config;
  Progress progress(
      choose_progress_mode(plan.progress.empty() ? config.text("log.progress") : plan.progress, 2),
      Progress::standard_error());
  std::vector<std::string> early;  // before there is a log
  RunSetup run = make_run(
      with_threads(config, plan.threads), [&](const std::string& text) { early.push_back(text); },
      plan.resume ? FirstWeights::kFromCheckpoint : FirstWeights::kRead);
  if (!plan.resume && !plan.folder.empty()) make_run_folder(plan.folder, plan.overwrite);
  RunWriter writer(config, run, progress, {plan.folder, plan.command, config.number("train.time_limit")});
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
  warn_of_slow_convolutions(run, first_batch(config, run),
                            [&](const std::string& text) { writer.warn(text); });
  if (plan.dry_run) {
    print_memory_plan(writer, config, run, trainer);
    writer.line(
        "dry run: the data and the networks fit together; one step was run to measure its memory, nothing "
        "was "
        "kept or written");
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
  if (plan.answer == TrainAnswer::kTable) print_out(end_table(writer.summary()));
  if (plan.answer == TrainAnswer::kJson) print_out(json_text(writer.summary()));
  return code;
}

DeviceMemory memory_of_one_step(const Config& config, int threads) {
  RunSetup run = make_run(
      with_threads(config, threads), [](const std::string&) {}, FirstWeights::kFromCheckpoint);
  const bool gpu = run.ctx->device().kind == DeviceKind::kCuda;
  const auto free_now = [&] {
    return gpu ? on_device(*run.ctx, [](auto stream) { return kernels::free_bytes(stream); })
               : std::size_t{0};
  };
  const std::size_t before = free_now();
  distill::TrainerObserver nobody;
  distill::Trainer trainer(*run.ctx, *run.cohort, run.trainer_data(), trainer_options(config), nobody);
  take_one_step(config, run, trainer);
  run.ctx->synchronize();
  if (!gpu) return {};
  // The runtime's own share was taken before the first count; 300 to 600 MiB with cuDNN.
  constexpr std::size_t kContextBytes = std::size_t{512} << 20;
  return {before - std::min(before, free_now()) + kContextBytes, before};
}

TrainRequest resume_request(const std::string& folder, ConfigSources sources) {
  TrainRequest request;
  request.resume = true;
  request.folder = folder;
  const std::string file = join_path(folder, "config.toml");
  const Config before = parse_config(read_small_file(file, kMaxConfigBytes), file);
  sources.files = {file};
  request.config = resolve_config(sources);
  request.changes = check_changes(before, request.config);
  return request;
}

std::vector<std::string> check_changes(const Config& before, const Config& after) {
  std::vector<std::string> changes;
  std::vector<std::string> refused;
  for (const std::string& key : before.difference(after)) {
    const std::string change =
        fmt::format("{} {} -> {}", key, shown_value(before, key), shown_value(after, key));
    (may_change(key) ? changes : refused).push_back(change);
  }
  if (!refused.empty()) {
    throw Error(ErrorKind::kCheckpoint,
                fmt::format("the run was started with other settings: {}", join(refused, "; ")),
                "start a new run, with --init for the weights of this one");
  }
  return changes;
}

}  // namespace cohort::tools
