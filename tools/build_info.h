// What this binary is and what the machine offers: `cohort --version --json`, `cohort doctor`, env.json of a
// run.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace cohort::tools {

struct BuildInfo {
  std::string version;
  std::string build_type;
  std::string compiler;
  std::string cpu_arch;  // -march of the kernels
  std::string onednn;
  bool cuda = false;
};

BuildInfo build_info();
std::string build_info_json();

struct HostInfo {
  std::string system;              // "Linux 6.1.0 x86_64"
  std::string cpu;                 // model name
  std::vector<std::string> flags;  // of those the kernels care about
  int cores = 0;                   // that this process may use
  double memory_gib = 0;
  std::vector<std::string> missing_flags;  // that the build needs and the CPU lacks
};

HostInfo host_info();

}  // namespace cohort::tools
