// The one place for model names.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/network.h"

namespace cohort::models {

struct ModelInfo {
  std::string name;         // as written on the command line
  std::string description;  // one line
  std::string paper;
  std::function<std::unique_ptr<Network>(int num_classes, const InputShape& input)> make;
};

const std::vector<ModelInfo>& registry();

// Throws Error(kUsage) with the nearest names when there is no such model. The network still needs
// materialize().
std::unique_ptr<Network> make_network(std::string_view name, int num_classes, const InputShape& input = {});

// Runs one image through the network (CPU, evaluation mode) and returns its layers with shapes, parameters
// and MACs.
struct ModelSummary {
  std::vector<LayerRecord> layers;
  std::vector<Shape> stages;  // (H, W, C) of f0, f1, ...
  std::int64_t parameters = 0;
  std::int64_t macs = 0;
};
ModelSummary summarize(Network& network);

}  // namespace cohort::models
