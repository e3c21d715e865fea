// What `doctor` says about the libraries that the CUDA backend opens when a run needs them. Needs no GPU.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace cohort::tools {

// Lines of text; empty in a build without CUDA.
std::string cuda_libraries_text();

// An array of objects; null in a build without CUDA.
nlohmann::ordered_json cuda_libraries_json();

}  // namespace cohort::tools
