#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "tools/bench_plan.h"
#include "tools/build_info.h"
#include "tools/commands.h"
#include "tools/messages.h"
#include "tools/run_records.h"
#include "tools/run_setup.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

std::int64_t count_argument(const Arguments& arguments, const char* flag, std::int64_t otherwise) {
  if (!arguments.has(flag)) return otherwise;
  const auto value = parse_int(arguments.value(flag));
  if (!value || *value < 1 || *value > 1'000'000) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: expected an integer from 1 to 1000000, not '{}'", flag,
                            printable(arguments.value(flag))),
                "");
  }
  return *value;
}

double peak_memory_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024.0;
}

double to_mib(std::size_t bytes) {
  return static_cast<double>(bytes) / (1024.0 * 1024.0);
}

// The smallest value that at least `share` of the values do not exceed; `sorted` ascends.
double percentile(const std::vector<double>& sorted, double share) {
  const double rank = std::ceil(share * static_cast<double>(sorted.size()));
  return sorted[static_cast<std::size_t>(std::max(rank, 1.0)) - 1];
}

int run_bench(const Arguments& arguments) {
  const std::int64_t steps = count_argument(arguments, "--steps", 20);
  const std::int64_t warmup = count_argument(arguments, "--warmup", 3);
  Config config = resolve_config(arguments.config_sources());
  const std::int64_t batch = config.integer("train.batch_size");
  // A step needs one batch: no point in drawing or reading more of a generated set.
  if (config.text("data.name") == "shapes" && config.integer("data.train_images") == 0) {
    config.override_value("data.train_images", std::max<std::int64_t>(batch, 64), "bench");
    config.override_value("data.test_images", std::int64_t{16}, "bench");
  }
  config.override_value("data.val_fraction", 0.0, "bench");
  if (arguments.has("--dry-run")) return print_step_costs(config, arguments.has("--json"));
  RunSetup run = make_run(config, [](const std::string& text) { print_warning(text); });
  const distill::DeviceImages images = distill::to_device(*run.ctx, run.data.train, placement(config));
  // One epoch of as many steps as are run, each on batches of the same size; images come again when the set
  // is short.
  const std::int64_t rows = std::min(batch, run.data.train.size());
  const std::int64_t batches = run.cohort->batches_per_step();
  std::vector<std::int32_t> indices(static_cast<std::size_t>(rows * batches * (warmup + steps)));
  for (std::size_t i = 0; i < indices.size(); ++i)
    indices[i] = static_cast<std::int32_t>(static_cast<std::int64_t>(i) % run.data.train.size());
  std::vector<double> rates;
  for (const distill::Cohort::Member& member : run.cohort->members())
    rates.push_back(member.spec.learning_rate);

  warn_of_slow_convolutions(run, rows, [](const std::string& text) { print_warning(text); });

  distill::Feed feed = run.cohort->make_feed(images, indices, rows, /*shuffle=*/false);
  feed.start(0, 0,
             run.cohort->rate_table(
                 std::vector<std::vector<double>>(static_cast<std::size_t>(warmup + steps), rates)));
  std::vector<double> seconds;
  std::int64_t primitives = 0;  // of the last step: kernels, and copies of its inputs
  for (std::int64_t step = 0; step < warmup + steps; ++step) {
    const std::int64_t before = run.ctx->num_device_operations();
    const auto begin = std::chrono::steady_clock::now();
    run.cohort->train(feed);
    primitives = run.ctx->num_device_operations() - before;
    run.ctx->synchronize();
    const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (step >= warmup) seconds.push_back(elapsed);
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = percentile(seconds, 0.5);
  Json nets = Json::array();
  for (const distill::Cohort::Member& member : run.cohort->members()) nets.push_back(member.spec.model);
  const Json answer = {{"version", build_info().version},
                       {"method", config.text("method")},
                       {"nets", nets},
                       {"precision", config.text("train.precision")},
                       {"threads", run.ctx->cpu_stream().pool->num_threads()},
                       {"batch", rows},
                       {"steps", steps},
                       {"median_ms", 1e3 * median},
                       {"p20_ms", 1e3 * percentile(seconds, 0.2)},
                       {"p80_ms", 1e3 * percentile(seconds, 0.8)},
                       {"min_ms", 1e3 * seconds.front()},
                       {"max_ms", 1e3 * seconds.back()},
                       {"images_per_second", static_cast<double>(rows * batches) / median},
                       {"operations", run.cohort->num_recorded_operations()},
                       {"primitives", primitives},
                       {"arena_bytes", run.ctx->arena_bytes()},
                       {"step_mib", to_mib(run.ctx->step_bytes())},
                       {"peak_mib", peak_memory_mib()}};
  if (arguments.has("--json")) {
    print_out(json_text(answer));
    return 0;
  }
  print_out(fmt::format("{}  {}  {}  batch {}  {} threads\n", config.text("method"),
                        join(nets.get<std::vector<std::string>>(), "+"), config.text("train.precision"), rows,
                        run.ctx->cpu_stream().pool->num_threads()));
  print_out(fmt::format("step   median {:.2f} ms, p20 {:.2f} ms, p80 {:.2f} ms of {}; {} primitives\n",
                        1e3 * median, 1e3 * percentile(seconds, 0.2), 1e3 * percentile(seconds, 0.8), steps,
                        primitives));
  print_out(fmt::format("speed  {:.1f} images/s through all networks\n", static_cast<double>(rows) / median));
  print_out(fmt::format("memory {:.1f} MiB per step, {:.1f} MiB in arenas, {:.1f} MiB peak\n",
                        answer["step_mib"].get<double>(), to_mib(run.ctx->arena_bytes()),
                        answer["peak_mib"].get<double>()));
  return 0;
}

}  // namespace

CommandSpec bench_command() {
  CommandSpec spec;
  spec.name = "bench";
  spec.summary = "time of whole training steps";
  spec.verbs = {"step"};
  spec.positionals = "step";
  spec.min_positionals = 1;
  spec.max_positionals = 1;
  spec.examples = {
      {"cohort bench step --net resnet32 --net resnet32 --batch-size 128",
       "forward, teaching, backward, update"},
      {"cohort bench step --method independent --json", "the same without teaching, for scripts"},
      {"cohort bench step --net resnet32 --net resnet32 --precision bf16 --dry-run",
       "nodes, bytes and memory of a step on a GPU"}};
  spec.flags = setting_flags();
  spec.flags.push_back({"--steps", "", "N", "timed steps (20)", "Run"});
  spec.flags.push_back({"--warmup", "", "N", "steps before them (3)", "Run"});
  spec.flags.push_back(
      {"--dry-run", "", "",
       "count what a step does on a GPU (graph nodes, bytes, memory); runs nothing and needs "
       "no GPU, only a build with the CUDA backend",
       "Run"});
  spec.flags.push_back(json_flag());
  spec.run = run_bench;
  return spec;
}

}  // namespace cohort::tools
