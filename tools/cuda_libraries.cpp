#include "tools/cuda_libraries.h"

#include <fmt/format.h>

#include "core/device.h"
#include "kernels/cuda/shared_library.h"
#include "tools/text.h"

namespace cohort::tools {

std::string cuda_libraries_text() {
  std::string text;
  if constexpr (kHasCuda) {
    text = "libraries that a GPU needs\n";
    for (const auto& library : kernels::cuda::library_states()) {
      if (library.problem.empty()) {
        text += fmt::format("  {:<11}  {}, {}\n", library.title, library.version, library.path);
      } else {
        text += fmt::format("  {:<11}  not usable, needed for {}: {}\n", library.title, library.needed_for,
                            library.problem);
        text += fmt::format("  {:<11}  searched {}\n", "", join(library.searched, ", "));
        text += fmt::format("  {:<11}  {}\n", "", library.install);
      }
    }
  }
  return text;
}

nlohmann::ordered_json cuda_libraries_json() {
  nlohmann::ordered_json json;
  if constexpr (kHasCuda) {
    json = nlohmann::ordered_json::array();
    for (const auto& library : kernels::cuda::library_states()) {
      json.push_back({{"name", library.title},
                      {"version", library.version},
                      {"path", library.path},
                      {"needed_for", library.needed_for},
                      {"problem", library.problem},
                      {"searched", library.searched}});
    }
  }
  return json;
}

}  // namespace cohort::tools
