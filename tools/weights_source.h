// Networks that someone trained: those of a run folder, or weight files given one by one.
#pragma once

#include <string>
#include <vector>

#include "kernels/augment_math.h"
#include "tools/config.h"

namespace cohort::tools {

struct TrainedNetwork {
  std::string id;
  std::string model;
  std::string path;  // of its .safetensors
  int num_classes = 0;
  int channels = 3, height = 32, width = 32;
};

// What a checkpoint's run.json knows about the training images.
struct TrainedOn {
  bool known = false;
  kernels::Normalisation normalisation;
  std::vector<std::string> class_names;
};

bool is_run_folder(const std::string& path);

// `checkpoint` is best or last.
std::vector<TrainedNetwork> networks_of_run(const std::string& folder, const std::string& checkpoint);
// From the metadata that Cohort writes into its weight files; `model` stands in where a file has none.
TrainedNetwork network_of_file(const std::string& path, const std::string& id, const std::string& model);
TrainedOn trained_on(const std::string& weights_path);
// Settings to look at these networks with, and not to train them: `run` is their run folder, whose settings
// are taken, or empty.
Config evaluation_config(ConfigSources sources, const std::vector<TrainedNetwork>& networks,
                         const std::string& run);

}  // namespace cohort::tools
