// A training step gone through without a device. The host code of the CUDA backend runs as it always does,
// down to its launches; on a stream with a Rehearsal these leave a line here instead of work. So a step's
// graph nodes, its bytes and its memory are known on a machine without a GPU, counted by the code that
// launches.
//
// A launch is a node, and so are a memset, a copy and a call of a vendor's library (which may start more than
// one kernel: that is known on a GPU only). Bytes are those of the operations' formulas. Memory is reserved
// address space: whoever touches it crashes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort {

class Rehearsal {
 public:
  // A kernel function (kernels/*.h) as it was called inside the captured step.
  struct Operation {
    std::string name;
    int calls = 0;
    int kernels = 0, vendor = 0, memsets = 0, copies = 0;  // nodes
    Traffic traffic;
    int num_nodes() const { return kernels + vendor + memsets + copies; }
  };
  enum class Node : std::uint8_t { kKernel, kVendor, kMemset, kCopy };

  Rehearsal() = default;
  ~Rehearsal();
  Rehearsal(const Rehearsal&) = delete;
  Rehearsal& operator=(const Rehearsal&) = delete;

  // Only what comes between the two is counted: warm-up steps are not.
  void begin_capture();
  void end_capture() { capturing_ = false; }
  bool capturing() const { return capturing_; }

  // Operations may call each other: a node belongs to the innermost, and every operation moves its own bytes.
  void enter(const char* name, Traffic traffic);
  void leave() { open_.pop_back(); }
  void node(Node kind);

  void* reserve(std::size_t bytes);
  void release(void* data) noexcept;
  std::size_t reserved_bytes() const { return reserved_; }

  // In the order of their first calls. What is enqueued outside of any operation is named "unnamed".
  const std::vector<Operation>& operations() const { return operations_; }

 private:
  Operation& operation(const std::string& name);

  bool capturing_ = false;
  std::vector<Operation> operations_;
  std::vector<const char*> open_;
  std::map<void*, std::size_t> blocks_;
  std::size_t reserved_ = 0;
};

// Names what a kernel function does from here to the end of the scope, on a stream that rehearses.
class Rehearsed {
 public:
  Rehearsed(CudaStream stream, const char* name, Traffic traffic) : rehearsal_(stream.rehearsal) {
    if (rehearsal_ != nullptr) rehearsal_->enter(name, traffic);
  }
  ~Rehearsed() {
    if (rehearsal_ != nullptr) rehearsal_->leave();
  }
  Rehearsed(const Rehearsed&) = delete;
  Rehearsed& operator=(const Rehearsed&) = delete;

 private:
  Rehearsal* rehearsal_;
};

}  // namespace cohort
