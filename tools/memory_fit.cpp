#include "tools/memory_fit.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>

namespace cohort::tools {
namespace {

constexpr std::size_t kUnlimited = std::numeric_limits<std::size_t>::max();

// The first number of a file; kUnlimited where there is none ("max", or no such file).
std::size_t number_of(const std::string& path) {
  std::ifstream file(path);
  std::size_t value = 0;
  return file >> value ? value : kUnlimited;
}

// The number behind a word of a file; `otherwise` where it has no such word.
std::size_t number_behind(const std::string& path, std::string_view name, std::size_t otherwise) {
  std::ifstream file(path);
  for (std::string word; file >> word;) {
    std::size_t value = 0;
    if (word == name && file >> value) return value;
  }
  return otherwise;
}

// Memory that the kernel keeps of files counts as used by a group; it is given back when it is wanted.
std::size_t left_in_group(const std::string& limit, const std::string& used, const std::string& stat,
                          const std::string& prefix) {
  const std::size_t most = number_of(limit), now = number_of(used);
  if (most == kUnlimited || now == kUnlimited) return kUnlimited;
  const std::size_t files =
      number_behind(stat, prefix + "inactive_file", 0) + number_behind(stat, prefix + "active_file", 0);
  const std::size_t kept = now > files ? now - files : 0;
  return most > kept ? most - kept : 0;
}

std::size_t sum_of_largest(std::vector<std::size_t> values, int count) {
  std::sort(values.rbegin(), values.rend());
  values.resize(std::min(values.size(), static_cast<std::size_t>(count)));
  std::size_t sum = 0;
  for (const std::size_t value : values) sum += value;
  return sum;
}

}  // namespace

std::size_t available_host_bytes(const std::string& root) {
  const std::size_t kib = number_behind(root + "/proc/meminfo", "MemAvailable:", kUnlimited);
  const std::string group = root + "/sys/fs/cgroup/", old = group + "memory/memory.";
  return std::min({kib == kUnlimited ? kUnlimited : kib * 1024,
                   left_in_group(group + "memory.max", group + "memory.current", group + "memory.stat", ""),
                   left_in_group(old + "limit_in_bytes", old + "usage_in_bytes", old + "stat", "total_")});
}

MemoryUse most_at_once(const std::vector<MemoryUse>& uses, int jobs) {
  std::vector<std::size_t> host, device;
  for (const MemoryUse& use : uses) {
    host.push_back(use.host);
    device.push_back(use.device);
  }
  return {sum_of_largest(std::move(host), jobs), sum_of_largest(std::move(device), jobs)};
}

int jobs_that_fit(const std::vector<MemoryUse>& uses, const MemoryUse& available, int jobs) {
  while (jobs > 1) {
    const MemoryUse most = most_at_once(uses, jobs);
    if (most.host <= available.host && most.device <= available.device) break;
    --jobs;
  }
  return jobs;
}

}  // namespace cohort::tools
