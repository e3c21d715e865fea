#include "tools/weights_source.h"

#include <fmt/format.h>

#include <filesystem>
#include <system_error>

#include "core/safetensors.h"
#include "models/registry.h"
#include "tools/config.h"
#include "tools/run_records.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

constexpr std::int64_t kMaxRunState = 64 << 20;

bool exists(const std::string& path) {
  FileInfo info;
  return find_entry(system_file_system(), path, info, ErrorKind::kInput);
}

int positive(const std::string& text, int otherwise) {
  const auto value = parse_int(text);
  return value && *value > 0 && *value <= 1'000'000 ? static_cast<int>(*value) : otherwise;
}

// The name of the model's last linear weight.
std::string classifier_of(const std::string& model) {
  const std::unique_ptr<models::Network> network = models::make_network(model, 2, {});
  std::string name;
  for (const Parameter& p : network->parameters().parameters()) {
    if (p.kind == ParameterKind::kLinearWeight) name = p.name;
  }
  return name;
}

}  // namespace

bool is_run_folder(const std::string& path) {
  std::error_code ignored;  // a file, or nothing: the caller reads it as weights and reports what is wrong
  return std::filesystem::is_directory(path, ignored) && exists(join_path(path, "config.toml"));
}

TrainedNetwork network_of_file(const std::string& path, const std::string& id, const std::string& model) {
  const SafetensorsFile file = read_safetensors(system_file_system(), path, {.kind = ErrorKind::kInput});
  const auto value = [&](const char* key) {
    const auto it = file.metadata().find(key);
    return it == file.metadata().end() ? std::string() : it->second;
  };
  TrainedNetwork network{.id = id, .model = model.empty() ? value("cohort.arch") : model, .path = path};
  if (network.model.empty()) {
    throw Error(ErrorKind::kUsage,
                fmt::format("'{}' does not say which model it belongs to", printable(path)),
                "--model NAME ('cohort list models')");
  }
  network.num_classes = positive(value("cohort.classes"), 0);
  if (network.num_classes == 0) {
    const TensorView* const classifier = file.find(classifier_of(network.model));
    if (classifier != nullptr && classifier->shape.size() == 2)
      network.num_classes = positive(std::to_string(classifier->shape[0]), 0);
  }
  if (network.num_classes == 0) {
    throw Error(ErrorKind::kInput,
                fmt::format("'{}' has no classifier whose classes could be counted", printable(path)), "");
  }
  const std::vector<std::string> input = split(value("cohort.input"), 'x');
  if (input.size() == 3) {
    network.channels = positive(input[0], network.channels);
    network.height = positive(input[1], network.height);
    network.width = positive(input[2], network.width);
  }
  return network;
}

std::vector<TrainedNetwork> networks_of_run(const std::string& folder, const std::string& checkpoint) {
  const std::string file = join_path(folder, "config.toml");
  const Config config = parse_config(read_small_file(file, kMaxConfigBytes), file);
  const std::string weights = join_path(join_path(folder, "checkpoints"), checkpoint);
  if (!exists(weights)) {
    throw Error(ErrorKind::kInput,
                fmt::format("the run '{}' has no checkpoint '{}' yet", printable(folder), checkpoint),
                checkpoint == "best" ? "--checkpoint last" : "let it train for an epoch");
  }
  std::vector<TrainedNetwork> networks;
  for (const NetworkSettings& network : config.networks()) {
    networks.push_back(
        network_of_file(join_path(weights, network.id + ".safetensors"), network.id, network.model));
  }
  return networks;
}

Config evaluation_config(ConfigSources sources, const std::vector<TrainedNetwork>& networks,
                         const std::string& run) {
  if (run.empty()) {
    for (const TrainedNetwork& network : networks)
      sources.nets.push_back(network.model + ":id=" + network.id);
  } else {
    sources.files.insert(sources.files.begin(), join_path(run, "config.toml"));
  }
  for (const TrainedNetwork& network : networks) sources.inits.push_back(network.id + "=" + network.path);
  Config config = resolve_config(sources);
  config.override_value("method", std::string("independent"), "eval");  // nothing is taught here
  config.override_value("add", std::string("none"), "eval");
  return config;
}

TrainedOn trained_on(const std::string& weights_path) {
  TrainedOn on;
  const std::string path = join_path(parent_path(weights_path), "run.json");
  if (!exists(path)) return on;
  const std::vector<std::byte> bytes = read_file(system_file_system(), path, kMaxRunState, ErrorKind::kInput);
  const Json state = Json::parse(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()),
                                 nullptr, false);
  if (!state.is_object() || !state.contains("mean") || !state.contains("std")) return on;
  for (std::size_t c = 0;
       c < kernels::kMaxImageChannels && c < state["mean"].size() && c < state["std"].size(); ++c) {
    if (!state["mean"][c].is_number() || !state["std"][c].is_number()) return on;
    on.normalisation.mean[c] = state["mean"][c].get<double>();
    on.normalisation.std[c] = state["std"][c].get<double>();
  }
  if (state.contains("class_names")) {
    for (const Json& name : state["class_names"])
      on.class_names.push_back(name.is_string() ? name.get<std::string>() : "");
  }
  on.known = true;
  return on;
}

}  // namespace cohort::tools
