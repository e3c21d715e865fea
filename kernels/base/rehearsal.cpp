#include "kernels/base/rehearsal.h"

#include <sys/mman.h>

#include <algorithm>

#include "kernels/base/error.h"

namespace cohort {

Rehearsal::~Rehearsal() {
  for (const auto& [data, bytes] : blocks_) (void)munmap(data, bytes);
}

void Rehearsal::begin_capture() {
  operations_.clear();
  capturing_ = true;
}

Rehearsal::Operation& Rehearsal::operation(const std::string& name) {
  const auto at = std::find_if(operations_.begin(), operations_.end(),
                               [&](const Operation& operation) { return operation.name == name; });
  if (at != operations_.end()) return *at;
  operations_.push_back({.name = name, .traffic = {}});
  return operations_.back();
}

void Rehearsal::enter(const char* name, Traffic traffic) {
  open_.push_back(name);
  if (!capturing_) return;
  Operation& entered = operation(name);
  ++entered.calls;
  entered.traffic.bytes += traffic.bytes;
  entered.traffic.again += traffic.again;
}

void Rehearsal::node(Node kind) {
  if (!capturing_) return;
  Operation& current = operation(open_.empty() ? "unnamed" : open_.back());
  ++(kind == Node::kKernel   ? current.kernels
     : kind == Node::kVendor ? current.vendor
     : kind == Node::kMemset ? current.memsets
                             : current.copies);
}

void* Rehearsal::reserve(std::size_t bytes) {
  const std::size_t size = std::max<std::size_t>(bytes, 1);
  void* const data = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    throw Error(ErrorKind::kMemory,
                "no address space for a block of " + std::to_string(bytes) + " bytes of a step's plan",
                "use a smaller --batch-size or fewer networks");
  }
  blocks_[data] = size;
  reserved_ += size;
  return data;
}

void Rehearsal::release(void* data) noexcept {
  const auto at = blocks_.find(data);
  if (at == blocks_.end()) return;
  reserved_ -= at->second;
  (void)munmap(data, at->second);
  blocks_.erase(at);
}

}  // namespace cohort
