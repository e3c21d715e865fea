// Published recipes: TOML texts that lie between the defaults and the user's files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cohort::tools {

struct Preset {
  std::string name;
  std::string help;
  std::string toml;
};

const std::vector<Preset>& presets();
const Preset* find_preset(std::string_view name);

}  // namespace cohort::tools
