#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "core/npz.h"
#include "distill/method_probe.h"
#include "tools/commands.h"
#include "tools/messages.h"
#include "tools/run_records.h"
#include "tools/run_setup.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

std::vector<double> as_doubles(const NpyArray& array, const std::string& name) {
  const auto convert = [&](auto type) {
    using T = decltype(type);
    const T* values = reinterpret_cast<const T*>(array.data.data());
    return std::vector<double>(values, values + array.data.size() / sizeof(T));
  };
  switch (array.dtype) {
    case DType::f32:
      return convert(float{});
    case DType::f64:
      return convert(double{});
    case DType::i32:
      return convert(std::int32_t{});
    case DType::i64:
      return convert(std::int64_t{});
    case DType::u8:
      return convert(std::uint8_t{});
    default:
      break;
  }
  throw Error(ErrorKind::kInput, fmt::format("array '{}' has an element type that is not read", name),
              "save it as float32, float64, int32 or int64");
}

const NpyArray& require(const NpzArrays& arrays, const std::string& name, std::size_t rank) {
  const auto it = arrays.find(name);
  if (it == arrays.end()) {
    throw Error(ErrorKind::kInput, fmt::format("there is no array '{}'", name),
                "np.savez(file, logits_0=..., logits_1=..., labels=...)");
  }
  if (it->second.shape.size() != rank) {
    throw Error(ErrorKind::kInput,
                fmt::format("array '{}' has {} dimensions, not {}", name, it->second.shape.size(), rank), "");
  }
  return it->second;
}

int count_members(const NpzArrays& arrays) {
  int members = 0;
  while (arrays.count(fmt::format("logits_{}", members)) > 0) ++members;
  return members;
}

distill::ProbeInput read_input(const NpzArrays& arrays, bool double_precision) {
  distill::ProbeInput input;
  input.double_precision = double_precision;
  const NpyArray& first = require(arrays, "logits_0", 2);
  input.rows = first.shape[0];
  input.classes = first.shape[1];
  const int members = count_members(arrays);
  for (int k = 0; k < members; ++k) {
    const std::string name = fmt::format("logits_{}", k);
    const NpyArray& logits = require(arrays, name, 2);
    if (logits.shape != first.shape) {
      throw Error(ErrorKind::kInput, fmt::format("array '{}' differs in shape from 'logits_0'", name), "");
    }
    input.logits.push_back(as_doubles(logits, name));
    const std::string map_name = fmt::format("features_{}", k);
    if (arrays.count(map_name) == 0) continue;
    const NpyArray& map = require(arrays, map_name, 4);
    input.features.push_back({map.shape[1], map.shape[2], map.shape[3], as_doubles(map, map_name)});
  }
  for (const double label : as_doubles(require(arrays, "labels", 1), "labels")) {
    if (label != static_cast<double>(static_cast<std::int32_t>(std::clamp(label, -1.0, 1e9)))) {
      throw Error(ErrorKind::kInput, "array 'labels' holds a value that is no class", "integers from 0");
    }
    input.labels.push_back(static_cast<std::int32_t>(label));
  }
  return input;
}

// Arrays of the answer, and what keeps their bytes alive.
class OutputArrays {
 public:
  void add(const std::string& name, std::vector<std::int64_t> shape, const std::vector<double>& values) {
    if (values.empty()) return;
    kept_.push_back(std::make_unique<std::vector<double>>(values));
    views_.push_back({name, DType::f64, std::move(shape), kept_.back()->data()});
  }
  const std::vector<NpyView>& views() const { return views_; }

 private:
  std::vector<std::unique_ptr<std::vector<double>>> kept_;
  std::vector<NpyView> views_;
};

OutputArrays make_arrays(const distill::ProbeInput& input, const distill::ProbeOutput& output) {
  const auto members = static_cast<std::int64_t>(input.logits.size());
  OutputArrays arrays;
  arrays.add("loss", {members}, output.loss);
  for (std::size_t k = 0; k < output.grad_logits.size(); ++k) {
    arrays.add(fmt::format("grad_logits_{}", k), {input.rows, input.classes}, output.grad_logits[k]);
  }
  for (std::size_t k = 0; k < output.grad_features.size(); ++k) {
    const distill::ProbeMap& map = input.features[k];
    arrays.add(fmt::format("grad_features_{}", k), {input.rows, map.channels, map.height, map.width},
               output.grad_features[k]);
  }
  if (output.teacher >= 0) arrays.add("teacher", {1}, {static_cast<double>(output.teacher)});
  arrays.add("kl_weight", {members, members}, output.kl_weight);
  arrays.add("target", {input.rows, input.classes}, output.target);
  return arrays;
}

void print_answer(const std::string& formula, const distill::ProbeOutput& output, bool json) {
  if (json) {
    Json answer = {{"formula", formula}, {"loss", Json::array()}};
    for (const double loss : output.loss) answer["loss"].push_back(loss);
    if (output.teacher >= 0) answer["teacher"] = output.teacher;
    print_out(json_text(answer));
    return;
  }
  print_out(fmt::format("{}\n", formula));
  for (std::size_t k = 0; k < output.loss.size(); ++k)
    print_out(fmt::format("loss_{} {}\n", k, output.loss[k]));
  if (output.teacher >= 0) print_out(fmt::format("teacher {}\n", output.teacher));
}

int run_loss(const Arguments& arguments) {
  const std::string& path = arguments.positionals[0];
  const NpzArrays arrays = read_npz(system_file_system(), path);
  const int members = count_members(arrays);
  if (members < 1 || members > kMaxNetworks) {
    throw Error(ErrorKind::kInput, fmt::format("'{}' holds logits of {} networks", printable(path), members),
                "np.savez(file, logits_0=..., logits_1=..., labels=...)");
  }
  ConfigSources sources = arguments.config_sources();
  sources.nets.assign(static_cast<std::size_t>(members), "resnet8");  // only their number matters here
  const Config config = resolve_config(sources);
  const distill::ProbeInput input = read_input(arrays, !arguments.has("--f32"));
  const std::unique_ptr<distill::Method> method = make_method(config);
  const distill::ProbeOutput output =
      distill::probe_method(*method, input, static_cast<std::uint64_t>(config.integer("seed")));
  if (arguments.has("--out")) {
    const OutputArrays answer = make_arrays(input, output);
    durable_replace(system_file_system(), arguments.value("--out"), serialize_npz(answer.views()));
  }
  print_answer(method->formula(members), output, arguments.has("--json"));
  return 0;
}

}  // namespace

CommandSpec loss_command() {
  CommandSpec spec;
  spec.name = "loss";
  spec.summary = "a method's losses and gradients on given logits, to check against another implementation";
  spec.positionals = "IN.npz";
  spec.min_positionals = 1;
  spec.max_positionals = 1;
  spec.examples = {{"cohort loss in.npz --method dml -s distill.dml.T=2 -o out.npz",
                    "logits_0, logits_1, ... (rows, classes) and labels (rows) in; gradients out"},
                   {"cohort loss in.npz --method competitive --json", "with features_0, ... (N, C, H, W)"}};
  for (const FlagSpec& flag : setting_flags()) {
    for (const char* wanted : {"--config", "--set", "--method", "--preset", "--seed"}) {
      if (flag.name == wanted) spec.flags.push_back(flag);
    }
  }
  spec.flags.push_back({"--out", "-o", "OUT.npz",
                        "loss, grad_logits_K, grad_features_K, kl_weight, target, teacher", "Output"});
  spec.flags.push_back({"--f32", "", "", "compute in f32 as in training (default: f64)", "Run"});
  spec.flags.push_back(json_flag());
  spec.run = run_loss;
  return spec;
}

}  // namespace cohort::tools
