#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <deque>
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

// The classifier of a member, for methods that send re-weighted maps through it: weight (classes, C), bias
// (classes).
distill::ProbeClassifier read_classifier(const NpzArrays& arrays, int member, std::int64_t classes,
                                         std::int64_t channels) {
  const std::string weight_name = fmt::format("weight_{}", member),
                    bias_name = fmt::format("bias_{}", member);
  const NpyArray& weight = require(arrays, weight_name, 2);
  if (weight.shape != std::vector<std::int64_t>{classes, channels}) {
    throw Error(ErrorKind::kInput,
                fmt::format("array '{}' is not of shape ({}, {})", weight_name, classes, channels),
                "the classifier's weight is (classes, channels of the member's features)");
  }
  const NpyArray& bias = require(arrays, bias_name, 1);
  if (bias.shape[0] != classes) {
    throw Error(ErrorKind::kInput, fmt::format("array '{}' is not of shape ({})", bias_name, classes), "");
  }
  return {as_doubles(weight, weight_name), as_doubles(bias, bias_name)};
}

// The maps before a member's last one: stage_K_0, stage_K_1, ...
void read_earlier_maps(const NpzArrays& arrays, int member, DType dtype, distill::ProbeInput& input) {
  std::vector<distill::ProbeMap> maps;
  for (int i = 0;; ++i) {
    const std::string name = fmt::format("stage_{}_{}", member, i);
    if (arrays.count(name) == 0) break;
    const NpyArray& map = require(arrays, name, 4);
    if (map.dtype != dtype)
      throw Error(ErrorKind::kInput, fmt::format("array '{}' differs in type from 'logits_0'", name), "");
    maps.push_back({map.shape[1], map.shape[2], map.shape[3], as_doubles(map, name)});
  }
  if (maps.empty() && input.earlier.empty()) return;
  input.earlier.resize(static_cast<std::size_t>(member));  // of those without any
  input.earlier.push_back(std::move(maps));
}

// Values for the method's own tensors: parameter_K.NAME, as --out writes them.
void read_parameters(const NpzArrays& arrays, distill::ProbeInput& input) {
  constexpr std::string_view kPrefix = "parameter_";
  for (const auto& [name, array] : arrays) {
    const std::size_t dot = name.find('.');
    if (!name.starts_with(kPrefix) || dot == std::string::npos) continue;
    int member = -1;
    const char *const first = name.data() + kPrefix.size(), *const last = name.data() + dot;
    if (std::from_chars(first, last, member).ptr != last)
      throw Error(ErrorKind::kInput, fmt::format("array '{}' names no network", name), "parameter_K.NAME");
    input.parameters.push_back({member, name.substr(dot + 1), array.shape, as_doubles(array, name), {}});
  }
}

// Doubles are computed in double, floats in float: logits_0 decides.
distill::ProbeInput read_input(const NpzArrays& arrays) {
  distill::ProbeInput input;
  const NpyArray& first = require(arrays, "logits_0", 2);
  if (first.dtype != DType::f32 && first.dtype != DType::f64) {
    throw Error(ErrorKind::kInput, "array 'logits_0' is neither float32 nor float64",
                "logits_0.astype(numpy.float64)");
  }
  input.double_precision = first.dtype == DType::f64;
  input.rows = first.shape[0];
  input.classes = first.shape[1];
  const int members = count_members(arrays);
  for (int k = 0; k < members; ++k) {
    const std::string name = fmt::format("logits_{}", k);
    const NpyArray& logits = require(arrays, name, 2);
    if (logits.shape != first.shape || logits.dtype != first.dtype) {
      throw Error(ErrorKind::kInput, fmt::format("array '{}' differs in shape or type from 'logits_0'", name),
                  "");
    }
    input.logits.push_back(as_doubles(logits, name));
    const std::string former_name = fmt::format("former_{}", k);
    std::vector<double>& former = input.former.emplace_back();
    if (arrays.count(former_name) > 0) former = as_doubles(require(arrays, former_name, 2), former_name);
    const std::string map_name = fmt::format("features_{}", k);
    if (arrays.count(map_name) == 0) continue;
    const NpyArray& map = require(arrays, map_name, 4);
    if (map.dtype != first.dtype) {
      throw Error(ErrorKind::kInput, fmt::format("array '{}' differs in type from 'logits_0'", map_name), "");
    }
    input.features.push_back({map.shape[1], map.shape[2], map.shape[3], as_doubles(map, map_name)});
    read_earlier_maps(arrays, k, first.dtype, input);
    if (arrays.count(fmt::format("weight_{}", k)) + arrays.count(fmt::format("bias_{}", k)) == 0) continue;
    input.classifiers.push_back(read_classifier(arrays, k, input.classes, map.shape[1]));
  }
  read_parameters(arrays, input);
  if (arrays.count("fused") > 0) input.fused = as_doubles(require(arrays, "fused", 2), "fused");
  if (arrays.count("gate") > 0) input.gate = as_doubles(require(arrays, "gate", 2), "gate");
  const NpyArray& labels = require(arrays, "labels", 1);
  if (labels.dtype != DType::i32 && labels.dtype != DType::i64) {
    throw Error(ErrorKind::kInput, "array 'labels' is neither int32 nor int64", "labels.astype(numpy.int64)");
  }
  for (const double label : as_doubles(labels, "labels")) {
    input.labels.push_back(
        static_cast<std::int32_t>(std::clamp(label, -1.0, 1e9)));  // the method's check names bad ones
  }
  return input;
}

// Arrays of the answer in the precision of the question, and what keeps their bytes alive.
class OutputArrays {
 public:
  explicit OutputArrays(bool double_precision) : dtype_(double_precision ? DType::f64 : DType::f32) {}

  void add(const std::string& name, std::vector<std::int64_t> shape, const std::vector<double>& values) {
    if (values.empty()) return;
    std::vector<std::byte>& bytes = kept_.emplace_back(values.size() * size_of(dtype_));
    if (dtype_ == DType::f64) {
      std::copy(values.begin(), values.end(), reinterpret_cast<double*>(bytes.data()));
    } else {
      std::transform(values.begin(), values.end(), reinterpret_cast<float*>(bytes.data()),
                     [](double x) { return static_cast<float>(x); });
    }
    views_.push_back({name, dtype_, std::move(shape), bytes.data()});
  }
  void add(const std::string& name, std::int32_t value) {
    std::vector<std::byte>& bytes = kept_.emplace_back(sizeof(value));
    std::copy_n(&value, 1, reinterpret_cast<std::int32_t*>(bytes.data()));
    views_.push_back({name, DType::i32, {}, bytes.data()});
  }
  const std::vector<NpyView>& views() const { return views_; }

 private:
  DType dtype_;
  std::deque<std::vector<std::byte>> kept_;
  std::vector<NpyView> views_;
};

OutputArrays make_arrays(const distill::ProbeInput& input, const distill::ProbeOutput& output) {
  const auto members = static_cast<std::int64_t>(input.logits.size());
  OutputArrays arrays(input.double_precision);
  for (std::size_t k = 0; k < input.logits.size(); ++k) {
    arrays.add(fmt::format("loss_{}", k), {}, {output.loss[k]});
    arrays.add(fmt::format("grad_logits_{}", k), {input.rows, input.classes}, output.grad_logits[k]);
    if (output.grad_features.empty()) continue;
    const distill::ProbeMap& map = input.features[k];
    arrays.add(fmt::format("grad_features_{}", k), {input.rows, map.channels, map.height, map.width},
               output.grad_features[k]);
    for (std::size_t i = 0; !output.grad_earlier.empty() && i < output.grad_earlier[k].size(); ++i) {
      const distill::ProbeMap& stage = input.earlier[k][i];
      arrays.add(fmt::format("grad_stage_{}_{}", k, i),
                 {input.rows, stage.channels, stage.height, stage.width}, output.grad_earlier[k][i]);
    }
    if (output.grad_classifiers.empty()) continue;
    arrays.add(fmt::format("grad_weight_{}", k), {input.classes, map.channels},
               output.grad_classifiers[k].weight);
    arrays.add(fmt::format("grad_bias_{}", k), {input.classes}, output.grad_classifiers[k].bias);
  }
  for (const distill::ProbeParameter& p : output.parameters) {
    arrays.add(fmt::format("parameter_{}.{}", p.member, p.name), p.dims, p.values);
    arrays.add(fmt::format("grad_parameter_{}.{}", p.member, p.name), p.dims, p.gradient);
  }
  if (output.teacher >= 0) arrays.add("teacher", output.teacher);
  arrays.add("w", {members, members}, output.kl_weight);
  arrays.add("step_mask", {members}, output.step_mask);
  arrays.add("gate", {input.rows, members}, output.gate);
  arrays.add("grad_gate", {input.rows, members}, output.grad_gate);
  arrays.add("grad_fused", {input.rows, input.classes}, output.grad_fused);
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
  if (!arguments.has("--in")) {
    throw Error(ErrorKind::kUsage, "no input file", "cohort loss --method dml --in in.npz --out out.npz");
  }
  const std::string& path = arguments.value("--in");
  const NpzArrays arrays = read_npz(system_file_system(), path);
  const int members = count_members(arrays);
  if (members < 1 || members > kMaxNetworks) {
    throw Error(ErrorKind::kInput, fmt::format("'{}' holds logits of {} networks", printable(path), members),
                "np.savez(file, logits_0=..., logits_1=..., labels=...)");
  }
  ConfigSources sources = arguments.config_sources();
  sources.nets.assign(static_cast<std::size_t>(members), "resnet8");  // only their number matters here
  const Config config = resolve_config(sources);
  const distill::ProbeInput input = read_input(arrays);
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
  spec.examples = {
      {"cohort loss --method dml --set dml.T=2 --in in.npz --out out.npz",
       "logits_0, logits_1, ... (rows, classes) and labels (rows) in; losses and gradients out"},
      {"cohort loss --method competitive --in in.npz --json", "with features_0, ... (N, C, H, W)"}};
  for (const FlagSpec& flag : setting_flags()) {
    for (const char* wanted : {"--config", "--set", "--method", "--add", "--preset", "--seed"}) {
      if (flag.name == wanted) spec.flags.push_back(flag);
    }
  }
  spec.flags.push_back(
      {"--in", "-i", "IN.npz",
       "logits_K, labels, and where the method wants them features_K (the last map), stage_K_0, stage_K_1, "
       "... (those before it), weight_K, bias_K, former_K (what the network of an epoch ago said), gate, "
       "fused, and values for the method's own parameter_K.NAME; "
       "float32 is computed in f32, float64 in double; member 0 is the teacher of methods with fixed roles",
       "Run"});
  spec.flags.push_back(
      {"--out", "-o", "OUT.npz",
       "loss_K, grad_logits_K, grad_features_K, grad_stage_K_J, grad_weight_K, grad_bias_K, the method's own "
       "parameter_K.NAME and grad_parameter_K.NAME, and what it decided: teacher, w, step_mask, target, "
       "gate, "
       "grad_gate and grad_fused",
       "Output"});
  spec.flags.push_back(json_flag());
  spec.run = run_loss;
  return spec;
}

}  // namespace cohort::tools
