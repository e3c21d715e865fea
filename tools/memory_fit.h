// Whether several trainings fit into memory at once.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace cohort::tools {

// Bytes of host memory, and of the GPU's; the latter 0 on the CPU.
struct MemoryUse {
  std::size_t host = 0, device = 0;
};

// What the machine has left for new processes: MemAvailable, and what the control group (version 2 or 1)
// allows beside what it holds; copies of files that the kernel keeps do not count. `root` goes before /proc
// and /sys.
std::size_t available_host_bytes(const std::string& root = "");

// The `jobs` largest together: whichever of the runs meet, they need no more.
MemoryUse most_at_once(const std::vector<MemoryUse>& uses, int jobs);
// The most jobs (at least 1) for which most_at_once() stays below.
int jobs_that_fit(const std::vector<MemoryUse>& uses, const MemoryUse& available, int jobs);

}  // namespace cohort::tools
