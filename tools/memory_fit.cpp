#include "tools/memory_fit.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace cohort::tools {
namespace {

constexpr std::size_t kUnlimited = std::numeric_limits<std::size_t>::max();

// The first number of a file; kUnlimited where there is none ("max", or no such file).
std::size_t number_of(const char* path) {
  std::ifstream file(path);
  std::size_t value = 0;
  return file >> value ? value : kUnlimited;
}

std::size_t meminfo_available() {
  std::ifstream file("/proc/meminfo");
  for (std::string word; file >> word;) {
    std::size_t kib = 0;
    if (word == "MemAvailable:" && file >> kib) return kib * 1024;
  }
  return kUnlimited;
}

// Memory that the kernel keeps of files counts as used there, though it is given back when it is wanted.
std::size_t left_in_group(const char* limit, const char* used) {
  const std::size_t most = number_of(limit), now = number_of(used);
  if (most == kUnlimited || now == kUnlimited) return kUnlimited;
  return most > now ? most - now : 0;
}

std::size_t sum_of_largest(std::vector<std::size_t> values, int count) {
  std::sort(values.rbegin(), values.rend());
  values.resize(std::min(values.size(), static_cast<std::size_t>(count)));
  std::size_t sum = 0;
  for (const std::size_t value : values) sum += value;
  return sum;
}

}  // namespace

std::size_t available_host_bytes() {
  return std::min({meminfo_available(),
                   left_in_group("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
                   left_in_group("/sys/fs/cgroup/memory/memory.limit_in_bytes",
                                 "/sys/fs/cgroup/memory/memory.usage_in_bytes")});
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
