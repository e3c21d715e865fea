#include "tools/build_info.h"

#include <dnnl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tools/text.h"

namespace cohort::tools {
namespace {

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, 10, "model name") != 0) continue;
    const std::size_t colon = line.find(':');
    if (colon != std::string::npos) return printable(trim(std::string_view(line).substr(colon + 1)));
  }
  return "unknown";
}

}  // namespace

BuildInfo build_info() {
  BuildInfo info;
  info.version = COHORT_VERSION;
  info.build_type = COHORT_BUILD_TYPE;
#if defined(__clang__)
  info.compiler = "clang " __clang_version__;
#else
  info.compiler = "gcc " __VERSION__;
#endif
  info.cpu_arch = COHORT_CPU_ARCH;
  const dnnl_version_t* version = dnnl_version();
  info.onednn = fmt::format("{}.{}.{}", version->major, version->minor, version->patch);
  info.cuda = COHORT_HAS_CUDA != 0;
  return info;
}

std::string build_info_json() {
  const BuildInfo info = build_info();
  nlohmann::ordered_json json;
  json["version"] = info.version;
  json["build_type"] = info.build_type;
  json["compiler"] = info.compiler;
  json["cpu_arch"] = info.cpu_arch;
  json["onednn"] = info.onednn;
  json["cuda"] = info.cuda;
  return json.dump(2);
}

HostInfo host_info() {
  HostInfo info;
  utsname name{};
  if (uname(&name) == 0) info.system = fmt::format("{} {} {}", name.sysname, name.release, name.machine);
  info.cpu = cpu_model();
  info.cores = usable_cores();
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page = sysconf(_SC_PAGE_SIZE);
  info.memory_gib = static_cast<double>(pages) * static_cast<double>(page) / (1024.0 * 1024.0 * 1024.0);
#if defined(__x86_64__)
  const auto add = [&](const char* flag, bool present, bool needed) {
    if (present) info.flags.emplace_back(flag);
    if (needed && !present) info.missing_flags.emplace_back(flag);
  };
  const bool v3 = std::string(COHORT_CPU_ARCH) == "x86-64-v3";
  add("avx2", __builtin_cpu_supports("avx2") != 0, v3);
  add("fma", __builtin_cpu_supports("fma") != 0, v3);
  add("bmi2", __builtin_cpu_supports("bmi2") != 0, v3);
  add("avx512f", __builtin_cpu_supports("avx512f") != 0, false);
  add("avx512bf16", __builtin_cpu_supports("avx512bf16") != 0, false);
#endif
  return info;
}

}  // namespace cohort::tools
