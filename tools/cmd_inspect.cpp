#include <fmt/format.h>

#include <algorithm>

#include "core/safetensors.h"
#include "models/registry.h"
#include "tools/commands.h"
#include "tools/inspect_charts.h"
#include "tools/inspect_diswot.h"
#include "tools/inspect_similarity.h"
#include "tools/messages.h"
#include "tools/run_records.h"
#include "tools/run_setup.h"
#include "tools/table.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

int number_argument(const Arguments& arguments, const char* flag, int otherwise, int max) {
  if (!arguments.has(flag)) return otherwise;
  const auto value = parse_int(arguments.value(flag));
  if (!value || *value < 1 || *value > max) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: expected an integer from 1 to {}, not '{}'", flag, max,
                            printable(arguments.value(flag))),
                "");
  }
  return static_cast<int>(*value);
}

std::string shape_text(const Shape& shape, int from) {
  std::vector<std::string> parts;
  for (int i = from; i < shape.rank(); ++i) parts.push_back(std::to_string(shape[i]));
  return join(parts, "x");
}

int inspect_model(const Arguments& arguments) {
  const int classes = number_argument(arguments, "--classes", 100, 1'000'000);
  const int size = number_argument(arguments, "--size", 32, 1024);
  const auto network = models::make_network(arguments.positionals[1], classes, {3, size, size});
  const models::ModelSummary summary = models::summarize(*network);
  Json layers = Json::array();
  Table table({{"layer"}, {"type"}, {"output"}, {"params", Align::kRight}, {"MACs", Align::kRight}});
  std::int64_t activations = 0;
  for (const LayerRecord& layer : summary.layers) {
    table.add({layer.name, layer.type, shape_text(layer.output, 1), std::to_string(layer.parameters),
               std::to_string(layer.macs)});
    layers.push_back({{"name", layer.name},
                      {"type", layer.type},
                      {"output", shape_text(layer.output, 1)},
                      {"params", layer.parameters},
                      {"macs", layer.macs}});
    activations += layer.output.count();
  }
  std::vector<std::string> stages;
  for (const Shape& stage : summary.stages) stages.push_back(shape_text(stage, 0));
  if (arguments.has("--json")) {
    print_out(json_text(Json{{"model", network->model()},
                             {"classes", classes},
                             {"params", summary.parameters},
                             {"macs", summary.macs},
                             {"stages", stages},
                             {"layers", layers}}));
    return 0;
  }
  print_out(table.text());
  print_out(fmt::format(
      "\n{}  {} classes  input {}x{}x3\nparameters   {}\nMACs         {}\nactivations  {} values per image\n"
      "feature maps {}\n",
      network->model(), classes, size, size, summary.parameters, summary.macs, activations,
      join(stages, ", ")));
  return 0;
}

int inspect_weights(const Arguments& arguments) {
  const SafetensorsFile file =
      read_safetensors(system_file_system(), arguments.positionals[1], {.kind = ErrorKind::kInput});
  Json tensors = Json::array();
  Table table({{"tensor"}, {"type"}, {"shape"}, {"bytes", Align::kRight}});
  std::size_t bytes = 0;
  for (const TensorView& tensor : file.tensors()) {
    std::vector<std::string> dims;
    for (const std::int64_t dim : tensor.shape) dims.push_back(std::to_string(dim));
    table.add({printable(tensor.name), name_of(tensor.dtype), join(dims, "x"), std::to_string(tensor.bytes)});
    tensors.push_back({{"name", tensor.name}, {"dtype", name_of(tensor.dtype)}, {"shape", tensor.shape}});
    bytes += tensor.bytes;
  }
  if (arguments.has("--json")) {
    print_out(json_text(
        Json{{"metadata", file.metadata()}, {"checksums", file.has_checksums()}, {"tensors", tensors}}));
    return 0;
  }
  print_out(table.text());
  print_out(fmt::format("\n{} tensors, {} bytes, checksums {}\n", file.tensors().size(), bytes,
                        file.has_checksums() ? "right" : "none"));
  for (const auto& [key, value] : file.metadata())
    print_out(fmt::format("{} = {}\n", printable(key), printable(value)));
  return 0;
}

int inspect_data(const Arguments& arguments) {
  ConfigSources sources = arguments.config_sources();
  sources.flags.push_back({"NAME", "data.name", arguments.positionals[1]});
  const Config config = resolve_config(sources);
  Context ctx(context_options(config));
  std::vector<std::string> warnings;
  const data::Dataset data =
      load_data(config, ctx.cpu_stream(), [&](const std::string& text) { warnings.push_back(text); });
  const auto counts = [&](const ImageSet& set) {
    std::vector<std::int64_t> count(static_cast<std::size_t>(data.train.num_classes));
    for (const std::int32_t label : set.labels) ++count[static_cast<std::size_t>(label)];
    return count;
  };
  const std::vector<std::int64_t> train = counts(data.train);
  const std::vector<std::int64_t> test = counts(data.test);
  const ImageSet& set = data.train;
  std::vector<double> mean(set.normalisation.mean, set.normalisation.mean + set.channels);
  std::vector<double> deviation(set.normalisation.std, set.normalisation.std + set.channels);
  for (const std::string& warning : warnings) print_warning(warning);
  if (arguments.has("--json")) {
    print_out(json_text(Json{{"name", config.text("data.name")},
                             {"train", set.size()},
                             {"test", data.test.size()},
                             {"classes", set.num_classes},
                             {"class_names", set.class_names},
                             {"height", set.height},
                             {"width", set.width},
                             {"channels", set.channels},
                             {"mean", mean},
                             {"std", deviation},
                             {"train_per_class", train},
                             {"test_per_class", test}}));
    return 0;
  }
  print_out(fmt::format("{}  train {}  test {}  {} classes  {}x{}x{}\n", config.text("data.name"), set.size(),
                        data.test.size(), set.num_classes, set.height, set.width, set.channels));
  for (int c = 0; c < set.channels; ++c) {
    print_out(fmt::format("channel {}  mean {:.4f}  std {:.4f}\n", c, mean[static_cast<std::size_t>(c)],
                          deviation[static_cast<std::size_t>(c)]));
  }
  Table table({{"class"}, {"name"}, {"train", Align::kRight}, {"test", Align::kRight}});
  for (std::size_t c = 0; c < train.size(); ++c) {
    table.add({std::to_string(c), c < set.class_names.size() ? set.class_names[c] : "",
               std::to_string(train[c]), std::to_string(test[c])});
  }
  print_out("\n" + table.text());
  return 0;
}

int inspect_run(const Arguments& arguments) {
  const RunRecords run = read_run(system_file_system(), arguments.positionals[1]);
  if (arguments.has("--json")) {
    print_out(json_text(Json{{"start", run.start},
                             {"summary", run.summary},
                             {"steps", run.steps.size()},
                             {"epochs", run.epochs.size()},
                             {"damaged_lines", run.damaged_lines}}));
    return 0;
  }
  const std::string status = text_in(run.summary, "status");
  print_out(fmt::format("run     {}\nmethod  {}\nloss    {}\nstatus  {}\n", printable(run.folder),
                        text_in(run.start, "method"), text_in(run.start, "loss"),
                        status.empty() ? "running" : status));
  Table table({{"epoch", Align::kRight},
               {"net"},
               {"train loss", Align::kRight},
               {"val top1", Align::kRight},
               {"test top1", Align::kRight}});
  const auto percent = [](const Json& record, const char* part) {
    const double value = record.contains(part) ? number_in(record[part], "top1") : number_in(record, part);
    return value == value ? fmt::format("{:.2f}", 100 * value) : std::string();
  };
  for (const Json& record : run.epochs) {
    const double loss = number_in(record, "train_loss");
    table.add({fmt::format("{:.0f}", number_in(record, "epoch")), text_in(record, "net"),
               loss == loss ? fmt::format("{:.4f}", loss) : "", percent(record, "val"),
               percent(record, "test")});
  }
  print_out("\n" + table.text());
  if (run.damaged_lines > 0)
    print_warning(fmt::format("{} lines of metrics.jsonl are damaged", run.damaged_lines));
  return 0;
}

int run_inspect(const Arguments& arguments) {
  const std::string& what = arguments.positionals[0];
  if (what == "model") return inspect_model(arguments);
  if (what == "weights") return inspect_weights(arguments);
  if (what == "data") return inspect_data(arguments);
  if (what == "similarity") return inspect_similarity(arguments);
  if (what == "calibration") return inspect_calibration(arguments);
  if (what == "teachers") return inspect_teachers(arguments);
  if (what == "diswot") return inspect_diswot(arguments);
  return inspect_run(arguments);
}

}  // namespace

CommandSpec inspect_command() {
  CommandSpec spec;
  spec.name = "inspect";
  spec.summary =
      "a model's layers, a weight file, a data set, a run: its records, where two networks look alike, "
      "calibration, who taught, which student suits a teacher";
  spec.verbs = {"model", "weights", "data", "run", "similarity", "calibration", "teachers", "diswot"};
  spec.positionals =
      "model NAME | weights FILE | data NAME | run FOLDER | similarity RUN | calibration RUN | teachers RUN "
      "| "
      "diswot NAME[,NAME...]";
  spec.min_positionals = 2;
  spec.max_positionals = 2;
  spec.examples = {
      {"cohort inspect model wrn_16_2 --classes 100", "layers, parameters, MACs, feature maps"},
      {"cohort inspect data cifar10 --data-root data/cifar10", "counts per class, mean and deviation"},
      {"cohort inspect similarity runs/first -o talk.svg",
       "pictures with the per-pixel similarity of two networks over them; on shapes, how much of it is on "
       "the figure"},
      {"cohort inspect calibration runs/first --split val -o reliability.svg",
       "how often the networks are right where they are so sure, in 15 bins"},
      {"cohort inspect teachers runs/first --window 100",
       "who taught, and when teachers paused, per 100 steps (competitive, switokd)"},
      {"cohort inspect diswot resnet8,resnet14,wrn_16_2 --teacher resnet32",
       "students ranked without training"}};
  for (const FlagSpec& flag : setting_flags()) {
    for (const char* wanted : {"--config", "--set", "--data-root", "--seed", "--threads"}) {
      if (flag.name == wanted) spec.flags.push_back(flag);
    }
  }
  const std::vector<FlagSpec> own = {{"--classes", "", "N", "of a model (100)", "Run"},
                                     {"--size", "", "N", "height and width of a model's input (32)", "Run"},
                                     json_flag()};
  spec.flags.insert(spec.flags.end(), own.begin(), own.end());
  for (const FlagSpec& flag : similarity_flags()) spec.flags.push_back(flag);
  for (const FlagSpec& flag : diswot_flags()) spec.flags.push_back(flag);
  for (const FlagSpec& flag : chart_flags()) spec.flags.push_back(flag);
  spec.run = run_inspect;
  return spec;
}

}  // namespace cohort::tools
